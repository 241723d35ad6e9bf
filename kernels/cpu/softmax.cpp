// Softmax, log-softmax and the cross-entropy fused with it, over the rows of (rows, columns).
//
// Every row: its maximum m, then e^(x - m) and their sum s, then what is asked for; log sum e^x = m + log s.
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/elements.h"
#include "kernels/cpu/pack.h"
#include "kernels/math/elementary.h"

namespace lockstep {

namespace {

// y = e^(x - maximum); returns the sum of y.
template <class T>
T exponentials(int64_t columns, const T* x, T maximum, T* y) {
  simd_for<T>(columns, [=](int64_t c) { y[c] = math::exp(x[c] - maximum); });
  return combine_row<SumOf>(y, columns);
}

template <class T>
void softmax_row(int64_t columns, const T* x, T* y) {
  const T maximum = combine_row<MaximumOf>(x, columns);
  const T factor = T(1) / exponentials(columns, x, maximum, y);
  simd_for<T>(columns, [=](int64_t c) { y[c] *= factor; });
}

template <class T>
void log_softmax_row(int64_t columns, const T* x, T* y) {
  const T maximum = combine_row<MaximumOf>(x, columns);
  const T log_sum = math::log(exponentials(columns, x, maximum, y));
  simd_for<T>(columns, [=](int64_t c) { y[c] = (x[c] - maximum) - log_sum; });
}

}  // namespace

void CpuBackend::softmax(bool log_form, DType dtype, int64_t rows, int64_t columns, const void* x, void* y) {
  if (columns <= 0) return;
  dispatch_floating("softmax", dtype, [&](auto type) {
    using T = decltype(type);
    const T* in = static_cast<const T*>(x);
    T* out = static_cast<T*>(y);
    parallel_ranges(rows, rows_per_tile(columns), [=](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        if (log_form) {
          log_softmax_row(columns, in + r * columns, out + r * columns);
        } else {
          softmax_row(columns, in + r * columns, out + r * columns);
        }
      }
    });
  });
}

// softmax: dx = y (dy - sum(dy y)); log-softmax: dx = dy - e^y sum(dy)
void CpuBackend::softmax_backward(bool log_form, DType dtype, int64_t rows, int64_t columns, const void* y,
                                  const void* dy, void* dx) {
  if (columns <= 0) return;
  dispatch_floating("softmax_backward", dtype, [&](auto type) {
    using T = decltype(type);
    parallel_ranges(rows, rows_per_tile(columns), [=](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const T* value = static_cast<const T*>(y) + r * columns;
        const T* gradient = static_cast<const T*>(dy) + r * columns;
        T* out = static_cast<T*>(dx) + r * columns;
        if (log_form) {
          const T sum = combine_row<SumOf>(gradient, columns);
          simd_for<T>(columns, [=](int64_t c) { out[c] = gradient[c] - math::exp(value[c]) * sum; });
        } else {
          simd_for<T>(columns, [=](int64_t c) { out[c] = gradient[c] * value[c]; });
          const T sum = combine_row<SumOf>(out, columns);
          simd_for<T>(columns, [=](int64_t c) { out[c] = value[c] * (gradient[c] - sum); });
        }
      }
    });
  });
}

void CpuBackend::cross_entropy(DType dtype, int64_t rows, int64_t columns, const void* logits,
                               const int32_t* labels, const void* weights, void* losses,
                               void* probabilities) {
  dispatch_floating("cross_entropy", dtype, [&](auto type) {
    using T = decltype(type);
    const T* weight = static_cast<const T*>(weights);
    T* loss = static_cast<T*>(losses);
    parallel_ranges(rows, rows_per_tile(columns), [=](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const T* x = static_cast<const T*>(logits) + r * columns;
        T* y = static_cast<T*>(probabilities) + r * columns;
        const T maximum = combine_row<MaximumOf>(x, columns);
        const T sum = exponentials(columns, x, maximum, y);
        const T factor = T(1) / sum;
        simd_for<T>(columns, [=](int64_t c) { y[c] *= factor; });
        const T value = math::log(sum) - (x[labels[r]] - maximum);
        loss[r] = weight == nullptr ? value : weight[r] * value;
      }
    });
  });
}

void CpuBackend::cross_entropy_backward(DType dtype, int64_t rows, int64_t columns, const void* probabilities,
                                        const int32_t* labels, const void* weights, const void* dlosses,
                                        void* dlogits) {
  dispatch_floating("cross_entropy_backward", dtype, [&](auto type) {
    using T = decltype(type);
    const T* weight = static_cast<const T*>(weights);
    const T* dloss = static_cast<const T*>(dlosses);
    parallel_ranges(rows, rows_per_tile(columns), [=](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const T* probability = static_cast<const T*>(probabilities) + r * columns;
        T* out = static_cast<T*>(dlogits) + r * columns;
        const T factor = weight == nullptr ? dloss[r] : dloss[r] * weight[r];
        simd_for<T>(columns, [=](int64_t c) { out[c] = factor * probability[c]; });
        out[labels[r]] = factor * (probability[labels[r]] - T(1));
      }
    });
  });
}

}  // namespace lockstep
