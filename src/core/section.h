// What stands behind Section and Configuration: one table of a TOML document, and what its readers declared.
// For the configuration's own files; toml++ is seen by them alone.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "lockstep/core/configuration.h"
#include "lockstep/core/error.h"

// What toml++ takes for a mistake of its own, some texts can bring about: it ends no process.
namespace lockstep {
struct TomlAssertion {};
[[noreturn]] void throw_toml_assertion();
}  // namespace lockstep

#define TOML_ASSERT(condition) ((condition) ? void(0) : ::lockstep::throw_toml_assertion())
#define TOML_HEADER_ONLY 1
#include <toml++/toml.h>

namespace lockstep {

// Where errors say that a value came from when it was given by an override.
inline constexpr const char* kOverrideName = "--set";

// Error (kUsage) "NAME:LINE:COLUMN: what is wrong".
toml::table parse_toml(const std::string& text, const std::string& name);

// The value of an override, as member "v". What is not one TOML value is a text, but numbers may lack the
// digits that TOML wants beside a decimal point.
toml::table parse_override_value(const std::string& text);

// "a.b[2].c" into its keys and list indexes; false when it is not of this form.
bool split_path(const std::string& path, std::vector<std::variant<std::string, size_t>>& steps);

// What a node is, for "got ...".
std::string shown(const toml::node& node);

// One read key, and its value as TOML text.
struct Declaration {
  KeyDescription key;
  std::string value;  // "": none
};

struct Document {
  std::string name;
  bool describing = false;
  toml::table root;
};

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
                           ErrorKind kind = ErrorKind::kUsage) const;

  // A description keeps every different declaration of a key: it may depend on a type.
  void record(const Declaration& declaration);

  // Read and check a key for readers of `type` ("": of any). optional: it may be missing without a fallback.
  template <class T, class Rule>
  T scalar(const std::string& type, const std::string& key, const std::optional<T>& fallback,
           const Rule& rule, const std::string& meaning, bool optional = false);
  template <class T, class Rule>
  std::vector<T> list(const std::string& type, const std::string& key,
                      const std::optional<std::vector<T>>& fallback, const Rule& rule,
                      const std::string& meaning);
  template <class T, class Rule>
  void check_fallback(const std::string& key, const T& fallback, const Rule& rule) const;

  // The sections of a key; they are kept, so that what was declared in them stays.
  const std::vector<std::shared_ptr<Impl>>& child(const std::string& key, bool is_list,
                                                  const std::vector<toml::table*>& tables);
  // After an override moved or replaced tables.
  void bind(toml::table* table);
  std::shared_ptr<Impl> table(const std::string& key);
  std::vector<std::shared_ptr<Impl>> tables(const std::string& key);

  void visit(const std::function<void(const Impl&)>& function) const;
  std::string toml_header() const { return is_element ? "[[" + header + "]]" : "[" + header + "]"; }

  // Keys and tables that readers know here, in the order of reading.
  std::vector<std::string> known_names() const;

  struct Unknown {
    const Impl* section;
    std::string key;
    toml::source_region source;
  };
  void collect_unknown(std::vector<Unknown>& unknown) const;
};

}  // namespace lockstep
