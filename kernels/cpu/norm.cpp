// Layer norm (Ba et al. 2016) and RMS norm (Zhang and Sennrich 2019) over the last axis of (rows, columns),
// of an array or of a sum that is made on the way, forward and backward.
#include <algorithm>
#include <cmath>

#include "lockstep/kernels/cpu/column_sums.h"
#include "lockstep/kernels/cpu/cpu_backend.h"
#include "lockstep/kernels/cpu/elements.h"
#include "lockstep/kernels/cpu/pack.h"
#include "lockstep/kernels/dispatch.h"

namespace lockstep {

namespace {

// y from the row `in`. The variance is the mean of (x - mean)^2: a second pass over a row that is in the
// cache, and no cancellation.
template <class S, class R, class T = Accumulation<S>>
void layer_norm_row(int64_t columns, const S* in, const T* scale, const T* shift, T epsilon, R* out, T* mean,
                    T* rstd) {
  const T count = static_cast<T>(columns);
  const T center = combine_row<SumOf>(in, columns) / count;
  const T squares =
      combine_values<SumOf, T>(columns, [=](int64_t c) { return (T(in[c]) - center) * (T(in[c]) - center); });
  const T inverse = T(1) / std::sqrt(squares / count + epsilon);
  simd_for<T>(columns, [=](int64_t c) { out[c] = R((T(in[c]) - center) * inverse * scale[c] + shift[c]); });
  *mean = center;
  *rstd = inverse;
}

template <class S, class R, class T = Accumulation<S>>
void rms_norm_row(int64_t columns, const S* in, const T* scale, T epsilon, R* out, T* rstd) {
  const T count = static_cast<T>(columns);
  const T squares = combine_values<SumOf, T>(columns, [=](int64_t c) { return T(in[c]) * T(in[c]); });
  const T inverse = T(1) / std::sqrt(squares / count + epsilon);
  simd_for<T>(columns, [=](int64_t c) { out[c] = R(T(in[c]) * inverse * scale[c]); });
  *rstd = inverse;
}

// value(c), what comes through a norm, into the row `out`, added to `added` where that is not null.
template <class T, class S, class Value>
void write_gradient(int64_t columns, const S* added, S* out, const Value& value) {
  if (added == nullptr) {
    simd_for<T>(columns, [=](int64_t c) { out[c] = S(value(c)); });
  } else {
    simd_for<T>(columns, [=](int64_t c) { out[c] = S(T(added[c]) + T(S(value(c)))); });
  }
}

}  // namespace

void CpuBackend::norm(const NormArguments& a, const void* x, const void* change, const void* beta, void* sum,
                      void* y, void* mean, void* rstd) {
  dispatch_norm(a, [&](auto type, auto narrow) {
    using S = decltype(type);
    using R = decltype(narrow);
    using T = Accumulation<S>;
    const T* scale = static_cast<const T*>(a.gamma);
    const T* shift = static_cast<const T*>(beta);
    const int64_t columns = a.columns;
    const T epsilon = static_cast<T>(a.epsilon);
    parallel_ranges(a.rows, rows_per_tile(columns), [=, kind = a.kind](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const S* in = static_cast<const S*>(x) + r * columns;
        if (change != nullptr) {
          S* const total = static_cast<S*>(sum) + r * columns;
          simd_for<T>(columns, [=, part = static_cast<const R*>(change) + r * columns](int64_t c) {
            total[c] = S(T(in[c]) + T(part[c]));
          });
          in = total;
        }
        R* const out = static_cast<R*>(y) + r * columns;
        if (kind == NormArguments::Kind::kLayer) {
          layer_norm_row(columns, in, scale, shift, epsilon, out, static_cast<T*>(mean) + r,
                         static_cast<T*>(rstd) + r);
        } else {
          rms_norm_row(columns, in, scale, epsilon, out, static_cast<T*>(rstd) + r);
        }
      }
    });
  });
}

// With g = dy gamma, of layer norm h = (s - mean) rstd, of RMS norm h = s rstd:
//   layer norm  ds = rstd (g - mean(g) - h mean(g h))
//   RMS norm    ds = rstd (g - h mean(g h))
//   dgamma = sum over rows of dy h,  dbeta = sum over rows of dy
void CpuBackend::norm_backward(const NormArguments& a, const void* s, const void* mean, const void* rstd,
                               const void* dy, const void* added, void* dx, void* dx_narrow, void* dgamma,
                               void* dbeta) {
  if (a.columns <= 0) return;
  dispatch_norm(a, [&](auto type, auto narrow) {
    using S = decltype(type);
    using R = decltype(narrow);
    using T = Accumulation<S>;
    const int64_t columns = a.columns;
    const bool layer = a.kind == NormArguments::Kind::kLayer;
    const S* values = static_cast<const S*>(s);
    const T* scale = static_cast<const T*>(a.gamma);
    const T* centers = static_cast<const T*>(mean);
    const T* inverses = static_cast<const T*>(rstd);
    const R* gradients = static_cast<const R*>(dy);
    const T count = static_cast<T>(columns);
    const auto layer_term = [=]<class P>(int64_t index, int64_t row, int64_t) {
      const P gradient = P::load(gradients + index);
      const P normalized = (P::load(values + index) - P::repeat(centers[row])) * P::repeat(inverses[row]);
      return Values<P, 2>{gradient * normalized, gradient};
    };
    const auto rms_term = [=]<class P>(int64_t index, int64_t row, int64_t) {
      return Values<P, 1>{P::load(gradients + index) * (P::load(values + index) * P::repeat(inverses[row]))};
    };
    // A tile computes dx of its rows and sums their dgamma and dbeta while they are in the cache.
    const int64_t tile_rows = std::max<int64_t>(16, rows_per_tile(columns));
    const int64_t tiles = std::max<int64_t>(1, (a.rows + tile_rows - 1) / tile_rows);
    const int64_t width = (layer ? 2 : 1) * columns;
    T* partials = partial_buffer<T>(tiles * width);
    const auto run_tile = [=](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const S* in = values + r * columns;
        const R* gradient = gradients + r * columns;
        const S* plus = added == nullptr ? nullptr : static_cast<const S*>(added) + r * columns;
        S* out = static_cast<S*>(dx) + r * columns;
        const T inverse = inverses[r];
        if (layer) {
          const T center = centers[r];
          const T mean_gradient =
              combine_values<SumOf, T>(columns, [=](int64_t c) { return T(gradient[c]) * scale[c]; }) / count;
          const T mean_product =
              combine_values<SumOf, T>(
                  columns,
                  [=](int64_t c) { return T(gradient[c]) * scale[c] * ((T(in[c]) - center) * inverse); }) /
              count;
          write_gradient<T>(columns, plus, out, [=](int64_t c) {
            return inverse *
                   (T(gradient[c]) * scale[c] - mean_gradient - (T(in[c]) - center) * inverse * mean_product);
          });
        } else {
          const T product =
              combine_values<SumOf, T>(
                  columns, [=](int64_t c) { return T(gradient[c]) * scale[c] * (T(in[c]) * inverse); }) /
              count;
          write_gradient<T>(columns, plus, out, [=](int64_t c) {
            return inverse * (T(gradient[c]) * scale[c] - T(in[c]) * inverse * product);
          });
        }
        if (dx_narrow != nullptr) {
          simd_for<T>(columns, [=, to = static_cast<R*>(dx_narrow) + r * columns](int64_t c) {
            to[c] = R(T(out[c]));
          });
        }
      }
      T* partial = partials + begin / tile_rows * width;
      if (layer) {
        combine_rows<SumOf>(begin, end, columns, 0, columns, layer_term,
                            std::array<T*, 2>{partial, partial + columns});
      } else {
        combine_rows<SumOf>(begin, end, columns, 0, columns, rms_term, std::array<T*, 1>{partial});
      }
    };
    if (a.rows > 0) {
      parallel_ranges(a.rows, tile_rows, run_tile);
    } else {
      std::fill_n(partials, width, T(0));
    }
    combine_partials<SumOf>(tiles, width, partials);
    std::copy_n(partials, columns, static_cast<T*>(dgamma));
    if (layer) std::copy_n(partials + columns, columns, static_cast<T*>(dbeta));
  });
}

}  // namespace lockstep
