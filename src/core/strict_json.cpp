// JSON without second meanings.
#include "lockstep/core/strict_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <unordered_set>
#include <vector>

namespace lockstep {

using nlohmann::json;

namespace {

// In the parser's words, without its name and the steps of its grammar. Of a single line only the column:
// what line of a file it is, the caller says. Of what was read last, which may be all of a long text, the
// end.
std::string reason_of(const json::exception& error, bool several_lines) {
  constexpr size_t kMostRead = 40;
  constexpr std::string_view kLastRead = "last read: '";
  std::string reason = error.what();
  const auto drop = [&](std::string_view from, std::string_view to) {
    const size_t begin = reason.find(from);
    if (begin == std::string::npos) return;
    const size_t end = reason.find(to, begin + from.size());
    if (end != std::string::npos) reason.erase(begin, end + to.size() - begin);
  };
  drop("[", "] ");
  drop("syntax error while parsing ", " - ");
  if (!several_lines) drop("parse error at line 1, ", "");
  if (const size_t found = reason.find(kLastRead); found != std::string::npos) {
    const size_t begin = found + kLastRead.size();
    size_t end = reason.size() - std::min(reason.size() - begin, kMostRead);
    while (end < reason.size() && (static_cast<unsigned char>(reason[end]) & 0xC0) == 0x80) ++end;
    if (end > begin) reason.replace(begin, end - begin, "...");
  }
  std::ranges::replace(reason, '\n', ' ');
  return reason;
}

}  // namespace

json parse_json_object(const std::string& where, std::string_view text, ErrorKind kind) {
  constexpr int kMostNested = 64;
  // nlohmann's parser takes one for the end, whatever follows.
  if (const size_t at = text.find('\0'); at != std::string_view::npos)
    fail(kind, fmt::format("{}: is not JSON: byte {} is 0", where, at + 1));
  std::vector<std::unordered_set<std::string>> keys;  // of the objects that are open
  json object;
  try {
    object = json::parse(text, [&](int depth, json::parse_event_t event, json& parsed) {
      if (depth > kMostNested) fail(kind, fmt::format("{}: nested deeper than {}", where, kMostNested));
      if (event == json::parse_event_t::object_start) keys.emplace_back();
      if (event == json::parse_event_t::object_end) keys.pop_back();
      if (event == json::parse_event_t::key && !keys.back().insert(parsed.get<std::string>()).second)
        fail(kind, fmt::format("{}: {} for the second time", where, parsed.dump()));
      return true;
    });
  } catch (const json::exception& error) {
    fail(kind, fmt::format("{}: is not JSON: {}", where, reason_of(error, text.find('\n') != text.npos)));
  }
  if (!object.is_object())
    fail(kind, fmt::format("{}: must be a JSON object: got {}", where, object.type_name()));
  return object;
}

std::string read_small_file(const std::string& path, size_t most_bytes, ErrorKind kind) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) fail(kind, path + ": is a directory");
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    fail(kind, errno == ENOENT ? path + ": there is no such file"
                               : fmt::format("{}: cannot be read: {}", path, std::strerror(errno)));
  }
  constexpr size_t kPiece = size_t{1} << 16;
  std::string text;
  while (file) {
    const size_t before = text.size();
    text.resize(before + kPiece);
    file.read(text.data() + before, kPiece);
    text.resize(before + static_cast<size_t>(file.gcount()));
    if (text.size() > most_bytes) fail(kind, fmt::format("{}: has more than {} bytes", path, most_bytes));
  }
  if (file.bad()) fail(kind, path + ": cannot be read");
  return text;
}

}  // namespace lockstep
