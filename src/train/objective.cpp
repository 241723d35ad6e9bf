// Losses over micro-batches.
#include "train/objective.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "ops/elementwise.h"
#include "ops/loss.h"
#include "ops/movement.h"

namespace lockstep {

namespace {

// Host numbers into a tensor: the one that is there, or a new one.
template <class T>
void upload_values(const Shape& shape, const std::vector<T>& values, Backend& backend, Tensor& into) {
  if (into.defined()) {
    into.assign(values);
  } else {
    into = Tensor::from(shape, values, backend);
  }
}

}  // namespace

Objective::Objective(std::string loss, const DataShape& data, DType dtype, Backend& backend)
    : loss_(std::move(loss)), data_(data), dtype_(dtype), backend_(&backend) {
  const bool fits = loss_ == "auto" || (loss_ == "mean_squared_error" && data.classes == 0) ||
                    (loss_ == "logistic" && data.classes == 2) ||
                    (loss_ == "cross_entropy" && data.classes > 1);
  if (!fits) {
    fail(ErrorKind::kUsage, fmt::format("train.loss: {} does not fit data with {}", loss_,
                                        data.classes > 0 ? fmt::format("{} classes", data.classes)
                                                         : fmt::format("{} real targets", data.targets)));
  }
}

void Objective::upload(const MicroBatch& batch, DeviceBatch& into) const {
  into.size = batch.size;
  Shape shape{batch.size};
  for (int64_t extent : data_.sample.extents()) shape.push_back(extent);
  if (!batch.inputs_i32.empty()) upload_values(shape, batch.inputs_i32, *backend_, into.inputs);
  if (!batch.inputs_f32.empty()) upload_values(shape, batch.inputs_f32, *backend_, into.inputs);
  if (!batch.labels.empty()) upload_values({batch.size}, batch.labels, *backend_, into.labels);
  if (!batch.targets.empty()) {
    upload_values({batch.size, data_.targets}, batch.targets, *backend_, into.targets);
  }
  if (batch.valid == batch.size) return;
  std::vector<float> weights(static_cast<size_t>(batch.size), 0.0f);
  std::fill_n(weights.begin(), batch.valid, 1.0f);
  upload_values({batch.size}, weights, *backend_, into.weights);
}

DeviceBatch Objective::upload(const MicroBatch& batch) const {
  DeviceBatch result;
  upload(batch, result);
  return result;
}

Tensor Objective::inputs(const DeviceBatch& batch) const {
  return data_.input == DType::kI32 ? batch.inputs : batch.inputs.converted(dtype_);
}

// One logit a sample stands for two classes.
bool Objective::single_logit(const Tensor& output) const {
  return data_.classes == 2 && output.elements() == output.shape()[0] && loss_ != "cross_entropy";
}

Tensor Objective::losses(const Tensor& output, const DeviceBatch& batch) const {
  const Tensor weights = batch.weights.defined() ? batch.weights.converted(dtype_) : Tensor();
  const int64_t outputs = output.rank() == 0 ? 0 : output.shape().elements(1, output.rank());
  if (output.rank() == 0 || output.shape()[0] != batch.size ||
      !(outputs == data_.outputs() || (single_logit(output) && outputs == 1)) ||
      (loss_ == "logistic" && outputs != 1)) {
    fail(ErrorKind::kUsage, fmt::format("model: output {} does not fit {} samples of {} for loss {}",
                                        output.shape().to_string(), batch.size,
                                        data_.classes > 0 ? fmt::format("{} classes", data_.classes)
                                                          : fmt::format("{} real targets", data_.targets),
                                        loss_));
  }
  if (data_.classes == 0) {
    return mean_squared_error(output, batch.targets.converted(dtype_), weights);
  }
  if (single_logit(output)) {
    return logistic_loss(output, batch.labels.converted(dtype_), weights);
  }
  return cross_entropy(output.rank() == 2 ? output : reshape(output, {batch.size, outputs}), batch.labels,
                       weights);
}

int64_t Objective::correct(const Tensor& output, const MicroBatch& batch) const {
  const std::vector<double> logits = output.to_vector<double>();
  const bool single = single_logit(output);
  const int64_t columns = single ? 1 : data_.classes;
  int64_t count = 0;
  for (int64_t row = 0; row < batch.valid; ++row) {
    const double* first = logits.data() + row * columns;
    const int64_t predicted =
        single ? (*first > 0.0 ? 1 : 0) : std::max_element(first, first + columns) - first;
    if (predicted == batch.labels[static_cast<size_t>(row)]) ++count;
  }
  return count;
}

}  // namespace lockstep
