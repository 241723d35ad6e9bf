// Sums, means and maxima over an axis; sums of squares for the global norm; the finite check.
#include <atomic>
#include <bit>
#include <limits>

#include "lockstep/kernels/cpu/column_sums.h"
#include "lockstep/kernels/cpu/cpu_backend.h"
#include "lockstep/kernels/cpu/elements.h"
#include "lockstep/kernels/cpu/pack.h"
#include "lockstep/kernels/cpu/scratch.h"
#include "lockstep/kernels/dispatch.h"

namespace lockstep {

namespace {

// One row of any length: tiles of kElementGrain, their results by a binary tree.
template <class Combine, class S>
Accumulation<S> combine_long_row(const S* x, int64_t n) {
  using T = Accumulation<S>;
  if (n <= kElementGrain) return combine_row<Combine>(x, n);
  const int64_t tiles = (n + kElementGrain - 1) / kElementGrain;
  T* partials = partial_buffer<T>(tiles);
  parallel_ranges(n, kElementGrain, [=](int64_t begin, int64_t end) {
    partials[begin / kElementGrain] = combine_row<Combine>(x + begin, end - begin);
  });
  combine_partials<Combine>(tiles, 1, partials);
  return partials[0];
}

template <class Combine, class S, class T = Accumulation<S>>
void reduce_axis(int64_t outer, int64_t extent, int64_t inner, const S* x, T* y) {
  if (inner == 1) {
    if (extent > kElementGrain) {
      for (int64_t o = 0; o < outer; ++o) y[o] = combine_long_row<Combine>(x + o * extent, extent);
      return;
    }
    parallel_ranges(outer, rows_per_tile(extent), [=](int64_t begin, int64_t end) {
      for (int64_t o = begin; o < end; ++o) y[o] = combine_row<Combine>(x + o * extent, extent);
    });
    return;
  }
  const Fold fold = fold_rows<T>(extent, inner);
  const auto combine_one = [=](int64_t o) {
    const S* slice = x + o * extent * inner;
    const auto term = [slice]<class P>(int64_t index, int64_t, int64_t) {
      return Values<P, 1>{P::load(slice + index)};
    };
    combine_columns<Combine>(fold, term, std::array<T*, 1>{y + o * inner});
  };
  // Large slices are split inside, small ones are handed out whole.
  if (outer == 1 || extent * inner > kElementGrain) {
    for (int64_t o = 0; o < outer; ++o) combine_one(o);
  } else {
    parallel_ranges(outer, rows_per_tile(extent * inner), [&](int64_t begin, int64_t end) {
      for (int64_t o = begin; o < end; ++o) combine_one(o);
    });
  }
}

// Sum of squares of up to kNormBlock elements in fp64; element i goes to lane i mod 32, lanes are added by
// halves.
template <class T>
double square_sum(const T* x, int64_t n) {
  constexpr int64_t kLanes = 32;
  double lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int64_t l = 0; l < kLanes; ++l) {
      const double value = static_cast<double>(x[i + l]);
      lanes[l] += value * value;
    }
  }
  for (int64_t l = 0; i + l < n; ++l) {
    const double value = static_cast<double>(x[i + l]);
    lanes[l] += value * value;
  }
  for (int64_t half = kLanes / 2; half >= 1; half /= 2) {
    for (int64_t l = 0; l < half; ++l) lanes[l] += lanes[l + half];
  }
  return lanes[0];
}

// Infinities and NaN are the numbers whose exponent bits are all ones.
template <class T>
bool range_finite(const T* x, int64_t n) {
  using Bits =
      std::conditional_t<sizeof(T) == 8, uint64_t, std::conditional_t<sizeof(T) == 4, uint32_t, uint16_t>>;
  constexpr Bits kExponent = std::bit_cast<Bits>(T(std::numeric_limits<double>::infinity()));
  Bits found = 0;
  for (int64_t i = 0; i < n; ++i) {
    found |= (std::bit_cast<Bits>(x[i]) & kExponent) == kExponent ? Bits{1} : Bits{0};
  }
  return found == 0;
}

}  // namespace

void CpuBackend::reduce(ReduceOp op, DType dtype, int64_t outer, int64_t extent, int64_t inner, const void* x,
                        void* y) {
  if (outer <= 0 || inner <= 0) return;
  dispatch_floating("reduce", dtype, [&](auto type) {
    using S = decltype(type);
    using T = Accumulation<S>;
    const S* in = static_cast<const S*>(x);
    const int64_t results = outer * inner;
    T* totals;
    if constexpr (std::is_same_v<S, T>) {
      totals = static_cast<T*>(y);
    } else {
      thread_local Scratch scratch;
      totals = scratch.get<T>(results);
    }
    if (op == ReduceOp::kMax) {
      reduce_axis<MaximumOf>(outer, extent, inner, in, totals);
    } else {
      reduce_axis<SumOf>(outer, extent, inner, in, totals);
    }
    if (op == ReduceOp::kMean) {
      const T count = static_cast<T>(extent);
      for (int64_t i = 0; i < results; ++i) totals[i] /= count;
    }
    if constexpr (!std::is_same_v<S, T>) cast(dtype_of<T>, dtype, results, totals, y);
  });
}

void CpuBackend::sum_columns(DType dtype, int64_t rows, int64_t columns, const void* x, void* sums) {
  dispatch_floating("column sums", dtype, [&](auto type) {
    using S = decltype(type);
    reduce_axis<SumOf>(1, rows, columns, static_cast<const S*>(x), static_cast<Accumulation<S>*>(sums));
  });
}

void CpuBackend::block_square_sums(DType dtype, int64_t n, const void* x, double* sums) {
  dispatch_floating("block_square_sums", dtype, [&](auto type) {
    using T = decltype(type);
    const T* in = static_cast<const T*>(x);
    static_assert(kElementGrain % kNormBlock == 0);
    parallel_ranges(n, kElementGrain, [=](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i += kNormBlock) {
        sums[i / kNormBlock] = square_sum(in + i, std::min(kNormBlock, end - i));
      }
    });
  });
}

bool CpuBackend::all_finite(DType dtype, int64_t n, const void* x) {
  std::atomic<bool> finite{true};
  dispatch_floating("all_finite", dtype, [&](auto type) {
    using T = decltype(type);
    const T* in = static_cast<const T*>(x);
    parallel_ranges(n, kElementGrain, [&](int64_t begin, int64_t end) {
      if (!range_finite(in + begin, end - begin)) finite.store(false, std::memory_order_relaxed);
    });
  });
  return finite.load();
}

}  // namespace lockstep
