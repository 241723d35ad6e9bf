// Checks of data against each other and against the model.
#include "lockstep/train/data_checks.h"

#include <fmt/format.h>

#include <algorithm>
#include <span>
#include <utility>
#include <vector>

#include "lockstep/core/error.h"
#include "lockstep/train/data_outline.h"

namespace lockstep {

namespace {

constexpr const char* kFeatureNames = "/data/feature_names";
constexpr const char* kTargetName = "/data/target_name";
constexpr const char* kStatistics = "/data/statistics";

std::string target_of(const DataDescription& dataset) {
  return dataset.columns.target.empty() ? "labels"
                                        : fmt::format("target column '{}'", dataset.columns.target);
}

std::string name_of_class(const DataDescription& dataset, size_t number) {
  return number < dataset.class_names.size() ? fmt::format("{} ({})", number, dataset.class_names[number])
                                             : fmt::format("{}", number);
}

// Of a text with a name a line, the target last: names of columns hold no line breaks.
ColumnNames columns_of(const std::string& text) {
  ColumnNames names;
  if (text.empty()) return names;
  for (size_t begin = 0, end = 0; end < text.size(); begin = end + 1) {
    end = std::min(text.find('\n', begin), text.size());
    names.features.push_back(text.substr(begin, end - begin));
  }
  names.target = names.features.back();
  names.features.pop_back();
  return names;
}

}  // namespace

int64_t tokens_of_sample(const DataDescription& data) {
  const bool text = data.positions.rank() > 0 && data.input_dtype == DType::kI32 && data.classes > 0;
  return text ? data.positions.elements() : 0;
}

std::string describe_task(const DataDescription& train, const std::string& loss) {
  const std::string column =
      train.columns.target.empty() ? "" : fmt::format(", target column '{}'", train.columns.target);
  if (train.classes == 0) {
    return fmt::format("regression of {} target{}{}, loss {}", train.target_width,
                       train.target_width == 1 ? "" : "s", column, loss);
  }
  if (tokens_of_sample(train) > 0) {
    return fmt::format("the next of {} tokens at each of {} positions, loss {}", train.classes,
                       train.positions.elements(), loss);
  }
  const std::string ignored = train.ignore_label ? fmt::format(" without label {}", *train.ignore_label) : "";
  return fmt::format("classification of {} classes{}{}, loss {}", train.classes, ignored, column, loss);
}

void check_classes(RunData& data) {
  const DataDescription& train = data.train->description();
  const std::vector<int64_t>& counts = train.class_counts;
  const auto first = static_cast<size_t>(
      std::ranges::find_if(counts, [](int64_t count) { return count > 0; }) - counts.begin());
  if (counts.empty()) return;
  if (first == counts.size()) {
    fail(ErrorKind::kData,
         fmt::format("{}: {}: all {} samples are of label {}, which counts nothing", train.source,
                     target_of(train), data.train->size(), train.ignore_label.value_or(-1)));
  }
  if (std::count(counts.begin(), counts.end(), 0) == std::ssize(counts) - 1) {
    fail(ErrorKind::kData,
         fmt::format("{}: {}: all {} samples are of class {}: there is nothing to tell apart{}", train.source,
                     target_of(train), counts[first], name_of_class(train, first),
                     train.columns.target.empty() ? "" : " (data.target names another column)"));
  }
  constexpr size_t kShown = 5;
  std::vector<std::string> empty;
  size_t number = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    if (counts[i] > 0) continue;
    if (++number <= kShown) empty.push_back(name_of_class(train, i));
  }
  if (number == 0) return;
  data.hints.push_back(fmt::format("{}: {} of {} classes have no training samples: {}{}", train.source,
                                   number, train.classes, fmt::join(empty, ", "),
                                   number > kShown ? ", ..." : ""));
}

void check_indices(const DataDescription& data, int64_t limit) {
  if (limit == 0 || data.largest_index < limit) return;
  fail(ErrorKind::kData, fmt::format("{}: row {}: index {} is outside [0, {}), the rows of the model's table",
                                     data.source, data.largest_index_row, data.largest_index, limit));
}

void check_indices(const RunData& data, int64_t limit) {
  check_indices(data.train->description(), limit);
  if (data.validation) check_indices(data.validation->description(), limit);
}

void check_vocabulary(const DataDescription& data, const std::string& known, const std::string& source) {
  if (known.empty() || data.vocabulary.empty() || data.vocabulary == known) return;
  fail(ErrorKind::kData, fmt::format("{}: of {}; {} of {}", data.source, data.vocabulary, source, known));
}

void check_class_names(const DataDescription& data, const std::vector<std::string>& known,
                       const std::string& source) {
  for (size_t i = 0; i < std::min(known.size(), data.class_names.size()); ++i) {
    if (data.class_names[i] == known[i]) continue;
    fail(ErrorKind::kData, fmt::format("{}: class {} is '{}', that of {} '{}'", data.source, i,
                                       data.class_names[i], source, known[i]));
  }
}

void check_documents(const DataDescription& data, const Module& model) {
  const bool masked =
      std::ranges::any_of(data.others, [](const Field& field) { return field.name == kDocumentsName; });
  if (!masked || model.reads(kDocumentsName)) return;
  fail(ErrorKind::kUsage,
       fmt::format(
           "{}: data.documents = \"mask\": the model (model.type) does not read which document a token is "
           "of: \"join\" lets documents of a window see each other",
           data.source));
}

namespace {

// Of the features by their names, in whatever order they stand; "" where they were not standardized.
std::string statistics_digest(const RunData& data) {
  const FeatureStatistics& statistics = data.statistics;
  if (statistics.mean.empty()) return "";
  const std::vector<std::string>& names = data.columns.features;
  std::vector<std::string> lines;
  for (size_t i = 0; i < statistics.mean.size(); ++i) {
    lines.push_back(fmt::format("{} {} {}", names.empty() ? fmt::format("{:09}", i) : names[i],
                                statistics.mean[i], statistics.deviation[i]));
  }
  std::ranges::sort(lines);
  const std::string text = fmt::format("{}", fmt::join(lines, "\n"));
  const std::span<const std::byte> bytes = std::as_bytes(std::span(text));
  return content_digest({&bytes, 1});
}

}  // namespace

void require_statistics(const RunData& data, const State& state, const std::string& checkpoint) {
  const auto kept = state.scalars.find(kStatistics);
  if (kept == state.scalars.end() || kept->second == Scalar(statistics_digest(data))) return;
  fail(ErrorKind::kData,
       fmt::format("{}: its features have other means and deviations than those that {} was trained with: "
                   "data.normalize needs data.train to be the file of the training",
                   data.train->description().source, checkpoint));
}

void KeptColumns::describe(State& state) const {
  state.data = outline_of(data_).text();
  if (const std::string digest = statistics_digest(data_); !digest.empty())
    state.scalars[kStatistics] = digest;
  const ColumnNames& names = data_.train->description().columns;
  if (names.features.empty()) return;
  state.scalars[kFeatureNames] = fmt::format("{}", fmt::join(names.features, "\n"));
  state.scalars[kTargetName] = names.target;
}

std::string columns_text(const State& state) {
  const auto features = state.scalars.find(kFeatureNames), target = state.scalars.find(kTargetName);
  if (features == state.scalars.end() || target == state.scalars.end()) return "";
  const auto *names = std::get_if<std::string>(&features->second),
             *name = std::get_if<std::string>(&target->second);
  return names == nullptr || name == nullptr ? "" : *names + "\n" + *name;
}

void match_columns(RunData& data, const std::string& columns, const std::string& checkpoint) {
  const ColumnNames trained = columns_of(columns);
  data.train = match_columns(data.train, trained, checkpoint);
  if (data.validation) data.validation = match_columns(data.validation, trained, checkpoint);
}

void KeptColumns::restore(const State& found, const std::string& path) {
  const ColumnNames trained = columns_of(columns_text(found)), &now = data_.train->description().columns;
  if (trained.features.empty() || now.features.empty() || trained == now) return;
  size_t at = 0;
  while (at < trained.features.size() && at < now.features.size() && trained.features[at] == now.features[at])
    ++at;
  const auto name = [&](const ColumnNames& names) {
    return at < names.features.size()         ? fmt::format("column {} is '{}'", at + 1, names.features[at])
           : trained.features == now.features ? fmt::format("the target is '{}'", names.target)
                                              : fmt::format("there are {} columns", names.features.size());
  };
  fail(ErrorKind::kData, fmt::format("{}: {}, in {} {}: weights and columns belong together",
                                     data_.train->description().source, name(now), path, name(trained)));
}

}  // namespace lockstep
