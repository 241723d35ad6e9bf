// Batch norm (Ioffe and Szegedy 2015) over the rows of (rows, channels), forward and backward.
//
// Channels are few (16 to 64), so arrays are folded as in column_sums.h: several rows side by side fill the
// vectors, and the per-channel values are repeated to match.
#include <cmath>

#include "lockstep/kernels/cpu/column_sums.h"
#include "lockstep/kernels/cpu/cpu_backend.h"
#include "lockstep/kernels/cpu/elements.h"
#include "lockstep/kernels/cpu/pack.h"
#include "lockstep/kernels/dispatch.h"

namespace lockstep {

namespace {

// body(index, column) for every element of the folded array, columns counted in the folded width; rows in
// parallel.
template <class T, class Body>
void for_folded(const Fold& fold, const Body& body) {
  const int64_t width = fold.width;
  parallel_ranges(fold.rows, rows_per_tile(width), [=](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t first = row * width;
      simd_for<T>(width, [=](int64_t column) { body(first + column, column); });
    }
  });
  // The rows that fill no folded row; their columns are the first ones of the repeated values over again.
  const int64_t first = fold.rows * width;
  simd_for<T>(fold.rest * (width / fold.group), [=](int64_t column) { body(first + column, column); });
}

template <class T>
struct FoldedValues {
  alignas(64) T buffer[kMaxFoldedWidth];
  const T* of(const Fold& fold, const T* values) { return repeat_for(fold, values, buffer); }
};

}  // namespace

// Mean first, then the mean of (x - mean)^2: E[x^2] - E[x]^2 would cancel in fp32.
void CpuBackend::batch_norm(DType dtype, int64_t rows, int64_t channels, const void* x, const void* gamma,
                            const void* beta, double epsilon, void* y, void* mean, void* variance,
                            void* rstd) {
  dispatch_floating("batch_norm", dtype, [&](auto type) {
    using S = decltype(type);
    using T = Accumulation<S>;
    const S* in = static_cast<const S*>(x);
    S* out = static_cast<S*>(y);
    T* center = static_cast<T*>(mean);
    T* spread = static_cast<T*>(variance);
    T* inverse = static_cast<T*>(rstd);
    const Fold fold = fold_rows<T>(rows, channels);
    const T count = static_cast<T>(rows), small = static_cast<T>(epsilon);

    const auto value = [=]<class P>(int64_t index, int64_t, int64_t) {
      return Values<P, 1>{P::load(in + index)};
    };
    combine_columns<SumOf>(fold, value, std::array<T*, 1>{center});
    for (int64_t c = 0; c < channels; ++c) center[c] /= count;

    FoldedValues<T> folded_center, folded_inverse, folded_gamma, folded_beta;
    const T* m = folded_center.of(fold, center);
    const auto square = [=]<class P>(int64_t index, int64_t, int64_t column) {
      const P difference = P::load(in + index) - P::load(m + column);
      return Values<P, 1>{difference * difference};
    };
    combine_columns<SumOf>(fold, square, std::array<T*, 1>{spread});
    for (int64_t c = 0; c < channels; ++c) {
      spread[c] /= count;
      inverse[c] = T(1) / std::sqrt(spread[c] + small);
    }

    const T* r = folded_inverse.of(fold, inverse);
    const T* scale = folded_gamma.of(fold, static_cast<const T*>(gamma));
    const T* shift = folded_beta.of(fold, static_cast<const T*>(beta));
    for_folded<T>(fold,
                  [=](int64_t i, int64_t c) { out[i] = S((T(in[i]) - m[c]) * r[c] * scale[c] + shift[c]); });
  });
}

// With h = (x - mean) rstd over N rows:
//   dgamma = sum dy h,  dbeta = sum dy,  dx = gamma rstd (dy - dbeta/N - h dgamma/N).
void CpuBackend::batch_norm_backward(DType dtype, int64_t rows, int64_t channels, const void* x,
                                     const void* gamma, const void* mean, const void* rstd, const void* dy,
                                     void* dx, void* dgamma, void* dbeta) {
  dispatch_floating("batch_norm_backward", dtype, [&](auto type) {
    using S = decltype(type);
    using T = Accumulation<S>;
    const S* in = static_cast<const S*>(x);
    const S* gradient = static_cast<const S*>(dy);
    S* out = static_cast<S*>(dx);
    T* product_sum = static_cast<T*>(dgamma);
    T* gradient_sum = static_cast<T*>(dbeta);
    const Fold fold = fold_rows<T>(rows, channels);
    const T count = static_cast<T>(rows);

    FoldedValues<T> folded_center, folded_inverse, folded_gamma, folded_product, folded_gradient;
    const T* m = folded_center.of(fold, static_cast<const T*>(mean));
    const T* r = folded_inverse.of(fold, static_cast<const T*>(rstd));
    const T* scale = folded_gamma.of(fold, static_cast<const T*>(gamma));
    const auto term = [=]<class P>(int64_t index, int64_t, int64_t column) {
      const P g = P::load(gradient + index);
      const P h = (P::load(in + index) - P::load(m + column)) * P::load(r + column);
      return Values<P, 2>{g * h, g};
    };
    combine_columns<SumOf>(fold, term, std::array<T*, 2>{product_sum, gradient_sum});

    const T* product = folded_product.of(fold, product_sum);
    const T* total = folded_gradient.of(fold, gradient_sum);
    for_folded<T>(fold, [=](int64_t i, int64_t c) {
      const T h = (T(in[i]) - m[c]) * r[c];
      out[i] = S(scale[c] * r[c] * (T(gradient[i]) - total[c] / count - h * (product[c] / count)));
    });
  });
}

}  // namespace lockstep
