// Softmax, log-softmax and the cross-entropy fused with it, over the rows of (rows, columns).
//
// Every row: its maximum m, then e^(x - m) and their sum s, then what is asked for; log sum e^x = m + log s.
#include <algorithm>
#include <limits>

#include "lockstep/kernels/cpu/cpu_backend.h"
#include "lockstep/kernels/cpu/elements.h"
#include "lockstep/kernels/cpu/pack.h"
#include "lockstep/kernels/cpu/scratch.h"
#include "lockstep/kernels/dispatch.h"
#include "lockstep/kernels/math/elementary.h"

namespace lockstep {

namespace {

// What every kernel here needs of a row: its maximum, e^(x - maximum) for each element, and their sum.
template <class T>
struct RowExponentials {
  T maximum, sum;
  const T* values;
};

// finish(r, exponentials) for rows [begin, end) of x. Exponentials of long rows are left in y, where it is
// given and holds them unrounded.
//
// Short rows are kept in a buffer of the first-level cache instead: read back from y, a masked tail would
// wait until its cache line has come from memory. Rows of at most one register, a few classes, go four at a
// time, because one alone is a chain of dependent instructions.
template <class S, class Finish>
void for_rows(int64_t begin, int64_t end, int64_t columns, const S* x, S* y, const Finish& finish) {
  using T = Accumulation<S>;
  using P = Pack<T>;
  constexpr int64_t kRows = 4, kBuffer = 1024;
  alignas(64) T buffer[kBuffer];
  if (columns <= P::kLanes) {
    for (int64_t first = begin; first < end; first += kRows) {
      const int64_t rows = std::min(kRows, end - first);
      T maxima[kRows], sums[kRows];
#pragma GCC unroll 4
      for (int64_t j = 0; j < kRows; ++j) {
        const P row = P::load(x + (first + std::min(j, rows - 1)) * columns, columns,
                              -std::numeric_limits<T>::infinity());
        maxima[j] = combine_lanes<LargestOf>(row);
        (row - P::repeat(maxima[j])).store(buffer + j * P::kLanes);
      }
      simd_for<T>(kRows * P::kLanes,
                  [values = buffer](int64_t i) { values[i] = math::exp_normal(values[i]); });
#pragma GCC unroll 4
      for (int64_t j = 0; j < kRows; ++j) sums[j] = combine_lanes<SumOf>(P::load(buffer + j * P::kLanes));
      for (int64_t j = 0; j < rows; ++j) {
        finish(first + j, RowExponentials<T>{maxima[j], sums[j], buffer + j * P::kLanes});
      }
    }
    return;
  }
  for (int64_t r = begin; r < end; ++r) {
    const S* in = x + r * columns;
    const T maximum = combine_row<LargestOf>(in, columns);
    if (columns <= kBuffer) {
      for (int64_t c = 0; c < columns; c += P::kLanes) {
        const P part = P::load(in + c, columns - c, -std::numeric_limits<T>::infinity());
        (part - P::repeat(maximum)).store(buffer + c);
      }
      simd_for<T>((columns + P::kLanes - 1) / P::kLanes * P::kLanes,
                  [values = buffer](int64_t c) { values[c] = math::exp_normal(values[c]); });
      finish(r, RowExponentials<T>{maximum, combine_row<SumOf>(buffer, columns), buffer});
      continue;
    }
    T* values = nullptr;
    if constexpr (std::is_same_v<S, T>) {
      if (y != nullptr) values = y + r * columns;
    }
    if (values == nullptr) {
      thread_local Scratch scratch;
      values = scratch.get<T>(columns);
    }
    const T sum = combine_values<SumOf, T>(columns, [=](int64_t c) {
      const T value = math::exp_normal(T(in[c]) - maximum);
      values[c] = value;
      return value;
    });
    finish(r, RowExponentials<T>{maximum, sum, values});
  }
}

template <class T, class S>
void normalize(int64_t columns, const RowExponentials<T>& row, S* y) {
  using P = Pack<T>;
  const P factor = P::repeat(T(1) / row.sum);
  for (int64_t c = 0; c < columns; c += P::kLanes) {
    (P::load(row.values + c, columns - c, T(0)) * factor).store(y + c, columns - c);
  }
}

}  // namespace

void CpuBackend::softmax(bool log_form, DType dtype, int64_t rows, int64_t columns, const void* x, void* y) {
  if (columns <= 0) return;
  dispatch_floating("softmax", dtype, [&](auto type) {
    using S = decltype(type);
    using T = Accumulation<S>;
    const S* in = static_cast<const S*>(x);
    S* out = static_cast<S*>(y);
    parallel_ranges(rows, rows_per_tile(columns), [=](int64_t begin, int64_t end) {
      for_rows(begin, end, columns, in, out, [=](int64_t r, const RowExponentials<T>& row) {
        if (!log_form) return normalize(columns, row, out + r * columns);
        const T log_sum = math::log(row.sum);
        simd_for<T>(columns, [to = out + r * columns, from = in + r * columns, maximum = row.maximum,
                              log_sum](int64_t c) { to[c] = S((T(from[c]) - maximum) - log_sum); });
      });
    });
  });
}

// softmax: dx = y (dy - sum(dy y)); log-softmax: dx = dy - e^y sum(dy)
void CpuBackend::softmax_backward(bool log_form, DType dtype, int64_t rows, int64_t columns, const void* y,
                                  const void* dy, void* dx) {
  if (columns <= 0) return;
  dispatch_floating("softmax_backward", dtype, [&](auto type) {
    using S = decltype(type);
    using T = Accumulation<S>;
    parallel_ranges(rows, rows_per_tile(columns), [=](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const S* value = static_cast<const S*>(y) + r * columns;
        const S* gradient = static_cast<const S*>(dy) + r * columns;
        S* out = static_cast<S*>(dx) + r * columns;
        if (log_form) {
          const T sum = combine_row<SumOf>(gradient, columns);
          simd_for<T>(columns, [=](int64_t c) { out[c] = S(T(gradient[c]) - math::exp(T(value[c])) * sum); });
        } else {
          const T sum =
              combine_values<SumOf, T>(columns, [=](int64_t c) { return T(gradient[c]) * T(value[c]); });
          simd_for<T>(columns, [=](int64_t c) { out[c] = S(T(value[c]) * (T(gradient[c]) - sum)); });
        }
      }
    });
  });
}

void CpuBackend::cross_entropy(DType dtype, int64_t rows, int64_t columns, const void* logits,
                               const int32_t* labels, const void* weights, void* losses,
                               void* probabilities) {
  dispatch_accumulation("cross_entropy", dtype, [&](auto type) {
    using T = decltype(type);
    const T* in = static_cast<const T*>(logits);
    T* out = static_cast<T*>(probabilities);
    const T* weight = static_cast<const T*>(weights);
    T* loss = static_cast<T*>(losses);
    parallel_ranges(rows, rows_per_tile(columns), [=](int64_t begin, int64_t end) {
      for_rows(begin, end, columns, in, out, [=](int64_t r, const RowExponentials<T>& row) {
        normalize(columns, row, out + r * columns);
        const T value = math::log(row.sum) - (in[r * columns + labels[r]] - row.maximum);
        loss[r] = weight == nullptr ? value : weight[r] * value;
      });
    });
  });
}

void CpuBackend::cross_entropy_gradient(DType dtype, int64_t rows, int64_t columns, const void* logits,
                                        const int32_t* labels, const void* weights, const void* dlosses,
                                        void* losses, void* dlogits) {
  dispatch_floating("cross_entropy_gradient", dtype, [&](auto type) {
    using S = decltype(type);
    using T = Accumulation<S>;
    const T* in = static_cast<const T*>(logits);
    const T* weight = static_cast<const T*>(weights);
    const T* dloss = static_cast<const T*>(dlosses);
    T* loss = static_cast<T*>(losses);
    S* out = static_cast<S*>(dlogits);
    T* exponentials = nullptr;
    if constexpr (std::is_same_v<S, T>) exponentials = out;
    parallel_ranges(rows, rows_per_tile(columns), [=](int64_t begin, int64_t end) {
      for_rows(begin, end, columns, in, exponentials, [=](int64_t r, const RowExponentials<T>& row) {
        const T value = math::log(row.sum) - (in[r * columns + labels[r]] - row.maximum);
        loss[r] = weight == nullptr ? value : weight[r] * value;
        const T part = T(1) / row.sum, factor = weight == nullptr ? dloss[r] : dloss[r] * weight[r];
        const T own = factor * (row.values[labels[r]] * part - T(1));
        S* to = out + r * columns;
        simd_for<T>(columns, [=, values = row.values](int64_t c) { to[c] = S(factor * (values[c] * part)); });
        to[labels[r]] = S(own);
      });
    });
  });
}

void CpuBackend::cross_entropy_backward(DType dtype, int64_t rows, int64_t columns, const void* probabilities,
                                        const int32_t* labels, const void* weights, const void* dlosses,
                                        void* dlogits) {
  dispatch_accumulation("cross_entropy_backward", dtype, [&](auto type) {
    using T = decltype(type);
    const T* weight = static_cast<const T*>(weights);
    const T* dloss = static_cast<const T*>(dlosses);
    parallel_ranges(rows, rows_per_tile(columns), [=](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const T* probability = static_cast<const T*>(probabilities) + r * columns;
        T* out = static_cast<T*>(dlogits) + r * columns;
        const T factor = weight == nullptr ? dloss[r] : dloss[r] * weight[r];
        const T own = factor * (probability[labels[r]] - T(1));
        simd_for<T>(columns, [=](int64_t c) { out[c] = factor * probability[c]; });
        out[labels[r]] = own;
      }
    });
  });
}

}  // namespace lockstep
