// The reduction tree as a binary counter over arriving micro-batches.
#include "lockstep/parallel/local_sums.h"

#include <algorithm>
#include <utility>

namespace lockstep {

LocalSums::LocalSums(Backend& backend, int64_t sums_begin, LocalPlan plan, std::vector<Tensor> arrays)
    : backend_(backend),
      dtype_(arrays.front().dtype()),
      element_size_(static_cast<int64_t>(size_of(dtype_))),
      sums_begin_(sums_begin),
      plan_(std::move(plan)),
      arrays_(std::move(arrays)) {}

std::byte* LocalSums::at(int i, int64_t element) {
  return static_cast<std::byte*>(arrays_[static_cast<size_t>(i)].mutable_data()) + element * element_size_;
}

void LocalSums::accumulate(Backend& queue, int64_t begin, int64_t n, const void* from, void* to) const {
  const int64_t gradient = std::clamp<int64_t>(sums_begin_ - begin, 0, n);
  if (gradient > 0) queue.accumulate(dtype_, gradient, from, to);
  if (gradient == n) return;
  const auto offset = static_cast<size_t>(gradient * element_size_);
  queue.accumulate(DType::kF64, doubles(n - gradient), static_cast<const std::byte*>(from) + offset,
                   static_cast<std::byte*>(to) + offset);
}

void LocalSums::add(int64_t i, int64_t begin, int64_t n, const void* values) {
  const LocalStep& step = plan_.steps[static_cast<size_t>(i)];
  std::byte* const sum = at(step.buffer, begin);
  if (step.keep && values == nullptr) {
    backend_.fill(dtype_, n, sum, 0.0);
  } else if (step.keep) {
    if (values != sum) backend_.copy(sum, values, static_cast<size_t>(n * element_size_));
  } else {
    if (values == nullptr) {
      // Not skipped: -0 + 0 is +0, and it must be so on any number of workers.
      if (!zeros_.defined() || zeros_.elements() < n) zeros_ = Tensor::zeros({n}, dtype_, backend_);
      values = zeros_.data();
    }
    accumulate(backend_, begin, n, values, sum);
  }
  for (const Addition& carry : step.carries)
    accumulate(backend_, begin, n, at(carry.from, begin), at(carry.to, begin));
}

Tensor LocalSums::room(int64_t i, int64_t begin, const Shape& shape) const {
  const LocalStep& step = plan_.steps[static_cast<size_t>(i)];
  return step.keep ? array(step.buffer).view(shape, begin) : Tensor();
}

size_t LocalSums::bytes() const {
  size_t total = 0;
  for (const Tensor& array : arrays_) total += array.bytes();
  return total;
}

}  // namespace lockstep
