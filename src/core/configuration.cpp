// The strict TOML reader; toml++ stays inside this file.
#include "core/configuration.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <functional>
#include <sstream>
#include <string_view>
#include <tuple>
#include <variant>

#include "core/error.h"

#define TOML_HEADER_ONLY 1
#include <toml++/toml.h>

namespace lockstep {

namespace {

constexpr const char* kOverrideName = "--set";

// One read key, everything as TOML text: what describe() and resolved() print.
struct Declaration {
  std::string key, type, allowed, fallback, description, value;

  bool same_setting(const Declaration& other) const {
    return std::tie(key, type, allowed, fallback, description) ==
           std::tie(other.key, other.type, other.allowed, other.fallback, other.description);
  }
};

// ---- TOML text
// ------------------------------------------------------------------------------------------------------

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
  std::string text = fmt::format("{}", value);  // the shortest digits that parse to the same double
  if (text.find_first_not_of("-0123456789") == std::string::npos) text += ".0";
  return text;
}
template <class T>
std::string to_toml(const std::vector<T>& values) {
  std::string text = "[";
  for (const T& value : values) text += (text.size() > 1 ? ", " : "") + to_toml(value);
  return text + "]";
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

// What a node is, for "got ...".
std::string shown(const toml::node& node) {
  if (node.is_table()) return "a table";
  if (node.is_array()) return "a list";
  if (const auto* text = node.as_string()) return "the text " + to_toml(text->get());
  if (const auto* integer = node.as_integer()) return to_toml(integer->get());
  if (const auto* real = node.as_floating_point()) return to_toml(real->get());
  if (const auto* boolean = node.as_boolean()) return to_toml(boolean->get());
  return "a date or time";
}

// ---- values
// -----------------------------------------------------------------------------------------------------------

// Each Kind<T> says how values of one type are named, taken out of a TOML node (false: wrong type), and
// checked.
template <class T>
struct Kind;
template <>
struct Kind<int64_t> {
  static constexpr const char *kName = "integer", *kExpected = "an integer",
                              *kExpectedList = "a list of integers";
  static bool extract(const toml::node& node, int64_t& value) {
    const auto* integer = node.as_integer();
    if (integer) value = integer->get();
    return integer != nullptr;
  }
};
template <>
struct Kind<double> {
  static constexpr const char *kName = "real", *kExpected = "a number", *kExpectedList = "a list of numbers";
  static bool extract(const toml::node& node, double& value) {
    if (const auto* integer = node.as_integer()) {
      value = static_cast<double>(integer->get());
      return true;
    }
    const auto* real = node.as_floating_point();
    if (real) value = real->get();
    return real != nullptr;
  }
};
template <>
struct Kind<bool> {
  static constexpr const char *kName = "boolean", *kExpected = "true or false";
  static bool extract(const toml::node& node, bool& value) {
    const auto* boolean = node.as_boolean();
    if (boolean) value = boolean->get();
    return boolean != nullptr;
  }
};
template <>
struct Kind<std::string> {
  static constexpr const char *kName = "text", *kExpected = "a text", *kExpectedList = "a list of texts";
  static bool extract(const toml::node& node, std::string& value) {
    const auto* text = node.as_string();
    if (text) value = text->get();
    return text != nullptr;
  }
};

std::string to_text(const Range& range) {
  const bool below = std::isfinite(range.minimum), above = std::isfinite(range.maximum);
  if (below && above) {
    return fmt::format("in {}{}, {}]", range.open_minimum ? '(' : '[', range.minimum, range.maximum);
  }
  if (below) return fmt::format("{} {}", range.open_minimum ? ">" : ">=", range.minimum);
  return above ? fmt::format("<= {}", range.maximum) : "";
}

std::string to_text(const std::vector<std::string>& choices) {
  std::string text = choices.empty() ? "" : "one of ";
  for (size_t i = 0; i < choices.size(); ++i) text += (i > 0 ? ", " : "") + to_toml(choices[i]);
  return text;
}

// The rule that a value breaks; empty when it breaks none.
template <class T>
std::string broken_rule(T value, const Range& range) {
  const auto number = static_cast<double>(value);
  if (!std::isfinite(number)) return "must be finite";
  const bool low = range.open_minimum ? number <= range.minimum : number < range.minimum;
  return low || number > range.maximum ? "must be " + to_text(range) : "";
}
std::string broken_rule(const std::string& value, const std::vector<std::string>& choices) {
  const bool known = choices.empty() || std::find(choices.begin(), choices.end(), value) != choices.end();
  return known ? "" : "must be " + to_text(choices);
}
struct NoRule {};
std::string broken_rule(bool, NoRule) {
  return "";
}
std::string to_text(NoRule) {
  return "";
}

// The value that stands for a missing required key in a description.
template <class T>
T neutral(T, const Range& range) {
  if (broken_rule(T{0}, range).empty()) return T{0};
  const double edge = range.minimum >= 0.0 ? range.minimum : range.maximum;
  const double inside =
      range.open_minimum && edge == range.minimum ? std::min(edge + 1.0, range.maximum) : edge;
  return static_cast<T>(inside);
}
std::string neutral(const std::string&, const std::vector<std::string>& choices) {
  return choices.empty() ? "" : choices.front();
}
bool neutral(bool, NoRule) {
  return false;
}

// ---- suggestions
// --------------------------------------------------------------------------------------------------------

// Edits between two names: insertions, deletions, substitutions and swaps of neighbours (optimal string
// alignment).
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::vector<size_t>> cost(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) cost[i][0] = i;
  for (size_t j = 0; j <= b.size(); ++j) cost[0][j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substitution = cost[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      cost[i][j] = std::min({cost[i - 1][j] + 1, cost[i][j - 1] + 1, substitution});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        cost[i][j] = std::min(cost[i][j], cost[i - 2][j - 2] + 1);
      }
    }
  }
  return cost[a.size()][b.size()];
}

// "lr" of "learning_rate".
std::string initials(std::string_view name) {
  std::string result;
  for (size_t i = 0; i < name.size(); ++i) {
    if (i == 0 || name[i - 1] == '_') result += name[i];
  }
  return result;
}

// At most three of `names`, nearest first, that could be what `name` was meant to be.
std::vector<std::string> nearest(std::string_view name, const std::vector<std::string>& names) {
  if (name.size() > 64) return {};  // no name is that long
  std::vector<std::pair<size_t, std::string>> near;
  for (const std::string& candidate : names) {
    const bool abbreviated = name.size() > 1 && name == initials(candidate);
    const size_t distance = abbreviated ? 0 : edit_distance(name, candidate);
    if (distance <= std::max<size_t>(2, candidate.size() / 3) && distance < candidate.size()) {
      near.emplace_back(distance, candidate);
    }
  }
  std::sort(near.begin(), near.end());
  std::vector<std::string> result;
  for (size_t i = 0; i < std::min<size_t>(3, near.size()); ++i) result.push_back(near[i].second);
  return result;
}

// ---- reading files and overrides
// ------------------------------------------------------------------------------------------

toml::table parse_table(const std::string& text, const std::string& name) {
  try {
    return toml::parse(text, name);
  } catch (const toml::parse_error& error) {
    std::string description(error.description());
    std::replace(description.begin(), description.end(), '\n', ' ');
    fail(ErrorKind::kUsage, fmt::format("{}:{}:{}: {}", name, error.source().begin.line,
                                        error.source().begin.column, description));
  }
}

// The value of an override. It is parsed as the only member of an inline table, where neither a comment nor a
// second key can hide in it; what is not one TOML value is a text.
toml::table parse_override_value(const std::string& text) {
  try {
    toml::table parsed = toml::parse("v = { v = " + text + " }", std::string_view(kOverrideName));
    toml::table* inner = parsed.size() == 1 ? parsed["v"].as_table() : nullptr;
    if (inner && inner->size() == 1 && inner->contains("v")) return std::move(*inner);
  } catch (const toml::parse_error&) {
  }
  return parse_table("v = " + to_toml(text), kOverrideName);
}

// "a.b[2].c" into its keys and list indexes; false when it is not of this form.
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

struct Document {
  std::string name;
  bool describing = false;
  toml::table root;
};

}  // namespace

// One table: what the file gives and what its readers declared.
struct Section::Impl {
  struct Child {
    std::string key;
    bool is_list = false;
    std::vector<std::shared_ptr<Impl>> sections;
  };

  std::shared_ptr<Document> document;
  std::string path;              // "model.layers[2]"
  std::string header;            // "model.layers": how TOML names it
  bool is_element = false;       // of a list of tables
  toml::table* given = nullptr;  // null: absent
  std::vector<Declaration> declarations = {};
  std::vector<Child> children = {};

  toml::node* find(const std::string& key) const { return given ? given->get(key) : nullptr; }

  [[noreturn]] void reject(const std::string& key, const std::string& message,
                           ErrorKind kind = ErrorKind::kUsage) const {
    const toml::node* node = find(key);
    const bool overridden = node && node->source().path && *node->source().path == kOverrideName;
    fail(kind, fmt::format("{}: {}: {}", overridden ? kOverrideName : document->name, join_path(path, key),
                           message));
  }

  // A description keeps every different declaration of a key (it may depend on a type), next to each other.
  void record(const Declaration& declaration) {
    Declaration* known = nullptr;
    for (Declaration& d : declarations) {
      if (d.same_setting(declaration)) {
        d.value = declaration.value;
        return;
      }
      if (d.key == declaration.key) known = &d;
    }
    if (!known) {
      declarations.push_back(declaration);
    } else if (document->describing) {
      declarations.insert(declarations.begin() + (known - declarations.data()) + 1, declaration);
    } else if (find(declaration.key)) {
      known->value = declaration.value;
    } else if (known->value != declaration.value) {
      reject(declaration.key, fmt::format("has two fallbacks: {} and {}", known->value, declaration.value),
             ErrorKind::kInternal);
    }
  }

  template <class T, class Rule>
  T scalar(const std::string& key, const std::optional<T>& fallback, const Rule& rule,
           const std::string& description) {
    T value = fallback.value_or(neutral(T{}, rule));
    if (const toml::node* node = find(key)) {
      if (!Kind<T>::extract(*node, value)) {
        reject(key, fmt::format("must be {}, got {}", Kind<T>::kExpected, shown(*node)));
      }
      if (const std::string broken = broken_rule(value, rule); !broken.empty()) {
        reject(key, fmt::format("{}, got {}", broken, shown(*node)));
      }
    } else if (!fallback && !document->describing) {
      const std::string allowed = to_text(rule);
      reject(key, fmt::format("is required: {}{}", Kind<T>::kExpected, allowed.empty() ? "" : " " + allowed));
    }
    if (fallback) check_fallback(key, *fallback, rule);
    record({key, Kind<T>::kName, to_text(rule), fallback ? to_toml(*fallback) : "", description,
            to_toml(value)});
    return value;
  }

  template <class T, class Rule>
  std::vector<T> list(const std::string& key, const std::optional<std::vector<T>>& fallback, const Rule& rule,
                      const std::string& description) {
    std::vector<T> values = fallback.value_or(std::vector<T>{});
    if (toml::node* node = find(key)) {
      toml::array* array = node->as_array();
      if (!array) reject(key, fmt::format("must be {}, got {}", Kind<T>::kExpectedList, shown(*node)));
      values.assign(array->size(), T{});
      for (size_t i = 0; i < values.size(); ++i) {
        const toml::node& element = *array->get(i);
        if (!Kind<T>::extract(element, values[i])) {
          reject(key,
                 fmt::format("must be {}, got {} as element {}", Kind<T>::kExpectedList, shown(element), i));
        }
        if (const std::string broken = broken_rule(values[i], rule); !broken.empty()) {
          reject(key, fmt::format("element {} {}, got {}", i, broken, shown(element)));
        }
      }
    } else if (!fallback && !document->describing) {
      reject(key, fmt::format("is required: {}", Kind<T>::kExpectedList));
    }
    if (fallback) {
      for (const T& value : *fallback) check_fallback(key, value, rule);
    }
    record({key, std::string(Kind<T>::kName) + "s", to_text(rule), fallback ? to_toml(*fallback) : "",
            description, to_toml(values)});
    return values;
  }

  template <class T, class Rule>
  void check_fallback(const std::string& key, const T& fallback, const Rule& rule) const {
    if (const std::string broken = broken_rule(fallback, rule); !broken.empty()) {
      reject(key, fmt::format("fallback {}, is {}", broken, to_toml(fallback)), ErrorKind::kInternal);
    }
  }

  // The sections of a key; they are kept, so that what was declared in them stays.
  const std::vector<std::shared_ptr<Impl>>& child(const std::string& key, bool is_list,
                                                  const std::vector<toml::table*>& tables) {
    auto found = std::find_if(children.begin(), children.end(), [&](const Child& c) { return c.key == key; });
    if (found == children.end()) found = children.insert(found, {key, is_list, {}});
    for (size_t i = found->sections.size(); i < tables.size(); ++i) {
      const std::string full = join_path(path, key);
      const std::string name = join_path(header, key);
      found->sections.push_back(std::make_shared<Impl>(
          Impl{document, is_list ? fmt::format("{}[{}]", full, i) : full, name, is_list, tables[i]}));
    }
    return found->sections;
  }

  // After an override moved or replaced tables.
  void bind(toml::table* table) {
    given = table;
    for (Child& c : children) {
      toml::node* node = find(c.key);
      toml::array* array = node && c.is_list ? node->as_array() : nullptr;
      for (size_t i = 0; i < c.sections.size(); ++i) {
        toml::node* own = c.is_list ? (array ? array->get(i) : nullptr) : node;
        c.sections[i]->bind(own ? own->as_table() : nullptr);
      }
    }
  }

  std::shared_ptr<Impl> table(const std::string& key) {
    toml::node* node = find(key);
    if (node && !node->is_table()) reject(key, "must be a table, got " + shown(*node));
    return child(key, false, {node ? node->as_table() : nullptr}).front();
  }

  std::vector<std::shared_ptr<Impl>> tables(const std::string& key) {
    std::vector<toml::table*> given_tables;
    if (toml::node* node = find(key)) {
      toml::array* array = node->as_array();
      if (!array) reject(key, "must be a list of tables, got " + shown(*node));
      for (size_t i = 0; i < array->size(); ++i) {
        toml::node& element = *array->get(i);
        if (!element.is_table()) {
          reject(key, fmt::format("must be a list of tables, got {} as element {}", shown(element), i));
        }
        given_tables.push_back(element.as_table());
      }
    }
    if (given_tables.empty() && document->describing) given_tables.push_back(nullptr);
    return child(key, true, given_tables);
  }

  void visit(const std::function<void(const Impl&)>& function) const {
    function(*this);
    for (const Child& c : children) {
      for (const auto& section : c.sections) section->visit(function);
    }
  }

  std::string toml_header() const { return is_element ? "[[" + header + "]]" : "[" + header + "]"; }

  // Keys and tables that readers know here, in the order of reading.
  std::vector<std::string> known_names() const {
    std::vector<std::string> names;
    for (const Declaration& declaration : declarations) names.push_back(declaration.key);
    for (const Child& c : children) names.push_back(c.key);
    return names;
  }

  struct Unknown {
    const Impl* section;
    std::string key;
    toml::source_region source;
  };
  void collect_unknown(std::vector<Unknown>& unknown) const {
    if (!given) return;
    const std::vector<std::string> names = known_names();
    for (const auto& [toml_key, node] : *given) {
      const std::string key(toml_key.str());
      if (std::find(names.begin(), names.end(), key) == names.end()) {
        unknown.push_back({this, key, node.source()});
      }
    }
    for (const Child& c : children) {
      for (const auto& section : c.sections) section->collect_unknown(unknown);
    }
  }
};

// ---- Section
// ----------------------------------------------------------------------------------------------------------------

int64_t Section::integer(const std::string& key, std::optional<int64_t> fallback, Range range,
                         const std::string& description) {
  return impl_->scalar<int64_t>(key, fallback, range, description);
}

double Section::real(const std::string& key, std::optional<double> fallback, Range range,
                     const std::string& description) {
  return impl_->scalar<double>(key, fallback, range, description);
}

bool Section::boolean(const std::string& key, std::optional<bool> fallback, const std::string& description) {
  return impl_->scalar<bool>(key, fallback, NoRule{}, description);
}

std::string Section::text(const std::string& key, std::optional<std::string> fallback,
                          const std::vector<std::string>& choices, const std::string& description) {
  return impl_->scalar<std::string>(key, fallback, choices, description);
}

std::vector<int64_t> Section::integers(const std::string& key, std::optional<std::vector<int64_t>> fallback,
                                       Range range, const std::string& description) {
  return impl_->list<int64_t>(key, fallback, range, description);
}

std::vector<double> Section::reals(const std::string& key, std::optional<std::vector<double>> fallback,
                                   Range range, const std::string& description) {
  return impl_->list<double>(key, fallback, range, description);
}

std::vector<std::string> Section::texts(const std::string& key,
                                        std::optional<std::vector<std::string>> fallback,
                                        const std::string& description) {
  return impl_->list<std::string>(key, fallback, std::vector<std::string>{}, description);
}

bool Section::has(const std::string& key) const {
  return impl_->find(key) != nullptr;
}

Section Section::table(const std::string& key) {
  return Section(impl_->table(key));
}

std::vector<Section> Section::tables(const std::string& key) {
  std::vector<Section> sections;
  for (auto& section : impl_->tables(key)) sections.push_back(Section(std::move(section)));
  return sections;
}

const std::string& Section::path() const {
  return impl_->path;
}

void Section::reject(const std::string& key, const std::string& message) const {
  impl_->reject(key, message);
}

// ---- Configuration
// ------------------------------------------------------------------------------------------------------------

struct Configuration::Impl {
  std::shared_ptr<Section::Impl> root;

  Impl(std::string name, bool describing, toml::table table) {
    auto document = std::make_shared<Document>(Document{std::move(name), describing, std::move(table)});
    toml::table* given = &document->root;
    root = std::make_shared<Section::Impl>(Section::Impl{std::move(document), "", "", false, given});
  }
};

Configuration Configuration::load(const std::string& path, const std::vector<std::string>& overrides) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  // Inserting an empty stream buffer sets failbit, so an empty file is told from an unreadable one (a
  // directory) by peek.
  if (!file || (file.peek() != std::ifstream::traits_type::eof() && !(text << file.rdbuf())) || file.bad()) {
    fail(ErrorKind::kUsage, fmt::format("{}: cannot be read: {}", path, std::strerror(errno)));
  }
  return parse(text.str(), path, overrides);
}

Configuration Configuration::parse(const std::string& toml, const std::string& name,
                                   const std::vector<std::string>& overrides) {
  Configuration configuration;
  configuration.impl_ = std::make_shared<Impl>(name, false, parse_table(toml, name));
  for (const std::string& assignment : overrides) configuration.apply_override(assignment);
  return configuration;
}

Configuration Configuration::for_description() {
  Configuration configuration;
  configuration.impl_ = std::make_shared<Impl>("description", true, toml::table{});
  return configuration;
}

void Configuration::apply_override(const std::string& assignment) {
  const auto bad = [&](const std::string& rule) {
    fail(ErrorKind::kUsage, fmt::format("{} {}: {}", kOverrideName, to_toml(assignment), rule));
  };
  const size_t equals = assignment.find('=');
  if (equals == std::string::npos) bad("must be of the form section.key=value");
  const std::string path = assignment.substr(0, equals);
  std::vector<std::variant<std::string, size_t>> steps;
  if (!split_path(path, steps)) bad(fmt::format("{} is not a key such as section.key", to_toml(path)));

  // Walks to the place of the value; what is missing on the way is made, an element just past a list's end
  // too.
  toml::node* place = &impl_->root->document->root;
  std::string walked;
  for (size_t i = 0; i < steps.size(); ++i) {
    const bool last = i + 1 == steps.size();
    const bool list_follows = !last && std::holds_alternative<size_t>(steps[i + 1]);
    toml::table made = parse_override_value(last           ? assignment.substr(equals + 1)
                                            : list_follows ? "[]"
                                                           : "{}");
    toml::node& fresh = *made.get("v");
    if (const std::string* key = std::get_if<std::string>(&steps[i])) {
      toml::table* table = place->as_table();
      if (!table) bad(fmt::format("{} is {}, not a table", walked, shown(*place)));
      if (last) {
        table->insert_or_assign(*key, std::move(fresh));
      } else if (!table->contains(*key)) {
        table->insert(*key, std::move(fresh));
      }
      place = table->get(*key);
      walked = join_path(walked, *key);
    } else {
      const size_t index = std::get<size_t>(steps[i]);
      toml::array* array = place->as_array();
      if (!array) bad(fmt::format("{} is {}, not a list", walked, shown(*place)));
      if (index > array->size()) bad(fmt::format("{} has length {}, no [{}]", walked, array->size(), index));
      if (index == array->size()) {
        array->push_back(std::move(fresh));
      } else if (last) {
        array->replace(array->begin() + static_cast<std::ptrdiff_t>(index), std::move(fresh));
      }
      place = array->get(index);
      walked += fmt::format("[{}]", index);
    }
  }
  impl_->root->bind(&impl_->root->document->root);
}

Section Configuration::section(const std::string& name) {
  return Section(impl_->root->table(name));
}

void Configuration::reject_unknown() const {
  const Section::Impl& root = *impl_->root;
  std::vector<Section::Impl::Unknown> unknown;
  root.collect_unknown(unknown);
  if (unknown.empty()) return;
  // In file order, overrides after the file.
  const auto is_override = [](const auto& u) { return u.source.path && *u.source.path == kOverrideName; };
  std::stable_sort(unknown.begin(), unknown.end(), [&](const auto& a, const auto& b) {
    return std::pair(is_override(a), a.source.begin.line) < std::pair(is_override(b), b.source.begin.line);
  });

  const Section::Impl::Unknown& first = unknown.front();
  std::vector<std::string> suggestions;
  for (const std::string& name : nearest(first.key, first.section->known_names())) {
    suggestions.push_back(join_path(first.section->path, name));
  }
  root.visit([&](const Section::Impl& section) {
    for (const Declaration& declaration : section.declarations) {
      std::string full = join_path(section.path, declaration.key);
      if (declaration.key == first.key &&
          std::find(suggestions.begin(), suggestions.end(), full) == suggestions.end()) {
        suggestions.push_back(std::move(full));
      }
    }
  });
  std::string message;
  if (suggestions.empty()) {
    const std::vector<std::string> names = first.section->known_names();
    message = names.empty() ? "no key is valid here" : fmt::format("valid here: {}", fmt::join(names, ", "));
  } else {
    message = fmt::format("did you mean {}?", fmt::join(suggestions, " or "));
  }
  if (unknown.size() > 1) {
    std::vector<std::string> others;
    for (size_t i = 1; i < unknown.size(); ++i) {
      others.push_back(join_path(unknown[i].section->path, unknown[i].key));
    }
    message += fmt::format(" (also unknown: {})", fmt::join(others, ", "));
  }
  first.section->reject(first.key, "unknown key: " + message);
}

std::string Configuration::resolved() const {
  if (impl_->root->document->describing)
    fail(ErrorKind::kInternal, "configuration: a description has no values");
  std::string text;
  impl_->root->visit([&](const Section::Impl& section) {
    // A table that exists counts even without keys: an element of a list, or one that is looked for by has().
    if (section.header.empty() || (section.declarations.empty() && !section.given)) return;
    text += fmt::format("{}{}\n", text.empty() ? "" : "\n", section.toml_header());
    for (const Declaration& declaration : section.declarations) {
      text += fmt::format("{} = {}\n", declaration.key, declaration.value);
    }
  });
  return text;
}

std::set<std::string> Configuration::at_default() const {
  std::set<std::string> keys;
  impl_->root->visit([&](const Section::Impl& section) {
    for (const Declaration& declaration : section.declarations) {
      if (declaration.value == declaration.fallback) keys.insert(join_path(section.path, declaration.key));
    }
  });
  return keys;
}

std::string Configuration::describe() const {
  std::string text;
  impl_->root->visit([&](const Section::Impl& section) {
    if (section.declarations.empty()) return;
    size_t key_width = 0, type_width = 0, fallback_width = 0;
    const auto shown_type = [](const Declaration& d) {
      return d.allowed.empty() ? d.type : d.type + " " + d.allowed;
    };
    const auto shown_fallback = [](const Declaration& d) {
      return d.fallback.empty() ? "required" : d.fallback;
    };
    for (const Declaration& d : section.declarations) {
      key_width = std::max(key_width, d.key.size());
      type_width = std::max(type_width, shown_type(d).size());
      fallback_width = std::max(fallback_width, shown_fallback(d).size());
    }
    text += fmt::format("{}{}\n", text.empty() ? "" : "\n", section.toml_header());
    for (const Declaration& d : section.declarations) {
      text += fmt::format("  {:<{}}  {:<{}}  {:<{}}  {}\n", d.key, key_width, shown_type(d), type_width,
                          shown_fallback(d), fallback_width, d.description);
    }
  });
  return text;
}

}  // namespace lockstep
