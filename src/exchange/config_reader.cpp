// What every key of such an object is held against.
#include "lockstep/exchange/config_reader.h"

#include <fmt/format.h>

#include <algorithm>

#include "lockstep/core/error.h"

namespace lockstep {

using nlohmann::json;

const json* ConfigReader::find(const char* key) {
  known_.insert(key);
  const auto found = object_.find(key);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

bool ConfigReader::has(const char* key) {
  known_.insert(key);
  return object_.contains(key);
}

int64_t ConfigReader::integer(const char* key, std::optional<int64_t> fallback) {
  constexpr int64_t kMost = int64_t{1} << 31;
  const json* value = find(key);
  if (value == nullptr) return fallback ? *fallback : (missing(key), 0);
  if (!value->is_number_unsigned() || value->get<uint64_t>() > kMost || value->get<uint64_t>() < 1)
    refuse(key, *value, fmt::format("must be a whole number in [1, {}]", kMost));
  return value->get<int64_t>();
}

double ConfigReader::real(const char* key, std::optional<double> fallback) {
  const json* value = find(key);
  if (value == nullptr) return fallback ? *fallback : (missing(key), 0.0);
  if (!value->is_number()) refuse(key, *value, "must be a number");
  return value->get<double>();
}

bool ConfigReader::boolean(const char* key, bool fallback) {
  const json* value = find(key);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) refuse(key, *value, "must be true or false");
  return value->get<bool>();
}

std::string ConfigReader::text(const char* key, std::optional<std::string> fallback) {
  const json* value = find(key);
  if (value == nullptr) return fallback ? *fallback : (missing(key), "");
  if (!value->is_string()) refuse(key, *value, "must be a text");
  return value->get<std::string>();
}

void ConfigReader::require_boolean(const char* key, bool computed) {
  if (boolean(key, computed) != computed)
    refuse(key, !computed, fmt::format("only {} is computed", computed));
}

void ConfigReader::refuse(const char* key, const json& value, const std::string& rule) const {
  fail(ErrorKind::kCheckpoint, fmt::format("{}: {}{}: {}, got {}", where_, scope_, key, rule, value.dump()));
}

void ConfigReader::missing(const char* key) const {
  fail(ErrorKind::kCheckpoint, fmt::format("{}: {}{}: is missing", where_, scope_, key));
}

void ConfigReader::reject_unknown(std::span<const char* const> without_meaning) const {
  for (const auto& [key, value] : object_.items()) {
    const bool means_nothing = value.is_null() || key.starts_with('_') || known_.contains(key) ||
                               std::ranges::find(without_meaning, key) != without_meaning.end();
    if (!means_nothing) {
      fail(ErrorKind::kCheckpoint,
           fmt::format("{}: {}{}: is not known here and may change what the model computes: {}", where_,
                       scope_, key, value.dump()));
    }
  }
}

ConfigReader ConfigReader::table(const char* key) {
  const json* value = find(key);
  if (value == nullptr) return {where_, json::object(), scope_ + key + "."};
  if (!value->is_object()) refuse(key, *value, "must be an object");
  return {where_, *value, scope_ + key + "."};
}

}  // namespace lockstep
