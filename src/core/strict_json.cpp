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
    std::string reason = error.what();
    if (const size_t end = reason.find("] "); end != std::string::npos) reason.erase(0, end + 2);
    std::ranges::replace(reason, '\n', ' ');
    fail(kind, fmt::format("{}: is not JSON: {}", where, reason));
  }
  if (!object.is_object()) fail(kind, where + ": must be a JSON object");
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
