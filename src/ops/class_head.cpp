// Losses of a head, a few rows of logits at a time.
#include "lockstep/ops/class_head.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <utility>
#include <vector>

#include "lockstep/autodiff/autocast.h"
#include "lockstep/autodiff/node.h"
#include "lockstep/core/error.h"
#include "lockstep/ops/cast.h"
#include "lockstep/ops/elementwise.h"
#include "lockstep/ops/embedding.h"
#include "lockstep/ops/loss.h"
#include "lockstep/ops/matmul.h"
#include "lockstep/ops/movement.h"

namespace lockstep {

namespace {

Tensor capped(const Tensor& logits, double cap) {
  return cap == 0.0 ? logits : scale(tanh(scale(logits, 1.0 / cap)), cap);
}

// c = op(a) op(b), in the type `compute`, and given as c is; nothing is recorded.
void multiply_into(const Operand& a, bool transpose_a, const Operand& b, bool transpose_b, DType compute,
                   int64_t k, Tensor& c) {
  MatmulArguments arguments;
  arguments.dtype = compute;
  arguments.output = c.dtype();
  arguments.m = c.shape()[0];
  arguments.n = c.shape()[1];
  arguments.k = k;
  arguments.transpose_a = transpose_a;
  arguments.transpose_b = transpose_b;
  arguments.a = a.data();
  arguments.b = b.data();
  arguments.c = c.mutable_data();
  c.backend().matmul(arguments);
}

Tensor rows_of(const Tensor& x, int64_t begin, int64_t count) {
  if (!x.defined()) return x;
  Shape shape = x.shape();
  shape[0] = count;
  return x.view(shape, begin * (x.elements() / x.shape()[0]));
}

// Of some rows, without history.
struct Chunk {
  Tensor losses;         // (n), times the weights, without the z-loss
  Tensor probabilities;  // (n,V)
  Tensor logits;         // (n,V), capped, where they are
  Tensor log_sums;       // (n,1), where there is a z-loss
};

// Inputs: x, table, labels, weights (may be undefined); without history the probabilities, logits and log
// sums of the chunk of the last rows (the latter two may be undefined).
class HeadLossNode final : public FusedNode {
 public:
  HeadLossNode(DType compute, double soft_cap, double z_loss)
      : compute_(compute), soft_cap_(soft_cap), z_loss_(z_loss) {}
  const char* name() const override { return "head_losses"; }
  Saved fused_saved() const override {
    const bool again = inputs[0].shape()[0] > kHeadRows;
    return Saved::input(0, again || differentiable(1)) | Saved::input(1, again || differentiable(0)) |
           Saved::input(2) | Saved::input(3) | Saved::input(4) | Saved::input(5) | Saved::input(6);
  }

  Tensor reference(std::span<const Tensor> in) const override {
    const Tensor logits = widened(capped(matmul(in[0], in[1], false, true), soft_cap_));
    const Tensor losses = cross_entropy(logits, in[2], in[3]);
    if (z_loss_ == 0.0) return losses;
    const Tensor squares = scale(square(log_sum_exp(logits)), z_loss_);
    return add(losses, in[3].defined() ? multiply(squares, in[3]) : squares);
  }

  Chunk forward(const Tensor& x, const Operand& table, const Tensor& labels, const Tensor& weights,
                int64_t classes) const {
    const int64_t rows = x.shape()[0];
    Chunk chunk;
    chunk.logits = Tensor::empty({rows, classes}, accumulation_type(compute_), x.backend());
    multiply_into(Operand(x, compute_), false, table, true, compute_, x.shape()[1], chunk.logits);
    chunk.logits = capped(chunk.logits, soft_cap_);
    chunk.losses = Tensor::empty({rows}, chunk.logits.dtype(), x.backend());
    chunk.probabilities = chunk.logits.empty_like();
    x.backend().cross_entropy(chunk.logits.dtype(), rows, classes, chunk.logits.data(),
                              labels.data_as<int32_t>(), weights.defined() ? weights.data() : nullptr,
                              chunk.losses.mutable_data(), chunk.probabilities.mutable_data());
    if (z_loss_ > 0.0) chunk.log_sums = log_sum_exp(chunk.logits, true);
    if (soft_cap_ == 0.0) chunk.logits = {};
    return chunk;
  }

  // (N). Leaves the last rows' chunk, with which the backward sweep begins.
  Tensor losses(std::span<const Tensor> in, Chunk& last) const {
    const RecordingScope off(false);
    const Operand table(in[1], compute_);
    const int64_t count = in[0].shape()[0];
    std::vector<Tensor> parts;
    for (int64_t begin = 0; begin < count; begin += kHeadRows) {
      const int64_t rows = std::min(kHeadRows, count - begin);
      const Tensor weights = rows_of(in[3], begin, rows);
      last = {};
      last =
          forward(rows_of(in[0], begin, rows), table, rows_of(in[2], begin, rows), weights, in[1].shape()[0]);
      Tensor losses = last.losses;
      if (z_loss_ > 0.0) {
        const Tensor squares = scale(square(last.log_sums.view({rows})), z_loss_);
        losses = add(losses, weights.defined() ? multiply(squares, weights) : squares);
      }
      parts.push_back(std::move(losses));
    }
    return parts.size() == 1 ? parts.front() : concatenate(parts, 0);
  }

  void fused_vjp(const Tensor&, const Tensor& cotangent, InputGradients& result) const override {
    const Tensor &all = inputs[0], &labels = inputs[2], &all_weights = inputs[3];
    std::optional<Operand> table;
    if (result.wanted(0) || all.shape()[0] > kHeadRows) table.emplace(inputs[1], compute_);
    const Shape& table_shape = inputs[1].shape();
    const int64_t count = all.shape()[0], classes = table_shape[0], features = table_shape[1];
    const DType wide = accumulation_type(compute_);
    Tensor dtable, dtable_part;
    std::vector<Tensor> dx(static_cast<size_t>((count + kHeadRows - 1) / kHeadRows));
    Chunk chunk{{}, inputs[4], inputs[5], inputs[6]};
    // From the last rows, whose chunk is there, to the first.
    for (size_t part = dx.size(); part-- > 0;) {
      const bool kept = part + 1 == dx.size();
      const int64_t begin = static_cast<int64_t>(part) * kHeadRows, rows = std::min(kHeadRows, count - begin);
      const Tensor weights = rows_of(all_weights, begin, rows);
      const Tensor cotangents = rows_of(cotangent, begin, rows), own = rows_of(labels, begin, rows);
      if (!kept) chunk = forward(rows_of(all, begin, rows), *table, own, weights, classes);
      const Tensor dlogits = logit_gradients(std::exchange(chunk, {}), own, weights, cotangents);
      const Operand given(dlogits, compute_);
      if (result.wanted(0)) {
        Tensor gradient = Tensor::empty({rows, features}, wide, all.backend());
        multiply_into(given, false, *table, false, compute_, classes, gradient);
        dx[part] = gradient.converted(all.dtype());
      }
      if (!result.wanted(1)) continue;
      Tensor& to = kept ? dtable : dtable_part;
      if (!to.defined()) to = Tensor::empty(table_shape, wide, all.backend());
      const Tensor x = rows_of(all, begin, rows);
      multiply_into(given, true, Operand(x, compute_), false, compute_, rows, to);
      if (!kept) {
        all.backend().accumulate(wide, dtable.elements(), dtable_part.data(), dtable.mutable_data());
      }
    }
    if (result.wanted(0)) result[0] = dx.size() == 1 ? dx.front() : concatenate(dx, 0);
    if (result.wanted(1)) result[1] = dtable.converted(inputs[1].dtype());
  }

 private:
  // Of the losses, z-loss included, at the logits before the cap.
  Tensor logit_gradients(const Chunk& chunk, const Tensor& labels, const Tensor& weights,
                         const Tensor& cotangents) const {
    const int64_t rows = chunk.probabilities.shape()[0], classes = chunk.probabilities.shape()[1];
    Tensor gradient = chunk.probabilities.empty_like();
    gradient.backend().cross_entropy_backward(
        gradient.dtype(), rows, classes, chunk.probabilities.data(), labels.data_as<int32_t>(),
        weights.defined() ? weights.data() : nullptr, cotangents.data(), gradient.mutable_data());
    if (z_loss_ > 0.0) {
      Tensor factor = scale(multiply(chunk.log_sums, cotangents.view({rows, 1})), 2.0 * z_loss_);
      if (weights.defined()) factor = multiply(factor, weights.view({rows, 1}));
      gradient = add(gradient, multiply(chunk.probabilities, factor));
    }
    if (soft_cap_ == 0.0) return gradient;
    const Tensor slope = add_scalar(negate(square(scale(chunk.logits, 1.0 / soft_cap_))), 1.0);
    return multiply(gradient, slope);
  }

  DType compute_;
  double soft_cap_, z_loss_;
};

}  // namespace

Tensor head_logits(const ClassHead& head) {
  return capped(linear(head.x, head.table, {}, Activation::kNone, true), head.soft_cap);
}

Tensor head_losses(const ClassHead& head, const Tensor& labels, const Tensor& weights) {
  const DType compute = autocast_type(OpFamily::kProduct, head.x.dtype(), head.table.dtype(), "head_losses");
  const bool fits = head.x.rank() == 2 && head.table.rank() == 2 &&
                    head.x.shape()[1] == head.table.shape()[1] && head.x.elements() > 0 &&
                    head.table.elements() > 0 && labels.dtype() == DType::kI32 &&
                    labels.shape() == Shape{head.x.shape()[0]} &&
                    (!weights.defined() ||
                     (weights.shape() == labels.shape() && weights.dtype() == accumulation_type(compute)));
  if (!fits) {
    fail(ErrorKind::kInternal,
         fmt::format("head_losses: x {} with table {}, labels {} {}, weights {}", head.x.shape().to_string(),
                     head.table.shape().to_string(), labels.shape().to_string(), name_of(labels.dtype()),
                     weights.defined() ? weights.shape().to_string() : "none"));
  }
  require_indices(labels, head.table.shape()[0], "head_losses: label");
  const std::array<Tensor, 4> in = {head.x, head.table, labels, weights};
  Chunk last;
  Tensor losses = HeadLossNode(compute, head.soft_cap, head.z_loss).losses(in, last);
  return record<HeadLossNode>(
      std::move(losses), {&in[0], &in[1], &in[2], &in[3], &last.probabilities, &last.logits, &last.log_sums},
      compute, head.soft_cap, head.z_loss);
}

}  // namespace lockstep
