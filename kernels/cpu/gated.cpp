// SwiGLU of rows that hold both halves side by side, forward and backward.
#include "lockstep/kernels/math/gated.h"

#include "lockstep/kernels/cpu/cpu_backend.h"
#include "lockstep/kernels/cpu/elements.h"
#include "lockstep/kernels/dispatch.h"

namespace lockstep {

void CpuBackend::swiglu(DType dtype, int64_t rows, int64_t columns, const void* h, void* y) {
  dispatch_floating("swiglu", dtype, [&](auto type) {
    using S = decltype(type);
    using T = Accumulation<S>;
    parallel_ranges(rows, rows_per_tile(columns), [=](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const S* a = static_cast<const S*>(h) + 2 * r * columns;
        S* out = static_cast<S*>(y) + r * columns;
        simd_for<T>(columns, [=](int64_t c) { out[c] = S(math::swiglu(T(a[c]), T(a[columns + c]))); });
      }
    });
  });
}

void CpuBackend::swiglu_backward(DType dtype, int64_t rows, int64_t columns, const void* h, const void* dy,
                                 void* dh) {
  dispatch_floating("swiglu_backward", dtype, [&](auto type) {
    using S = decltype(type);
    using T = Accumulation<S>;
    parallel_ranges(rows, rows_per_tile(columns), [=](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const S* a = static_cast<const S*>(h) + 2 * r * columns;
        const S* gradient = static_cast<const S*>(dy) + r * columns;
        S* out = static_cast<S*>(dh) + 2 * r * columns;
        simd_for<T>(columns, [=](int64_t c) {
          T da, db;
          math::swiglu_backward(T(a[c]), T(a[columns + c]), T(gradient[c]), da, db);
          out[c] = S(da);
          out[columns + c] = S(db);
        });
      }
    });
  });
}

}  // namespace lockstep
