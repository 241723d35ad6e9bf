// The global gradient norm, summed in an order that no sharding can change, and the ways to clip.
#include "lockstep/optim/clip.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "lockstep/core/error.h"
#include "lockstep/parallel/reduction_tree.h"

namespace lockstep {
namespace {

double tree_sum(const std::vector<double>& leaves, const TreeNode& node) {
  if (node.end - node.begin == 1) return leaves[static_cast<size_t>(node.begin)];
  return tree_sum(leaves, left_child(node)) + tree_sum(leaves, right_child(node));
}

// op(a, b), a of n elements, b of one.
Tensor with_scalar(BinaryOp op, const Tensor& a, double b) {
  BroadcastPlan plan;
  plan.rank = 1;
  plan.extents[0] = a.elements();
  plan.strides_a[0] = 1;
  const Tensor scalar = Tensor::full({1}, a.dtype(), a.backend(), b);
  Tensor y = a.empty_like();
  a.backend().binary(op, a.dtype(), plan, a.data(), scalar.data(), y.mutable_data());
  return y;
}

// A parameter as (outer, extent, inner): unit (o, i) is made of the elements (o, :, i).
struct Units {
  int64_t outer, extent, inner;
};

Units units_of(const Shape& shape) {
  if (shape.rank() == 2) return {1, shape[0], shape[1]};
  if (shape.rank() > 2) return {shape[0], shape.elements(1, shape.rank()), 1};
  return {1, shape.elements(), 1};
}

// |x_u| of every unit u (outer * inner).
Tensor unit_norms(const Tensor& x, const Units& units) {
  Backend& backend = x.backend();
  Tensor squares = x.empty_like(), sums = Tensor::empty({units.outer * units.inner}, x.dtype(), backend);
  Tensor norms = sums.empty_like();
  backend.unary(UnaryOp::kSquare, x.dtype(), x.elements(), x.data(), squares.mutable_data());
  backend.reduce(ReduceOp::kSum, x.dtype(), units.outer, units.extent, units.inner, squares.data(),
                 sums.mutable_data());
  backend.unary(UnaryOp::kSqrt, x.dtype(), norms.elements(), sums.data(), norms.mutable_data());
  return norms;
}

}  // namespace

double global_norm(const Tensor& gradients, int64_t n, double scale) {
  if (n < 0 || n > gradients.elements()) {
    fail(ErrorKind::kInternal,
         fmt::format("global_norm: n must lie in [0, {}]: {}", gradients.elements(), n));
  }
  if (n == 0) return 0.0;
  const int64_t blocks = (n + Backend::kNormBlock - 1) / Backend::kNormBlock;
  Backend& backend = gradients.backend();
  Tensor sums = Tensor::empty({blocks}, DType::kF64, backend);
  backend.block_square_sums(gradients.dtype(), n, gradients.data(), sums.mutable_data_as<double>());
  return std::sqrt(tree_sum(sums.to_vector<double>(), {0, blocks})) * std::abs(scale);
}

double global_norm(const Tensor& gradients, const ParameterShards& shards, double scale) {
  const std::vector<double> sums = shards.block_square_sums(gradients).to_vector<double>();
  if (sums.empty()) return 0.0;
  return std::sqrt(tree_sum(sums, {0, static_cast<int64_t>(sums.size())})) * std::abs(scale);
}

double clip_factor(double norm, double max_norm) {
  if (!(max_norm >= 0.0)) {
    fail(ErrorKind::kInternal, fmt::format("clip_factor: max_norm must be >= 0: {}", max_norm));
  }
  return clip_factor_of(norm, max_norm);
}

void clip_by_value(Tensor& gradients, int64_t n, double scale, double limit) {
  Tensor clipped = gradients.view({n}, 0);
  Tensor scaled = clipped.empty_like();
  gradients.backend().scale_shift(gradients.dtype(), n, clipped.data(), scale, 0.0, scaled.mutable_data());
  clipped.assign(with_scalar(BinaryOp::kMaximum, with_scalar(BinaryOp::kMinimum, scaled, limit), -limit));
}

void clip_adaptively(Tensor& gradients, const Tensor& values, const std::vector<ParameterEntry>& parameters,
                     double scale, double factor) {
  constexpr double kSmallestParameterNorm = 1e-3;
  constexpr double kSmallestGradientNorm = 1e-30;  // 0 / 0 else; normal in fp32
  Backend& backend = gradients.backend();
  for (const ParameterEntry& entry : parameters) {
    const Units units = units_of(entry.shape);
    Tensor gradient = gradients.view(entry.shape, entry.offset);
    Tensor scaled = gradient.empty_like();
    const DType dtype = gradient.dtype();
    backend.scale_shift(dtype, gradient.elements(), gradient.data(), scale, 0.0, scaled.mutable_data());
    const Tensor lengths = with_scalar(BinaryOp::kMaximum, unit_norms(scaled, units), kSmallestGradientNorm);
    const Tensor limits =
        with_scalar(BinaryOp::kMultiply,
                    with_scalar(BinaryOp::kMaximum, unit_norms(values.view(entry.shape, entry.offset), units),
                                kSmallestParameterNorm),
                    factor);
    BroadcastPlan flat;
    flat.rank = 1;
    flat.extents[0] = lengths.elements();
    flat.strides_a[0] = flat.strides_b[0] = 1;
    Tensor ratios = lengths.empty_like();
    backend.binary(BinaryOp::kDivide, dtype, flat, limits.data(), lengths.data(), ratios.mutable_data());
    ratios = with_scalar(BinaryOp::kMinimum, ratios, 1.0);
    BroadcastPlan repeated;
    repeated.rank = 3;
    repeated.extents[0] = units.outer;
    repeated.extents[1] = units.extent;
    repeated.extents[2] = units.inner;
    repeated.strides_a[0] = units.extent * units.inner;
    repeated.strides_a[1] = units.inner;
    repeated.strides_a[2] = 1;
    repeated.strides_b[0] = units.inner;
    repeated.strides_b[2] = 1;
    backend.binary(BinaryOp::kMultiply, dtype, repeated, scaled.data(), ratios.data(),
                   gradient.mutable_data());
  }
}

double clip_gradients(const ClipSettings& settings, Tensor& gradients, const Tensor& values,
                      const std::vector<ParameterEntry>& parameters, const ParameterShards& shards,
                      double scale, double norm) {
  if (!std::isfinite(norm)) return scale;
  if (settings.adaptive > 0.0) {
    std::vector<ParameterEntry> owned;
    for (const ParameterEntry& entry : parameters) {
      for (const ElementRange& range : shards.mine()) {
        if (range.begin <= entry.offset && entry.offset < range.end) owned.push_back(entry);
      }
    }
    clip_adaptively(gradients, values, owned, scale, settings.adaptive);
    scale = 1.0;
  }
  if (settings.value > 0.0) {
    for (const ElementRange& range : shards.mine()) {
      Tensor part = gradients.view({range.size()}, range.begin);
      clip_by_value(part, range.size(), scale, settings.value);
    }
    scale = 1.0;
  }
  if (settings.global_norm == 0.0) return scale;
  const bool changed = settings.adaptive > 0.0 || settings.value > 0.0;
  return scale * clip_factor(changed ? global_norm(gradients, shards, scale) : norm, settings.global_norm);
}

}  // namespace lockstep
