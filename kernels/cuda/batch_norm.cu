// Batch norm (Ioffe and Szegedy 2015) over the rows of (rows, channels), forward and backward.
#include <cmath>
#include <limits>

#include "lockstep/kernels/cuda/column_sums.h"
#include "lockstep/kernels/cuda/cuda_backend.h"
#include "lockstep/kernels/cuda/rows.h"
#include "lockstep/kernels/dispatch.h"

namespace lockstep {

namespace {

constexpr int kChannelRows = 8;  // that a thread maps, so that what it reads of its channels counts little

template <class T>
LOCKSTEP_DEVICE bool is_infinite(T x) {
  return std::fabs(x) == std::numeric_limits<T>::infinity();
}

// Number, mean and sum of (x - mean)^2 of a and b together (Chan et al. 1979).
template <class T>
LOCKSTEP_DEVICE void combine_moments(T (&a)[3], const T (&b)[3]) {
  const T count = a[0] + b[0], part = count == T(0) ? T(0) : b[0] / count, difference = b[1] - a[1];
  a[1] = is_infinite(a[1]) ? a[1] + b[1] : a[1] + difference * part;
  a[2] += b[2] + difference * (difference * (a[0] * part));
  a[0] = count;
}

// The moments of segments, combined.
template <class T_>
struct PartialMoments {
  using S = T_;
  using T = T_;
  using Partials = PartialMoments;
  static constexpr int kSums = 3, kResident = 2, kAhead = 4;
  const T* arrays[3];
  bool vectors_;

  LOCKSTEP_DEVICE bool vectors() const { return vectors_; }
  template <int N>
  LOCKSTEP_DEVICE static void start(T (&total)[3][N]) {
    LOCKSTEP_UNROLL
    for (int j = 0; j < N; ++j) total[0][j] = total[1][j] = total[2][j] = T(0);
  }
  template <bool kWhole, int N>
  LOCKSTEP_DEVICE void add_rows(int64_t first, int64_t end, int step, int64_t columns, int64_t column,
                                T (&total)[3][N]) const {
    struct Stored {
      Vector<T, N> parts[3];
    };
    for_rows<kWhole ? kAhead : 1>(
        first, end, step, columns, column,
        [from = *this](int64_t index, int64_t) {
          Stored stored;
          LOCKSTEP_UNROLL
          for (int k = 0; k < 3; ++k) stored.parts[k] = load_elements<kWhole, N>(from.arrays[k] + index);
          return stored;
        },
        [&](const Stored& stored) {
          LOCKSTEP_UNROLL
          for (int j = 0; j < N; ++j) {
            T own[3] = {total[0][j], total[1][j], total[2][j]};
            const T other[3] = {stored.parts[0].lane[j], stored.parts[1].lane[j], stored.parts[2].lane[j]};
            combine_moments(own, other);
            total[0][j] = own[0], total[1][j] = own[1], total[2][j] = own[2];
          }
        });
  }
  LOCKSTEP_DEVICE static void combine(T (&a)[3], const T (&b)[3]) { combine_moments(a, b); }
  static Partials of_partials(T* const (&arrays)[3]) {
    return {{arrays[0], arrays[1], arrays[2]}, aligned_to(16, arrays[0], arrays[1], arrays[2])};
  }
};

// Number, mean and sum of (x - mean)^2 in one pass over x: a thread sums d = x - s and d^2, s the first x
// that it has. sum(d^2) - sum(d)^2/n then loses little, whatever the mean: as s itself is among the n
// elements of the thread, 128 at most, sum(d^2) is at most 1 + n times as large as what is left, and about
// twice as a rule. An infinite x makes the mean infinite and the squares NaN, as in two passes.
template <class S_>
struct Moments {
  using S = S_;
  using T = Accumulation<S>;
  using Partials = PartialMoments<T>;
  static constexpr int kSums = 3, kResident = 2, kAhead = 16;
  const S* x;
  bool vectors_;

  LOCKSTEP_DEVICE bool vectors() const { return vectors_; }
  template <int N>
  LOCKSTEP_DEVICE static void start(T (&total)[3][N]) {
    Partials::template start<N>(total);
  }
  template <bool kWhole, int N>
  LOCKSTEP_DEVICE void add_rows(int64_t first, int64_t end, int step, int64_t columns, int64_t column,
                                T (&total)[3][N]) const {
    T shift[N];
    widen_vector(load_elements<kWhole, N>(x + first * columns + column), shift);
    LOCKSTEP_UNROLL
    for (int j = 0; j < N; ++j) shift[j] = is_infinite(shift[j]) ? T(0) : shift[j];
    for_rows<kWhole ? kAhead : 1>(
        first, end, step, columns, column,
        [from = x](int64_t index, int64_t) { return load_elements<kWhole, N>(from + index); },
        [&](const Vector<S, N>& stored) {
          T values[N];
          widen_vector(stored, values);
          LOCKSTEP_UNROLL
          for (int j = 0; j < N; ++j) {
            const T difference = values[j] - shift[j];
            total[1][j] += difference;
            total[2][j] = std::fma(difference, difference, total[2][j]);
          }
        });
    const T count = static_cast<T>((end - first + step - 1) / step), part = T(1) / count;
    LOCKSTEP_UNROLL
    for (int j = 0; j < N; ++j) {
      const T mean = total[1][j] * part, squares = total[2][j] - total[1][j] * mean;
      total[0][j] = count;
      total[1][j] = shift[j] + mean;
      total[2][j] = squares < T(0) ? T(0) : squares;
    }
  }
  LOCKSTEP_DEVICE static void combine(T (&a)[3], const T (&b)[3]) { combine_moments(a, b); }
  static Partials of_partials(T* const (&arrays)[3]) { return Partials::of_partials(arrays); }
};

// What batch norm keeps of a channel.
template <class T>
struct StoreStatistics {
  T *mean, *variance, *rstd;
  T epsilon;
  LOCKSTEP_DEVICE void operator()(int64_t, int64_t channel, const T (&moments)[3]) const {
    const T spread = moments[2] / moments[0];
    mean[channel] = moments[1];
    variance[channel] = spread;
    rstd[channel] = T(1) / std::sqrt(spread + epsilon);
  }
};

// dy (x - mean) and dy
template <class S_>
struct BatchNormTerm {
  using S = S_;
  using T = Accumulation<S>;
  static constexpr int kSums = 2, kResident = 2, kAhead = 4;
  const S *x, *dy;
  const T* mean;
  bool vectors;

  template <int N>
  struct Stored {
    Vector<S, N> x, dy;
  };
  template <bool kWhole, int N>
  LOCKSTEP_DEVICE Stored<N> fetch(int64_t index, int64_t) const {
    return {load_elements<kWhole, N>(x + index), load_elements<kWhole, N>(dy + index)};
  }
  template <int N>
  LOCKSTEP_DEVICE void widen_all(const Stored<N>& stored, int64_t column, T (&values)[2][N]) const {
    widen_vector(stored.x, values[0]);
    widen_vector(stored.dy, values[1]);
    LOCKSTEP_UNROLL
    for (int j = 0; j < N; ++j) values[0][j] = values[1][j] * (values[0][j] - mean[column + j]);
  }
};

// With the sums over rows: dgamma = rstd sum(dy (x - mean)), dbeta = sum(dy).
template <class T>
struct StoreGradients {
  const T* rstd;
  T *dgamma, *dbeta;
  LOCKSTEP_DEVICE void operator()(int64_t, int64_t channel, const T (&sums)[2]) const {
    dgamma[channel] = rstd[channel] * sums[0];
    dbeta[channel] = sums[1];
  }
};

// What a channel's elements are computed from. product_sum and gradient_sum: of the backward pass.
template <class T>
struct Channels {
  const T *mean, *rstd, *gamma, *beta, *product_sum, *gradient_sum;
  T part;  // 1/N, N rows
  bool vectors;
};

// y = (x - mean) (rstd gamma) + beta
template <class S, int N>
struct BatchNormValue {
  static constexpr int kInputs = 1;
  using T = Accumulation<S>;
  T center[N], scale[N], shift[N];

  LOCKSTEP_DEVICE BatchNormValue(const Channels<T>& of, int64_t c) {
    T gamma[N];
    load_numbers<N>(of.mean + c, of.vectors, center);
    load_numbers<N>(of.rstd + c, of.vectors, scale);
    load_numbers<N>(of.gamma + c, of.vectors, gamma);
    load_numbers<N>(of.beta + c, of.vectors, shift);
    LOCKSTEP_UNROLL
    for (int j = 0; j < N; ++j) scale[j] *= gamma[j];
  }
  LOCKSTEP_DEVICE void operator()(const T (&x)[1][N], T (&y)[N]) const {
    LOCKSTEP_UNROLL
    for (int j = 0; j < N; ++j) y[j] = (x[0][j] - center[j]) * scale[j] + shift[j];
  }
};

// With sums over N rows: dx = gamma rstd (dy - sum(dy)/N - (x - mean) rstd sum(dy h)/N).
template <class S, int N>
struct BatchNormDerivative {
  static constexpr int kInputs = 2;
  using T = Accumulation<S>;
  T center[N], scale[N], mean_gradient[N], slope[N];

  LOCKSTEP_DEVICE BatchNormDerivative(const Channels<T>& of, int64_t c) {
    T rstd[N];
    load_numbers<N>(of.mean + c, of.vectors, center);
    load_numbers<N>(of.rstd + c, of.vectors, rstd);
    load_numbers<N>(of.gamma + c, of.vectors, scale);
    load_numbers<N>(of.gradient_sum + c, of.vectors, mean_gradient);
    load_numbers<N>(of.product_sum + c, of.vectors, slope);
    LOCKSTEP_UNROLL
    for (int j = 0; j < N; ++j) {
      scale[j] *= rstd[j];
      mean_gradient[j] *= of.part;
      slope[j] *= rstd[j] * of.part;
    }
  }
  LOCKSTEP_DEVICE void operator()(const T (&x)[2][N], T (&dx)[N]) const {
    LOCKSTEP_UNROLL
    for (int j = 0; j < N; ++j)
      dx[j] = scale[j] * (x[1][j] - mean_gradient[j] - (x[0][j] - center[j]) * slope[j]);
  }
};

// y = Formula of the inputs and their channel. A block has `across` vectors of N columns side by side and as
// many rows as fit, kChannelRows times, so that a thread stays with its channels and reads what it needs of
// them once. Four vectors of a thread are on the way together.
template <template <class, int> class Formula, class S, int N>
__global__ void __launch_bounds__(kFlatThreads)
    channels_kernel(int64_t rows, int64_t columns, int across, int stacked, Divisor beside,
                    Channels<Accumulation<S>> channels, const S* x, const S* dy, S* y, bool vectors) {
  using T = Accumulation<S>;
  using Values = Formula<S, N>;
  constexpr int kInputs = Values::kInputs, kAhead = 4 / kInputs;
  const int thread = static_cast<int>(threadIdx.x), stack = thread / across;
  const uint32_t below = beside.quotient(blockIdx.x);
  const int64_t column =
      (static_cast<int64_t>(blockIdx.x - below * beside.divisor) * across + thread % across) * N;
  if (stack >= stacked || column >= columns) return;
  const int64_t first = static_cast<int64_t>(below) * stacked * kChannelRows + stack;
  const S* const inputs[2] = {x, dy};
  const Values formula(channels, column);
  const auto work = [&]<bool kWhole>(std::bool_constant<kWhole>) {
    LOCKSTEP_UNROLL_BY(1)
    for (int part = 0; part < kChannelRows / kAhead; ++part) {
      const int64_t begin = first + static_cast<int64_t>(part) * kAhead * stacked;
      if (begin >= rows) break;
      Vector<S, N> stored[kAhead][kInputs];
      LOCKSTEP_UNROLL
      for (int a = 0; a < kAhead; ++a) {
        const int64_t own = begin + static_cast<int64_t>(a) * stacked, row = own < rows ? own : begin;
        LOCKSTEP_UNROLL
        for (int k = 0; k < kInputs; ++k)
          stored[a][k] = load_elements<kWhole, N>(inputs[k] + row * columns + column);
      }
      LOCKSTEP_UNROLL
      for (int a = 0; a < kAhead; ++a) {
        const int64_t row = begin + static_cast<int64_t>(a) * stacked;
        T values[kInputs][N], result[N];
        LOCKSTEP_UNROLL
        for (int k = 0; k < kInputs; ++k) widen_vector(stored[a][k], values[k]);
        formula(values, result);
        if (row < rows) store_row(y + row * columns + column, result, kWhole && N > 1);
      }
    }
  };
  if (N > 1 && vectors) {
    work(std::true_type{});
  } else {
    work(std::false_type{});
  }
}

template <template <class, int> class Formula, class S>
void map_channels(cudaStream_t stream, int64_t rows, int64_t columns,
                  const Channels<Accumulation<S>>& channels, const S* x, const S* dy, S* y) {
  if (rows <= 0) return;
  constexpr int kFull = Vector<S>::kLanes;
  const auto with_lanes = [&]<int N>(std::integral_constant<int, N>) {
    const int64_t cells = columns / N, beside = (cells + kFlatThreads - 1) / kFlatThreads,
                  across = (cells + beside - 1) / beside, stacked = kFlatThreads / across;
    LOCKSTEP_LAUNCH(
        (channels_kernel<Formula, S, N>), blocks_for(beside * ((rows - 1) / (stacked * kChannelRows) + 1), 1),
        static_cast<unsigned>(across * stacked), 0, stream, rows, columns, static_cast<int>(across),
        static_cast<int>(stacked), Divisor(beside), channels, x, dy, y, aligned_to(16, x, dy, y));
  };
  if (columns % kFull == 0) return with_lanes(std::integral_constant<int, kFull>{});
  with_lanes(std::integral_constant<int, 1>{});
}

}  // namespace

void CudaBackend::batch_norm(DType dtype, int64_t rows, int64_t channels, const void* x, const void* gamma,
                             const void* beta, double epsilon, void* y, void* mean, void* variance,
                             void* rstd) {
  if (channels <= 0) return;
  dispatch_floating("batch_norm", dtype, [&](auto type) {
    using S = decltype(type);
    using T = Accumulation<S>;
    const S* const in = static_cast<const S*>(x);
    const StoreStatistics<T> statistics = {static_cast<T*>(mean), static_cast<T*>(variance),
                                           static_cast<T*>(rstd), static_cast<T>(epsilon)};
    column_reduce(stream(), 1, rows, channels, Moments<S>{in, aligned_to(16, in)},
                  scratch<T>(column_room<Moments<S>>(1, rows, channels)), statistics);
    const Channels<T> of = {statistics.mean,
                            statistics.rstd,
                            static_cast<const T*>(gamma),
                            static_cast<const T*>(beta),
                            nullptr,
                            nullptr,
                            T(0),
                            aligned_to(16, mean, rstd, gamma, beta)};
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
    const Channels<T> of = {static_cast<const T*>(mean),   static_cast<const T*>(rstd),
                            static_cast<const T*>(gamma),  nullptr,
                            static_cast<const T*>(dgamma), static_cast<const T*>(dbeta),
                            T(1) / static_cast<T>(rows),   aligned_to(16, mean, rstd, gamma, dgamma, dbeta)};
    using Sums = ColumnSums<Plus, BatchNormTerm<S>>;
    const Sums sums = {{in, gradient, of.mean, aligned_to(16, in, gradient)}};
    const StoreGradients<T> gradients = {of.rstd, static_cast<T*>(dgamma), static_cast<T*>(dbeta)};
    column_reduce(stream(), 1, rows, channels, sums, scratch<T>(column_room<Sums>(1, rows, channels)),
                  gradients);
    map_channels<BatchNormDerivative>(stream(), rows, channels, of, in, gradient, static_cast<S*>(dx));
  });
}

}  // namespace lockstep
