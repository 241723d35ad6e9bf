// Reading and checking the keys of one table, and keeping what its readers declare.
#include "lockstep/core/section.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "lockstep/core/number_spelling.h"
#include "lockstep/core/toml_text.h"

namespace lockstep {

namespace {

// ---- values

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
      // 2^63 and more does not fit back.
      return value < 0x1p63 && static_cast<int64_t>(value) == integer->get();
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
  static_assert(std::numeric_limits<long double>::digits >= 63, "every int64 as it is, also beyond 2^53");
  const auto number = static_cast<long double>(value);
  if (!std::isfinite(number)) return "must be finite";
  const auto minimum = static_cast<long double>(range.minimum),
             maximum = static_cast<long double>(range.maximum);
  const bool low = range.open_minimum ? number <= minimum : number < minimum;
  return low || number > maximum ? "must be " + to_text(range) : "";
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

// Why a node does not give a T.
template <class T>
std::string wrong_type(const char* expected, const toml::node& node) {
  std::string reason;
  if constexpr (std::is_arithmetic_v<T> && !std::is_same_v<T, bool>) {
    if (const auto* integer = node.as_integer(); integer && std::is_same_v<T, double>) {
      reason =
          fmt::format("{} is beyond 2^53, and none of the integers that fp64 holds there", integer->get());
    } else if (const auto* text = node.as_string()) {  // an override that is no TOML counts as text
      reason = number_out_of_range(text->get());
    }
  }
  return reason.empty() ? fmt::format("must be {}, got {}", expected, shown(node))
                        : fmt::format("must be {}: {}", expected, reason);
}

// Puts the rule where a description has it.
void describe_rule(const Range& range, KeyDescription& key) {
  key.range = range;
}
void describe_rule(const std::vector<std::string>& choices, KeyDescription& key) {
  key.choices = choices;
}
void describe_rule(NoRule, KeyDescription&) {}

}  // namespace

std::string KeyDescription::rule() const {
  std::string allowed = type.starts_with("text") ? to_text(choices) : to_text(range);
  return allowed.empty() ? type : type + " " + allowed;
}

// ---- one table

void Section::Impl::reject(const std::string& key, const std::string& message, ErrorKind kind) const {
  const toml::node* node = find(key);
  const bool overridden = node && node->source().path && *node->source().path == kOverrideName;
  fail(kind,
       fmt::format("{}: {}: {}", overridden ? kOverrideName : document->name, join_path(path, key), message));
}

void Section::Impl::record(const Declaration& declaration) {
  Declaration* known = nullptr;
  for (Declaration& d : declarations) {
    if (d.key == declaration.key) {
      d.value = declaration.value;
      return;
    }
    if (d.key.key == declaration.key.key) known = &d;
  }
  if (!known || document->describing) {
    declarations.push_back(declaration);
  } else if (find(declaration.key.key)) {
    known->value = declaration.value;
  } else if (known->value != declaration.value) {
    reject(declaration.key.key, fmt::format("has two fallbacks: {} and {}", known->value, declaration.value),
           ErrorKind::kInternal);
  }
}

template <class T, class Rule>
void Section::Impl::check_fallback(const std::string& key, const T& fallback, const Rule& rule) const {
  if (const std::string broken = broken_rule(fallback, rule); !broken.empty()) {
    reject(key, fmt::format("fallback {}, is {}", broken, to_toml(fallback)), ErrorKind::kInternal);
  }
}

template <class T, class Rule>
T Section::Impl::scalar(const std::string& type, const std::string& key, const std::optional<T>& fallback,
                        const Rule& rule, const std::string& meaning, bool optional) {
  T value = fallback.value_or(neutral(T{}, rule));
  if (const toml::node* node = find(key)) {
    if (!Kind<T>::extract(*node, value)) reject(key, wrong_type<T>(Kind<T>::kExpected, *node));
    if (const std::string broken = broken_rule(value, rule); !broken.empty()) {
      reject(key, fmt::format("{}, got {}", broken, shown(*node)));
    }
  } else if (!fallback && !optional && !document->describing) {
    const std::string allowed = to_text(rule);
    reject(key, fmt::format("is required: {}{}", Kind<T>::kExpected, allowed.empty() ? "" : " " + allowed));
  }
  if (fallback) check_fallback(key, *fallback, rule);
  KeyDescription description{header, is_element, type, key, Kind<T>::kName, {}, {}, "", meaning};
  describe_rule(rule, description);
  if (fallback) description.fallback = to_toml(*fallback);
  if (optional) description.fallback = "null";
  record({description, optional && !find(key) ? "" : to_toml(value)});
  return value;
}

template <class T, class Rule>
std::vector<T> Section::Impl::list(const std::string& type, const std::string& key,
                                   const std::optional<std::vector<T>>& fallback, const Rule& rule,
                                   const std::string& meaning) {
  std::vector<T> values = fallback.value_or(std::vector<T>{});
  if (toml::node* node = find(key)) {
    toml::array* array = node->as_array();
    if (!array) reject(key, wrong_type<T>(Kind<T>::kExpectedList, *node));
    values.assign(array->size(), T{});
    for (size_t i = 0; i < values.size(); ++i) {
      const toml::node& element = *array->get(i);
      if (!Kind<T>::extract(element, values[i])) {
        reject(key, fmt::format("{} as element {}", wrong_type<T>(Kind<T>::kExpectedList, element), i));
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
  KeyDescription description{header, is_element, type, key,    std::string(Kind<T>::kName) + "s",
                             {},     {},         "",   meaning};
  describe_rule(rule, description);
  if (fallback) description.fallback = to_toml(*fallback);
  record({description, to_toml(values)});
  return values;
}

const std::vector<std::shared_ptr<Section::Impl>>& Section::Impl::child(
    const std::string& key, bool is_list, const std::vector<toml::table*>& tables) {
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

void Section::Impl::bind(toml::table* table) {
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

std::shared_ptr<Section::Impl> Section::Impl::table(const std::string& key) {
  toml::node* node = find(key);
  if (node && !node->is_table()) reject(key, "must be a table, got " + shown(*node));
  return child(key, false, {node ? node->as_table() : nullptr}).front();
}

std::vector<std::shared_ptr<Section::Impl>> Section::Impl::tables(const std::string& key) {
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

void Section::Impl::visit(const std::function<void(const Impl&)>& function) const {
  function(*this);
  for (const Child& c : children) {
    for (const auto& section : c.sections) section->visit(function);
  }
}

std::vector<std::string> Section::Impl::known_names() const {
  std::vector<std::string> names;
  for (const Declaration& declaration : declarations) names.push_back(declaration.key.key);
  for (const Child& c : children) names.push_back(c.key);
  return names;
}

void Section::Impl::collect_unknown(std::vector<Unknown>& unknown) const {
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

// ---- what readers see

int64_t Section::integer(const std::string& key, std::optional<int64_t> fallback, Range range,
                         const std::string& meaning) {
  return impl_->scalar<int64_t>(type_, key, fallback, range, meaning);
}

std::optional<int64_t> Section::optional_integer(const std::string& key, Range range,
                                                 const std::string& meaning) {
  const int64_t value = impl_->scalar<int64_t>(type_, key, std::nullopt, range, meaning, true);
  return has(key) ? std::optional(value) : std::nullopt;
}

double Section::real(const std::string& key, std::optional<double> fallback, Range range,
                     const std::string& meaning) {
  return impl_->scalar<double>(type_, key, fallback, range, meaning);
}

bool Section::boolean(const std::string& key, std::optional<bool> fallback, const std::string& meaning) {
  return impl_->scalar<bool>(type_, key, fallback, NoRule{}, meaning);
}

std::string Section::text(const std::string& key, const std::optional<std::string>& fallback,
                          const std::vector<std::string>& choices, const std::string& meaning) {
  return impl_->scalar<std::string>(type_, key, fallback, choices, meaning);
}

std::vector<int64_t> Section::integers(const std::string& key,
                                       const std::optional<std::vector<int64_t>>& fallback, Range range,
                                       const std::string& meaning) {
  return impl_->list<int64_t>(type_, key, fallback, range, meaning);
}

std::vector<double> Section::reals(const std::string& key, const std::optional<std::vector<double>>& fallback,
                                   Range range, const std::string& meaning) {
  return impl_->list<double>(type_, key, fallback, range, meaning);
}

std::vector<std::string> Section::texts(const std::string& key,
                                        const std::optional<std::vector<std::string>>& fallback,
                                        const std::string& meaning) {
  return impl_->list<std::string>(type_, key, fallback, std::vector<std::string>{}, meaning);
}

bool Section::has(const std::string& key) const {
  return impl_->find(key) != nullptr;
}

Section Section::of_type(const std::string& type) const {
  Section typed = *this;
  typed.type_ = type;
  return typed;
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

}  // namespace lockstep
