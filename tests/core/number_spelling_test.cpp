// Numbers in text: what is respelled, what is out of range, and what is left alone.
#include "lockstep/core/number_spelling.h"

#include <gtest/gtest.h>

namespace lockstep {
namespace {

TEST(NumberSpelling, AddsTheDigitsThatTomlWants) {
  for (const auto& [text, expected] : {std::pair(".5", "0.5"),
                                       {"5.", "5.0"},
                                       {"1.e-3", "1.0e-3"},
                                       {"+.5E2", "+0.5E2"},
                                       {"[ -.5 , 1., 2 ]", "[ -0.5 , 1.0, 2 ]"},
                                       {"{a = .5}", "{a = 0.5}"},
                                       {"1.5", "1.5"},
                                       {"1e5", "1e5"},
                                       {"'.5' \".5\" .5", "'.5' \".5\" 0.5"},
                                       {"\"\\\".5\"", "\"\\\".5\""},
                                       {".", "."},
                                       {"..5", "..5"},
                                       {"1.2.3", "1.2.3"},
                                       {".5x", ".5x"},
                                       {"1.e", "1.e"},
                                       {"-.", "-."},
                                       {"caf\xc3\xa9.5", "caf\xc3\xa9.5"},
                                       {"", ""}}) {
    EXPECT_EQ(spelled_for_toml(text), expected);
  }
}

TEST(NumberSpelling, FindsWhatNoValueHolds) {
  for (const auto& [text, expected] :
       {std::pair("9223372036854775807", ""),
        {"-9223372036854775808", ""},
        {"9223372036854775808", "9223372036854775808 is beyond 64 bits"},
        {"-9_223_372_036_854_775_809", "-9_223_372_036_854_775_809 is beyond 64 bits"},
        {"0x7FFFFFFFFFFFFFFF", ""},
        {"0x8000000000000000", "0x8000000000000000 is beyond 64 bits"},
        {"[1, 99999999999999999999, 88888888888888888888]", "99999999999999999999 is beyond 64 bits"},
        {"1e308", ""},
        {"-1e309", "-1e309 is beyond the range of fp64"},
        {"1.5e+400", "1.5e+400 is beyond the range of fp64"},
        {"inf", ""},
        {"'99999999999999999999'", ""},
        {"v99999999999999999999", ""},
        {"99999999999999999999x", ""}}) {
    EXPECT_EQ(number_out_of_range(text), expected) << text;
  }
}

TEST(NumberSpelling, NamesTheNumberAtAPlace) {
  const std::string line = "x = [.5, 5.]  # 1.";
  EXPECT_EQ(misspelt_number(line, 6), "TOML writes .5 as 0.5");
  EXPECT_EQ(misspelt_number(line, 8), "TOML writes .5 as 0.5");
  EXPECT_EQ(misspelt_number(line, 12), "TOML writes 5. as 5.0");
  EXPECT_EQ(misspelt_number(line, 1), "");
  EXPECT_EQ(misspelt_number(line, 99), "");
  EXPECT_EQ(misspelt_number("", 1), "");
}

}  // namespace
}  // namespace lockstep
