// Losses over micro-batches.
#include "lockstep/train/objective.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "lockstep/core/error.h"
#include "lockstep/core/op_scope.h"
#include "lockstep/ops/cast.h"
#include "lockstep/ops/elementwise.h"
#include "lockstep/ops/embedding.h"
#include "lockstep/ops/loss.h"
#include "lockstep/ops/movement.h"
#include "lockstep/ops/reduction.h"

namespace lockstep {

namespace {

// Host floats as a tensor of the dtype that the model computes in.
Tensor device_tensor(const Shape& shape, const std::vector<float>& values, DType dtype, Backend& backend) {
  const Tensor single = Tensor::from(shape, values, backend);
  if (dtype == DType::kF32) return single;
  Tensor result = Tensor::empty(shape, dtype, backend);
  backend.cast(DType::kF32, dtype, result.elements(), single.data(), result.mutable_data());
  return result;
}

// 1 for samples that count, 0 for padding; undefined when all count.
Tensor sample_weights(const MicroBatch& batch, DType dtype, Backend& backend) {
  if (batch.valid == batch.size) return {};
  std::vector<float> weights(static_cast<size_t>(batch.size), 0.0f);
  std::fill_n(weights.begin(), batch.valid, 1.0f);
  return device_tensor({batch.size}, weights, dtype, backend);
}

// Of the first `count` rows of logits; `single`: one a row, of class 1 against class 0.
std::vector<int32_t> classes_of(const std::vector<double>& logits, int64_t outputs, bool single,
                                int64_t count) {
  const int64_t columns = single ? 1 : outputs;
  std::vector<int32_t> classes;
  for (int64_t row = 0; row < count; ++row) {
    const double* first = logits.data() + row * columns;
    // What is not a number predicts nothing; every comparison with it would make it class 0.
    const bool any_nan = std::any_of(first, first + columns, [](double logit) { return std::isnan(logit); });
    const auto largest = single ? (*first > 0.0 ? 1 : 0) : std::max_element(first, first + columns) - first;
    classes.push_back(any_nan ? -1 : static_cast<int32_t>(largest));
  }
  return classes;
}

}  // namespace

Objective::Objective(std::string loss, const DataShape& data, DType dtype, Backend& backend,
                     const ObjectiveOptions& options)
    : loss_(std::move(loss)), data_(data), dtype_(dtype), backend_(&backend), options_(options) {
  const bool fits = loss_ == "auto" || (loss_ == "mean_squared_error" && data.classes == 0) ||
                    (loss_ == "logistic" && data.classes == 2) ||
                    (loss_ == "cross_entropy" && data.classes > 1);
  if (!fits) {
    fail(ErrorKind::kUsage, fmt::format("train.loss: {} does not fit data with {}", loss_,
                                        data.classes > 0 ? fmt::format("{} classes", data.classes)
                                                         : fmt::format("{} real targets", data.targets)));
  }
  const double smoothing = options.label_smoothing;
  if (!(smoothing >= 0.0 && smoothing < 1.0) || (smoothing > 0.0 && data.classes == 0)) {
    fail(ErrorKind::kUsage,
         fmt::format("train.label_smoothing: in [0, 1), of classes: got {} with {}", smoothing,
                     data.classes > 0 ? fmt::format("{} classes", data.classes)
                                      : fmt::format("{} real targets", data.targets)));
  }
  const std::vector<double>& weights = options.class_weights;
  if (weights.empty()) return;
  const bool weighs = std::ranges::all_of(weights, [](double w) { return w >= 0.0 && w < 1e30; }) &&
                      std::ranges::any_of(weights, [](double w) { return w > 0.0; });
  if (std::ssize(weights) != data.classes || !weighs) {
    fail(ErrorKind::kUsage,
         fmt::format("train.class_weights: one for each of {} classes, none negative and not all 0, got [{}]",
                     data.classes, fmt::join(weights, ", ")));
  }
  class_weights_ = Tensor::from({data.classes, 1}, weights, backend).converted(dtype);
}

Tensor Objective::weights(const DeviceBatch& batch) const {
  if (!class_weights_.defined()) return batch.weights;
  const Tensor of_labels = embedding(class_weights_, batch.targets).view({batch.targets.extent(0)});
  return batch.weights.defined() ? multiply(of_labels, batch.weights) : of_labels;
}

double Objective::weight(const MicroBatch& batch) const {
  if (options_.class_weights.empty()) return static_cast<double>(batch.valid);
  double sum = 0.0;
  for (int64_t i = 0; i < batch.valid; ++i) {
    sum += options_.class_weights[static_cast<size_t>(batch.labels[static_cast<size_t>(i)])];
  }
  return sum;
}

Tensor Objective::inputs(const MicroBatch& batch) const {
  Shape shape{batch.size};
  for (int64_t extent : data_.sample.extents()) shape.push_back(extent);
  if (data_.input == DType::kI32) return Tensor::from(shape, batch.inputs_i32, *backend_);
  return device_tensor(shape, batch.inputs_f32, dtype_, *backend_);
}

// One logit a sample stands for two classes.
bool Objective::single_logit(const Tensor& output) const {
  return data_.classes == 2 && output.elements() == output.shape()[0] && loss_ != "cross_entropy";
}

Tensor Objective::losses(const Tensor& output, const MicroBatch& batch) const {
  DeviceBatch samples;
  samples.number = batch.number;
  samples.valid = batch.valid;
  samples.targets = data_.classes > 0
                        ? Tensor::from(Shape{batch.size}, batch.labels, *backend_)
                        : device_tensor({batch.size, data_.targets}, batch.targets, dtype_, *backend_);
  samples.weights = sample_weights(batch, dtype_, *backend_);
  return losses(output, samples, false);
}

Tensor Objective::losses(const Tensor& output, const DeviceBatch& batch, bool smoothed) const {
  const OpScope scope("loss");
  const int64_t size = batch.targets.extent(0);
  const int64_t outputs = output.rank() == 0 ? 0 : output.shape().elements(1, output.rank());
  if (output.rank() == 0 || output.shape()[0] != size ||
      !(outputs == data_.outputs() || (single_logit(output) && outputs == 1)) ||
      (loss_ == "logistic" && outputs != 1)) {
    fail(ErrorKind::kUsage, fmt::format("model: output {} does not fit {} samples of {} for loss {}",
                                        output.shape().to_string(), size,
                                        data_.classes > 0 ? fmt::format("{} classes", data_.classes)
                                                          : fmt::format("{} real targets", data_.targets),
                                        loss_));
  }
  const Tensor weights = this->weights(batch);
  const double smoothing = smoothed ? options_.label_smoothing : 0.0;
  if (data_.classes == 0) return mean_squared_error(output, batch.targets, weights);
  if (single_logit(output)) {
    Tensor targets = batch.targets.converted(dtype_);
    if (smoothing > 0.0) targets = add_scalar(scale(targets, 1.0 - smoothing), 0.5 * smoothing);
    return logistic_loss(output, targets, weights);
  }
  const Tensor logits = output.rank() == 2 ? output : reshape(output, {size, outputs});
  const Tensor plain = cross_entropy(logits, batch.targets, weights);
  if (smoothing == 0.0) return plain;
  // -sum_k q_k log p_k with q = (1 - s) onehot + s / K:  (1 - s) plain + s (log sum exp z - mean z)
  const Tensor wide = widened(logits);
  Tensor uniform = subtract(log_sum_exp(wide), mean(wide, {-1}));
  if (weights.defined()) uniform = multiply(uniform, weights);
  return add(scale(plain, 1.0 - smoothing), scale(uniform, smoothing));
}

Tensor Objective::sums(const Tensor& losses, const DeviceBatch& batch) const {
  Tensor result = Tensor::empty({kSums}, DType::kF64, *backend_);
  double* const at = result.mutable_data_as<double>();
  const auto add_up = [&](const Tensor& values, double* to) {
    const Tensor wide = values.converted(DType::kF64);
    backend_->reduce(ReduceOp::kSum, DType::kF64, 1, wide.elements(), 1, wide.data(), to);
  };
  add_up(losses, at);
  if (const Tensor weights = this->weights(batch); weights.defined()) {
    add_up(weights, at + 1);
  } else {
    backend_->fill(DType::kF64, 1, at + 1, static_cast<double>(losses.elements()));
  }
  return result;
}

std::vector<int32_t> Objective::predicted_classes(const Tensor& output, int64_t count) const {
  return classes_of(output.to_vector<double>(), data_.classes, single_logit(output), count);
}

void Objective::count(const Tensor& output, const MicroBatch& batch, Counts& counts) const {
  const std::vector<double> logits = output.to_vector<double>();
  const std::vector<int32_t> predicted = classes_of(logits, data_.classes, single_logit(output), batch.valid);
  for (size_t row = 0; row < predicted.size(); ++row) {
    const int32_t label = batch.labels[row];
    if (predicted[row] == label) ++counts.correct;
    if (predicted[row] >= 0 && !counts.confusion.empty())
      ++counts.confusion[static_cast<size_t>(label * data_.classes + predicted[row])];
  }
  if (data_.classes <= kTop) return;
  for (size_t row = 0; row < predicted.size(); ++row) {
    if (predicted[row] < 0) continue;
    const double* first = logits.data() + row * static_cast<size_t>(data_.classes);
    const auto label = static_cast<int64_t>(batch.labels[row]);
    // Classes that come before the label's; the first of equal logits wins.
    int64_t before = 0;
    for (int64_t k = 0; k < data_.classes; ++k) {
      before += first[k] > first[label] || (first[k] == first[label] && k < label) ? 1 : 0;
    }
    if (before < kTop) ++counts.in_top;
  }
}

}  // namespace lockstep
