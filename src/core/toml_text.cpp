// Writing TOML.
#include "lockstep/core/toml_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

namespace lockstep {

std::string to_toml(std::string_view text) {
  std::string result = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      result += '\\';
      result += c;
    } else if (c == '\n') {
      result += "\\n";
    } else if (c == '\t') {
      result += "\\t";
    } else if (byte < 0x20 || byte == 0x7F) {
      result += fmt::format("\\u{:04X}", byte);
    } else {
      result += c;
    }
  }
  return result + '"';
}

std::string to_toml(const std::string& text) {
  return to_toml(std::string_view(text));
}

std::string to_toml(bool value) {
  return value ? "true" : "false";
}

std::string to_toml(int64_t value) {
  return fmt::format("{}", value);
}

std::string to_toml(double value) {
  std::string text = fmt::format("{}", value);
  if (text.find_first_not_of("-0123456789") == std::string::npos) text += ".0";
  return text;
}

bool is_bare_key(std::string_view key) {
  return !key.empty() && std::all_of(key.begin(), key.end(), [](unsigned char c) {
    return (c < 0x80 && std::isalnum(c)) || c == '_' || c == '-';
  });
}

std::string join_path(const std::string& path, std::string_view key) {
  const std::string shown = is_bare_key(key) ? std::string(key) : to_toml(key);
  return path.empty() ? shown : path + "." + shown;
}

}  // namespace lockstep
