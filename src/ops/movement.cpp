// Rearrangements.
#include "lockstep/ops/movement.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "lockstep/autodiff/autocast.h"
#include "lockstep/autodiff/node.h"
#include "lockstep/core/error.h"
#include "lockstep/ops/cast.h"
#include "lockstep/ops/operands.h"

namespace lockstep {

namespace {

class ReshapeNode final : public Node {
 public:
  const char* name() const override { return "reshape"; }
  Saved saved() const override { return Saved::nothing(); }
  void vjp(const Tensor&, const Tensor& cotangent, InputGradients& result) const override {
    result[0] = reshape(cotangent, inputs[0].shape());
  }
  Tensor jvp(const Tensor& output, std::span<const Tensor> tangents) const override {
    return reshape(tangents[0], output.shape());
  }
};

class PermuteNode final : public Node {
 public:
  explicit PermuteNode(std::vector<int> permutation) : permutation_(std::move(permutation)) {}
  const char* name() const override { return "permute"; }
  Saved saved() const override { return Saved::nothing(); }
  void vjp(const Tensor&, const Tensor& cotangent, InputGradients& result) const override {
    std::vector<int> inverse(permutation_.size());
    for (size_t i = 0; i < permutation_.size(); ++i)
      inverse[static_cast<size_t>(permutation_[i])] = static_cast<int>(i);
    result[0] = permute(cotangent, inverse);
  }
  Tensor jvp(const Tensor&, std::span<const Tensor> tangents) const override {
    return permute(tangents[0], permutation_);
  }

 private:
  std::vector<int> permutation_;
};

class SliceNode final : public Node {
 public:
  SliceNode(int axis, int64_t begin) : axis_(axis), begin_(begin) {}
  const char* name() const override { return "slice"; }
  Saved saved() const override { return Saved::nothing(); }
  void vjp(const Tensor&, const Tensor& cotangent, InputGradients& result) const override {
    result[0] = pad_axis(cotangent, axis_, begin_, inputs[0].shape()[axis_]);
  }
  Tensor jvp(const Tensor& output, std::span<const Tensor> tangents) const override {
    return slice(tangents[0], axis_, begin_, begin_ + output.shape()[axis_]);
  }

 private:
  int axis_;
  int64_t begin_;
};

class PadNode final : public Node {
 public:
  PadNode(int axis, int64_t begin) : axis_(axis), begin_(begin) {}
  const char* name() const override { return "pad_axis"; }
  Saved saved() const override { return Saved::nothing(); }
  void vjp(const Tensor&, const Tensor& cotangent, InputGradients& result) const override {
    result[0] = slice(cotangent, axis_, begin_, begin_ + inputs[0].shape()[axis_]);
  }
  Tensor jvp(const Tensor& output, std::span<const Tensor> tangents) const override {
    return pad_axis(tangents[0], axis_, begin_, output.shape()[axis_]);
  }

 private:
  int axis_;
  int64_t begin_;
};

class ConcatenateNode final : public Node {
 public:
  explicit ConcatenateNode(int axis) : axis_(axis) {}
  const char* name() const override { return "concatenate"; }
  Saved saved() const override { return Saved::nothing(); }
  void vjp(const Tensor&, const Tensor& cotangent, InputGradients& result) const override {
    int64_t begin = 0;
    for (size_t i = 0; i < inputs.size(); ++i) {
      const int64_t end = begin + inputs[i].shape()[axis_];
      if (result.wanted(i)) result[i] = slice(cotangent, axis_, begin, end);
      begin = end;
    }
  }
  Tensor jvp(const Tensor&, std::span<const Tensor> tangents) const override {
    std::vector<Tensor> parts;
    for (size_t i = 0; i < inputs.size(); ++i) {
      parts.push_back(tangents[i].defined() ? tangents[i] : inputs[i].full_like(0.0));
    }
    return concatenate(parts, axis_);
  }

 private:
  int axis_;
};

// Bytes of one row: everything from `axis` on.
size_t row_bytes(const Tensor& x, int axis) {
  return static_cast<size_t>(x.shape().elements(axis, x.rank())) * size_of(x.dtype());
}

}  // namespace

Tensor reshape(const Tensor& x, const Shape& shape) {
  if (x.shape() == shape) return x;
  if (shape.elements() != x.elements()) {
    fail(ErrorKind::kUsage, fmt::format("reshape: {} elements of {} do not fit {}", x.elements(),
                                        x.shape().to_string(), shape.to_string()));
  }
  return record<ReshapeNode>(x.view(shape), {&x});
}

Tensor reshape(const Tensor& x, std::span<const int64_t> extents) {
  int64_t known = 1;
  int unknown = -1;
  Shape shape;
  for (size_t i = 0; i < extents.size(); ++i) {
    if (extents[i] == -1) {
      if (unknown >= 0) fail(ErrorKind::kUsage, "reshape: one extent of -1 at most expected");
      unknown = static_cast<int>(i);
      shape.push_back(1);
    } else {
      known *= extents[i];
      shape.push_back(extents[i]);
    }
  }
  if (unknown >= 0) {
    if (known == 0 || x.elements() % known != 0) {
      fail(ErrorKind::kUsage, fmt::format("reshape: {} elements of {} do not divide by {}", x.elements(),
                                          x.shape().to_string(), known));
    }
    shape[unknown] = x.elements() / known;
  }
  return reshape(x, shape);
}

Tensor reshape(const Tensor& x, std::initializer_list<int64_t> extents) {
  return reshape(x, std::span<const int64_t>(extents.begin(), extents.size()));
}

Tensor permute(const Tensor& x, const std::vector<int>& permutation) {
  const int rank = x.rank();
  std::vector<int> sorted = permutation;
  std::sort(sorted.begin(), sorted.end());
  bool valid = static_cast<int>(sorted.size()) == rank;
  for (int axis = 0; valid && axis < rank; ++axis) valid = sorted[static_cast<size_t>(axis)] == axis;
  if (!valid) {
    fail(ErrorKind::kUsage, fmt::format("permute: a permutation of the {} axes of {} expected, got ({})",
                                        rank, x.shape().to_string(), fmt::join(permutation, ",")));
  }
  Shape shape;
  for (int axis : permutation) shape.push_back(x.shape()[axis]);
  Tensor y = Tensor::empty(shape, x.dtype(), x.backend());
  if (x.elements() > 0) {
    x.backend().permute(size_of(x.dtype()), rank, x.shape().extents().data(), permutation.data(), x.data(),
                        y.mutable_data());
  }
  return record<PermuteNode>(std::move(y), {&x}, permutation);
}

Tensor transpose(const Tensor& x, int axis_a, int axis_b) {
  std::vector<int> permutation;
  for (int axis = 0; axis < x.rank(); ++axis) permutation.push_back(axis);
  std::swap(permutation[static_cast<size_t>(normalize_axis(axis_a, x.rank()))],
            permutation[static_cast<size_t>(normalize_axis(axis_b, x.rank()))]);
  return permute(x, permutation);
}

Tensor slice(const Tensor& x, int axis, int64_t begin, int64_t end) {
  const int normalized = normalize_axis(axis, x.rank());
  if (begin < 0 || end < begin || end > x.shape()[normalized]) {
    fail(ErrorKind::kUsage, fmt::format("slice: elements [{}, {}) of axis {} are not in {}", begin, end, axis,
                                        x.shape().to_string()));
  }
  Shape shape = x.shape();
  shape[normalized] = end - begin;
  Tensor y = Tensor::empty(shape, x.dtype(), x.backend());
  if (y.elements() > 0) {
    const size_t step = row_bytes(x, normalized + 1);
    x.backend().copy_rows(shape.elements(0, normalized), row_bytes(y, normalized),
                          static_cast<const std::byte*>(x.data()) + static_cast<size_t>(begin) * step,
                          row_bytes(x, normalized), y.mutable_data(), row_bytes(y, normalized));
  }
  return record<SliceNode>(std::move(y), {&x}, normalized, begin);
}

Tensor pad_axis(const Tensor& x, int axis, int64_t begin, int64_t size) {
  const int normalized = normalize_axis(axis, x.rank());
  if (begin < 0 || begin + x.shape()[normalized] > size) {
    fail(ErrorKind::kUsage, fmt::format("pad_axis: axis {} of {} from {} on does not fit into {} elements",
                                        axis, x.shape().to_string(), begin, size));
  }
  Shape shape = x.shape();
  shape[normalized] = size;
  Tensor y = Tensor::zeros(shape, x.dtype(), x.backend());
  if (x.elements() > 0) {
    const size_t step = row_bytes(x, normalized + 1);
    x.backend().copy_rows(shape.elements(0, normalized), row_bytes(x, normalized), x.data(),
                          row_bytes(x, normalized),
                          static_cast<std::byte*>(y.mutable_data()) + static_cast<size_t>(begin) * step,
                          row_bytes(y, normalized));
  }
  return record<PadNode>(std::move(y), {&x}, normalized, begin);
}

Tensor concatenate(const std::vector<Tensor>& parts, int axis) {
  if (parts.empty()) fail(ErrorKind::kUsage, "concatenate: no parts");
  DType type = parts[0].dtype();
  for (const Tensor& part : parts) {
    require_one_device("concatenate", {&parts[0], &part});
    if (part.dtype() != type) type = autocast_type(OpFamily::kBinary, type, part.dtype(), "concatenate");
  }
  if (std::any_of(parts.begin(), parts.end(), [&](const Tensor& part) { return part.dtype() != type; })) {
    std::vector<Tensor> same;
    for (const Tensor& part : parts) same.push_back(cast(part, type));
    return concatenate(same, axis);
  }
  const int normalized = normalize_axis(axis, parts[0].rank());
  Shape shape = parts[0].shape();
  shape[normalized] = 0;
  for (const Tensor& part : parts) {
    Shape aligned = part.shape();  // with the free axis made equal
    if (aligned.rank() == shape.rank()) aligned[normalized] = shape[normalized];
    if (!(aligned == shape)) {
      fail(ErrorKind::kUsage, fmt::format("concatenate: {} and {} do not fit along axis {}",
                                          parts[0].shape().to_string(), part.shape().to_string(), axis));
    }
    shape[normalized] += part.shape()[normalized];
  }
  Tensor y = Tensor::empty(shape, parts[0].dtype(), parts[0].backend());
  size_t begin = 0;
  for (const Tensor& part : parts) {
    const size_t bytes = row_bytes(part, normalized);
    if (part.elements() > 0) {
      part.backend().copy_rows(shape.elements(0, normalized), bytes, part.data(), bytes,
                               static_cast<std::byte*>(y.mutable_data()) + begin, row_bytes(y, normalized));
    }
    begin += bytes;
  }
  return record_list<ConcatenateNode>(std::move(y), parts, normalized);
}

}  // namespace lockstep
