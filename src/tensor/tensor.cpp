// Tensor construction, views and transfers.
#include "lockstep/tensor/tensor.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "lockstep/core/error.h"
#include "lockstep/core/op_scope.h"

namespace lockstep {

Tensor Tensor::empty(const Shape& shape, DType dtype, Backend& backend) {
  Tensor tensor;
  tensor.backend_ = &backend;
  tensor.storage_ =
      std::make_shared<Storage>(backend, static_cast<size_t>(shape.elements()) * size_of(dtype));
  tensor.shape_ = shape;
  tensor.dtype_ = dtype;
  return tensor;
}

Tensor Tensor::over(std::shared_ptr<std::byte> memory, const Shape& shape, DType dtype, Backend& backend) {
  Tensor tensor;
  tensor.backend_ = &backend;
  tensor.shape_ = shape;
  tensor.dtype_ = dtype;
  tensor.storage_ = std::make_shared<Storage>(backend, std::move(memory), tensor.bytes());
  return tensor;
}

Tensor Tensor::full(const Shape& shape, DType dtype, Backend& backend, double value) {
  Tensor tensor = empty(shape, dtype, backend);
  backend.fill(dtype, tensor.elements(), tensor.mutable_data(), value);
  return tensor;
}

Tensor Tensor::arange(int64_t n, DType dtype, Backend& backend) {
  std::vector<double> values(static_cast<size_t>(n));
  std::iota(values.begin(), values.end(), 0.0);
  return from({n}, values, backend).converted(dtype);
}

Tensor Tensor::from_host(const Shape& shape, DType dtype, const void* values, size_t count,
                         Backend& backend) {
  if (static_cast<int64_t>(count) != shape.elements()) {
    fail(ErrorKind::kUsage, fmt::format("tensor: {} values given for shape {}", count, shape.to_string()));
  }
  Tensor tensor = empty(shape, dtype, backend);
  if (count == 0) return tensor;
  backend.copy_from_host(tensor.mutable_data(), values, tensor.bytes());
  if (dtype == DType::kI32) {
    const auto [least, largest] = std::ranges::minmax(std::span(static_cast<const int32_t*>(values), count));
    tensor.storage_->set_index_range({least, largest});
  }
  return tensor;
}

void Tensor::copy_to_host(DType dtype, void* values) const {
  if (elements() == 0) return;
  if (dtype == dtype_) {
    backend().copy_to_host(values, data(), bytes());
    return;
  }
  const Tensor same = converted(dtype);
  backend().copy_to_host(values, same.data(), same.bytes());
}

double Tensor::item() const {
  if (!defined() || elements() != 1) {
    fail(ErrorKind::kUsage, fmt::format("item: needs exactly one element, shape is {}", shape_.to_string()));
  }
  double value = 0.0;
  copy_to_host(DType::kF64, &value);
  return value;
}

Tensor Tensor::view(const Shape& shape) const {
  if (shape.elements() != elements()) {
    fail(ErrorKind::kUsage, fmt::format("view: shape {} has another number of elements than {}",
                                        shape.to_string(), shape_.to_string()));
  }
  return view(shape, 0);
}

Tensor Tensor::view(const Shape& shape, int64_t begin) const {
  if (begin < 0 || begin + shape.elements() > elements()) {
    fail(ErrorKind::kUsage,
         fmt::format("view: elements [{}, {}) of {}", begin, begin + shape.elements(), elements()));
  }
  Tensor result = *this;
  result.node_ = nullptr;
  result.shape_ = shape;
  result.offset_ += static_cast<size_t>(begin) * size_of(dtype_);
  return result;
}

Tensor Tensor::detach() const {
  Tensor result = *this;
  result.node_ = nullptr;
  return result;
}

void Tensor::refuse_to_read() const {
  if (!defined()) fail(ErrorKind::kUsage, op_prefix() + "an undefined tensor is read");
  fail(ErrorKind::kInternal, fmt::format("{}elements of a tensor {} {} that were not kept are read",
                                         op_prefix(), shape_.to_string(), name_of(dtype_)));
}

Tensor Tensor::clone() const {
  Tensor result = empty_like();
  if (elements() > 0) backend().copy(result.mutable_data(), data(), bytes());
  return result;
}

Tensor Tensor::converted(DType dtype) const {
  if (dtype == dtype_) return detach();
  Tensor result = empty(shape_, dtype, backend());
  if (elements() > 0) backend().cast(dtype_, dtype, elements(), data(), result.mutable_data());
  return result;
}

void Tensor::assign(const Tensor& source) {
  if (!(source.shape() == shape_) || source.dtype() != dtype_) {
    fail(ErrorKind::kUsage, fmt::format("assign: {} {} into {} {}", source.shape().to_string(),
                                        name_of(source.dtype()), shape_.to_string(), name_of(dtype_)));
  }
  if (elements() > 0) backend().copy(mutable_data(), source.data(), bytes());
}

}  // namespace lockstep
