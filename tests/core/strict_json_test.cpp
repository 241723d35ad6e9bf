// Files that may say one thing only, and pipes.
#include "lockstep/core/strict_json.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

namespace lockstep {
namespace {

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.kind() == ErrorKind::kData ? error.what() : std::string("another kind: ") + error.what();
  }
  return "accepted";
}

TEST(StrictJson, RefusesWhatHasASecondMeaning) {
  const auto of = [](const std::string& text) {
    return error_of([&] { parse_json_object("here", text, ErrorKind::kData); });
  };
  EXPECT_EQ(of(R"({"a": {"b": 1}, "b": [{"b": 2}, {"b": 3}]})"), "accepted");
  EXPECT_EQ(of(R"({"a": 1, "b": {"c": 1, "c": 2}})"), "here: \"c\" for the second time");
  EXPECT_EQ(of("[1]"), "here: must be a JSON object: got array");
  EXPECT_EQ(of("{\"a\": \n}").substr(0, 19), "here: is not JSON: ");
  EXPECT_EQ(of(std::string("{\"a\": 1}\0{", 10)), "here: is not JSON: byte 9 is 0");
  EXPECT_EQ(of(std::string("{\"a\": 1}\0", 9)), "here: is not JSON: byte 9 is 0");
  EXPECT_EQ(of("{\"a\": 1} \t\r"), "accepted");
  EXPECT_EQ(of("{\"a\": 1} x"),
            "here: is not JSON: column 10: invalid literal; last read: '1} x'; expected end of input");
  EXPECT_EQ(of("{\n\"a\" 1}").substr(0, 55), "here: is not JSON: parse error at line 2, column 5: une");
  // The end of what was read, in whole characters.
  std::string accents;
  for (int i = 0; i < 100000; ++i) accents += "\xc3\xa9";
  const std::string unclosed = of("{\"a\": \"" + accents + "b");
  EXPECT_EQ(unclosed.substr(0, 30), "here: is not JSON: column 2000");
  EXPECT_NE(unclosed.find("missing closing quote; last read: '...\xc3\xa9"), std::string::npos) << unclosed;
  EXPECT_LT(unclosed.size(), 150u);
  EXPECT_EQ(of("{\"a\":" + std::string(100, '[')), "here: nested deeper than 64");
}

TEST(SmallFile, MayBeAPipeAndHasALimit) {
  const auto piped = [](const std::string& text, size_t most) {
    int ends[2] = {-1, -1};
    EXPECT_EQ(::pipe(ends), 0);
    EXPECT_EQ(::write(ends[1], text.data(), text.size()), static_cast<ssize_t>(text.size()));
    ::close(ends[1]);
    const std::string path = "/proc/self/fd/" + std::to_string(ends[0]);
    std::string read;
    const std::string error = error_of([&] { read = read_small_file(path, most, ErrorKind::kData); });
    ::close(ends[0]);
    return error == "accepted" ? read : error.substr(error.find(": ") + 2);
  };
  EXPECT_EQ(piped("through a pipe\n", 100), "through a pipe\n");
  EXPECT_EQ(piped("", 100), "");
  EXPECT_EQ(piped("0123456789", 9), "has more than 9 bytes");
  EXPECT_EQ(error_of([] { read_small_file("/", 9, ErrorKind::kData); }), "/: is a directory");
  EXPECT_EQ(error_of([] { read_small_file("/none", 9, ErrorKind::kData); }), "/none: there is no such file");
}

}  // namespace
}  // namespace lockstep
