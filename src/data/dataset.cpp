// Data sets: choosing the reader, picking rows, and the checks that all formats share.
#include "lockstep/data/dataset.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <new>
#include <set>

#include "lockstep/core/error.h"
#include "lockstep/data/formats.h"
#include "lockstep/hdf5/sealed_file.h"

namespace lockstep {

std::string format_of(const DatasetOptions& options) {
  if (options.path.empty()) fail(ErrorKind::kUsage, "data: the name of the file is empty");
  if (options.format != "auto") return options.format;
  // CIFAR-10: several files may stand in a list.
  const size_t comma = options.path.find(',');
  const bool list = comma != std::string::npos && !std::filesystem::exists(options.path);
  return detect_format(list ? options.path.substr(0, comma) : options.path);
}

int64_t Dataset::size() const {
  if (classes > 0) return static_cast<int64_t>(labels.size());
  return target_width > 0 ? static_cast<int64_t>(targets.size()) / target_width : 0;
}

std::string read_number(int64_t number) {
  using Limits = std::numeric_limits<int64_t>;
  return fmt::format("{}{}", number,
                     number == Limits::max()   ? " or more"
                     : number == Limits::min() ? " or less"
                                               : "");
}

void assign_labels(Dataset& dataset, std::span<const int64_t> labels, int64_t classes,
                   const std::function<std::string(int64_t)>& place) {
  // One below the largest int32, so that their number fits as well.
  const int64_t limit = classes > 0 ? classes : std::numeric_limits<int32_t>::max();
  dataset.labels.resize(labels.size());
  int64_t largest = -1;
  for (size_t i = 0; i < labels.size(); ++i) {
    if (dataset.ignore_label && labels[i] == *dataset.ignore_label) {
      dataset.labels[i] = *dataset.ignore_label;
      continue;
    }
    if (labels[i] < 0 || labels[i] >= limit) {
      fail(ErrorKind::kData, fmt::format("{}: label must be in [0, {}): got {}",
                                         place(static_cast<int64_t>(i)), limit, read_number(labels[i])));
    }
    largest = std::max(largest, labels[i]);
    dataset.labels[i] = static_cast<int32_t>(labels[i]);
  }
  if (largest < 0 && !labels.empty())
    fail(ErrorKind::kData,
         fmt::format("{}: this label and all others are {}, which counts nothing", place(0), labels[0]));
  dataset.classes = classes > 0 ? classes : largest + 1;
  // Whole numbers that are no class numbers, prices say, or one mistyped label: a model would get as many
  // outputs.
  const int64_t plausible = std::max<int64_t>(1 << 16, static_cast<int64_t>(labels.size()));
  if (classes <= 0 && dataset.classes > plausible) {
    const auto at = std::find(labels.begin(), labels.end(), largest) - labels.begin();
    fail(ErrorKind::kData, fmt::format("{}: label {} would make {} classes of {} samples: set the number of "
                                       "classes, or -1 for regression",
                                       place(at), largest, dataset.classes, labels.size()));
  }
}

std::optional<int32_t> checked_ignore_label(const DatasetOptions& options, std::optional<int64_t> of_file,
                                            int64_t classes) {
  const std::optional<int64_t> wanted = options.ignore_label;
  if (wanted && of_file && *wanted != *of_file) {
    fail(ErrorKind::kUsage, fmt::format("{}: its label that counts nothing is {}, {} was asked for",
                                        options.path, *of_file, *wanted));
  }
  if (!wanted && !of_file) return std::nullopt;
  const int64_t label = wanted.value_or(of_file.value_or(0));
  if (classes <= 0) {
    fail(ErrorKind::kUsage, fmt::format("{}: holds real targets: {} as a label that counts nothing goes with "
                                        "classes",
                                        options.path, label));
  }
  if (label != static_cast<int32_t>(label)) {
    fail(ErrorKind::kData,
         fmt::format("{}: attribute ignore_label must be a 32-bit number: got {}", options.path, label));
  }
  return static_cast<int32_t>(label);
}

std::string fault_of_names(const std::vector<std::string>& class_names, int64_t classes,
                           const ColumnNames& columns, int64_t features) {
  const auto count = std::ssize(class_names), named = std::ssize(columns.features);
  if (count != 0 && count != classes)
    return fmt::format("class_names must hold one name a class: {} names, {} classes", count, classes);
  if (named != 0 && named != features)
    return fmt::format("columns must hold one name a feature: {} names, {} features", named, features);
  // Checkpoints and prepared files keep one a line.
  const auto breaks = [](const std::string& name) { return name.find('\n') != std::string::npos; };
  if (std::ranges::any_of(class_names, breaks)) return "class_names: a name holds a line break";
  if (std::ranges::any_of(columns.features, breaks) || breaks(columns.target))
    return "columns: a name holds a line break";
  std::set<std::string> known;
  for (const std::string& name : columns.features)
    if (!known.insert(name).second) return fmt::format("columns has '{}' twice", name);
  return "";
}

void check_dataset(const Dataset& dataset) {
  const auto refuse = [&](ErrorKind kind, const std::string& rule) {
    fail(kind, fmt::format("{}: {}", dataset.source.empty() ? "data set" : dataset.source, rule));
  };
  const auto require = [&](bool holds, const std::string& rule) {
    if (!holds) refuse(ErrorKind::kUsage, rule);
  };
  require((dataset.classes > 0) != (dataset.target_width > 0),
          fmt::format("must have either classes or a target width, got {} and {}", dataset.classes,
                      dataset.target_width));
  const int64_t samples = dataset.size(), each = dataset.sample_shape.elements();
  const bool tokens = dataset.input_dtype == DType::kI32;
  const auto values = static_cast<int64_t>(tokens                               ? dataset.inputs_i32.size()
                                           : dataset.input_dtype == DType::kU8  ? dataset.inputs_u8.size()
                                           : dataset.input_dtype == DType::kF16 ? dataset.inputs_f16.size()
                                                                                : dataset.inputs_f32.size());
  require(values == samples * each, fmt::format("{} samples of {} need {} inputs of {}, got {}", samples,
                                                dataset.sample_shape.to_string(), samples * each,
                                                name_of(dataset.input_dtype), values));
  require(std::isfinite(dataset.scale) && std::isfinite(dataset.divisor) && dataset.divisor != 0.0f,
          fmt::format("scale and divisor must be finite, the divisor not 0, got {} and {}", dataset.scale,
                      dataset.divisor));
  const std::string names = fault_of_names(dataset.class_names, dataset.classes, dataset.columns, each);
  require(names.empty(), names);
  for (int64_t i = 0; i < std::ssize(dataset.labels) && dataset.classes > 0; ++i) {
    const int32_t label = dataset.labels[static_cast<size_t>(i)];
    if ((label < 0 || label >= dataset.classes) && label != dataset.ignore_label)
      refuse(ErrorKind::kData,
             fmt::format("sample {}: label {} is outside [0, {})", i, label, dataset.classes));
  }
  const auto require_finite = [&](const auto& array, const char* what, int64_t width) {
    for (int64_t i = 0; i < std::ssize(array); ++i) {
      const auto value = static_cast<float>(array[static_cast<size_t>(i)]);
      if (!std::isfinite(value))
        refuse(ErrorKind::kData,
               fmt::format("sample {}: {} {} is {}: must be finite", i / width, what, i % width, value));
    }
  };
  if (dataset.target_width > 0) {
    require(std::ssize(dataset.targets) % dataset.target_width == 0,
            fmt::format("{} targets are no rows of {}", dataset.targets.size(), dataset.target_width));
    require_finite(dataset.targets, "target", dataset.target_width);
  }
  if (dataset.input_dtype == DType::kF32) require_finite(dataset.inputs_f32, "input", each);
  if (dataset.input_dtype == DType::kF16) require_finite(dataset.inputs_f16, "input", each);
  const auto negative = std::ranges::find_if(dataset.inputs_i32, [](int32_t token) { return token < 0; });
  if (tokens && negative != dataset.inputs_i32.end()) {
    const int64_t at = negative - dataset.inputs_i32.begin();
    refuse(ErrorKind::kData,
           fmt::format("sample {}: input {} is {}: must be at least 0", at / each, at % each, *negative));
  }
}

std::string checked_format(const DatasetOptions& options) {
  if (options.open) {
    fail(ErrorKind::kUsage, fmt::format("{}: format '{}' is the program's own and gives a source, not a file",
                                        options.path, options.format));
  }
  if (options.classes < -1 || options.classes > std::numeric_limits<int32_t>::max()) {
    fail(ErrorKind::kUsage,
         fmt::format("{}: classes must be -1 (regression), 0 (as the file says) or a number of "
                     "classes below 2^31: got {}",
                     options.path, options.classes));
  }
  std::string format = format_of(options);
  if (format == "csv" && options.format != "auto") {
    std::error_code error;
    if (std::filesystem::is_regular_file(options.path, error) &&
        apparent_state(options.path, ErrorKind::kData)) {
      fail(ErrorKind::kUsage,
           fmt::format("{}: is HDF5, asked for was format csv (auto takes what each file is)", options.path));
    }
  }
  const bool images_only = format == "idx" || format == "cifar10";
  if (images_only && options.classes == -1) {
    fail(ErrorKind::kUsage,
         fmt::format("{}: {} files hold labels: regression (classes = -1) needs hdf5 or csv", options.path,
                     format));
  }
  if (format != "idx" && !options.labels.empty()) {
    fail(ErrorKind::kUsage,
         fmt::format("{}: a labels file goes with idx images only, not with {}", options.path, format));
  }
  if (format != "csv" && !options.target.empty() && !options.beside) {
    fail(ErrorKind::kUsage,
         fmt::format("{}: a target column is for csv only, not for {}", options.path, format));
  }
  if (format != "hdf5" && options.follow && !options.beside) {
    fail(ErrorKind::kUsage, fmt::format("{}: follow is for hdf5 only, whose values may lie in other files, "
                                        "not for {}",
                                        options.path, format));
  }
  if (format != "hdf5" && format != "csv" && !images_only) {
    fail(ErrorKind::kUsage, fmt::format("{}: format must be auto, hdf5, idx, cifar10 or csv: got '{}'",
                                        options.path, options.format));
  }
  return format;
}

Dataset read_dataset(const DatasetOptions& options) {
  const std::string format = checked_format(options);
  try {
    Dataset dataset = format == "hdf5"      ? read_hdf5(options)
                      : format == "idx"     ? read_idx(options)
                      : format == "cifar10" ? read_cifar10(options)
                                            : read_csv(options);
    if (!options.unlabelled) checked_ignore_label(options, dataset.ignore_label, dataset.classes);
    return dataset;
  } catch (const std::bad_alloc&) {
    fail(ErrorKind::kData, fmt::format("{}: does not fit into this machine's memory", options.path));
  }
}

bool needs_trial(const DatasetOptions& options) {
  try {
    return !options.open && format_of(options) == "hdf5" &&
           apparent_state(options.path, ErrorKind::kData) == SealState::kUnsealed;
  } catch (const Error&) {
    return false;  // which reading it says too, if it comes to that
  }
}

bool try_dataset(const DatasetOptions& options, const DatasetTrial& trial) {
  return !needs_trial(options) || try_hdf5(options, trial);
}

}  // namespace lockstep
