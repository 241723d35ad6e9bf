// Table lookup and its adjoint.
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

// Threads share the columns, so that rows are added in index order whoever does it.
void CpuBackend::embedding_backward(DType dtype, int64_t count, int64_t rows, int64_t width,
                                    const int32_t* indices, const void* dy, void* dtable) {
  dispatch_floating("embedding_backward", dtype, [&](auto type) {
    using S = decltype(type);
    using T = Accumulation<S>;
    T* sums;
    if constexpr (std::is_same_v<S, T>) {
      sums = static_cast<T*>(dtable);
    } else {
      thread_local Scratch scratch;
      sums = scratch.get<T>(rows * width);
    }
    fill(dtype_of<T>, rows * width, sums, 0.0);
    constexpr int64_t kMinimumColumns = 128;  // a few cache lines a visit
    const int64_t columns = count * width <= kElementGrain ? width : kMinimumColumns;
    parallel_ranges(width, columns, [=](int64_t begin, int64_t end) {
      for (int64_t i = 0; i < count; ++i) {
        T* sum = sums + indices[i] * width + begin;
        const S* gradient = static_cast<const S*>(dy) + i * width + begin;
        simd_for<T>(end - begin, [=](int64_t c) { sum[c] += T(gradient[c]); });
      }
    });
    if constexpr (!std::is_same_v<S, T>) cast(dtype_of<T>, dtype, rows * width, sums, dtable);
  });
}

}  // namespace lockstep
