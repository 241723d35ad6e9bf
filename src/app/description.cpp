// Choosing and laying out descriptions of keys.
#include "lockstep/app/description.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string_view>

#include "lockstep/core/error.h"
#include "lockstep/core/suggestions.h"

namespace lockstep {

namespace {

constexpr size_t kDescriptionColumns = 100;
constexpr size_t kWidestDefault = 14;  // a longer one has a line of its own

std::string name_of_type(const KeyDescription& key) {
  return key.section + "." + key.of_type;
}

// How a key may be asked for: "optimizer.learning_rate", "optimizer.adamw.beta1".
bool is_called(const KeyDescription& key, const std::string& name) {
  return name == key.section + "." + key.key ||
         (!key.of_type.empty() && name == name_of_type(key) + "." + key.key);
}

bool in_section(const KeyDescription& key, const std::string& section) {
  return key.section == section || key.section.starts_with(section + ".");
}

std::string_view last_name(std::string_view path) {
  return path.substr(path.rfind('.') + 1);
}

[[noreturn]] void refuse_part(const std::vector<KeyDescription>& keys, const std::string& part) {
  std::vector<std::string> sections, names;
  const auto add = [](std::vector<std::string>& to, const std::string& name) {
    if (std::find(to.begin(), to.end(), name) == to.end()) to.push_back(name);
  };
  for (const KeyDescription& key : keys) {
    add(sections, key.section);
    add(names, key.section);
    if (!key.of_type.empty()) add(names, name_of_type(key));
    add(names, key.section + "." + key.key);
  }
  // In a section that is there only the last name is wrong.
  const std::string prefix = part.substr(0, part.size() - last_name(part).size());
  std::vector<std::string> beside;
  for (const std::string& name : names) {
    if (!prefix.empty() && name.starts_with(prefix)) beside.push_back(name.substr(prefix.size()));
  }
  std::vector<std::string> suggestions =
      beside.empty() ? nearest_names(part, names) : nearest_names(last_name(part), beside);
  if (!beside.empty()) {
    for (std::string& name : suggestions) name = prefix + name;
  }
  // "adamw" for "optimizer.adamw"; also behind the wrong section.
  for (const std::string& name : names) {
    if (suggestions.size() < 3 && last_name(name) == last_name(part)) add(suggestions, name);
  }
  fail(ErrorKind::kUsage,
       suggestions.empty()
           ? fmt::format("config: no part \"{}\": there are {}", part, fmt::join(sections, ", "))
           : fmt::format("config: no part \"{}\": {}", part, did_you_mean(suggestions)));
}

// The text in lines of at most `width` columns, broken at spaces.
std::vector<std::string> wrapped(const std::string& text, size_t width) {
  std::vector<std::string> lines;
  for (size_t begin = 0; begin < text.size();) {
    size_t end = text.size();
    if (end - begin > width) {
      end = text.rfind(' ', begin + width);
      if (end == std::string::npos || end <= begin) end = std::min(text.find(' ', begin), text.size());
    }
    lines.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return lines;
}

// The keys [begin, end), which stand under one heading.
std::string describe_block(std::vector<KeyDescription>::const_iterator begin,
                           std::vector<KeyDescription>::const_iterator end) {
  const auto shown_default = [](const KeyDescription& key) {
    return key.fallback.empty() ? "required" : key.fallback == "null" ? "none" : key.fallback;
  };
  size_t key_width = 0, default_width = 0;
  for (auto key = begin; key != end; ++key) {
    key_width = std::max(key_width, key->key.size());
    default_width = std::max(default_width, std::min(shown_default(*key).size(), kWidestDefault));
  }
  std::string text =
      begin->in_list ? fmt::format("[[{}]]", begin->section) : fmt::format("[{}]", begin->section);
  if (!begin->of_type.empty()) text += fmt::format(" type = \"{}\"", begin->of_type);
  text += '\n';
  const size_t indent = 2 + key_width + 2 + default_width + 2;
  for (auto key = begin; key != end; ++key) {
    std::vector<std::string> lines = wrapped(key->meaning, kDescriptionColumns - indent);
    for (std::string& line : wrapped(key->rule(), kDescriptionColumns - indent))
      lines.push_back(std::move(line));
    std::string row =
        fmt::format("  {:<{}}  {:<{}}", key->key, key_width, shown_default(*key), default_width);
    if (row.size() + 2 > indent) {
      text += row + '\n';
      row.clear();
    }
    for (const std::string& line : lines) {
      text += fmt::format("{:<{}}{}\n", row, indent, line);
      row.clear();
    }
  }
  return text;
}

}  // namespace

std::vector<KeyDescription> keys_of_part(const std::vector<KeyDescription>& keys, const std::string& part) {
  if (part.empty()) return keys;
  std::vector<KeyDescription> found;
  const auto take = [&](const auto& belongs) {
    std::copy_if(keys.begin(), keys.end(), std::back_inserter(found), belongs);
  };
  take([&](const KeyDescription& key) { return in_section(key, part); });
  if (!found.empty()) return found;
  const auto typed = std::find_if(keys.begin(), keys.end(), [&](const KeyDescription& key) {
    return !key.of_type.empty() && name_of_type(key) == part;
  });
  if (typed != keys.end()) {
    // With the type's own keys of tables within.
    take([&](const KeyDescription& key) {
      return key.of_type.empty() ? key.section == typed->section
                                 : key.of_type == typed->of_type && in_section(key, typed->section);
    });
    return found;
  }
  take([&](const KeyDescription& key) { return is_called(key, part); });
  if (found.empty()) refuse_part(keys, part);
  return found;
}

std::string describe_as_text(const std::vector<KeyDescription>& keys) {
  std::string text;
  for (auto begin = keys.begin(); begin != keys.end();) {
    const auto end = std::find_if(begin, keys.end(), [&](const KeyDescription& key) {
      return key.section != begin->section || key.of_type != begin->of_type;
    });
    if (!text.empty()) text += '\n';
    text += describe_block(begin, end);
    begin = end;
  }
  return text;
}

std::string describe_as_json(const std::vector<KeyDescription>& keys) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  const auto bound = [](const KeyDescription& key, double value) -> nlohmann::ordered_json {
    if (!std::isfinite(value)) return nullptr;
    if (key.type.starts_with("integer")) return static_cast<int64_t>(value);  // none is beyond 2^53
    return value;
  };
  for (const KeyDescription& key : keys) {
    nlohmann::ordered_json entry;
    entry["section"] = key.section;
    entry["in_list"] = key.in_list;
    entry["of_type"] = key.of_type.empty() ? nlohmann::ordered_json() : nlohmann::ordered_json(key.of_type);
    entry["key"] = key.key;
    entry["type"] = key.type;
    entry["minimum"] = bound(key, key.range.minimum);
    entry["maximum"] = bound(key, key.range.maximum);
    entry["minimum_excluded"] = std::isfinite(key.range.minimum)
                                    ? nlohmann::ordered_json(key.range.open_minimum)
                                    : nlohmann::ordered_json();
    entry["choices"] = key.choices.empty() ? nlohmann::ordered_json() : nlohmann::ordered_json(key.choices);
    entry["required"] = key.fallback.empty();
    entry["default"] =
        key.fallback.empty() ? nlohmann::ordered_json() : nlohmann::ordered_json::parse(key.fallback);
    entry["meaning"] = key.meaning;
    list.push_back(std::move(entry));
  }
  return list.dump(1) + '\n';
}

}  // namespace lockstep
