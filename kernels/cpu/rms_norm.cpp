// RMS norm (Zhang and Sennrich 2019) over the last axis of (rows, columns), forward and backward.
#include <algorithm>
#include <cmath>

#include "lockstep/kernels/cpu/column_sums.h"
#include "lockstep/kernels/cpu/cpu_backend.h"
#include "lockstep/kernels/cpu/elements.h"
#include "lockstep/kernels/cpu/pack.h"
#include "lockstep/kernels/dispatch.h"

namespace lockstep {

void CpuBackend::rms_norm(DType dtype, int64_t rows, int64_t columns, const void* x, const void* gamma,
                          double epsilon, void* y, void* rstd) {
  dispatch_floating("rms_norm", dtype, [&](auto type) {
    using S = decltype(type);
    using T = Accumulation<S>;
    const T* scale = static_cast<const T*>(gamma);
    const T count = static_cast<T>(columns), small = static_cast<T>(epsilon);
    parallel_ranges(rows, rows_per_tile(columns), [=](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const S* in = static_cast<const S*>(x) + r * columns;
        S* out = static_cast<S*>(y) + r * columns;
        const T squares = combine_values<SumOf, T>(columns, [=](int64_t c) { return T(in[c]) * T(in[c]); });
        const T inverse = T(1) / std::sqrt(squares / count + small);
        simd_for<T>(columns, [=](int64_t c) { out[c] = S(T(in[c]) * inverse * scale[c]); });
        static_cast<T*>(rstd)[r] = inverse;
      }
    });
  });
}

// With h = x rstd and g = dy gamma:  dx = rstd (g - h mean(g h)),  dgamma = sum over rows of dy h.
void CpuBackend::rms_norm_backward(DType dtype, int64_t rows, int64_t columns, const void* x,
                                   const void* gamma, const void* rstd, const void* dy, void* dx,
                                   void* dgamma) {
  if (columns <= 0) return;
  dispatch_floating("rms_norm_backward", dtype, [&](auto type) {
    using S = decltype(type);
    using T = Accumulation<S>;
    const S* values = static_cast<const S*>(x);
    const T* scale = static_cast<const T*>(gamma);
    const T* inverses = static_cast<const T*>(rstd);
    const S* gradients = static_cast<const S*>(dy);
    S* results = static_cast<S*>(dx);
    const T count = static_cast<T>(columns);
    const auto term = [=]<class P>(int64_t index, int64_t row, int64_t) {
      return Values<P, 1>{P::load(gradients + index) * (P::load(values + index) * P::repeat(inverses[row]))};
    };
    // A tile computes dx of its rows and sums their dgamma while they are in the cache.
    const int64_t tile_rows = std::max<int64_t>(16, rows_per_tile(columns));
    const int64_t tiles = std::max<int64_t>(1, (rows + tile_rows - 1) / tile_rows);
    T* partials = partial_buffer<T>(tiles * columns);
    const auto run_tile = [=](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const S* in = values + r * columns;
        const S* gradient = gradients + r * columns;
        S* out = results + r * columns;
        const T inverse = inverses[r];
        const T product =
            combine_values<SumOf, T>(
                columns, [=](int64_t c) { return T(gradient[c]) * scale[c] * (T(in[c]) * inverse); }) /
            count;
        simd_for<T>(columns, [=](int64_t c) {
          out[c] = S(inverse * (T(gradient[c]) * scale[c] - T(in[c]) * inverse * product));
        });
      }
      combine_rows<SumOf>(begin, end, columns, 0, columns, term,
                          std::array<T*, 1>{partials + begin / tile_rows * columns});
    };
    if (rows > 0) {
      parallel_ranges(rows, tile_rows, run_tile);
    } else {
      std::fill_n(partials, columns, T(0));
    }
    combine_partials<SumOf>(tiles, columns, partials);
    std::copy_n(partials, columns, static_cast<T*>(dgamma));
  });
}

}  // namespace lockstep
