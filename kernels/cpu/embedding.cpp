// Table lookup and its adjoint.
#include <algorithm>
#include <cstring>
#include <iterator>
#include <vector>

#include "lockstep/kernels/cpu/cpu_backend.h"
#include "lockstep/kernels/cpu/elements.h"
#include "lockstep/kernels/cpu/scratch.h"
#include "lockstep/kernels/dispatch.h"

namespace lockstep {

void CpuBackend::embedding(DType dtype, int64_t count, int64_t width, const void* table,
                           const int32_t* indices, void* y) {
  dispatch_floating("embedding", dtype, [&](auto type) {
    using S = decltype(type);
    parallel_ranges(count, rows_per_tile(width), [=](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        std::memcpy(static_cast<S*>(y) + i * width, static_cast<const S*>(table) + indices[i] * width,
                    static_cast<size_t>(width) * sizeof(S));
      }
    });
  });
}

// Each row that is named has a place among the sums. Threads share the columns, so that rows are added in
// index order whoever does it.
void CpuBackend::embedding_backward(DType dtype, int64_t count, int64_t rows, int64_t width,
                                    const int32_t* indices, const void* dy, bool adds, void* dtable) {
  if (!adds) fill(dtype, rows * width, dtable, 0.0);
  std::vector<int32_t> place_of_row(static_cast<size_t>(rows), -1), named;
  std::vector<int64_t> places(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    int32_t& place = place_of_row[static_cast<size_t>(indices[i])];
    if (place < 0) {
      place = static_cast<int32_t>(named.size());
      named.push_back(indices[i]);
    }
    places[static_cast<size_t>(i)] = place;
  }
  dispatch_floating("embedding_backward", dtype, [&](auto type) {
    using S = decltype(type);
    using T = Accumulation<S>;
    thread_local Scratch scratch;
    T* const sums = scratch.get<T>(std::ssize(named) * width);
    constexpr int64_t kMinimumColumns = 128;  // a few cache lines a visit
    const int64_t columns = count * width <= kElementGrain ? width : kMinimumColumns;
    parallel_ranges(width, columns, [&, sums](int64_t begin, int64_t end) {
      const int64_t n = end - begin;
      for (int64_t k = 0; k < std::ssize(named); ++k) std::fill_n(sums + k * width + begin, n, T(0));
      for (int64_t i = 0; i < count; ++i) {
        T* sum = sums + places[static_cast<size_t>(i)] * width + begin;
        const S* gradient = static_cast<const S*>(dy) + i * width + begin;
        simd_for<T>(n, [=](int64_t c) { sum[c] += T(gradient[c]); });
      }
      for (int64_t k = 0; k < std::ssize(named); ++k) {
        const T* sum = sums + k * width + begin;
        S* to = static_cast<S*>(dtable) + named[static_cast<size_t>(k)] * width + begin;
        simd_for<T>(n, [=](int64_t c) { to[c] = S(adds ? T(to[c]) + sum[c] : sum[c]); });
      }
    });
  });
}

}  // namespace lockstep
