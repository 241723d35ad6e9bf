// Sources in memory and those made of other sources.
#include "lockstep/data/data_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <utility>

#include "lockstep/core/error.h"
#include "lockstep/core/half_precision.h"
#include "lockstep/data/formats.h"
#include "lockstep/data/stored_features.h"

namespace lockstep {

namespace {

template <class T>
std::span<const std::byte> bytes_of(const std::vector<T>& values) {
  return std::as_bytes(std::span(values));
}

}  // namespace

std::vector<Field> DataDescription::fields() const {
  Field targets{kTargetsName, classes > 0 ? DType::kI32 : DType::kF32, positions};
  if (classes == 0) targets.shape.push_back(target_width);
  Field inputs{kInputsName, input_dtype, sample_shape};
  if (input_dtype != DType::kI32) inputs = {kInputsName, stored_dtype, sample_shape, scale, divisor};
  std::vector<Field> fields = {std::move(inputs), std::move(targets)};
  if (weighted) fields.push_back({kWeightsName, DType::kF32, positions});
  fields.insert(fields.end(), others.begin(), others.end());
  return fields;
}

std::string StoredSamples::layout_text() const {
  return fmt::format("{} {} {} {};{} {};{}", name_of(input_dtype), input_elements, scale, divisor,
                     name_of(target_dtype), target_elements,
                     ignore_label ? fmt::format("without {};", *ignore_label) : "");
}

void StoredSource::gather_stored(std::span<const int64_t> rows, const SampleBuffers& out) const {
  const int64_t input_bytes = stored_.input_bytes(), target_bytes = stored_.target_bytes();
  for (size_t i = 0; i < rows.size(); ++i) {
    const SampleBuffers place = out.from(static_cast<int64_t>(i));
    const std::byte* input = stored_.inputs.data() + rows[i] * input_bytes;
    const std::byte* target = stored_.targets.data() + rows[i] * target_bytes;
    std::memcpy(place.at<std::byte>(DataDescription::kInputs), input, static_cast<size_t>(input_bytes));
    if (description_.classes > 0) {
      int32_t& label = *place.at<int32_t>(DataDescription::kTargets);
      std::memcpy(&label, target, sizeof(int32_t));
      if (stored_.ignore_label) {
        const bool counts = label != *stored_.ignore_label;
        if (!counts) label = 0;
        *place.at<float>(DataDescription::kWeights) = counts ? 1.0f : 0.0f;
      }
    } else if (stored_.target_dtype == DType::kF32) {
      std::memcpy(place.at<float>(DataDescription::kTargets), target, static_cast<size_t>(target_bytes));
    } else {
      const auto* labels = reinterpret_cast<const int32_t*>(target);
      std::transform(labels, labels + stored_.target_elements, place.at<float>(DataDescription::kTargets),
                     [](int32_t label) { return static_cast<float>(label); });
    }
  }
}

StoredSamples stored_samples(const Dataset& dataset) {
  StoredSamples stored;
  stored.input_dtype = dataset.input_dtype;
  stored.inputs = dataset.input_dtype == DType::kI32   ? bytes_of(dataset.inputs_i32)
                  : dataset.input_dtype == DType::kU8  ? bytes_of(dataset.inputs_u8)
                  : dataset.input_dtype == DType::kF16 ? bytes_of(dataset.inputs_f16)
                                                       : bytes_of(dataset.inputs_f32);
  const bool labels = dataset.classes > 0;
  stored.target_dtype = labels ? DType::kI32 : DType::kF32;
  stored.targets = labels ? bytes_of(dataset.labels) : bytes_of(dataset.targets);
  stored.scale = dataset.scale;
  stored.divisor = dataset.divisor;
  stored.input_elements = dataset.sample_shape.elements();
  stored.target_elements = labels ? 1 : dataset.target_width;
  stored.ignore_label = dataset.ignore_label;
  return stored;
}

std::vector<int64_t> class_counts(const Dataset& dataset) {
  // More than are worth keeping beside the data.
  constexpr int64_t kMostClasses = 1 << 20;
  if (dataset.classes == 0 || dataset.classes > kMostClasses) return {};
  std::vector<int64_t> counts(static_cast<size_t>(dataset.classes), 0);
  for (const int32_t label : dataset.labels) {
    if (label != dataset.ignore_label) ++counts[static_cast<size_t>(label)];
  }
  return counts;
}

void StoredSource::set_stored(const StoredSamples& stored) {
  stored_ = stored;
  description_.input_dtype = stored.input_dtype == DType::kI32 ? DType::kI32 : DType::kF32;
  description_.stored_dtype = stored.input_dtype;
  description_.scale = stored.scale;
  description_.divisor = stored.divisor;
  description_.ignore_label = stored.ignore_label;
  description_.weighted = stored.ignore_label.has_value();
}

void StoredSource::describe(const Dataset& dataset) {
  description_.source = dataset.source;
  description_.samples = dataset.size();
  description_.sample_shape = dataset.sample_shape;
  description_.classes = dataset.classes;
  description_.target_width = dataset.target_width;
  description_.columns = dataset.columns;
  description_.class_names = dataset.class_names;
  description_.class_counts = class_counts(dataset);
  description_.finite = true;
  set_stored(stored_samples(dataset));
}

TableSource::TableSource(Dataset dataset) : dataset_(std::move(dataset)) {
  check_dataset(dataset_);
  describe(dataset_);
  const auto largest = std::ranges::max_element(dataset_.inputs_i32);
  if (largest != dataset_.inputs_i32.end()) {
    description_.largest_index = *largest;
    description_.largest_index_row =
        (largest - dataset_.inputs_i32.begin()) / dataset_.sample_shape.elements() + 1;
  }
}

std::string TableSource::digest() const {
  std::vector<Digest> digests = block_digests(stored_.inputs);
  const std::vector<Digest> targets = block_digests(stored_.targets);
  digests.insert(digests.end(), targets.begin(), targets.end());
  return digest_of_digests(stored_.layout_text(), digests);
}

StandardizedSource::StandardizedSource(std::shared_ptr<const DataSource> base,
                                       const FeatureStatistics& statistics)
    : base_(std::move(base)), stored_(base_->description().fields()[DataDescription::kInputs]) {
  description_ = base_->description();
  description_.stored_dtype = DType::kF32;
  description_.scale = description_.divisor = 1.0f;
  const auto features = static_cast<size_t>(description_.sample_shape.elements());
  if (statistics.mean.size() != features || statistics.deviation.size() != features) {
    fail(ErrorKind::kData, fmt::format("{}: {} features do not fit statistics of {}", description_.source,
                                       features, statistics.mean.size()));
  }
  for (size_t i = 0; i < features; ++i) {
    mean_.push_back(static_cast<float>(statistics.mean[i]));
    // A feature that never changes is zero. So is one that changes by less than fp32 can tell from its mean.
    const double deviation = statistics.deviation[i], least = 1e-7 * std::abs(statistics.mean[i]);
    factor_.push_back(deviation > least && deviation > 1e-30 ? static_cast<float>(1.0 / deviation) : 0.0f);
  }
}

void StandardizedSource::gather(std::span<const int64_t> rows, const SampleBuffers& out) const {
  const size_t features = mean_.size();
  if (stored_.narrow()) {
    thread_local std::vector<std::byte> narrow;
    narrow.resize(rows.size() * features * size_of(stored_.dtype));
    base_->gather(rows, out.with_inputs(narrow.data(), stored_));
    widen_features(stored_, narrow.data(), static_cast<int64_t>(rows.size() * features),
                   out.at<float>(DataDescription::kInputs));
  } else {
    base_->gather(rows, out);
  }
  for (size_t i = 0; i < rows.size(); ++i) {
    float* row = out.at<float>(DataDescription::kInputs) + i * features;
    for (size_t j = 0; j < features; ++j) row[j] = (row[j] - mean_[j]) * factor_[j];
  }
}

ReorderedSource::ReorderedSource(std::shared_ptr<const DataSource> base, std::vector<size_t> order,
                                 ColumnNames columns)
    : base_(std::move(base)),
      order_(std::move(order)),
      element_bytes_(size_of(base_->description().fields()[DataDescription::kInputs].dtype)) {
  description_ = base_->description();
  description_.columns = std::move(columns);
}

void ReorderedSource::gather(std::span<const int64_t> rows, const SampleBuffers& out) const {
  base_->gather(rows, out);
  const auto reorder = [&]<class T>(T* values) {
    thread_local std::vector<T> row;
    row.resize(order_.size());
    for (size_t i = 0; i < rows.size(); ++i, values += order_.size()) {
      std::copy_n(values, order_.size(), row.begin());
      std::transform(order_.begin(), order_.end(), values, [&](size_t from) { return row[from]; });
    }
  };
  switch (element_bytes_) {
    case 1:
      return reorder(out.at<uint8_t>(DataDescription::kInputs));
    case 2:
      return reorder(out.at<uint16_t>(DataDescription::kInputs));
    default:
      return reorder(out.at<uint32_t>(DataDescription::kInputs));
  }
}

PartSource::PartSource(std::shared_ptr<const DataSource> base, const Split& split, Side side)
    : base_(std::move(base)), split_(split), side_(side) {
  description_ = base_->description();
  description_.samples = side == Side::kTrain ? split.train_size() : split.validation_size();
}

// In pieces, so that nothing is allocated.
template <class Use>
void PartSource::with_base_rows(std::span<const int64_t> rows, Use&& use) const {
  std::array<int64_t, 256> piece{};
  for (size_t done = 0; done < rows.size(); done += piece.size()) {
    const size_t count = std::min(piece.size(), rows.size() - done);
    for (size_t i = 0; i < count; ++i) piece[i] = base_row(rows[done + i]);
    use(std::span<const int64_t>(piece.data(), count), static_cast<int64_t>(done));
  }
}

void PartSource::gather(std::span<const int64_t> rows, const SampleBuffers& out) const {
  with_base_rows(rows,
                 [&](std::span<const int64_t> piece, int64_t done) { base_->gather(piece, out.from(done)); });
}

void PartSource::read_ahead(std::span<const int64_t> rows) const {
  with_base_rows(rows, [&](std::span<const int64_t> piece, int64_t) { base_->read_ahead(piece); });
}

}  // namespace lockstep
