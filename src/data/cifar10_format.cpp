// CIFAR-10 binary files: records of one label byte and 3 x 32 x 32 pixel bytes, planes R, G, B.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <string>
#include <system_error>
#include <vector>

#include "lockstep/core/error.h"
#include "lockstep/core/input_file.h"
#include "lockstep/data/formats.h"

namespace lockstep {

namespace {

constexpr int64_t kSide = 32, kPlane = kSide * kSide, kChannels = 3;
constexpr int64_t kRecord = 1 + kChannels * kPlane;
constexpr int64_t kClasses = 10;
constexpr std::array<const char*, kClasses> kClassNames{"airplane", "automobile", "bird",  "cat",  "deer",
                                                        "dog",      "frog",       "horse", "ship", "truck"};

std::vector<std::string> split_paths(const std::string& list) {
  std::error_code none;
  if (std::filesystem::exists(list, none)) return {list};  // one file, whose path has commas
  std::vector<std::string> paths;
  for (size_t begin = 0; begin <= list.size();) {
    const size_t comma = std::min(list.find(',', begin), list.size());
    paths.push_back(list.substr(begin, comma - begin));
    begin = comma + 1;
  }
  return paths;
}

}  // namespace

Dataset read_cifar10(const DatasetOptions& options) {
  Dataset dataset;
  dataset.source = options.path;
  dataset.sample_shape = {kSide, kSide, kChannels};
  dataset.classes = options.classes > 0 ? options.classes : kClasses;
  dataset.ignore_label = options.ignore_label;
  if (dataset.classes == kClasses) dataset.class_names.assign(kClassNames.begin(), kClassNames.end());
  if (options.narrow) {
    dataset.input_dtype = DType::kU8;
    dataset.divisor = 255.0f;
  }
  for (const std::string& path : split_paths(options.path)) {
    InputFile file(path);
    if (!file.compressed()) {
      const auto more = static_cast<size_t>(file.most_remaining() / kRecord * kChannels * kPlane);
      if (options.narrow) {
        make_room(dataset.inputs_u8, more, path);
      } else {
        make_room(dataset.inputs_f32, more, path);
      }
    }
    std::array<uint8_t, kRecord> record{};
    for (;;) {
      const int64_t start = file.offset();
      const size_t got = file.read_up_to(record.data(), record.size());
      if (got == 0) break;
      if (got != record.size()) {
        fail(ErrorKind::kData, fmt::format("{}: truncated: the record at byte {} has {} of {} bytes", path,
                                           start, got, kRecord));
      }
      if (options.unlabelled) record[0] = 0;
      if (record[0] >= dataset.classes && record[0] != dataset.ignore_label) {
        fail(ErrorKind::kData, fmt::format("{}: byte {}: CIFAR-10 label must be in [0, {}): got {}", path,
                                           start, dataset.classes, record[0]));
      }
      if (options.narrow) {
        make_room(dataset.inputs_u8, kChannels * kPlane, path);
      } else {
        make_room(dataset.inputs_f32, kChannels * kPlane, path);
      }
      dataset.labels.push_back(record[0]);
      for (int64_t pixel = 0; pixel < kPlane; ++pixel) {
        for (int64_t channel = 0; channel < kChannels; ++channel) {
          const uint8_t value = record[static_cast<size_t>(1 + channel * kPlane + pixel)];
          if (options.narrow) {
            dataset.inputs_u8.push_back(value);
          } else {
            dataset.inputs_f32.push_back(static_cast<float>(value) / 255.0f);
          }
        }
      }
    }
  }
  return dataset;
}

}  // namespace lockstep
