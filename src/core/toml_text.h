// Values as TOML text: what the resolved configuration, descriptions and messages are made of.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace lockstep {

std::string to_toml(std::string_view text);
std::string to_toml(const std::string& text);
std::string to_toml(bool value);
std::string to_toml(int64_t value);
std::string to_toml(double value);  // the shortest digits that parse to the same double

template <class T>
std::string to_toml(const std::vector<T>& values) {
  std::string text = "[";
  for (const T& value : values) text += (text.size() > 1 ? ", " : "") + to_toml(value);
  return text + "]";
}

// Whether TOML takes the key without quotes.
bool is_bare_key(std::string_view key);
// "model.layers": the key, quoted where it has to be, behind the path of its table ("" at the root).
std::string join_path(const std::string& path, std::string_view key);

}  // namespace lockstep
