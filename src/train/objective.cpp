// Losses over micro-batches.
#include "lockstep/train/objective.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>

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
  const std::string of_data =
      data.classes > 0 ? fmt::format("{} classes", data.classes)
                       : fmt::format("{} real targets (train.loss = \"mean_squared_error\")", data.targets);
  const double smoothing = options.label_smoothing;
  if (!(smoothing >= 0.0 && smoothing < 1.0) || (smoothing > 0.0 && data.classes == 0)) {
    fail(ErrorKind::kUsage,
         fmt::format("train.label_smoothing: in [0, 1), of classes: got {} with {}", smoothing, of_data));
  }
  const std::vector<double>& weights = options.class_weights;
  if (weights.empty()) return;
  if (data.classes == 0)
    fail(ErrorKind::kUsage,
         fmt::format("train.class_weights: of classes: got [{}] with {}", fmt::join(weights, ", "), of_data));
  const bool weighs = std::ranges::all_of(weights, [](double w) { return w >= 0.0 && w < 1e30; }) &&
                      std::ranges::any_of(weights, [](double w) { return w > 0.0; });
  if (std::ssize(weights) != data.classes || !weighs) {
    fail(ErrorKind::kUsage,
         fmt::format("train.class_weights: one for each of {} classes, none negative and not all 0, got [{}]",
                     data.classes, fmt::join(weights, ", ")));
  }
  class_weights_ = Tensor::from({data.classes, 1}, weights, backend).converted(dtype);
}

Shape Objective::loss_shape(int64_t samples) const {
  Shape shape{samples};
  for (const int64_t extent : data_.positions.extents()) shape.push_back(extent);
  return shape;
}

Tensor Objective::weights(const Batch& batch) const {
  Tensor own = batch.weights();
  if (!class_weights_.defined()) return own;
  const Tensor& labels = batch.targets();
  const Tensor of_labels = embedding(class_weights_, labels.view({labels.elements()})).view(labels.shape());
  return own.defined() ? multiply(of_labels, own) : of_labels;
}

std::vector<double> Objective::target_weights(const MicroBatch& batch) const {
  const std::vector<float> own = batch.weights();
  std::vector<double> weights(own.begin(), own.end());
  weights.resize(static_cast<size_t>(loss_shape(batch.size).elements()), 1.0);
  if (options_.class_weights.empty()) return weights;
  const std::span<const int32_t> labels = batch.values<int32_t>(kTargetsName);
  for (size_t i = 0; i < weights.size(); ++i)
    weights[i] *= options_.class_weights[static_cast<size_t>(labels[i])];
  return weights;
}

double Objective::weight(const MicroBatch& batch) const {
  const std::vector<double> weights = target_weights(batch);
  return std::accumulate(weights.begin(), weights.end(), 0.0);
}

int64_t Objective::targets_of(const Tensor& output) const {
  return output.extent(0) * data_.positions.elements();
}

// One logit a target stands for two classes.
bool Objective::single_logit(const Tensor& output, Rows rows) const {
  return rows == Rows::kSamples && data_.classes == 2 && output.elements() == targets_of(output) &&
         loss_ != "cross_entropy";
}

Tensor Objective::losses(const Tensor& output, const Batch& batch, bool smoothed) const {
  const OpScope scope("loss");
  const Tensor& targets = batch.targets();
  const int64_t size = targets.extent(0), rows = loss_shape(size).elements();
  const int64_t numbers = output.rank() == 0 ? 0 : output.shape().elements(1, output.rank());
  if (output.rank() == 0 || output.shape()[0] != size ||
      !(numbers == data_.outputs() || single_logit(output)) ||
      (loss_ == "logistic" && output.elements() != rows)) {
    fail(ErrorKind::kUsage,
         fmt::format(
             "model: output {} does not fit {} samples of {}{} for loss {}", output.shape().to_string(), size,
             data_.classes > 0 ? fmt::format("{} classes", data_.classes)
                               : fmt::format("{} real targets", data_.targets),
             data_.positions.rank() == 0 ? "" : " at positions " + data_.positions.to_string(), loss_));
  }
  // A row a target.
  const auto of_rows = [&](const Tensor& x) {
    return x.rank() >= 1 && x.extent(0) == rows ? x : reshape(x, {rows, -1});
  };
  Tensor weights = this->weights(batch);
  if (weights.defined()) weights = weights.view({rows});
  const double smoothing = smoothed ? options_.label_smoothing : 0.0;
  Tensor losses;
  if (data_.classes == 0) {
    losses = mean_squared_error(of_rows(output), of_rows(targets), weights);
  } else if (single_logit(output)) {
    Tensor labels = targets.converted(dtype_).view({rows});
    if (smoothing > 0.0) labels = add_scalar(scale(labels, 1.0 - smoothing), 0.5 * smoothing);
    losses = logistic_loss(of_rows(output), labels, weights);
  } else {
    losses = class_losses(output, targets.view({rows}), weights, smoothing);
  }
  return data_.positions.rank() == 0 ? losses : reshape(losses, loss_shape(size));
}

Tensor Objective::class_losses(const Tensor& output, const Tensor& labels, const Tensor& weights,
                               double smoothing) const {
  const Shape rows{labels.elements(), data_.classes};
  const Tensor logits = output.shape() == rows ? output : reshape(output, rows);
  Tensor plain = cross_entropy(logits, labels, weights);
  if (smoothing == 0.0) return plain;
  // -sum_k q_k log p_k with q = (1 - s) onehot + s / K:  (1 - s) plain + s (log sum exp z - mean z)
  const Tensor wide = widened(logits);
  Tensor uniform = subtract(log_sum_exp(wide), mean(wide, {-1}));
  if (weights.defined()) uniform = multiply(uniform, weights);
  return add(scale(plain, 1.0 - smoothing), scale(uniform, smoothing));
}

std::optional<ClassHead> Objective::class_head(const Module& model, const Batch& batch,
                                               ForwardContext& context) const {
  if (data_.classes < 2 || loss_ == "logistic") return std::nullopt;
  context.batch = &batch.tensors;
  std::optional<ClassHead> head = model.class_head(batch.inputs(), context);
  context.batch = nullptr;
  return head;
}

std::string Objective::loss_of(const Module& model, const Batch& batch, ForwardContext& context) const {
  if (loss_ != "auto") return loss_;
  if (data_.classes == 0) return "mean_squared_error";
  // Only the output tells: a model may give one logit for two classes, or two.
  const bool single = data_.classes == 2 && !class_head(model, batch, context) &&
                      single_logit(forward(model, batch, context));
  return single ? "logistic" : "cross_entropy";
}

Tensor Objective::losses(const ClassHead& head, const Batch& batch, const Tensor& cotangent,
                         const LogitsSink& sink) const {
  const OpScope scope("loss");
  const int64_t rows = head.x.shape()[0], size = batch.targets().extent(0);
  if (rows != loss_shape(size).elements() || head.table.shape()[0] != data_.classes) {
    fail(ErrorKind::kUsage,
         fmt::format("model: a head {} at {} rows does not fit {} targets of {} classes",
                     head.table.shape().to_string(), rows, loss_shape(size).elements(), data_.classes));
  }
  Tensor weights = this->weights(batch);
  if (weights.defined()) weights = weights.view({rows});
  const Tensor labels = batch.targets().view({rows});
  const Tensor losses =
      sink ? head_losses(head, labels, weights, sink)
           : head_losses(head, labels, weights, cotangent.defined() ? cotangent.view({rows}) : Tensor());
  return data_.positions.rank() == 0 ? losses : reshape(losses, loss_shape(size));
}

Tensor Objective::losses(const Module& model, const Batch& batch, ForwardContext& context,
                         const Tensor& cotangent) const {
  const std::optional<ClassHead> head = class_head(model, batch, context);
  if (!head) return losses(forward(model, batch, context), batch);
  if (options_.label_smoothing > 0.0) {
    fail(ErrorKind::kUsage,
         fmt::format("train.label_smoothing: not of a model whose loss does without logits "
                     "(model.type = \"gpt\"), got {}",
                     options_.label_smoothing));
  }
  return losses(*head, batch, cotangent);
}

Tensor Objective::plain_losses(const Module& model, const Batch& batch, ForwardContext& context) const {
  std::optional<ClassHead> head = class_head(model, batch, context);
  if (!head) return plain_losses(forward(model, batch, context), batch);
  head->z_loss = 0.0;
  return losses(*head, batch, {});
}

Tensor Objective::evaluated_losses(const Module& model, const Batch& batch, const MicroBatch& samples,
                                   ForwardContext& context, Counts& counts) const {
  std::optional<ClassHead> head = class_head(model, batch, context);
  if (!head) {
    const Tensor output = forward(model, batch, context);
    Tensor losses = plain_losses(output, batch);
    if (classification()) count(output, samples, counts);
    return losses;
  }
  head->z_loss = 0.0;
  int64_t first = 0;
  return losses(*head, batch, {}, [&](const Tensor& logits) {
    count(logits, samples, counts, Rows::kTargets, first);
    first += logits.shape()[0];
  });
}

Tensor Objective::sums(const Tensor& losses, const Batch& batch) const {
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

std::vector<int32_t> Objective::predicted_classes(const Tensor& output, int64_t count, Rows rows) const {
  return classes_of(output.to_vector<double>(), data_.classes, single_logit(output, rows), count);
}

void Objective::count(const Tensor& output, const MicroBatch& batch, Counts& counts, Rows rows,
                      int64_t first_target) const {
  const std::vector<double> logits = output.to_vector<double>();
  const bool single = single_logit(output, rows);
  const int64_t targets = output.elements() / (single ? 1 : data_.classes);
  const std::vector<int32_t> predicted = classes_of(logits, data_.classes, single, targets);
  const std::vector<float> weights = batch.weights();
  const std::span<const int32_t> labels = batch.values<int32_t>(kTargetsName);
  for (size_t row = 0; row < predicted.size(); ++row) {
    const size_t target = static_cast<size_t>(first_target) + row;
    if (!weights.empty() && weights[target] == 0.0f) continue;
    ++counts.counted;
    const int32_t label = labels[target];
    if (predicted[row] == label) ++counts.correct;
    if (predicted[row] < 0) continue;
    if (!counts.confusion.empty())
      ++counts.confusion[static_cast<size_t>(label * data_.classes + predicted[row])];
    if (data_.classes <= kTop) continue;
    const double* first = logits.data() + row * static_cast<size_t>(data_.classes);
    // Classes that come before the label's; the first of equal logits wins.
    int64_t before = 0;
    for (int64_t k = 0; k < data_.classes; ++k) {
      before += first[k] > first[label] || (first[k] == first[label] && k < label) ? 1 : 0;
    }
    if (before < kTop) ++counts.in_top;
  }
}

}  // namespace lockstep
