// Reading the JSON objects by which Hugging Face's libraries configure models, strictly.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <span>
#include <string>

namespace lockstep {

// Errors (kCheckpoint) name `where` and the key.
class ConfigReader {
 public:
  ConfigReader(std::string where, nlohmann::json object, std::string scope = "")
      : where_(std::move(where)), scope_(std::move(scope)), object_(std::move(object)) {}

  // Null: absent, or null.
  const nlohmann::json* find(const char* key);
  bool has(const char* key);
  // A whole number in [1, 2^31].
  int64_t integer(const char* key, std::optional<int64_t> fallback = std::nullopt);
  double real(const char* key, std::optional<double> fallback = std::nullopt);
  bool boolean(const char* key, bool fallback);
  std::string text(const char* key, std::optional<std::string> fallback = std::nullopt);
  // What is computed is the only value that is allowed.
  void require_boolean(const char* key, bool computed);
  // Of an object; empty where it is absent.
  ConfigReader table(const char* key);
  [[noreturn]] void refuse(const char* key, const nlohmann::json& value, const std::string& rule) const;
  [[noreturn]] void missing(const char* key) const;
  // After everything has been asked for; without_meaning: keys that change nothing that is computed.
  void reject_unknown(std::span<const char* const> without_meaning) const;
  const std::string& where() const { return where_; }

 private:
  std::string where_, scope_;
  nlohmann::json object_;
  std::set<std::string, std::less<>> known_;
};

}  // namespace lockstep
