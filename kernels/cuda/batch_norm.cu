// Batch norm (Ioffe and Szegedy 2015) over the rows of (rows, channels), forward and backward.
#include <cmath>

#include "kernels/cuda/column_sums.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/division.h"
#include "kernels/cuda/rows.h"
#include "kernels/dispatch.h"

namespace lockstep {

namespace {

// (x - mean)^2
template <class S_>
struct SquaredDeviation {
  using S = S_;
  using T = Accumulation<S>;
  static constexpr int kSums = 1;
  const S* x;
  const T* mean;
  bool vectors;

  template <bool kWhole, int N>
  LOCKSTEP_DEVICE void load(int64_t index, int64_t, int64_t column, T (&values)[1][N]) const {
    const Vector<S, N> value = load_elements<kWhole, N>(x + index);
    LOCKSTEP_UNROLL
    for (int j = 0; j < N; ++j) {
      const T deviation = widen(value.lane[j]) - mean[column + j];
      values[0][j] = deviation * deviation;
    }
  }
};

// dy h and dy, h = (x - mean) rstd
template <class S_>
struct BatchNormTerm {
  using S = S_;
  using T = Accumulation<S>;
  static constexpr int kSums = 2;
  const S *x, *dy;
  const T *mean, *rstd;
  bool vectors;

  template <bool kWhole, int N>
  LOCKSTEP_DEVICE void load(int64_t index, int64_t, int64_t column, T (&values)[2][N]) const {
    const Vector<S, N> value = load_elements<kWhole, N>(x + index),
                       gradient = load_elements<kWhole, N>(dy + index);
    LOCKSTEP_UNROLL
    for (int j = 0; j < N; ++j) {
      values[1][j] = widen(gradient.lane[j]);
      values[0][j] = values[1][j] * ((widen(value.lane[j]) - mean[column + j]) * rstd[column + j]);
    }
  }
};

template <class T>
struct Mean {
  T count;
  LOCKSTEP_DEVICE T operator()(T sum) const { return sum / count; }
};

template <class T>
struct InverseRoot {
  T epsilon;
  LOCKSTEP_DEVICE T operator()(T variance) const { return T(1) / std::sqrt(variance + epsilon); }
};

// What a channel's elements are computed from. product_sum and gradient_sum: of the backward pass.
template <class T>
struct Channels {
  const T *mean, *rstd, *gamma, *beta, *product_sum, *gradient_sum;
  T count;
};

// y = (x - mean) rstd gamma + beta
template <class S>
struct BatchNormValue {
  static constexpr int kInputs = 1;
  using T = Accumulation<S>;
  LOCKSTEP_DEVICE static T value(const Channels<T>& of, int64_t c, const T (&x)[1]) {
    return (x[0] - of.mean[c]) * of.rstd[c] * of.gamma[c] + of.beta[c];
  }
};

// With sums over N rows: dx = gamma rstd (dy - sum(dy)/N - h sum(dy h)/N).
template <class S>
struct BatchNormDerivative {
  static constexpr int kInputs = 2;
  using T = Accumulation<S>;
  LOCKSTEP_DEVICE static T value(const Channels<T>& of, int64_t c, const T (&x)[2]) {
    const T h = (x[0] - of.mean[c]) * of.rstd[c];
    return of.gamma[c] * of.rstd[c] *
           (x[1] - of.gradient_sum[c] / of.count - h * (of.product_sum[c] / of.count));
  }
};

// y = Formula of the inputs and their channel, for cells of N neighbours; row_cells of them are a row.
template <template <class> class Formula, class S, int N>
__global__ void __launch_bounds__(kFlatThreads)
    channels_kernel(uint32_t cells, Divisor row_cells, Channels<Accumulation<S>> channels, const S* x,
                    const S* dy, S* y) {
  using T = Accumulation<S>;
  constexpr int kInputs = Formula<S>::kInputs;
  const uint32_t cell = static_cast<uint32_t>(global_thread());
  if (cell >= cells) return;
  const int64_t at = static_cast<int64_t>(cell) * N;
  Vector<S, N> inputs[kInputs];
  inputs[0] = load_vector<N>(x + at);
  if constexpr (kInputs == 2) inputs[1] = load_vector<N>(dy + at);
  const int64_t channel = static_cast<int64_t>(cell - row_cells.quotient(cell) * row_cells.divisor) * N;
  Vector<S, N> result;
  LOCKSTEP_UNROLL
  for (int j = 0; j < N; ++j) {
    T values[kInputs];
    LOCKSTEP_UNROLL
    for (int k = 0; k < kInputs; ++k) values[k] = widen(inputs[k].lane[j]);
    result.lane[j] = rounded<S>(Formula<S>::value(channels, channel + j, values));
  }
  store_vector(y + at, result);
}

template <template <class> class Formula, class S, int N>
void launch_channels(cudaStream_t stream, int64_t rows, int64_t columns,
                     const Channels<Accumulation<S>>& channels, const S* x, const S* dy, S* y) {
  // As many rows at a time as a cell's index can count.
  const int64_t part = std::max<int64_t>(1, kLongestWalk / (columns / N));
  for (int64_t begin = 0; begin < rows; begin += part) {
    const int64_t cells = std::min(part, rows - begin) * (columns / N), first = begin * columns;
    LOCKSTEP_LAUNCH((channels_kernel<Formula, S, N>), blocks_for(cells, kFlatThreads), kFlatThreads, 0,
                    stream, static_cast<uint32_t>(cells), Divisor(columns / N), channels, x + first,
                    dy == nullptr ? dy : dy + first, y + first);
  }
}

template <template <class> class Formula, class S>
void map_channels(cudaStream_t stream, int64_t rows, int64_t columns,
                  const Channels<Accumulation<S>>& channels, const S* x, const S* dy, S* y) {
  constexpr int kLanes = Vector<S>::kLanes;
  const bool vectors = columns % kLanes == 0 && aligned_to(16, x, dy, y);
  const auto launch_cells = vectors ? launch_channels<Formula, S, kLanes> : launch_channels<Formula, S, 1>;
  launch_cells(stream, rows, columns, channels, x, dy, y);
}

}  // namespace

// Mean first, then the mean of (x - mean)^2: E[x^2] - E[x]^2 would cancel in fp32.
void CudaBackend::batch_norm(DType dtype, int64_t rows, int64_t channels, const void* x, const void* gamma,
                             const void* beta, double epsilon, void* y, void* mean, void* variance,
                             void* rstd) {
  if (channels <= 0) return;
  dispatch_floating("batch_norm", dtype, [&](auto type) {
    using S = decltype(type);
    using T = Accumulation<S>;
    const S* const in = static_cast<const S*>(x);
    T* const center = static_cast<T*>(mean);
    T* const spread = static_cast<T*>(variance);
    T* const inverse = static_cast<T*>(rstd);
    const T count = static_cast<T>(rows);
    T* const room = scratch<T>(column_room<S>(1, 1, rows, channels));
    const ColumnElements<S, 1> value = {{in}, aligned_to(16, in)};
    column_reduce<Plus>(stream(), 1, rows, channels, value, room, {center});
    map_flat(stream(), channels, {center}, center, Mean<T>{count});
    const SquaredDeviation<S> square = {in, center, aligned_to(16, in)};
    column_reduce<Plus>(stream(), 1, rows, channels, square, room, {spread});
    map_flat(stream(), channels, {spread}, spread, Mean<T>{count});
    map_flat(stream(), channels, {spread}, inverse, InverseRoot<T>{static_cast<T>(epsilon)});
    const Channels<T> of = {
        center, inverse, static_cast<const T*>(gamma), static_cast<const T*>(beta), nullptr, nullptr, count};
    map_channels<BatchNormValue>(stream(), rows, channels, of, in, static_cast<const S*>(nullptr),
                                 static_cast<S*>(y));
  });
}

void CudaBackend::batch_norm_backward(DType dtype, int64_t rows, int64_t channels, const void* x,
                                      const void* gamma, const void* mean, const void* rstd, const void* dy,
                                      void* dx, void* dgamma, void* dbeta) {
  if (channels <= 0) return;
  dispatch_floating("batch_norm_backward", dtype, [&](auto type) {
    using S = decltype(type);
    using T = Accumulation<S>;
    const S* const in = static_cast<const S*>(x);
    const S* const gradient = static_cast<const S*>(dy);
    T* const product_sum = static_cast<T*>(dgamma);
    T* const gradient_sum = static_cast<T*>(dbeta);
    const Channels<T> of = {static_cast<const T*>(mean),
                            static_cast<const T*>(rstd),
                            static_cast<const T*>(gamma),
                            nullptr,
                            product_sum,
                            gradient_sum,
                            static_cast<T>(rows)};
    const BatchNormTerm<S> term = {in, gradient, of.mean, of.rstd, aligned_to(16, in, gradient)};
    column_reduce<Plus>(stream(), 1, rows, channels, term, scratch<T>(column_room<S>(2, 1, rows, channels)),
                        {product_sum, gradient_sum});
    map_channels<BatchNormDerivative>(stream(), rows, channels, of, in, gradient, static_cast<S*>(dx));
  });
}

}  // namespace lockstep
