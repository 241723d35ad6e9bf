// Reading TOML text and overrides.
#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <sstream>
#include <string_view>

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

// Lists and inline tables inside of each other toml++ refuses beyond a depth. The parts of dotted keys it
// counts not, and takes the tables that they make apart by recursion.
constexpr size_t kMostParts = 16;

struct Refusal {
  size_t at = std::string::npos;  // byte of the text; npos: none
  std::string rule;
};

// LINE:COLUMN of a byte, from 1; columns count characters.
std::string place_of(std::string_view text, size_t at) {
  const auto line = 1 + std::count(text.begin(), text.begin() + at, '\n');
  const size_t begin = at == 0 ? 0 : text.rfind('\n', at - 1) + 1;  // npos + 1 is 0
  const auto column = 1 + std::count_if(text.begin() + begin, text.begin() + at,
                                        [](unsigned char c) { return (c & 0xC0) != 0x80; });
  return fmt::format("{}:{}", line, column);
}

// What toml++ (3.3) ends the process for, where it should throw: keys of very many parts, names of tables
// that do not begin as keys do, and some letters where it looks for blanks. Texts, comments and lists are
// told apart only as far as the text is well-formed: its first error ends toml++'s reading too.
Refusal fatal_for_toml(std::string_view text) {
  const auto beyond_ascii = [&](size_t i) {
    return i < text.size() && static_cast<unsigned char>(text[i]) >= 0x80;
  };
  size_t dots = 0;     // since something else than a key
  std::string open;    // brackets and braces; h: of a table's name
  bool begins = true;  // a line, of which there were blanks at most
  // What is no text, list or table in the place of a value: toml++ reads to its end before it refuses it,
  // over quotes and brackets too.
  bool value = false, bare = false;
  for (size_t i = text.starts_with("\xEF\xBB\xBF") ? 3 : 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '#') {
      i = std::min(text.find('\n', i), text.size()) - 1;
      continue;
    }
    const bool plain = value && bare && std::string_view(" \t\r\n,]}").find(c) == std::string_view::npos;
    if ((c == '"' || c == '\'') && !plain) {
      const bool several_lines = text.substr(i, 3) == std::string(3, c);
      const std::string_view quotes = text.substr(i, several_lines ? 3 : 1);
      for (i += quotes.size(); i < text.size() && text.substr(i, quotes.size()) != quotes; ++i) {
        if (c != '"' || text[i] != '\\') continue;
        const size_t next = std::min(text.find_first_not_of(" \t\r\n", i + 1), text.size());
        if (several_lines && beyond_ascii(next))
          return {next, "behind a backslash, a line of a text must not begin beyond ASCII"};
        ++i;
      }
      i += quotes.size();
      while (several_lines && i < text.size() && text[i] == c) ++i;  // the text's own, at its end
      --i;
      begins = false;
      continue;
    }
    // Of some that are no blanks, toml++ asks in a way that has no answer.
    if (beyond_ascii(i)) return {i, "characters beyond ASCII must stand in quotes or in a comment"};
    const bool heads = c == '[' && begins && open.empty();
    if (heads) {
      size_t name = text.find_first_not_of(" \t", i + 1);
      if (name < text.size() && text[name] == '[') name = text.find_first_not_of(" \t", name + 1);
      const bool key = name >= text.size() ||
                       std::string_view("\"'_-]").find(text[name]) != std::string_view::npos ||
                       std::isalnum(static_cast<unsigned char>(text[name])) != 0;
      if (!key) return {i, "the name of a table must begin with a letter, a digit, _, - or a quote"};
    }
    if (!plain) {
      if (c == '[' || c == '{') open += heads ? 'h' : c;
      if ((c == ']' || c == '}') && !open.empty()) open.pop_back();
      const bool lists = !open.empty() && open.back() == '[';
      if (c == '=' || c == '[' || c == ',') value = c == '=' || lists;
      if (c == '{' || (c == '\n' && open.empty())) value = false;
      bare = std::string_view(" \t\r\n=,.[]{}").find(c) == std::string_view::npos || (c == '.' && bare);
    }
    if (c != ' ' && c != '\t') begins = c == '\n';
    dots = c == '.' ? dots + 1 : std::string_view("=,[]{}\n").find(c) != std::string_view::npos ? 0 : dots;
    if (dots == kMostParts) return {i, fmt::format("a key of more than {} parts", kMostParts)};
  }
  return {};
}

// `text` as the only member of an inline table, where neither a comment nor a second key can hide in it.
std::optional<toml::table> parse_value(const std::string& text) {
  const std::string document = "v = { v = " + text + " }";
  if (fatal_for_toml(document).at != std::string::npos) return std::nullopt;
  try {
    toml::table parsed = toml::parse(document, std::string_view(kOverrideName));
    toml::table* inner = parsed.size() == 1 ? parsed["v"].as_table() : nullptr;
    if (inner && inner->size() == 1 && inner->contains("v")) return std::move(*inner);
  } catch (const toml::parse_error&) {
  } catch (const TomlAssertion&) {
  }
  return std::nullopt;
}

}  // namespace

void throw_toml_assertion() {
  throw TomlAssertion{};
}

toml::table parse_toml(const std::string& text, const std::string& name) {
  if (const Refusal refusal = fatal_for_toml(text); refusal.at != std::string::npos)
    fail(ErrorKind::kUsage, fmt::format("{}:{}: {}", name, place_of(text, refusal.at), refusal.rule));
  try {
    return toml::parse(text, name);
  } catch (const toml::parse_error& error) {
    const toml::source_position place = error.source().begin;
    std::string description = misspelt_number(line_of(text, place.line), place.column);
    if (description.empty()) description = error.description();
    std::replace(description.begin(), description.end(), '\n', ' ');
    fail(ErrorKind::kUsage, fmt::format("{}:{}:{}: {}", name, place.line, place.column, description));
  } catch (const TomlAssertion&) {
    fail(ErrorKind::kUsage, fmt::format("{}: is no TOML", name));
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
    if (steps.size() > 2 * kMostParts) return false;  // as each may have one index
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
