// JSON without second meanings.
#include "lockstep/exchange/strict_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <unordered_set>
#include <vector>

#include "lockstep/core/error.h"

namespace lockstep {

using nlohmann::json;

json parse_strict_object(const std::string& where, std::string_view text) {
  constexpr int kMostNested = 32;
  std::vector<std::unordered_set<std::string>> keys;  // of the objects that are open
  json object;
  try {
    object = json::parse(text, [&](int depth, json::parse_event_t event, json& parsed) {
      if (depth > kMostNested)
        fail(ErrorKind::kCheckpoint, fmt::format("{}: nested deeper than {}", where, kMostNested));
      if (event == json::parse_event_t::object_start) keys.emplace_back();
      if (event == json::parse_event_t::object_end) keys.pop_back();
      if (event == json::parse_event_t::key && !keys.back().insert(parsed.get<std::string>()).second)
        fail(ErrorKind::kCheckpoint, fmt::format("{}: {} for the second time", where, parsed.dump()));
      return true;
    });
  } catch (const json::exception& error) {
    std::string reason = error.what();
    if (const size_t end = reason.find("] "); end != std::string::npos) reason.erase(0, end + 2);
    std::ranges::replace(reason, '\n', ' ');
    fail(ErrorKind::kCheckpoint, fmt::format("{}: is not JSON: {}", where, reason));
  }
  if (!object.is_object()) fail(ErrorKind::kCheckpoint, where + ": must be a JSON object");
  return object;
}

std::string read_small_file(const std::string& path, size_t most_bytes, ErrorKind kind) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error))
    fail(kind, path + ": there is no such file, or no regular one");
  const uintmax_t size = std::filesystem::file_size(path, error);
  if (error) fail(kind, fmt::format("{}: cannot be read: {}", path, error.message()));
  if (size > most_bytes) fail(kind, fmt::format("{}: has {} bytes: at most {}", path, size, most_bytes));
  std::string text(size, '\0');
  std::ifstream file(path, std::ios::binary);
  file.read(text.data(), static_cast<std::streamsize>(size));
  if (!file) fail(kind, path + ": cannot be read");
  return text;
}

}  // namespace lockstep
