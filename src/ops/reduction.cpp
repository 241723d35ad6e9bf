// Reductions and broadcasting.
#include "lockstep/ops/reduction.h"

#include <fmt/format.h>

#include <algorithm>

#include "lockstep/autodiff/autocast.h"
#include "lockstep/autodiff/node.h"
#include "lockstep/core/error.h"
#include "lockstep/ops/cast.h"
#include "lockstep/ops/elementwise.h"
#include "lockstep/ops/movement.h"

namespace lockstep {

namespace {

std::vector<int> normalized_axes(const std::vector<int>& axes, int rank) {
  std::vector<int> result;
  if (axes.empty()) {
    for (int axis = 0; axis < rank; ++axis) result.push_back(axis);
    return result;
  }
  for (int axis : axes) result.push_back(normalize_axis(axis, rank));
  std::sort(result.begin(), result.end());
  if (std::adjacent_find(result.begin(), result.end()) != result.end()) {
    fail(ErrorKind::kUsage, "reduction: an axis is named twice");
  }
  return result;
}

// One kernel call for each run of neighbouring axes, last run first; the result keeps extents of 1.
Tensor reduce_axes(ReduceOp op, const Tensor& x, const std::vector<int>& axes) {
  Tensor current = x.detach();
  size_t end = axes.size();
  while (end > 0) {
    size_t begin = end - 1;
    while (begin > 0 && axes[begin - 1] == axes[begin] - 1) --begin;
    const int first = axes[begin], last = axes[end - 1];
    const Shape& shape = current.shape();
    Shape reduced = shape;
    for (int axis = first; axis <= last; ++axis) reduced[axis] = 1;
    Tensor next = Tensor::empty(reduced, x.dtype(), x.backend());
    if (next.elements() > 0) {
      x.backend().reduce(op, x.dtype(), shape.elements(0, first), shape.elements(first, last + 1),
                         shape.elements(last + 1, shape.rank()), current.data(), next.mutable_data());
    }
    current = std::move(next);
    end = begin;
  }
  return axes.empty() ? x.clone() : current;
}

Shape without_axes(const Shape& shape, const std::vector<int>& axes) {
  Shape result;
  for (int axis = 0; axis < shape.rank(); ++axis) {
    if (!std::binary_search(axes.begin(), axes.end(), axis)) result.push_back(shape[axis]);
  }
  return result;
}

class BroadcastNode final : public Node {
 public:
  const char* name() const override { return "broadcast_to"; }
  Saved saved() const override { return Saved::nothing(); }
  void vjp(const Tensor&, const Tensor& cotangent, InputGradients& result) const override {
    result[0] = sum_to(cotangent, inputs[0].shape());
  }
  Tensor jvp(const Tensor& output, std::span<const Tensor> tangents) const override {
    return broadcast_to(tangents[0], output.shape());
  }
};

class SumNode final : public Node {
 public:
  explicit SumNode(std::vector<int> axes) : axes_(std::move(axes)) {}
  const char* name() const override { return "sum"; }
  Saved saved() const override { return Saved::nothing(); }
  void vjp(const Tensor&, const Tensor& cotangent, InputGradients& result) const override {
    result[0] = broadcast_to(cotangent, inputs[0].shape());
  }
  Tensor jvp(const Tensor&, std::span<const Tensor> tangents) const override {
    return sum(tangents[0], axes_, true);
  }

 private:
  std::vector<int> axes_;
};

class MaxNode final : public Node {
 public:
  explicit MaxNode(int axis) : axis_(axis) {}
  const char* name() const override { return "max"; }
  Saved saved() const override { return Saved::input(0) | Saved::output(); }
  void vjp(const Tensor& output, const Tensor& cotangent, InputGradients& result) const override {
    result[0] = multiply(weights(output), cotangent);
  }
  Tensor jvp(const Tensor& output, std::span<const Tensor> tangents) const override {
    return sum(multiply(weights(output), tangents[0]), {axis_}, true);
  }

 private:
  // 1/count at each maximum; constant almost everywhere.
  Tensor weights(const Tensor& output) const {
    const Tensor mask = equal(inputs[0].detach(), output.detach());
    return divide(mask, sum(mask, {axis_}, true));
  }
  int axis_;
};

// Recorded with the axes kept, so that derivatives broadcast; dropping them is a reshape.
Tensor sum_keeping(const Tensor& x, const std::vector<int>& axes) {
  return record<SumNode>(reduce_axes(ReduceOp::kSum, x, axes), {&x}, axes);
}

}  // namespace

Tensor sum(const Tensor& x, const std::vector<int>& axes, bool keep_axes) {
  const DType type = autocast_type(OpFamily::kReduction, x.dtype());
  if (type != x.dtype()) return sum(cast(x, type), axes, keep_axes);
  if (x.rank() == 0) return x;
  const std::vector<int> sorted = normalized_axes(axes, x.rank());
  const Tensor kept = sum_keeping(x, sorted);
  return keep_axes ? kept : reshape(kept, without_axes(x.shape(), sorted));
}

Tensor mean(const Tensor& x, const std::vector<int>& axes, bool keep_axes) {
  int64_t count = 1;
  for (int axis : normalized_axes(axes, x.rank())) count *= x.shape()[axis];
  if (count == 0) fail(ErrorKind::kUsage, "mean: of no elements, shape " + x.shape().to_string());
  const double factor = 1.0 / static_cast<double>(count);
  const DType single = accumulation_type(x.dtype());
  if (single == x.dtype()) return scale(sum(x, axes, keep_axes), factor);
  // The sum of 16-bit numbers may be too large for one although their mean is not.
  return cast(scale(sum(cast(x, single), axes, keep_axes), factor),
              autocast_type(OpFamily::kReduction, x.dtype()));
}

Tensor max(const Tensor& x, int axis, bool keep_axis) {
  const int normalized = normalize_axis(axis, x.rank());
  if (x.shape()[normalized] == 0)
    fail(ErrorKind::kUsage, "max: of no elements, shape " + x.shape().to_string());
  const Tensor kept = record<MaxNode>(reduce_axes(ReduceOp::kMax, x, {normalized}), {&x}, normalized);
  return keep_axis ? kept : reshape(kept, without_axes(x.shape(), {normalized}));
}

Tensor broadcast_to(const Tensor& x, const Shape& shape) {
  if (x.shape() == shape) return x;
  if (!(broadcast_shapes(x.shape(), shape, "broadcast_to") == shape)) {
    fail(ErrorKind::kUsage, "broadcast_to: " + x.shape().to_string() + " does not fit " + shape.to_string());
  }
  // Times one is exact, and multiplication already knows how to repeat.
  return record<BroadcastNode>(multiply(x.detach(), Tensor::full(shape, x.dtype(), x.backend(), 1.0)), {&x});
}

Tensor sum_to(const Tensor& x, const Shape& shape) {
  if (x.shape() == shape) return x;
  const int extra = x.rank() - shape.rank();
  std::vector<int> axes;
  for (int axis = 0; axis < x.rank(); ++axis) {
    if (axis < extra || (shape[axis - extra] == 1 && x.shape()[axis] != 1)) axes.push_back(axis);
  }
  if (axes.empty()) return reshape(x, shape);
  return reshape(sum_keeping(x, axes), shape);
}

}  // namespace lockstep
