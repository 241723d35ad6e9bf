// What a worker adds up alone: the sums of its nodes of the reduction tree, slice by slice as gradients
// arrive.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "lockstep/parallel/reduction_plan.h"
#include "lockstep/tensor/tensor.h"

namespace lockstep {

class LocalSums {
 public:
  // arrays: as many as the plan needs, of zeros; from element sums_begin on fp64 numbers take their place.
  // The backend must outlive the object.
  LocalSums(Backend& backend, int64_t sums_begin, LocalPlan plan, std::vector<Tensor> arrays);

  // Adds the n elements from `begin` on of this worker's micro-batch number i, counted from 0: `values`,
  // which may lie in their room(), or zeros when null. Gaps between what is added stay zero.
  void add(int64_t i, int64_t begin, int64_t n, const void* values);

  // The elements of such a slice, of this shape, where add() would leave them: in the sum that they begin.
  // Undefined where they are added to one.
  Tensor room(int64_t i, int64_t begin, const Shape& shape) const;

  // (extent): after the last micro-batch the sum of node i of the plan.
  const Tensor& array(int i) const { return arrays_[static_cast<size_t>(i)]; }
  std::byte* at(int i, int64_t element);

  // to += from, of the n elements of an array from `begin` on, in the order of `queue`.
  void accumulate(Backend& queue, int64_t begin, int64_t n, const void* from, void* to) const;
  // How many fp64 numbers take the place of n elements.
  int64_t doubles(int64_t n) const { return n * element_size_ / static_cast<int64_t>(sizeof(double)); }
  size_t bytes() const;

 private:
  Backend& backend_;
  const DType dtype_;
  const int64_t element_size_, sums_begin_;
  const LocalPlan plan_;
  std::vector<Tensor> arrays_;
  Tensor zeros_;  // made when first needed
};

}  // namespace lockstep
