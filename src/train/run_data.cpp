// Loading and splitting data.
#include "train/run_data.h"

#include <fmt/format.h>

#include <algorithm>
#include <span>
#include <vector>

#include "checkpoint/state.h"
#include "core/error.h"
#include "train/data_checks.h"

namespace lockstep {

RunData read_run_data(const RunSettings& settings) {
  RunData data;
  Dataset all = read_dataset(settings.train_data);
  const auto add_hint = [&data](std::string hint) {
    if (!hint.empty()) data.hints.push_back(std::move(hint));
  };
  add_hint(overflow_hint(all, settings.compute));
  if (settings.validation_fraction > 0.0) {
    const Split split = split_rows(all.size(), settings.validation_fraction, settings.seed);
    if (split.train.empty() || split.validation.empty()) {
      fail(ErrorKind::kUsage,
           fmt::format(
               "data.validation_fraction: {} leaves {} of {} samples for training and {} for validation",
               settings.validation_fraction, split.train.size(), all.size(), split.validation.size()));
    }
    data.train = all.subset(split.train);
    data.validation = all.subset(split.validation);
  } else {
    data.train = std::move(all);
    if (!settings.validation_data.path.empty()) {
      DatasetOptions options = settings.validation_data;
      // The labels of a validation file may not reach the last class.
      if (options.classes == 0) options.classes = data.train.classes > 0 ? data.train.classes : -1;
      options.expected_target = data.train.columns.target;
      data.validation = read_dataset(options);
      match_columns(*data.validation, data.train.columns, data.train.source);
      add_hint(overflow_hint(*data.validation, settings.compute));
      if (!(data.validation->sample_shape == data.train.sample_shape) ||
          data.validation->classes != data.train.classes ||
          data.validation->target_width != data.train.target_width) {
        fail(ErrorKind::kData,
             fmt::format("{}: samples {} with {} classes do not fit the training data: {} with {} classes",
                         data.validation->source, data.validation->sample_shape.to_string(),
                         data.validation->classes, data.train.sample_shape.to_string(), data.train.classes));
      }
    }
  }
  data.shape.sample = data.train.sample_shape;
  data.shape.input = data.train.input_dtype;
  data.shape.classes = data.train.classes;
  data.shape.targets = std::max<int64_t>(1, data.train.target_width);
  std::vector<std::span<const std::byte>> contents;
  for (const Dataset* part : {&data.train, data.validation ? &*data.validation : nullptr}) {
    if (part == nullptr) continue;
    contents.push_back(std::as_bytes(std::span(part->inputs_f32)));
    contents.push_back(std::as_bytes(std::span(part->inputs_i32)));
    contents.push_back(std::as_bytes(std::span(part->labels)));
    contents.push_back(std::as_bytes(std::span(part->targets)));
  }
  data.digest = content_digest(contents);
  return data;
}

}  // namespace lockstep
