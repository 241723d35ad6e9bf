// Patterns fit names as documented, and groups cut the parameters into segments.
#include "lockstep/optim/parameter_groups.h"

#include <gtest/gtest.h>

#include "lockstep/core/error.h"

namespace lockstep {
namespace {

TEST(Pattern, StarStandsForAnyRunAndQuestionMarkForOneCharacter) {
  const std::vector<std::pair<std::string, std::string>> fitting = {
      {"*", ""},
      {"*", "layers.0.bias"},
      {"*.bias", "layers.0.bias"},
      {"layers.*.bias", "layers.0.1.bias"},
      {"a?c", "abc"},
      {"*a*b*c", "xxaybabzc"},
      {"layers.0.bias", "layers.0.bias"},
      {"**.bias", ".bias"},
      {"*ab", "aab"},
      {"", ""},
  };
  for (const auto& [pattern, name] : fitting)
    EXPECT_TRUE(matches_pattern(pattern, name)) << pattern << " " << name;
  const std::vector<std::pair<std::string, std::string>> others = {
      {"", "a"},
      {"*.bias", "layers.0.weight"},
      {"*.bias", "layers.0.bias2"},
      {"bias", "layers.0.bias"},
      {"a?c", "ac"},
      {"a?c", "abbc"},
      {"*a*b", "ba"},
      {"layers", "layers.0"},
      {"?", ""},
  };
  for (const auto& [pattern, name] : others)
    EXPECT_FALSE(matches_pattern(pattern, name)) << pattern << " " << name;
}

TEST(Pattern, ManyStarsDoNotTakeExponentialTime) {
  std::string pattern, name(3000, 'a');
  for (int i = 0; i < 200; ++i) pattern += "*a";
  EXPECT_TRUE(matches_pattern(pattern, name));
  EXPECT_FALSE(matches_pattern(pattern + "b", name));
}

const std::vector<ParameterEntry> kGroupedParameters = {
    {.name = "first.weight", .shape = {4, 8}, .offset = 0, .initializer = {}},
    {.name = "first.bias", .shape = {8}, .offset = 64, .initializer = {}},
    {.name = "second.weight", .shape = {8, 2}, .offset = 128, .initializer = {}},
    {.name = "second.bias", .shape = {2}, .offset = 192, .initializer = {}},
};

std::vector<UpdateSegment> segments_from(const std::string& toml) {
  Configuration configuration = Configuration::parse("[optimizer]\n" + toml, "test.toml", {});
  Section section = configuration.section("optimizer");
  const bool decay_biases = section.boolean("decay_biases", true, "");
  const std::vector<ParameterGroup> groups = read_parameter_groups(section);
  configuration.reject_unknown();
  return update_segments(kGroupedParameters, 256, decay_biases, groups);
}

void expect_segments(const std::string& toml, const std::vector<UpdateSegment>& expected) {
  const std::vector<UpdateSegment> found = segments_from(toml);
  ASSERT_EQ(found.size(), expected.size()) << toml;
  for (size_t i = 0; i < found.size(); ++i) {
    EXPECT_EQ(found[i].begin, expected[i].begin) << toml;
    EXPECT_EQ(found[i].end, expected[i].end) << toml;
    EXPECT_EQ(found[i].learning_rate_factor, expected[i].learning_rate_factor) << toml;
    EXPECT_EQ(found[i].weight_decay, expected[i].weight_decay) << toml;
  }
}

TEST(ParameterGroups, WithoutAnyAllParametersAreOneSegment) {
  expect_segments("", {{0, 256, 1.0, true}});
}

TEST(ParameterGroups, BiasesCanGoWithoutDecay) {
  const std::vector<UpdateSegment> expected = {
      {0, 64, 1.0, true}, {64, 128, 1.0, false}, {128, 192, 1.0, true}, {192, 256, 1.0, false}};
  expect_segments("decay_biases = false", expected);
  expect_segments("[[optimizer.groups]]\npattern = '*.bias'\nweight_decay = false", expected);
}

TEST(ParameterGroups, FirstThatFitsCounts) {
  expect_segments(
      "[[optimizer.groups]]\npattern = 'first.*'\nlearning_rate_factor = 0.1\n"
      "[[optimizer.groups]]\npattern = '*.bias'\nlearning_rate_factor = 5\nweight_decay = false",
      {{0, 128, 0.1, true}, {128, 192, 1.0, true}, {192, 256, 5.0, false}});
}

TEST(ParameterGroups, GroupDoesNotBringBackDecayThatBiasesAreSpared) {
  expect_segments(
      "decay_biases = false\n[[optimizer.groups]]\npattern = 'second.*'\nlearning_rate_factor = 0",
      {{0, 64, 1.0, true}, {64, 128, 1.0, false}, {128, 192, 0.0, true}, {192, 256, 0.0, false}});
}

TEST(ParameterGroups, MistakesAreUsageErrorsThatNameTheKey) {
  const std::vector<std::pair<std::string, std::string>> bad = {
      {"[[optimizer.groups]]\nweight_decay = false", "pattern"},
      {"[[optimizer.groups]]\npattern = '*.gain'",
       "pattern \"*.gain\" fits no parameter; there are first.weight"},
      {"[[optimizer.groups]]\npattern = '*'\nlearning_rate_factor = -1",
       "optimizer.groups[0].learning_rate_factor"},
      {"[[optimizer.groups]]\npattern = '*'\nweight_decay = 0.1", "optimizer.groups[0].weight_decay"},
      {"[[optimizer.groups]]\npattern = '*'\nrate = 2", "rate"},
      {"groups = 3", "groups"},
  };
  for (const auto& [toml, message] : bad) {
    try {
      segments_from(toml);
      ADD_FAILURE() << toml;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUsage) << toml;
      EXPECT_NE(std::string(error.what()).find(message), std::string::npos) << error.what();
    }
  }
}

}  // namespace
}  // namespace lockstep
