// Comparing configurations: every setting that differs, also where only one side has it.
#include "train/configuration_changes.h"

#include <gtest/gtest.h>

namespace lockstep {
namespace {

std::vector<std::string> changes(const std::string& before, const std::string& now,
                                 const std::set<std::string>& at_default = {}) {
  std::vector<std::string> texts;
  for (const SettingChange& change : configuration_changes(before, now, at_default)) {
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

TEST(ConfigurationChanges, AreNotSettingsOfANewerVersionAtTheirDefaults) {
  const std::string before = "[[m.l]]\nt = 1\n", now = "[[m.l]]\nt = 1\na = 2\n[b]\nz = true\n";
  EXPECT_EQ(changes(before, now, {"m.l[0].a", "b.z"}), Texts{});
  EXPECT_EQ(changes(before, now, {"b.z"}), Texts{"m.l[0].a = 2, it was not set"});
  EXPECT_EQ(changes(now, before, {"m.l[0].a", "b.z"}),
            (Texts{"b.z is not set, it was true", "m.l[0].a is not set, it was 2"}));
  EXPECT_EQ(changes("[b]\nz = false\n", "[b]\nz = true\n", {"b.z"}), Texts{"b.z = true, it was false"});
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
  for (const char* key : {"model.type", "train.loss", "average.decay", "precision.compute"})
    EXPECT_TRUE(defines_run(key)) << key;
  for (const char* key : {"optimizer.learning_rate", "train.steps", "models.type", "device.threads"})
    EXPECT_FALSE(defines_run(key)) << key;
}

}  // namespace
}  // namespace lockstep
