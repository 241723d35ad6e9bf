// Tensor: a value made of shape, dtype and shared storage, always contiguous and row-major.
//
// Copying a Tensor shares its elements; nothing in the public API changes elements that another tensor can
// see, except the functions that say "in place". A tensor that takes part in differentiation also carries the
// Node that made it (autodiff/). One without elements (drop_elements) stands for them where shape, type and
// history are all that is asked for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "lockstep/core/dtype.h"
#include "lockstep/core/shape.h"
#include "lockstep/kernels/backend.h"
#include "lockstep/tensor/storage.h"

namespace lockstep {

class Node;  // autodiff/node.h

class Tensor {
 public:
  Tensor() = default;  // undefined

  // Uninitialized elements.
  static Tensor empty(const Shape& shape, DType dtype, Backend& backend);
  static Tensor full(const Shape& shape, DType dtype, Backend& backend, double value);
  static Tensor zeros(const Shape& shape, DType dtype, Backend& backend) {
    return full(shape, dtype, backend, 0.0);
  }
  // Elements that lie in memory of somebody else, which the backend can use and the tensor keeps.
  static Tensor over(std::shared_ptr<std::byte> memory, const Shape& shape, DType dtype, Backend& backend);
  // 0, 1, ..., n - 1.
  static Tensor arange(int64_t n, DType dtype, Backend& backend);
  // Copies from host memory; values.size() must equal shape.elements().
  template <class T>
  static Tensor from(const Shape& shape, std::span<const T> values, Backend& backend) {
    return from_host(shape, dtype_of<T>, values.data(), values.size(), backend);
  }
  template <class T>
  static Tensor from(const Shape& shape, const std::vector<T>& values, Backend& backend) {
    return from(shape, std::span<const T>(values), backend);
  }
  // Same dtype and backend as *this.
  Tensor empty_like() const { return empty(shape_, dtype_, backend()); }
  Tensor full_like(double value) const { return full(shape_, dtype_, backend(), value); }

  bool defined() const { return backend_ != nullptr; }
  // False after drop_elements(), and for undefined tensors.
  bool has_elements() const { return storage_ != nullptr; }
  const Shape& shape() const { return shape_; }
  int rank() const { return shape_.rank(); }
  int64_t extent(int axis) const { return shape_[normalize_axis(axis, shape_.rank())]; }
  int64_t elements() const { return shape_.elements(); }
  size_t bytes() const { return static_cast<size_t>(elements()) * size_of(dtype_); }
  DType dtype() const { return dtype_; }
  // Error (kUsage) of an undefined tensor.
  Backend& backend() const {
    if (backend_ == nullptr) refuse_to_read();
    return *backend_;
  }

  // Error, here and wherever elements are read, when there are none: kUsage of an undefined tensor, else
  // kInternal.
  const void* data() const { return storage().data() + offset_; }
  void* mutable_data() {
    storage().forget();
    return storage().data() + offset_;
  }
  // Of the int32 elements, or of more of their storage; nothing unless they came from the host as they are.
  const std::optional<IndexRange>& index_range() const { return storage().index_range(); }
  // For whoever had the elements written, and saw them on the host.
  void set_index_range(const IndexRange& range) { storage().set_index_range(range); }
  // Whether nothing has had access for writing to the elements' storage since the last watch() on it, by
  // mutable_data() of any tensor that shares it: how the one who keeps something made of the elements learns
  // that it has to be made anew. One watches a storage, and while it is watched one thread writes.
  bool unchanged() const { return storage().unchanged(); }
  void watch() const { storage().watch(); }
  template <class T>
  const T* data_as() const {
    return static_cast<const T*>(data());
  }
  template <class T>
  T* mutable_data_as() {
    return static_cast<T*>(mutable_data());
  }

  // Elements copied to the host, converted to T.
  template <class T>
  std::vector<T> to_vector() const {
    std::vector<T> values(static_cast<size_t>(elements()));
    copy_to_host(dtype_of<T>, values.data());
    return values;
  }
  // The only element, as double. Error when there is more than one.
  double item() const;

  // The same elements under another shape (no copy, no history).
  Tensor view(const Shape& shape) const;
  // Elements [begin, begin + shape.elements()) under `shape` (no copy, no history).
  Tensor view(const Shape& shape, int64_t begin) const;
  // No copy, no history.
  Tensor detach() const;
  // Keeps shape, type, backend and history alone: holds no memory of elements.
  void drop_elements() { storage_ = nullptr; }
  // A copy of the elements in new storage, no history.
  Tensor clone() const;
  // The elements in another type, rounded to nearest, ties to even; no history. Shares them when it is the
  // same type.
  Tensor converted(DType dtype) const;
  // In place: overwrites the elements with those of `source` (same shape and dtype).
  void assign(const Tensor& source);

  // True when no other tensor shares the storage, so that a result may be written over it.
  bool sole_owner() const { return storage_.use_count() == 1; }

  const std::shared_ptr<Node>& node() const { return node_; }
  void set_node(std::shared_ptr<Node> node) { node_ = std::move(node); }

 private:
  static Tensor from_host(const Shape& shape, DType dtype, const void* values, size_t count,
                          Backend& backend);
  void copy_to_host(DType dtype, void* values) const;
  Storage& storage() const {
    if (storage_ == nullptr) refuse_to_read();
    return *storage_;
  }
  [[noreturn]] void refuse_to_read() const;

  Backend* backend_ = nullptr;
  std::shared_ptr<Storage> storage_;
  std::shared_ptr<Node> node_;
  Shape shape_;
  size_t offset_ = 0;  // bytes
  DType dtype_ = DType::kF32;
};

}  // namespace lockstep
