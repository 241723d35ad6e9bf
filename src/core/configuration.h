// The configuration: TOML read strictly. Reading a key also declares it, so that the same code that uses a
// setting gives its type, range, default and meaning to `lockstep config --describe` and to the
// unknown-key check.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace lockstep {

// Inclusive bounds; `open_minimum` excludes the lower one.
struct Range {
  double minimum = -std::numeric_limits<double>::infinity();
  double maximum = std::numeric_limits<double>::infinity();
  bool open_minimum = false;
  bool operator==(const Range&) const = default;
};
inline constexpr Range kAny{};
inline constexpr Range kNonNegative{0.0, std::numeric_limits<double>::infinity(), false};
inline constexpr Range kPositive{0.0, std::numeric_limits<double>::infinity(), true};
inline constexpr Range kUnit{0.0, 1.0, false};

// One key that some reader asks for.
struct KeyDescription {
  std::string section;   // "optimizer", "model.layers"
  bool in_list = false;  // of each element of a list of tables: [[model.layers]]
  std::string of_type;   // read where the section's type is this: "adamw"; "": whatever it is
  std::string key;
  std::string type;                  // integer, real, boolean, text, integers, reals, texts
  Range range;                       // of numbers
  std::vector<std::string> choices;  // of texts; empty: any
  std::string fallback;              // as TOML, which is JSON as well; "": required; "null": none
  std::string meaning;
  bool operator==(const KeyDescription&) const = default;

  // "real in [0, 1]", "text one of "drop", "pad"".
  std::string rule() const;
};

class Configuration;

// One table of the configuration, e.g. [optimizer]. A value of the wrong type, out of range or not among the
// choices is an Error (kUsage): "FILE: optimizer.learning_rate: must be > 0, got -1" (FILE is "--set" for a
// value given by an override). A missing key takes the fallback; without a fallback it is an error. Whole
// numbers may be given for reals, reals for integers not; NaN and infinities are errors. Several readers may
// read one key; a fallback outside its own range, or two readers with different fallbacks, are mistakes of
// the program (kInternal): the resolved configuration could not be read.
class Section {
 public:
  int64_t integer(const std::string& key, std::optional<int64_t> fallback, Range range,
                  const std::string& meaning);
  // Nothing where the key is not given.
  std::optional<int64_t> optional_integer(const std::string& key, Range range, const std::string& meaning);
  double real(const std::string& key, std::optional<double> fallback, Range range,
              const std::string& meaning);
  bool boolean(const std::string& key, std::optional<bool> fallback, const std::string& meaning);
  // choices empty: any text.
  std::string text(const std::string& key, const std::optional<std::string>& fallback,
                   const std::vector<std::string>& choices, const std::string& meaning);
  std::vector<int64_t> integers(const std::string& key, const std::optional<std::vector<int64_t>>& fallback,
                                Range range, const std::string& meaning);
  std::vector<double> reals(const std::string& key, const std::optional<std::vector<double>>& fallback,
                            Range range, const std::string& meaning);
  std::vector<std::string> texts(const std::string& key,
                                 const std::optional<std::vector<std::string>>& fallback,
                                 const std::string& meaning);

  // Whether the file or an override gives the key. Does not declare it.
  bool has(const std::string& key) const;
  // A nested table (empty when absent) and an array of tables (empty when absent; one element in a
  // description).
  Section table(const std::string& key);
  std::vector<Section> tables(const std::string& key);

  // The same table, for reading keys that belong to its type `type` ("adamw") alone: descriptions say so.
  Section of_type(const std::string& type) const;

  // "optimizer" or "model.layers[2]"; for error messages of callers.
  const std::string& path() const;
  // Throws Error (kUsage) "FILE: PATH.key: message".
  [[noreturn]] void reject(const std::string& key, const std::string& message) const;

 private:
  friend class Configuration;
  struct Impl;
  explicit Section(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<Impl> impl_;
  std::string type_;  // of_type
};

class Configuration {
 public:
  // Errors (kUsage) name file, line and column of a syntax error or a duplicate key. overrides: "a.b=value",
  // value in TOML syntax (numbers may be written .5 and 5. too) or, failing that, taken as text. An override
  // may name a key that the file does not have. "~a.b": as if neither the file nor an override before gave
  // it. A pipe is read too: while nothing comes, `stopped`, where it is given, is asked again and again, and
  // ends the wait by an Error (kUsage).
  static Configuration load(const std::string& path, const std::vector<std::string>& overrides,
                            const std::function<bool()>& stopped = {});
  static Configuration parse(const std::string& toml, const std::string& name,
                             const std::vector<std::string>& overrides);

  // An empty configuration whose readers are asked only for what they would accept: a missing key without
  // fallback yields a neutral value (in range and nearest to 0, empty, or the first choice). Readers whose
  // keys depend on a type are asked one after the other; keys() then has those of all.
  static Configuration for_description();

  // "a.b=value", "~a.b" or "model.layers[1].units=3", as in load; an index one past the end appends. Errors
  // (kUsage) quote it. Sections that exist already see it too.
  void apply_override(const std::string& assignment);
  // Whether the text has the form of an override: a key, and "=", or "~" and a key; "--output=x" has that of
  // an option.
  static bool is_override(const std::string& text);

  Section section(const std::string& name);

  // Error (kUsage) when the file holds a key that nobody has read: names it, and the nearest names that exist
  // there or the sections that do have a key of this name.
  void reject_unknown() const;
  // Of this section, and what is in it, alone.
  void reject_unknown(const std::string& within) const;

  // Every key read so far that has a value, given or fallback, with it, as TOML text that parses to the same
  // configuration (reals in their shortest exact form). Not for a description.
  std::string resolved() const;

  // Those of the keys read so far that hold their defaults, as "section.key" and "section.list[2].key".
  std::set<std::string> at_default() const;

  // Every key read so far: section by section, in it those of any type, then type by type. Of a description a
  // key that several types read is there for each.
  std::vector<KeyDescription> keys() const;

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace lockstep
