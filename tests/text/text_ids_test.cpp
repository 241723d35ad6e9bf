// The table of texts against the standard library's.
#include "lockstep/text/text_ids.h"

#include <gtest/gtest.h>

#include <map>

namespace lockstep {
namespace {

TEST(TextIds, FindsWhatWasAddedAndNothingElse) {
  TextIds ids;
  EXPECT_TRUE(ids.empty());
  EXPECT_EQ(ids.find(""), std::nullopt);
  std::map<std::string, int32_t> expected;
  uint64_t state = 1;
  for (int32_t i = 0; i < 5000; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    // Short ones, of few letters, with zeros: many come back.
    std::string text(state >> 60 & 7, '\0');
    for (char& c : text) {
      c = static_cast<char>(state >> 33 & 3);
      state = state * 6364136223846793005u + 1;
    }
    EXPECT_EQ(ids.add(text, i), expected.emplace(text, i).second);
    ASSERT_EQ(ids.size(), std::ssize(expected));
  }
  for (const auto& [text, id] : expected) {
    ASSERT_EQ(ids.find(text), id);
    const auto other = expected.find(text + "\3");
    ASSERT_EQ(ids.find(text + "\3"), other == expected.end() ? std::nullopt : std::optional(other->second));
  }
  EXPECT_EQ(ids.find(std::string(9, '\1')), std::nullopt);
}

}  // namespace
}  // namespace lockstep
