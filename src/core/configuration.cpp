// The document as a whole: reading it, overrides, unknown keys, and what was resolved.
#include "lockstep/core/configuration.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <variant>

#include "lockstep/core/error.h"
#include "lockstep/core/section.h"
#include "lockstep/core/suggestions.h"
#include "lockstep/core/toml_text.h"

namespace lockstep {

struct Configuration::Impl {
  std::shared_ptr<Section::Impl> root;

  Impl(std::string name, bool describing, toml::table table) {
    auto document = std::make_shared<Document>(Document{std::move(name), describing, std::move(table)});
    toml::table* given = &document->root;
    root = std::make_shared<Section::Impl>(Section::Impl{std::move(document), "", "", false, given});
  }
};

namespace {

// All of a file, or of what comes out of a pipe. Opening a pipe that nobody writes to, and reading from it,
// would go on after a signal whose handler asks for that, and nobody would look at what the handler notes.
std::string read_text(const std::string& path, const std::function<bool()>& stopped) {
  constexpr int kPatience = 100;  // milliseconds
  const auto refuse = [&] {
    fail(ErrorKind::kUsage, fmt::format("{}: cannot be read: {}", path, std::strerror(errno)));
  };
  struct File {
    int number;
    ~File() { ::close(number); }
  } const file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (file.number < 0) refuse();
  std::string text;
  std::array<char, size_t{1} << 16> piece{};
  for (;;) {
    pollfd state{file.number, POLLIN, 0};
    if (::poll(&state, 1, kPatience) <= 0) {
      if (stopped && stopped()) fail(ErrorKind::kUsage, path + ": asked to stop while nothing came");
      continue;
    }
    const ssize_t got = ::read(file.number, piece.data(), piece.size());
    if (got == 0) return text;
    if (got > 0) {
      text.append(piece.data(), static_cast<size_t>(got));
    } else if (errno != EINTR && errno != EAGAIN) {
      refuse();
    }
  }
}

}  // namespace

Configuration Configuration::load(const std::string& path, const std::vector<std::string>& overrides,
                                  const std::function<bool()>& stopped) {
  return parse(read_text(path, stopped), path, overrides);
}

Configuration Configuration::parse(const std::string& toml, const std::string& name,
                                   const std::vector<std::string>& overrides) {
  Configuration configuration;
  configuration.impl_ = std::make_shared<Impl>(name, false, parse_toml(toml, name));
  for (const std::string& assignment : overrides) configuration.apply_override(assignment);
  return configuration;
}

Configuration Configuration::for_description() {
  Configuration configuration;
  configuration.impl_ = std::make_shared<Impl>("description", true, toml::table{});
  return configuration;
}

namespace {

// Takes the key or element out of its table or list; false: there is none.
bool erase(toml::node& root, const std::vector<std::variant<std::string, size_t>>& steps) {
  toml::node* place = &root;
  for (size_t i = 0; i < steps.size(); ++i) {
    const bool last = i + 1 == steps.size();
    if (const std::string* key = std::get_if<std::string>(&steps[i])) {
      toml::table* table = place->as_table();
      if (!table || !table->contains(*key)) return false;
      if (last)
        table->erase(*key);
      else
        place = table->get(*key);
    } else {
      const size_t index = std::get<size_t>(steps[i]);
      toml::array* array = place->as_array();
      if (!array || index >= array->size()) return false;
      if (last)
        array->erase(array->begin() + static_cast<std::ptrdiff_t>(index));
      else
        place = array->get(index);
    }
  }
  return true;
}

}  // namespace

bool Configuration::is_override(const std::string& text) {
  std::vector<std::variant<std::string, size_t>> steps;
  const size_t equals = text.find('=');
  if (text.starts_with('~'))
    return split_path(text.substr(1, equals == std::string::npos ? equals : equals - 1), steps);
  return equals != std::string::npos && text.front() != '-' && split_path(text.substr(0, equals), steps);
}

void Configuration::apply_override(const std::string& assignment) {
  const auto bad = [&](const std::string& rule) {
    fail(ErrorKind::kUsage, fmt::format("{} {}: {}", kOverrideName, to_toml(assignment), rule));
  };
  const bool leaves_out = assignment.starts_with('~');
  if (leaves_out && assignment.find('=') != std::string::npos)
    bad("leaves a key out, which has no value then");
  const size_t equals = leaves_out ? std::string::npos : assignment.find('=');
  if (!leaves_out && equals == std::string::npos)
    bad("must be of the form section.key=value or ~section.key");
  const std::string path = leaves_out ? assignment.substr(1) : assignment.substr(0, equals);
  std::vector<std::variant<std::string, size_t>> steps;
  if (!split_path(path, steps)) bad(fmt::format("{} is not a key such as section.key", to_toml(path)));
  if (leaves_out) {
    if (!erase(impl_->root->document->root, steps)) bad(fmt::format("there is no {} to leave out", path));
    impl_->root->bind(&impl_->root->document->root);
    return;
  }

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
  reject_unknown("");
}

void Configuration::reject_unknown(const std::string& within) const {
  const Section::Impl& root = *impl_->root;
  std::vector<Section::Impl::Unknown> unknown;
  root.collect_unknown(unknown);
  std::erase_if(unknown, [&](const auto& u) {
    const std::string full = join_path(u.section->path, u.key);
    return !within.empty() && !full.starts_with(within + ".") && !full.starts_with(within + "[");
  });
  if (unknown.empty()) return;
  // In file order, overrides after the file.
  const auto is_override = [](const auto& u) { return u.source.path && *u.source.path == kOverrideName; };
  std::stable_sort(unknown.begin(), unknown.end(), [&](const auto& a, const auto& b) {
    return std::pair(is_override(a), a.source.begin.line) < std::pair(is_override(b), b.source.begin.line);
  });

  const Section::Impl::Unknown& first = unknown.front();
  std::vector<std::string> suggestions;
  for (const std::string& name : nearest_names(first.key, first.section->known_names())) {
    suggestions.push_back(join_path(first.section->path, name));
  }
  root.visit([&](const Section::Impl& section) {
    for (const Declaration& declaration : section.declarations) {
      std::string full = join_path(section.path, declaration.key.key);
      if (declaration.key.key == first.key &&
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
    message = did_you_mean(suggestions);
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
      if (!declaration.value.empty())
        text += fmt::format("{} = {}\n", declaration.key.key, declaration.value);
    }
  });
  return text;
}

std::set<std::string> Configuration::at_default() const {
  std::set<std::string> keys;
  impl_->root->visit([&](const Section::Impl& section) {
    for (const Declaration& declaration : section.declarations) {
      if (declaration.value == declaration.key.fallback)
        keys.insert(join_path(section.path, declaration.key.key));
    }
  });
  return keys;
}

std::vector<KeyDescription> Configuration::keys() const {
  std::vector<KeyDescription> keys;
  impl_->root->visit([&](const Section::Impl& section) {
    // Those of any type first, then type by type in the order of reading.
    std::vector<std::string> types = {""};
    for (const Declaration& declaration : section.declarations) {
      const std::string& type = declaration.key.of_type;
      if (std::find(types.begin(), types.end(), type) == types.end()) types.push_back(type);
    }
    for (const std::string& type : types) {
      for (const Declaration& declaration : section.declarations) {
        if (declaration.key.of_type == type) keys.push_back(declaration.key);
      }
    }
  });
  return keys;
}

}  // namespace lockstep
