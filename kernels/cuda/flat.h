// Kernels that do the same to every element of flat arrays, at the speed of memory.
//
// The arrays are cut where the output's addresses are multiples of 16 bytes: whole vectors by all blocks, the
// few elements before and after them by the first block as well. An input that lies otherwise than the output
// (a view may begin anywhere) is read element by element instead; its cache lines are still used in full.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <type_traits>

#include "lockstep/kernels/cuda/dialect.h"

namespace lockstep {

inline constexpr int kFlatThreads = 256;

// How an input is read.
enum class Reading : uint8_t { kVectors, kElements, kRepeated /* its first element, again and again */ };

// N neighbours from x on, as one vector or, where the address does not allow it, one by one.
template <bool kWhole, int N, class S>
LOCKSTEP_DEVICE Vector<S, N> load_elements(const S* x) {
  if constexpr (kWhole && N > 1) {
    return load_vector<N>(x);
  } else {
    Vector<S, N> value;
    LOCKSTEP_UNROLL
    for (int j = 0; j < N; ++j) value.lane[j] = x[j];
    return value;
  }
}

// The vector in one store. Where its elements are computed one by one, the compiler may store them one by
// one.
template <class S, int N>
LOCKSTEP_DEVICE void store_whole(S* y, const Vector<S, N>& value) {
#if defined(__CUDA_ARCH__)
  if constexpr (sizeof(value) == sizeof(uint4)) {
    __stwb(reinterpret_cast<uint4*>(y), std::bit_cast<uint4>(value));
  } else
#endif
  {
    store_vector(y, value);
  }
}

template <class S>
struct FlatInput {
  const S* x;
  Reading reading;

  // kWhole: known to be read in vectors.
  template <int N, bool kWhole = false>
  LOCKSTEP_DEVICE Vector<S, N> load(int64_t i) const {
    if constexpr (kWhole && N > 1) return load_vector<N>(x + i);
    if constexpr (N > 1) {
      if (reading == Reading::kVectors) return load_vector<N>(x + i);
    }
    if (reading != Reading::kRepeated) return load_elements<false, N>(x + i);
    const S first = *x;
    Vector<S, N> value;
    LOCKSTEP_UNROLL
    for (int j = 0; j < N; ++j) value.lane[j] = first;
    return value;
  }
};

// The N values that a thread has of each input.
template <class S, int kInputs, int N>
struct FlatValues {
  Vector<S, N> inputs[kInputs];
};

// Whether F has its function on numbers as well, as F::number, whose results may be rounded in pairs: those
// of arithmetic, not arguments that only pass (rounded_vector).
template <class F>
inline constexpr bool kArithmetic = requires {
  requires F::Arithmetic::value;
};

// y[i] = f(x0[i], x1[i], ...) for up to three inputs of one type. F takes and returns stored elements.
template <class S, class R, int kInputs, class F>
struct FlatMap {
  static constexpr int kLanes = 16 / static_cast<int>(std::max(sizeof(S), sizeof(R)));
  static constexpr int kVectors = kLanes == 2 ? 1 : 2;  // functions of doubles fill the registers as it is
  template <int N>
  using Values = FlatValues<S, kInputs, N>;

  FlatInput<S> inputs[kInputs];
  R* y;
  F f;

  template <int N, bool kWhole>
  LOCKSTEP_DEVICE Values<N> load(int64_t i) const {
    Values<N> values;
    LOCKSTEP_UNROLL
    for (int k = 0; k < kInputs; ++k) values.inputs[k] = inputs[k].template load<N, kWhole>(i);
    return values;
  }
  template <int N>
  LOCKSTEP_DEVICE void store(int64_t i, const Values<N>& values) const {
    if constexpr (kArithmetic<F> && std::is_same_v<S, R>) {
      Accumulation<S> x[kInputs][N], results[N];
      LOCKSTEP_UNROLL
      for (int k = 0; k < kInputs; ++k) widen_vector(values.inputs[k], x[k]);
      LOCKSTEP_UNROLL
      for (int j = 0; j < N; ++j) {
        results[j] = of_each([&](int k) { return x[k][j]; }, [&](auto... own) { return f.number(own...); });
      }
      if constexpr (N > 1) {
        store_whole(y + i, rounded_vector<S>(results));
      } else {
        const Accumulation<S> pair[2] = {results[0], results[0]};  // for the same NaN as in a vector
        y[i] = rounded_vector<S>(pair).lane[0];
      }
    } else {
      Vector<R, N> result;
      LOCKSTEP_UNROLL
      for (int j = 0; j < N; ++j) {
        result.lane[j] =
            of_each([&](int k) { return values.inputs[k].lane[j]; }, [&](auto... own) { return f(own...); });
      }
      store_vector(y + i, result);
    }
  }

 private:
  // function(input(0), input(1), ...)
  template <class Input, class Function>
  LOCKSTEP_DEVICE static auto of_each(const Input& input, const Function& function) {
    if constexpr (kInputs == 1) {
      return function(input(0));
    } else if constexpr (kInputs == 2) {
      return function(input(0), input(1));
    } else {
      return function(input(0), input(1), input(2));
    }
  }
};

// Work loads what N elements from i on need, Work::Values<N> = load<N, kWhole>(i), and stores what becomes of
// them, store<N>(i, values). Vectors have Work::kLanes elements; a thread has Work::kVectors of them under
// way. The first `head` elements come before the vectors. `whole`: all inputs are read in vectors; blocks
// then load without branches, which would make each load wait for the one before it. Where Work has closed(),
// nothing is loaded and stored when that holds.
template <class Work>
__global__ void __launch_bounds__(kFlatThreads) flat_kernel(int64_t n, int64_t head, bool whole, Work work) {
  constexpr int kLanes = Work::kLanes, kVectors = Work::kVectors;
  if constexpr (requires { work.closed(); }) {
    if (work.closed()) return;
  }
  const int64_t vectors = (n - head) / kLanes, thread = threadIdx.x;
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * (kFlatThreads * kVectors), first = begin + thread;
  if (whole && begin + kFlatThreads * kVectors <= vectors) {
    typename Work::template Values<kLanes> values[kVectors];
    LOCKSTEP_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      values[v] = work.template load<kLanes, true>(head + (first + v * kFlatThreads) * kLanes);
    }
    LOCKSTEP_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      work.template store<kLanes>(head + (first + v * kFlatThreads) * kLanes, values[v]);
    }
  } else {
    LOCKSTEP_UNROLL_BY(1)
    for (int v = 0; v < kVectors; ++v) {
      const int64_t vector = first + v * kFlatThreads;
      if (vector >= vectors) break;
      typename Work::template Values<kLanes> values =
          work.template load<kLanes, false>(head + vector * kLanes);
      work.template store<kLanes>(head + vector * kLanes, values);
    }
  }
  const int64_t rest = n - head - vectors * kLanes;
  if (blockIdx.x == 0 && thread < head + rest) {
    const int64_t i = thread < head ? thread : n - rest + (thread - head);
    typename Work::template Values<1> value = work.template load<1, false>(i);
    work.template store<1>(i, value);
  }
}

// The number of elements of y before the first vector of kLanes; all n where there is none.
template <int kLanes, class R>
int64_t flat_head(int64_t n, const R* y) {
  constexpr uintptr_t kBytes = kLanes * sizeof(R);
  const uintptr_t past = reinterpret_cast<uintptr_t>(y) % kBytes;
  return std::min<int64_t>(n, past == 0 ? 0 : static_cast<int64_t>((kBytes - past) / sizeof(R)));
}

template <class Work>
void launch_flat(cudaStream_t stream, int64_t n, int64_t head, bool whole, const Work& work) {
  if (n <= 0) return;
  const int64_t vectors = std::max<int64_t>(1, (n - head) / Work::kLanes);
  LOCKSTEP_LAUNCH(flat_kernel<Work>, blocks_for(vectors, kFlatThreads * Work::kVectors), kFlatThreads, 0,
                  stream, n, head, whole, work);
}

// Launches y[i] = f(x[0][i], ...) for i in [0, n); input k stays at its first element where repeated[k]. y
// may be an input.
template <class S, class R, class F, int kInputs>
void map_flat(cudaStream_t stream, int64_t n, const S* const (&x)[kInputs], const bool (&repeated)[kInputs],
              R* y, const F& f) {
  using Work = FlatMap<S, R, kInputs, F>;
  const int64_t head = flat_head<Work::kLanes>(n, y);
  Work work{{}, y, f};
  bool whole = true;
  for (int k = 0; k < kInputs; ++k) {
    const bool vectors = aligned_to(Work::kLanes * sizeof(S), x[k] + head);
    whole = whole && vectors && !repeated[k];
    work.inputs[k] = {x[k], repeated[k] ? Reading::kRepeated
                            : vectors   ? Reading::kVectors
                                        : Reading::kElements};
  }
  launch_flat(stream, n, head, whole, work);
}

template <class S, class R, class F, int kInputs>
void map_flat(cudaStream_t stream, int64_t n, const S* const (&x)[kInputs], R* y, const F& f) {
  constexpr bool kRepeated[kInputs] = {};
  map_flat(stream, n, x, kRepeated, y, f);
}

}  // namespace lockstep
