// Comparing configurations: every setting that differs, also where only one side has it.
#include "lockstep/train/configuration_changes.h"

#include <gtest/gtest.h>

namespace lockstep {
namespace {

std::vector<std::string> changes(const std::string& before, const std::string& now) {
  std::vector<std::string> texts;
  for (const SettingChange& change : configuration_changes(before, now, {})) {
    EXPECT_EQ(change.text.rfind(change.key + " ", 0), 0u) << change.text;
    texts.push_back(change.text);
  }
  return texts;
}
using Texts = std::vector<std::string>;

TEST(ConfigurationChanges, OfTheSameSettingsAreNone) {
  const std::string text = "[run]\nseed = 1\n\n[[model.layers]]\ntype = \"flatten\"\n";
  EXPECT_EQ(changes(text, text), Texts{});
  EXPECT_EQ(changes("[run]\nseed = 1\noutput = \"a\"\n", "[run]\noutput = \"b\"\nseed = 1\n"), Texts{});
}

TEST(ConfigurationChanges, NameValuesAndWhatOnlyOneSideHas) {
  EXPECT_EQ(changes("[a]\nx = 1\ny = 2\n[b]\nz = \"s\"\n", "[a]\nx = 1\ny = 3\n[c]\nz = true\n"),
            (Texts{"a.y = 3, it was 2", "b.z is not set, it was \"s\"", "c.z = true, it was not set"}));
}

TEST(ConfigurationChanges, TellSettingsThatANewerVersionAddedAtTheirDefaults) {
  const std::string before = "[b]\nz = 1\n[[m.l]]\nt = 1\n",
                    now = "[b]\nz = 2\n[[m.l]]\nt = 1\na = 2\nc = 3\n";
  Texts by_default;
  const auto found = configuration_changes(before, now, {"b.z", "m.l[0].a", "m.l[0].t"});
  for (const SettingChange& change : found) {
    if (change.by_default) by_default.push_back(change.key);
  }
  EXPECT_EQ(found.size(), 3u);
  EXPECT_EQ(by_default, Texts{"m.l[0].a"});
  for (const SettingChange& change : configuration_changes(now, before, {"m.l[0].a"}))
    EXPECT_FALSE(change.by_default) << change.text;
}

TEST(ConfigurationChanges, SeeElementsOfListsThatCameOrWent) {
  const std::string one = "[[model.layers]]\ntype = \"flatten\"\n",
                    two = one + "[[model.layers]]\ntype = \"tanh\"\n";
  EXPECT_EQ(changes(one, two), Texts{"model.layers[1].type = \"tanh\", it was not set"});
  EXPECT_EQ(changes(two, one), Texts{"model.layers[1].type is not set, it was \"tanh\""});
}

TEST(ConfigurationChanges, KnowWhichElementANestedListBelongsTo) {
  const std::string outer = "[[m.l]]\nt = 1\n", inner = "[[m.l.l]]\nt = 2\n", table = "[m.l.o]\nt = 3\n";
  EXPECT_EQ(changes(outer + inner + table + outer, outer + outer + inner + table),
            (Texts{"m.l[0].l[0].t is not set, it was 2", "m.l[0].o.t is not set, it was 3",
                   "m.l[1].l[0].t = 2, it was not set", "m.l[1].o.t = 3, it was not set"}));
}

TEST(ConfigurationChanges, TellTheModelFromTheRestOfTheRun) {
  EXPECT_TRUE(defines_model("model.layers[3].function"));
  EXPECT_FALSE(defines_model("train.loss"));
  for (const char* key :
       {"model.type", "train.loss", "average.decay", "data.ignore_label", "precision.compute"})
    EXPECT_TRUE(defines_run(key)) << key;
  for (const char* key : {"optimizer.learning_rate", "train.steps", "models.type", "device.threads"})
    EXPECT_FALSE(defines_run(key)) << key;
}

}  // namespace
}  // namespace lockstep
