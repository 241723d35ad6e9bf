// Data sets: choosing the reader, picking rows, and the checks that all formats share.
#include "lockstep/data/dataset.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <new>

#include "lockstep/core/available_memory.h"
#include "lockstep/core/error.h"
#include "lockstep/data/formats.h"

namespace lockstep {

std::string format_of(const DatasetOptions& options) {
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

bool fits_memory(int64_t bytes) {
  constexpr int64_t kSmall = 1 << 20;
  return bytes < kSmall || bytes <= AvailableMemory().bytes();
}

void require_memory(const std::string& path, int64_t bytes) {
  if (fits_memory(bytes)) return;
  fail(ErrorKind::kData,
       fmt::format("{}: takes {} bytes of memory: {} are available", path, bytes, AvailableMemory().bytes()));
}

void assign_labels(Dataset& dataset, std::span<const int64_t> labels, int64_t classes,
                   const std::function<std::string(int64_t)>& place) {
  // One below the largest int32, so that their number fits as well.
  const int64_t limit = classes > 0 ? classes : std::numeric_limits<int32_t>::max();
  dataset.labels.resize(labels.size());
  int64_t largest = 0;
  for (size_t i = 0; i < labels.size(); ++i) {
    if (labels[i] < 0 || labels[i] >= limit) {
      fail(ErrorKind::kData, fmt::format("{}: label must be in [0, {}): got {}",
                                         place(static_cast<int64_t>(i)), limit, labels[i]));
    }
    largest = std::max(largest, labels[i]);
    dataset.labels[i] = static_cast<int32_t>(labels[i]);
  }
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
  const std::string format = format_of(options);
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
  if (format != "csv" && !options.target.empty()) {
    fail(ErrorKind::kUsage,
         fmt::format("{}: a target column is for csv only, not for {}", options.path, format));
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
    if (format == "hdf5") return read_hdf5(options);
    if (format == "idx") return read_idx(options);
    if (format == "cifar10") return read_cifar10(options);
    return read_csv(options);
  } catch (const std::bad_alloc&) {
    fail(ErrorKind::kData, fmt::format("{}: does not fit into this machine's memory", options.path));
  }
}

void try_dataset(const DatasetOptions& options, int64_t seconds) {
  if (!options.open && format_of(options) == "hdf5") try_hdf5(options, seconds);
}

}  // namespace lockstep
