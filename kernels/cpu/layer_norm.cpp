// Layer norm (Ba et al. 2016) over the last axis of (rows, columns), forward and backward.
#include <cmath>

#include "lockstep/kernels/cpu/column_sums.h"
#include "lockstep/kernels/cpu/cpu_backend.h"
#include "lockstep/kernels/cpu/elements.h"
#include "lockstep/kernels/cpu/pack.h"
#include "lockstep/kernels/dispatch.h"

namespace lockstep {

// The variance is the mean of (x - mean)^2: a second pass over a row that is in the cache, and no
// cancellation.
void CpuBackend::layer_norm(DType dtype, int64_t rows, int64_t columns, const void* x, const void* gamma,
                            const void* beta, double epsilon, void* y, void* mean, void* rstd) {
  dispatch_floating("layer_norm", dtype, [&](auto type) {
    using S = decltype(type);
    using T = Accumulation<S>;
    const T* scale = static_cast<const T*>(gamma);
    const T* shift = static_cast<const T*>(beta);
    const T count = static_cast<T>(columns), small = static_cast<T>(epsilon);
    parallel_ranges(rows, rows_per_tile(columns), [=](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const S* in = static_cast<const S*>(x) + r * columns;
        S* out = static_cast<S*>(y) + r * columns;
        const T center = combine_row<SumOf>(in, columns) / count;
        const T squares = combine_values<SumOf, T>(
            columns, [=](int64_t c) { return (T(in[c]) - center) * (T(in[c]) - center); });
        const T inverse = T(1) / std::sqrt(squares / count + small);
        simd_for<T>(columns,
                    [=](int64_t c) { out[c] = S((T(in[c]) - center) * inverse * scale[c] + shift[c]); });
        static_cast<T*>(mean)[r] = center;
        static_cast<T*>(rstd)[r] = inverse;
      }
    });
  });
}

// With h = (x - mean) rstd and g = dy gamma:
//   dx = rstd (g - mean(g) - h mean(g h)),  dgamma = sum over rows of dy h,  dbeta = sum over rows of dy.
void CpuBackend::layer_norm_backward(DType dtype, int64_t rows, int64_t columns, const void* x,
                                     const void* gamma, const void* mean, const void* rstd, const void* dy,
                                     void* dx, void* dgamma, void* dbeta) {
  if (columns <= 0) return;
  dispatch_floating("layer_norm_backward", dtype, [&](auto type) {
    using S = decltype(type);
    using T = Accumulation<S>;
    const S* values = static_cast<const S*>(x);
    const T* scale = static_cast<const T*>(gamma);
    const T* centers = static_cast<const T*>(mean);
    const T* inverses = static_cast<const T*>(rstd);
    const S* gradients = static_cast<const S*>(dy);
    S* results = static_cast<S*>(dx);
    const T count = static_cast<T>(columns);
    const auto term = [=]<class P>(int64_t index, int64_t row, int64_t) {
      const P gradient = P::load(gradients + index);
      const P normalized = (P::load(values + index) - P::repeat(centers[row])) * P::repeat(inverses[row]);
      return Values<P, 2>{gradient * normalized, gradient};
    };
    // A tile computes dx of its rows and sums their dgamma and dbeta while they are in the cache.
    const int64_t tile_rows = std::max<int64_t>(16, rows_per_tile(columns));
    const int64_t tiles = std::max<int64_t>(1, (rows + tile_rows - 1) / tile_rows);
    T* partials = partial_buffer<T>(tiles * 2 * columns);
    const auto run_tile = [=](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const S* in = values + r * columns;
        const S* gradient = gradients + r * columns;
        S* out = results + r * columns;
        const T center = centers[r], inverse = inverses[r];
        const T mean_gradient =
            combine_values<SumOf, T>(columns, [=](int64_t c) { return T(gradient[c]) * scale[c]; }) / count;
        const T mean_product =
            combine_values<SumOf, T>(
                columns,
                [=](int64_t c) { return T(gradient[c]) * scale[c] * ((T(in[c]) - center) * inverse); }) /
            count;
        simd_for<T>(columns, [=](int64_t c) {
          out[c] = S(inverse * (T(gradient[c]) * scale[c] - mean_gradient -
                                (T(in[c]) - center) * inverse * mean_product));
        });
      }
      T* partial = partials + begin / tile_rows * 2 * columns;
      combine_rows<SumOf>(begin, end, columns, 0, columns, term,
                          std::array<T*, 2>{partial, partial + columns});
    };
    if (rows > 0) {
      parallel_ranges(rows, tile_rows, run_tile);
    } else {
      std::fill_n(partials, 2 * columns, T(0));
    }
    combine_partials<SumOf>(tiles, 2 * columns, partials);
    std::copy_n(partials, columns, static_cast<T*>(dgamma));
    std::copy_n(partials + columns, columns, static_cast<T*>(dbeta));
  });
}

}  // namespace lockstep
