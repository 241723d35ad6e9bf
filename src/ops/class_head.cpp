// Losses of a head, a few rows of logits at a time.
#include "lockstep/ops/class_head.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <utility>
#include <vector>

#include "lockstep/autodiff/autocast.h"
#include "lockstep/autodiff/gradient_room.h"
#include "lockstep/autodiff/node.h"
#include "lockstep/core/error.h"
#include "lockstep/ops/cast.h"
#include "lockstep/ops/elementwise.h"
#include "lockstep/ops/embedding.h"
#include "lockstep/ops/loss.h"
#include "lockstep/ops/matmul.h"
#include "lockstep/ops/movement.h"
#include "lockstep/ops/operands.h"

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
// Those of the logits of a group of chunks are the operand of both products together.
struct Gradients {
  bool of_x, of_table;  // asked for
  Tensor dlogits;       // of the group under way, in the type of the products
  Tensor dx;            // of all rows, in the type of x, or a wider one where no product gives that
  Tensor dtable, room;  // the sum so far, and for that of a group; accumulation type
};

int64_t chunks_of(int64_t rows) {
  return (rows + kHeadRows - 1) / kHeadRows;
}

// Chunks of a group: products of few rows would read and write the whole table for little work, many take
// memory.
int64_t group_of(int64_t classes, DType compute) {
  constexpr int64_t kMostChunks = 8, kMostBytes = int64_t{512} << 20;
  return std::clamp<int64_t>(kMostBytes / (kHeadRows * classes * static_cast<int64_t>(size_of(compute))), 1,
                             kMostChunks);
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

  // (N), from the first rows to the last; visit(chunk) may take what it wants.
  template <class Visit>
  Tensor losses(std::span<const Tensor> in, const LogitsSink& sink, const Visit& visit) const {
    const RecordingScope off(false);
    const Operand table(in[1], compute_);
    std::vector<Tensor> parts;
    for (int64_t part = 0; part < chunks_of(in[0].shape()[0]); ++part) {
      Chunk chunk = forward(in, table, part, sink);
      parts.push_back(losses_of(chunk, chunk_of(in[3], part)));
      visit(chunk);
    }
    return parts.size() == 1 ? parts.front() : concatenate(parts, 0);
  }

  // The gradients at the cotangents of all rows. last: the chunk of the last rows where it is there already;
  // losses (N): gets those of all chunks, none of which are then. Either may be null.
  void differentiate(std::span<const Tensor> in, const Tensor& cotangents, const Chunk* last,
                     Gradients& gradients, Tensor* losses) const {
    const RecordingScope off(false);
    const int64_t count = chunks_of(in[0].shape()[0]), group = group_of(in[1].shape()[0], compute_);
    std::optional<Operand> table;
    if (gradients.of_x || last == nullptr || count > 1) table.emplace(in[1], compute_);
    for (int64_t part = count; part-- > 0;) {
      const int64_t first = part / group * group;
      differentiate_logits(in, table ? &*table : nullptr, part, first, cotangents,
                           part + 1 < count ? nullptr : last, gradients, losses);
      if (part == first) multiply_group(in, table ? &*table : nullptr, first, gradients);
    }
    gradients.dx = gradients.of_x ? gradients.dx.converted(in[0].dtype()) : Tensor();
    gradients.dtable = gradients.of_table ? gradients.dtable.converted(in[1].dtype()) : Tensor();
  }

  void fused_vjp(const Tensor&, const Tensor& cotangent, InputGradients& result) const override {
    Gradients gradients{result.wanted(0), result.wanted(1), {}, inputs[5], inputs[6], {}};
    if (!prepared_ || cotangent.data() != inputs[4].data()) {
      gradients = {result.wanted(0), result.wanted(1), {}, {}, {}, {}};
      const Chunk last{{}, inputs[4], inputs[5], inputs[6]};
      differentiate(inputs, cotangent, prepared_ ? nullptr : &last, gradients, nullptr);
    }
    if (result.wanted(0)) result[0] = gradients.dx;
    if (result.wanted(1)) result[1] = gradients.dtable;
  }

 private:
  static Tensor chunk_of(const Tensor& x, int64_t part) {
    if (!x.defined()) return x;
    const int64_t begin = part * kHeadRows;
    return rows_of(x, begin, std::min(kHeadRows, x.shape()[0] - begin));
  }

  Tensor logits_of(std::span<const Tensor> in, const Operand& table, int64_t part) const {
    const Tensor x = chunk_of(in[0], part);
    Tensor logits = Tensor::empty({x.shape()[0], in[1].shape()[0]}, accumulation_type(compute_), x.backend());
    multiply_into(Operand(x, compute_), false, table, true, compute_, x.shape()[1], logits);
    return logits;
  }

  Chunk forward(std::span<const Tensor> in, const Operand& table, int64_t part,
                const LogitsSink& sink = {}) const {
    const Tensor labels = chunk_of(in[2], part), weights = chunk_of(in[3], part);
    Chunk chunk;
    chunk.logits = capped(logits_of(in, table, part), soft_cap_);
    if (sink) sink(chunk.logits);
    const int64_t rows = chunk.logits.shape()[0], classes = chunk.logits.shape()[1];
    chunk.losses = Tensor::empty({rows}, chunk.logits.dtype(), chunk.logits.backend());
    chunk.probabilities = chunk.logits.empty_like();
    chunk.logits.backend().cross_entropy(chunk.logits.dtype(), rows, classes, chunk.logits.data(),
                                         labels.data_as<int32_t>(),
                                         weights.defined() ? weights.data() : nullptr,
                                         chunk.losses.mutable_data(), chunk.probabilities.mutable_data());
    if (z_loss_ > 0.0) chunk.log_sums = log_sum_exp(chunk.logits, true);
    if (soft_cap_ == 0.0) chunk.logits = {};
    return chunk;
  }

  // With the z-loss.
  Tensor losses_of(const Chunk& chunk, const Tensor& weights) const {
    if (z_loss_ == 0.0) return chunk.losses;
    const Tensor squares = scale(square(chunk.log_sums.view(chunk.losses.shape())), z_loss_);
    return add(chunk.losses, weights.defined() ? multiply(squares, weights) : squares);
  }

  // The part of gradients.dlogits that is a chunk's, of the group that begins with chunk `first`.
  void differentiate_logits(std::span<const Tensor> in, const Operand* table, int64_t part, int64_t first,
                            const Tensor& cotangents, const Chunk* kept, Gradients& gradients,
                            Tensor* losses) const {
    const Tensor labels = chunk_of(in[2], part), weights = chunk_of(in[3], part);
    const int64_t rows = labels.shape()[0], classes = in[1].shape()[0];
    const int64_t before = (part - first) * kHeadRows;
    if (!gradients.dlogits.defined())
      gradients.dlogits = Tensor::empty({before + rows, classes}, compute_, in[0].backend());
    Tensor to = rows_of(gradients.dlogits, before, rows);
    const DType wide = accumulation_type(compute_);
    Tensor own = losses == nullptr ? Tensor() : rows_of(*losses, part * kHeadRows, rows);
    if (kept == nullptr && soft_cap_ == 0.0 && z_loss_ == 0.0) {
      const Tensor logits = logits_of(in, *table, part);
      if (!own.defined()) own = Tensor::empty({rows}, wide, logits.backend());
      logits.backend().cross_entropy_gradient(
          compute_, rows, classes, logits.data(), labels.data_as<int32_t>(),
          weights.defined() ? weights.data() : nullptr, chunk_of(cotangents, part).data(), own.mutable_data(),
          to.mutable_data());
      return;
    }
    Chunk made;
    if (kept == nullptr) made = forward(in, *table, part);
    if (own.defined()) own.assign(losses_of(made, weights));
    const Tensor gradient = logit_gradients(kept == nullptr ? made : *kept, kept == nullptr, labels, weights,
                                            chunk_of(cotangents, part));
    to.backend().cast(wide, compute_, to.elements(), gradient.data(), to.mutable_data());
  }

  // What the rows of a whole group contribute.
  void multiply_group(std::span<const Tensor> in, const Operand* table, int64_t first,
                      Gradients& gradients) const {
    const int64_t rows = gradients.dlogits.shape()[0], classes = in[1].shape()[0];
    const Tensor x = rows_of(in[0], first * kHeadRows, rows);
    const Operand dlogits(gradients.dlogits, compute_);
    const DType wide = accumulation_type(compute_);
    if (gradients.of_x) {
      if (!gradients.dx.defined())
        gradients.dx = Tensor::empty(in[0].shape(), x.dtype() == compute_ ? compute_ : wide, x.backend());
      Tensor dx = rows_of(gradients.dx, first * kHeadRows, rows);
      multiply_into(dlogits, false, *table, false, compute_, classes, dx);
    }
    if (gradients.of_table) {
      Tensor& to = gradients.dtable.defined() ? gradients.room : gradients.dtable;
      const bool adds = gradients.dtable.defined();
      if (!to.defined()) {
        to = !adds && in[1].dtype() == wide ? gradient_room(in[1])
                                            : Tensor::empty(in[1].shape(), wide, x.backend());
      }
      multiply_into(dlogits, true, Operand(x, compute_), false, compute_, rows, to);
      if (adds) x.backend().accumulate(wide, to.elements(), to.data(), gradients.dtable.mutable_data());
    }
    gradients.dlogits = {};
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
  require_one_device("head_losses", {&head.x, &head.table, &labels, &weights});
  const DType compute = autocast_type(OpFamily::kProduct, head.x.dtype(), head.table.dtype(), "head_losses");
  const bool fits = head.x.rank() == 2 && head.table.rank() == 2 &&
                    head.x.shape()[1] == head.table.shape()[1] && head.x.elements() > 0 &&
                    head.table.elements() > 0 && labels.dtype() == DType::kI32 &&
                    labels.shape() == Shape{head.x.shape()[0]} &&
                    (!weights.defined() ||
                     (weights.shape() == labels.shape() && weights.dtype() == accumulation_type(compute)));
  if (!fits) {
    refuse_operands("head_losses",
                    fmt::format("x (N,C), a table (V,C), int32 labels (N) and {} weights (N) or none",
                                name_of(accumulation_type(compute))),
                    {&head.x, &head.table, &labels, &weights});
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
    Gradients gradients{of_x, of_table, {}, {}, {}, {}};
    losses = Tensor::empty(labels.shape(), accumulation_type(compute), head.x.backend());
    node.differentiate(in, cotangent, nullptr, gradients, &losses);
    kept = {cotangent, gradients.dx, gradients.dtable};
  } else {
    losses = node.losses(in, {}, [&](Chunk& chunk) {
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
  return HeadLossNode(compute, head.soft_cap, head.z_loss, false).losses(in, sink, [](Chunk&) {});
}

}  // namespace lockstep
