// CSV files: a header of column names, then rows of numbers; one column is the target, the others are the
// features.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "data/formats.h"
#include "data/input_file.h"

namespace lockstep {

namespace {

std::string read_text(InputFile& file) {
  constexpr size_t kPiece = 1 << 20;
  std::string text;
  // One byte more than a plain file holds, so that a single read also sees its end.
  size_t piece = file.compressed() ? kPiece : static_cast<size_t>(file.most_remaining()) + 1;
  for (size_t size = 0;; piece = kPiece) {
    text.resize(size + piece);
    const size_t got = file.read_up_to(text.data() + size, piece);
    size += got;
    if (got < piece) {
      text.resize(size);
      return text;
    }
  }
}

// A cursor over the text: fields separated by commas, lines by LF or CRLF; a field may stand in double
// quotes.
class CsvText {
 public:
  CsvText(const std::string& path, std::string_view text)
      : path_(path), at_(text.data()), end_(at_ + text.size()) {
    if (text.starts_with("\xEF\xBB\xBF")) at_ += 3;  // byte order mark
    while (end_ > at_ && (end_[-1] == '\n' || end_[-1] == '\r' || end_[-1] == ' ')) --end_;
  }

  bool done() const { return at_ == end_; }

  // The names of the first line, unquoted, without surrounding blanks.
  std::vector<std::string> header() {
    std::vector<std::string> names;
    for (;;) {
      skip_blanks();
      std::string name;
      if (at_ != end_ && *at_ == '"') {
        // "" inside quotes stands for one quote.
        for (++at_; at_ != end_ && *at_ != '\n' && (*at_ != '"' || (at_ + 1 != end_ && at_[1] == '"'));
             ++at_) {
          if (*at_ == '"') ++at_;
          name += *at_;
        }
        if (at_ == end_ || *at_ != '"') {
          fail(ErrorKind::kData,
               fmt::format("{}: header, column {}: quote is not closed", path_, names.size() + 1));
        }
        ++at_;
        skip_blanks();
      } else {
        while (at_ != end_ && *at_ != ',' && *at_ != '\n' && *at_ != '\r') name += *at_++;
        while (!name.empty() && (name.back() == ' ' || name.back() == '\t')) name.pop_back();
      }
      if (name.find('\0') != std::string::npos) {
        fail(ErrorKind::kData, fmt::format("{}: header, column {}: holds a NUL byte: must be text in UTF-8",
                                           path_, names.size() + 1));
      }
      if (name.empty()) {
        fail(ErrorKind::kData, fmt::format("{}: header: column {} has no name", path_, names.size() + 1));
      }
      names.push_back(name);
      if (!next_field()) return names;
    }
  }

  // The text of the field at the cursor, without quotes and surrounding blanks; the cursor moves behind it.
  std::string_view field() {
    skip_blanks();
    const bool quoted = at_ != end_ && *at_ == '"';
    if (quoted) ++at_;
    const char* begin = at_;
    while (at_ != end_ && *at_ != ',' && *at_ != '\n' && *at_ != '\r' && *at_ != '"') ++at_;
    const char* last = at_;
    while (last != begin && (last[-1] == ' ' || last[-1] == '\t')) --last;
    if (quoted) {
      if (at_ == end_ || *at_ != '"') {
        at_ = begin - 1;  // never closed: back to the quote, which is no separator
      } else {
        ++at_;
        skip_blanks();
      }
    }
    return {begin, static_cast<size_t>(last - begin)};
  }

  // Steps over what separates: true when a further field of the line follows, false at the end of the line.
  bool next_field() {
    if (at_ == end_) return false;
    if (*at_ == ',') {
      ++at_;
      return true;
    }
    if (*at_ == '\r') ++at_;
    if (at_ != end_ && *at_ == '\n') ++at_;
    return false;
  }

  // Whether the cursor stands where a field may end.
  bool at_separator() const { return at_ == end_ || *at_ == ',' || *at_ == '\n' || *at_ == '\r'; }

 private:
  void skip_blanks() {
    while (at_ != end_ && (*at_ == ' ' || *at_ == '\t')) ++at_;
  }

  const std::string& path_;
  const char* at_;
  const char* end_;
};

// A finite number of the type T. nullptr, or why the text is none.
template <class T>
const char* parse_number(std::string_view text, T& value) {
  if (text.starts_with('+') && !text.starts_with("+-")) text.remove_prefix(1);
  const char* end = text.data() + text.size();
  const auto [stopped, error] = std::from_chars(text.data(), end, value);
  if (error == std::errc::invalid_argument || stopped != end) return "is not a number";
  if (error == std::errc::result_out_of_range) {
    // Too small for fp32 is a tiny value, not an error: rounds to what fp32 has.
    double wide = 0.0;
    if (std::from_chars(text.data(), end, wide).ec != std::errc{}) return "cannot be represented";
    value = static_cast<T>(wide);
    if (!std::isfinite(value)) return "does not fit into fp32";
  }
  return std::isfinite(value) ? nullptr : "must be finite";
}

}  // namespace

Dataset read_csv(const DatasetOptions& options) {
  InputFile file(options.path);
  const std::string text = read_text(file);
  CsvText csv(options.path, text);
  if (csv.done()) fail(ErrorKind::kData, fmt::format("{}: holds no header", options.path));

  const std::vector<std::string> names = csv.header();
  const size_t columns = names.size();
  if (columns < 2) {
    fail(ErrorKind::kData,
         fmt::format("{}: header must name at least two columns, separated by commas: got '{}'", options.path,
                     names[0]));
  }
  size_t target = columns;
  std::map<std::string, size_t> numbers;
  bool all_numbers = true;
  for (size_t column = 0; column < columns; ++column) {
    const auto [first, fresh] = numbers.emplace(names[column], column + 1);
    if (!fresh) {
      fail(ErrorKind::kData, fmt::format("{}: header names two columns '{}': {} and {}", options.path,
                                         names[column], first->second, column + 1));
    }
    double value = 0.0;
    all_numbers = all_numbers && parse_number(names[column], value) == nullptr;
    if (names[column] == options.target) target = column;
  }
  if (all_numbers) {
    fail(ErrorKind::kData,
         fmt::format(
             "{}: header holds only numbers ({}{}): the first line must name the columns", options.path,
             fmt::join(names.begin(), names.begin() + std::min<std::ptrdiff_t>(std::ssize(names), 3), ", "),
             columns > 3 ? ", ..." : ""));
  }
  if (options.target.empty()) target = columns - 1;
  if (target == columns) {
    fail(ErrorKind::kData, fmt::format("{}: header has no column '{}': it has {}", options.path,
                                       options.target, fmt::join(names, ", ")));
  }

  Dataset dataset;
  dataset.source = options.path;
  dataset.sample_shape = {static_cast<int64_t>(columns) - 1};
  std::vector<double> targets;
  const auto place = [&](size_t row, size_t column) {
    return fmt::format("{}: row {}, column '{}'", options.path, row, names[column]);
  };
  for (size_t row = 1; !csv.done(); ++row) {
    size_t column = 0;
    for (bool more = true; more; ++column) {
      const std::string_view field = csv.field();
      if (column < columns) {
        float feature = 0.0f;
        double value = 0.0;
        const char* problem = column == target ? parse_number(field, value) : parse_number(field, feature);
        if (!csv.at_separator()) problem = "is not a number";
        if (problem != nullptr) {
          fail(ErrorKind::kData,
               fmt::format("{}: value {}: '{}'", place(row, column), problem, field.substr(0, 40)));
        }
        if (column == target) {
          targets.push_back(value);
        } else {
          dataset.inputs_f32.push_back(feature);
        }
      }
      more = csv.next_field();
    }
    if (column != columns) {
      fail(ErrorKind::kData, fmt::format("{}: row {}: must have {} fields as the header has: got {}",
                                         options.path, row, columns, column));
    }
  }
  if (targets.empty()) fail(ErrorKind::kData, fmt::format("{}: holds a header but no rows", options.path));

  // Labels are whole numbers; one target that is not makes a regression, unless the classes are stated.
  size_t fractional = 0;
  while (fractional < targets.size() && targets[fractional] == std::floor(targets[fractional])) ++fractional;
  if (options.classes > 0 && fractional < targets.size()) {
    fail(ErrorKind::kData, fmt::format("{}: label must be a whole number: got {}",
                                       place(fractional + 1, target), targets[fractional]));
  }
  if (options.classes >= 0 && fractional == targets.size()) {
    std::vector<int64_t> labels(targets.size());
    for (size_t i = 0; i < targets.size(); ++i) {
      constexpr double kOutOfRange = 9.0e18;  // converts to int64 without overflow
      labels[i] = static_cast<int64_t>(std::fmin(std::fmax(targets[i], -kOutOfRange), kOutOfRange));
    }
    assign_labels(dataset, labels, options.classes,
                  [&](int64_t i) { return place(static_cast<size_t>(i) + 1, target); });
    return dataset;
  }
  dataset.target_width = 1;
  dataset.targets.resize(targets.size());
  for (size_t i = 0; i < targets.size(); ++i) {
    dataset.targets[i] = static_cast<float>(targets[i]);
    if (!std::isfinite(dataset.targets[i])) {
      fail(ErrorKind::kData,
           fmt::format("{}: value must fit into fp32: got {}", place(i + 1, target), targets[i]));
    }
  }
  return dataset;
}

}  // namespace lockstep
