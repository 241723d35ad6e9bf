// Opening and splitting data.
#include "lockstep/train/run_data.h"

#include <fmt/format.h>

#include <algorithm>
#include <span>
#include <utility>

#include "lockstep/core/error.h"
#include "lockstep/data/split.h"
#include "lockstep/hdf5/sealed_file.h"
#include "lockstep/train/data_checks.h"

namespace lockstep {

RunData read_run_data(const RunSettings& settings) {
  RunData data;
  DatasetOptions training = settings.train_data;
  // Where only the validation data are CSV, data.target is theirs; match_columns() compares it with the name
  // that the training data have for it.
  if (settings.validation_data.given() && !training.target.empty() && !training.open &&
      format_of(training) != "csv" && format_of(settings.validation_data) == "csv")
    training.target.clear();
  const std::shared_ptr<const WholeSource> all = open_data_source(training);
  std::string contents = all->digest();
  data.columns = all->description().columns;
  data.train = all;
  if (settings.normalize) data.statistics = all->statistics();
  const auto prepared = [&](std::shared_ptr<const DataSource> source) -> std::shared_ptr<const DataSource> {
    if (!settings.normalize) return source;
    return std::make_shared<StandardizedSource>(std::move(source), data.statistics);
  };
  if (settings.validation_fraction > 0.0) {
    const Split split(all->size(), settings.validation_fraction, settings.seed);
    data.train = std::make_shared<PartSource>(all, split, PartSource::Side::kTrain);
    data.validation = std::make_shared<PartSource>(all, split, PartSource::Side::kValidation);
    contents += fmt::format(" {} {}", split.validation_size(), settings.seed);
  } else if (settings.validation_data.given()) {
    DatasetOptions options = settings.validation_data;
    const DataDescription& train = all->description();
    // The labels of a validation file may not reach the last class.
    if (options.classes == 0) options.classes = train.classes > 0 ? train.classes : -1;
    options.expected_target = train.columns.target;
    options.ignore_label = train.ignore_label;
    const std::shared_ptr<const WholeSource> validation = open_data_source(options);
    data.validation = match_columns(validation, train.columns, train.source);
    const DataDescription& found = data.validation->description();
    if (!(found.sample_shape == train.sample_shape) || found.classes != train.classes ||
        found.target_width != train.target_width || found.input_dtype != train.input_dtype ||
        !(found.positions == train.positions) || found.others != train.others) {
      fail(ErrorKind::kData,
           fmt::format("{}: samples {} with {} classes do not fit the training data: {} with {} classes",
                       found.source, found.sample_shape.to_string(), found.classes,
                       train.sample_shape.to_string(), train.classes));
    }
    check_vocabulary(found, train.vocabulary, train.source);
    check_class_names(found, train.class_names, train.source);
    contents += " " + validation->digest();
  }
  data.train = prepared(data.train);
  if (data.validation) data.validation = prepared(data.validation);
  const DataDescription& description = data.train->description();
  data.shape.sample = description.sample_shape;
  data.shape.input = description.input_dtype;
  data.shape.classes = description.classes;
  data.shape.targets = std::max<int64_t>(1, description.target_width);
  data.shape.positions = description.positions;
  data.digest = digest_of_digests(contents, {});
  return data;
}

}  // namespace lockstep
