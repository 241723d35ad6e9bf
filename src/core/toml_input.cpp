// Reading TOML text and overrides.
#include <fmt/format.h>

#include <algorithm>
#include <sstream>

#include "lockstep/core/number_spelling.h"
#include "lockstep/core/section.h"
#include "lockstep/core/toml_text.h"

namespace lockstep {

namespace {

// Line `number` (from 1) of the text; "" beyond its end.
std::string line_of(const std::string& text, size_t number) {
  std::istringstream lines(text);
  std::string line;
  for (size_t i = 0; i < number; ++i) {
    if (!std::getline(lines, line)) return "";
  }
  return line;
}

// `text` as the only member of an inline table, where neither a comment nor a second key can hide in it.
std::optional<toml::table> parse_value(const std::string& text) {
  try {
    toml::table parsed = toml::parse("v = { v = " + text + " }", std::string_view(kOverrideName));
    toml::table* inner = parsed.size() == 1 ? parsed["v"].as_table() : nullptr;
    if (inner && inner->size() == 1 && inner->contains("v")) return std::move(*inner);
  } catch (const toml::parse_error&) {
  }
  return std::nullopt;
}

}  // namespace

toml::table parse_toml(const std::string& text, const std::string& name) {
  try {
    return toml::parse(text, name);
  } catch (const toml::parse_error& error) {
    const toml::source_position place = error.source().begin;
    std::string description = misspelt_number(line_of(text, place.line), place.column);
    if (description.empty()) description = error.description();
    std::replace(description.begin(), description.end(), '\n', ' ');
    fail(ErrorKind::kUsage, fmt::format("{}:{}:{}: {}", name, place.line, place.column, description));
  }
}

toml::table parse_override_value(const std::string& text) {
  std::optional<toml::table> value = parse_value(text);
  if (!value) value = parse_value(spelled_for_toml(text));
  return value ? std::move(*value) : parse_toml("v = " + to_toml(text), kOverrideName);
}

bool split_path(const std::string& path, std::vector<std::variant<std::string, size_t>>& steps) {
  std::istringstream stream(path + '.');
  for (std::string part; std::getline(stream, part, '.');) {
    size_t begin = std::min(part.find('['), part.size());
    if (!is_bare_key(part.substr(0, begin))) return false;
    steps.emplace_back(part.substr(0, begin));
    while (begin < part.size()) {
      const size_t end = part.find(']', begin);
      if (part[begin] != '[' || end == std::string::npos) return false;
      const std::string digits = part.substr(begin + 1, end - begin - 1);
      constexpr size_t kMaxDigits = 6;
      if (digits.empty() || digits.size() > kMaxDigits ||
          digits.find_first_not_of("0123456789") != std::string::npos) {
        return false;
      }
      steps.emplace_back(std::stoul(digits));
      begin = end + 1;
    }
  }
  return true;
}

std::string shown(const toml::node& node) {
  if (node.is_table()) return "a table";
  if (node.is_array()) return "a list";
  if (const auto* text = node.as_string()) return "the text " + to_toml(text->get());
  if (const auto* integer = node.as_integer()) return to_toml(integer->get());
  if (const auto* real = node.as_floating_point()) return to_toml(real->get());
  if (const auto* boolean = node.as_boolean()) return to_toml(boolean->get());
  return "a date or time";
}

}  // namespace lockstep
