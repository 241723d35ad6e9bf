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

// The gradients of the losses while the chunks are gone through, from that of the last rows to the first.
struct Gradients {
  std::vector<Tensor> dx;  // of each chunk
  Tensor dtable, room;     // the sum so far, and for that of a chunk; accumulation type
};

int64_t chunks_of(int64_t rows) {
  return (rows + kHeadRows - 1) / kHeadRows;
}

// Inputs: x, table, labels, weights (may be undefined). Then, without history, either the probabilities,
// logits and log sums of the chunk of the last rows (the latter two may be undefined), or the cotangents that
// were promised, and the gradients of x and table at them (undefined where nobody asks).
class HeadLossNode final : public FusedNode {
 public:
  HeadLossNode(DType compute, double soft_cap, double z_loss, bool prepared)
      : compute_(compute), soft_cap_(soft_cap), z_loss_(z_loss), prepared_(prepared) {}
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

  // (N), from the last rows to the first or the other way round. visit(chunk number, chunk, table) may take
  // the chunk.
  template <class Visit>
  Tensor losses(std::span<const Tensor> in, bool from_last, const LogitsSink& sink,
                const Visit& visit) const {
    const RecordingScope off(false);
    const Operand table(in[1], compute_);
    const int64_t count = chunks_of(in[0].shape()[0]);
    std::vector<Tensor> parts(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) {
      const int64_t part = from_last ? count - 1 - i : i;
      Chunk chunk = forward(in, table, part, sink);
      Tensor losses = chunk.losses;
      if (z_loss_ > 0.0) {
        const Tensor squares = scale(square(chunk.log_sums.view(losses.shape())), z_loss_);
        const Tensor weights = chunk_of(in[3], part);
        losses = add(losses, weights.defined() ? multiply(squares, weights) : squares);
      }
      parts[static_cast<size_t>(part)] = std::move(losses);
      visit(part, chunk, table);
    }
    return parts.size() == 1 ? parts.front() : concatenate(parts, 0);
  }

  // Adds what a chunk contributes at the cotangents of all rows. `again`: it was made for this alone.
  // The table is read for that of x alone.
  void add_gradients(std::span<const Tensor> in, const Operand* table, int64_t part, Chunk chunk, bool again,
                     const Tensor& cotangents, bool of_x, bool of_table, Gradients& gradients) const {
    const Tensor x = chunk_of(in[0], part);
    const DType wide = accumulation_type(compute_);
    const Tensor dlogits = logit_gradients(std::move(chunk), again, chunk_of(in[2], part),
                                           chunk_of(in[3], part), chunk_of(cotangents, part));
    const Operand given(dlogits, compute_);
    gradients.dx.resize(static_cast<size_t>(chunks_of(in[0].shape()[0])));
    if (of_x) {
      Tensor dx = Tensor::empty(x.shape(), wide, x.backend());
      multiply_into(given, false, *table, false, compute_, in[1].shape()[0], dx);
      gradients.dx[static_cast<size_t>(part)] = dx.converted(x.dtype());
    }
    if (!of_table) return;
    const bool first = !gradients.dtable.defined();
    Tensor& to = first ? gradients.dtable : gradients.room;
    if (!to.defined()) to = Tensor::empty(in[1].shape(), wide, x.backend());
    multiply_into(given, true, Operand(x, compute_), false, compute_, x.shape()[0], to);
    if (!first) x.backend().accumulate(wide, to.elements(), to.data(), gradients.dtable.mutable_data());
  }

  void fused_vjp(const Tensor&, const Tensor& cotangent, InputGradients& result) const override {
    if (prepared_ && cotangent.data() == inputs[4].data()) {
      if (result.wanted(0)) result[0] = inputs[5];
      if (result.wanted(1)) result[1] = inputs[6];
      return;
    }
    const RecordingScope off(false);
    const int64_t count = chunks_of(inputs[0].shape()[0]);
    const bool kept = !prepared_;  // the last chunk, with which the sweep begins
    std::optional<Operand> table;
    if (result.wanted(0) || !kept || count > 1) table.emplace(inputs[1], compute_);
    Gradients gradients;
    for (int64_t part = count; part-- > 0;) {
      const bool again = !kept || part + 1 < count;
      add_gradients(inputs, table ? &*table : nullptr, part,
                    again ? forward(inputs, *table, part) : Chunk{{}, inputs[4], inputs[5], inputs[6]}, again,
                    cotangent, result.wanted(0), result.wanted(1), gradients);
    }
    if (result.wanted(0)) result[0] = of_x(gradients);
    if (result.wanted(1)) result[1] = gradients.dtable.converted(inputs[1].dtype());
  }

  static Tensor of_x(const Gradients& gradients) {
    const RecordingScope off(false);
    return gradients.dx.size() == 1 ? gradients.dx.front() : concatenate(gradients.dx, 0);
  }

 private:
  static Tensor chunk_of(const Tensor& x, int64_t part) {
    if (!x.defined()) return x;
    const int64_t begin = part * kHeadRows;
    return rows_of(x, begin, std::min(kHeadRows, x.shape()[0] - begin));
  }

  Chunk forward(std::span<const Tensor> in, const Operand& table, int64_t part,
                const LogitsSink& sink = {}) const {
    const Tensor x = chunk_of(in[0], part), labels = chunk_of(in[2], part), weights = chunk_of(in[3], part);
    const int64_t rows = x.shape()[0], classes = in[1].shape()[0];
    Chunk chunk;
    chunk.logits = Tensor::empty({rows, classes}, accumulation_type(compute_), x.backend());
    multiply_into(Operand(x, compute_), false, table, true, compute_, x.shape()[1], chunk.logits);
    chunk.logits = capped(chunk.logits, soft_cap_);
    if (sink) sink(chunk.logits);
    chunk.losses = Tensor::empty({rows}, chunk.logits.dtype(), x.backend());
    chunk.probabilities = chunk.logits.empty_like();
    x.backend().cross_entropy(chunk.logits.dtype(), rows, classes, chunk.logits.data(),
                              labels.data_as<int32_t>(), weights.defined() ? weights.data() : nullptr,
                              chunk.losses.mutable_data(), chunk.probabilities.mutable_data());
    if (z_loss_ > 0.0) chunk.log_sums = log_sum_exp(chunk.logits, true);
    if (soft_cap_ == 0.0) chunk.logits = {};
    return chunk;
  }

  // Of the losses, z-loss included, at the logits before the cap. `again`: the chunk was made for this alone.
  Tensor logit_gradients(const Chunk& chunk, bool again, const Tensor& labels, const Tensor& weights,
                         const Tensor& cotangents) const {
    const int64_t rows = chunk.probabilities.shape()[0], classes = chunk.probabilities.shape()[1];
    // The z-loss reads the probabilities once more, and others may hold those of the last rows.
    Tensor gradient = again && z_loss_ == 0.0 ? chunk.probabilities : chunk.probabilities.empty_like();
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
  bool prepared_;
};

}  // namespace

Tensor head_logits(const ClassHead& head) {
  return capped(linear(head.x, head.table, {}, Activation::kNone, true), head.soft_cap);
}

namespace {

// The type of the head's product.
DType checked_type(const ClassHead& head, const Tensor& labels, const Tensor& weights) {
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
  return compute;
}

}  // namespace

Tensor head_losses(const ClassHead& head, const Tensor& labels, const Tensor& weights,
                   const Tensor& cotangent) {
  const DType compute = checked_type(head, labels, weights);
  const std::array<Tensor, 4> in = {head.x, head.table, labels, weights};
  const bool of_x = head.x.node() != nullptr, of_table = head.table.node() != nullptr;
  const bool prepares =
      cotangent.defined() && recording() && (of_x || of_table) && head.x.shape()[0] > kHeadRows;
  const HeadLossNode node(compute, head.soft_cap, head.z_loss, prepares);
  std::array<Tensor, 3> kept;
  Tensor losses;
  if (prepares) {
    Gradients gradients;
    losses = node.losses(in, true, {}, [&](int64_t part, Chunk& chunk, const Operand& table) {
      node.add_gradients(in, &table, part, std::exchange(chunk, {}), true, cotangent, of_x, of_table,
                         gradients);
    });
    kept[0] = cotangent;
    if (of_x) kept[1] = HeadLossNode::of_x(gradients);
    if (of_table) kept[2] = gradients.dtable.converted(head.table.dtype());
  } else {
    losses = node.losses(in, false, {}, [&](int64_t, Chunk& chunk, const Operand&) {
      kept = {std::move(chunk.probabilities), std::move(chunk.logits), std::move(chunk.log_sums)};
    });
  }
  return record<HeadLossNode>(std::move(losses),
                              {&in[0], &in[1], &in[2], &in[3], &kept[0], &kept[1], &kept[2]}, compute,
                              head.soft_cap, head.z_loss, prepares);
}

Tensor head_losses(const ClassHead& head, const Tensor& labels, const Tensor& weights,
                   const LogitsSink& sink) {
  const DType compute = checked_type(head, labels, weights);
  const std::array<Tensor, 4> in = {head.x, head.table, labels, weights};
  return HeadLossNode(compute, head.soft_cap, head.z_loss, false)
      .losses(in, false, sink, [](int64_t, Chunk&, const Operand&) {});
}

}  // namespace lockstep
