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

#include "lockstep/core/error.h"
#include "lockstep/core/input_file.h"
#include "lockstep/core/log.h"
#include "lockstep/data/formats.h"

namespace lockstep {

namespace {

// The text of a file in pieces of whole lines, so that it is never in memory as a whole. Blanks and line ends
// at the end of the file are left out.
class Lines {
 public:
  explicit Lines(InputFile& file) : file_(file) {}

  // The next piece, which stays valid until the following call; empty at the end.
  std::string_view next() {
    constexpr size_t kPiece = size_t{1} << 20;
    text_.erase(0, given_);
    blank_ -= std::min(blank_, given_);
    given_ = 0;
    while (!ended_) {
      const size_t size = text_.size();
      if (size + kPiece > text_.capacity())
        require_memory(file_.path(), static_cast<int64_t>(2 * (size + kPiece)));
      text_.resize(size + kPiece);
      text_.resize(size + file_.read_up_to(text_.data() + size, kPiece));
      ended_ = text_.size() < size + kPiece;
      given_ = ended_ ? text_.size() : end_of_lines(size);
      if (given_ > 0) break;
    }
    std::string_view piece(text_.data(), given_);
    if (first_ && piece.starts_with("\xEF\xBB\xBF")) piece.remove_prefix(3);  // byte order mark
    first_ = false;
    if (ended_) {
      while (!piece.empty() && is_blank(piece.back())) piece.remove_suffix(1);
    }
    return piece;
  }

 private:
  static bool is_blank(char c) { return c == '\n' || c == '\r' || c == ' '; }

  // Behind the last line that is whole, without the empty lines after it: they may be those at the end of the
  // file. 0 where there is none, as there was before `text_` grew from `size`: of a long line only what is
  // new is looked at.
  size_t end_of_lines(size_t size) {
    const size_t old_blank = blank_;
    blank_ = start_of_blanks(text_.size(), size, old_blank);
    const size_t newline = std::string_view(text_).substr(size).rfind('\n');
    if (newline == std::string_view::npos) return 0;
    const size_t blank = start_of_blanks(size + newline, size, old_blank);
    return blank == 0 ? 0 : text_.find('\n', std::max(blank, size)) + 1;
  }
  // Where the blanks before `end` begin; those before `size` begin at `before`.
  size_t start_of_blanks(size_t end, size_t size, size_t before) const {
    while (end > size && is_blank(text_[end - 1])) --end;
    return end > size ? end : before;
  }

  InputFile& file_;
  std::string text_;
  size_t given_ = 0;
  size_t blank_ = 0;  // where the blanks at the end of text_ begin
  bool first_ = true, ended_ = false;
};

// A cursor over the lines: fields separated by commas, lines by LF or CRLF; a field may stand in double
// quotes.
class CsvText {
 public:
  CsvText(const std::string& path, Lines& lines) : path_(path), lines_(lines) {}

  // Whether nothing follows. At the end of a line only.
  bool done() {
    if (at_ != end_) return false;
    const std::string_view piece = lines_.next();
    at_ = piece.data();
    end_ = at_ + piece.size();
    return piece.empty();
  }

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
    if (quoted) {
      // Commas belong to the text, and so does one of two quotes.
      while (at_ != end_ && *at_ != '\n' && *at_ != '\r' &&
             (*at_ != '"' || (at_ + 1 != end_ && at_[1] == '"')))
        at_ += *at_ == '"' ? 2 : 1;
    } else {
      while (at_ != end_ && *at_ != ',' && *at_ != '\n' && *at_ != '\r' && *at_ != '"') ++at_;
    }
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
  Lines& lines_;
  const char* at_ = nullptr;
  const char* end_ = nullptr;
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
  Lines lines(file);
  CsvText csv(options.path, lines);
  if (csv.done()) fail(ErrorKind::kData, fmt::format("{}: holds no header", options.path));

  const std::vector<std::string> names = csv.header();
  const size_t columns = names.size();
  if (columns < 2 && !options.unlabelled) {
    fail(ErrorKind::kData,
         fmt::format("{}: header must name at least two columns, separated by commas: got '{}'", options.path,
                     names[0]));
  }
  const std::string& wanted = options.target.empty() ? options.expected_target : options.target;
  size_t target = columns;
  // Before two columns of the same number are taken for the mistake.
  const auto is_number = [](const std::string& name) {
    double value = 0.0;
    return parse_number(name, value) == nullptr;
  };
  if (std::ranges::all_of(names, is_number)) {
    fail(ErrorKind::kData,
         fmt::format(
             "{}: header holds only numbers ({}{}): the first line must name the columns", options.path,
             fmt::join(names.begin(), names.begin() + std::min<std::ptrdiff_t>(std::ssize(names), 3), ", "),
             columns > 3 ? ", ..." : ""));
  }
  std::map<std::string, size_t> numbers;
  for (size_t column = 0; column < columns; ++column) {
    const auto [first, fresh] = numbers.emplace(names[column], column + 1);
    if (!fresh) {
      fail(ErrorKind::kData, fmt::format("{}: header names two columns '{}': {} and {}", options.path,
                                         names[column], first->second, column + 1));
    }
    if (names[column] == wanted) target = column;
  }
  if (wanted.empty() && !options.unlabelled) target = columns - 1;
  if (target == columns && !options.unlabelled) {
    fail(ErrorKind::kData, fmt::format("{}: header has no column '{}', the target: it has {}", options.path,
                                       wanted, fmt::join(names, ", ")));
  }

  Dataset dataset;
  dataset.source = options.path;
  const size_t features = columns - (target < columns ? 1 : 0);
  if (features == 0) fail(ErrorKind::kData, fmt::format("{}: has no column but the target", options.path));
  dataset.sample_shape = {static_cast<int64_t>(features)};
  dataset.columns.target = target < columns ? names[target] : wanted;
  for (size_t column = 0; column < columns; ++column) {
    if (column != target) dataset.columns.features.push_back(names[column]);
  }
  std::vector<double> targets;
  const auto place = [&](size_t row, size_t column) {
    return fmt::format("{}: row {}, column '{}'", options.path, row, names[column]);
  };
  for (size_t row = 1; !csv.done(); ++row) {
    size_t column = 0;
    make_room(dataset.inputs_f32, features, options.path);
    make_room(targets, 1, options.path);
    for (bool more = true; more; ++column) {
      const std::string_view field = csv.field();
      if (column < columns) {
        float feature = 0.0f;
        double value = 0.0;
        const char* problem = column != target     ? parse_number(field, feature)
                              : options.unlabelled ? nullptr
                                                   : parse_number(field, value);
        if (!csv.at_separator()) problem = "is not a number";
        if (problem != nullptr) {
          fail(ErrorKind::kData,
               fmt::format("{}: value {}: '{}'", place(row, column), problem, field.substr(0, 40)));
        }
        if (column == target) {
          if (!options.unlabelled) targets.push_back(value);
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
  if (dataset.inputs_f32.empty())
    fail(ErrorKind::kData, fmt::format("{}: holds a header but no rows", options.path));
  if (options.unlabelled) {
    dataset.target_width = 1;
    dataset.targets.assign(dataset.inputs_f32.size() / features, 0.0f);
    return dataset;
  }

  // Labels are whole numbers; one target that is not makes a regression, unless the classes are stated.
  size_t fractional = 0;
  while (fractional < targets.size() && targets[fractional] == std::floor(targets[fractional])) ++fractional;
  if (options.classes > 0 && fractional < targets.size()) {
    fail(ErrorKind::kData, fmt::format("{}: label must be a whole number: got {}",
                                       place(fractional + 1, target), targets[fractional]));
  }
  if (options.classes >= 0 && fractional == targets.size()) {
    require_memory(options.path, static_cast<int64_t>(targets.size() * (sizeof(int64_t) + sizeof(int32_t))));
    std::vector<int64_t> labels(targets.size());
    for (size_t i = 0; i < targets.size(); ++i) {
      using Limits = std::numeric_limits<int64_t>;
      constexpr double kBeyond = 0x1p63;
      labels[i] = targets[i] >= kBeyond    ? Limits::max()
                  : targets[i] <= -kBeyond ? Limits::min()
                                           : static_cast<int64_t>(targets[i]);
    }
    dataset.ignore_label = options.ignore_label;
    assign_labels(dataset, labels, options.classes,
                  [&](int64_t i) { return place(static_cast<size_t>(i) + 1, target); });
    return dataset;
  }
  const auto whole = std::ranges::count_if(targets, [](double value) { return value == std::floor(value); });
  if (options.classes == 0 && are_slips(std::ssize(targets) - whole, std::ssize(targets))) {
    log_info(
        fmt::format("{}: {} makes a regression of targets of which {} of {} are whole numbers "
                    "(data.classes names it as a mistake in labels)",
                    place(fractional + 1, target), targets[fractional], whole, targets.size()));
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
