// Kernels that do the same to every element of flat arrays, at the speed of memory.
//
// The arrays are cut where the output's addresses are multiples of 16 bytes: whole vectors by all blocks, the
// few elements before and after them by the first block as well. An input that lies otherwise than the output
// (a view may begin anywhere) is read element by element instead; its cache lines are still used in full.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/dialect.h"

namespace lockstep {

inline constexpr int kFlatThreads = 256;

// How an input is read.
enum class Reading : uint8_t { kVectors, kElements, kRepeated /* its first element, again and again */ };

// How vectors of 16 bytes are read from arrays that begin at the given addresses.
template <class... P>
Reading reading_of(const P*... addresses) {
  return aligned_to(16, addresses...) ? Reading::kVectors : Reading::kElements;
}

template <class S>
struct FlatInput {
  const S* x;
  Reading reading;

  template <int N>
  LOCKSTEP_DEVICE Vector<S, N> load(int64_t i) const {
    if constexpr (N > 1) {
      if (reading == Reading::kVectors) return load_vector<N>(x + i);
    }
    Vector<S, N> value;
    if (reading == Reading::kRepeated) {
      const S first = *x;
      LOCKSTEP_UNROLL
      for (int j = 0; j < N; ++j) value.lane[j] = first;
    } else {
      LOCKSTEP_UNROLL
      for (int j = 0; j < N; ++j) value.lane[j] = x[i + j];
    }
    return value;
  }
};

// The N values that a thread has of each input.
template <class S, int kInputs, int N>
struct FlatValues {
  Vector<S, N> inputs[kInputs];
};

// y[i] = f(x0[i], x1[i], ...) for up to three inputs of one type. F takes and returns stored elements.
template <class S, class R, int kInputs, class F>
struct FlatMap {
  static constexpr int kLanes = 16 / static_cast<int>(std::max(sizeof(S), sizeof(R)));
  static constexpr int kVectors = 2;
  template <int N>
  using Values = FlatValues<S, kInputs, N>;

  FlatInput<S> inputs[kInputs];
  R* y;
  F f;

  template <int N>
  LOCKSTEP_DEVICE Values<N> load(int64_t i) const {
    Values<N> values;
    LOCKSTEP_UNROLL
    for (int k = 0; k < kInputs; ++k) values.inputs[k] = inputs[k].template load<N>(i);
    return values;
  }
  template <int N>
  LOCKSTEP_DEVICE void store(int64_t i, const Values<N>& values) const {
    Vector<R, N> result;
    LOCKSTEP_UNROLL
    for (int j = 0; j < N; ++j) {
      if constexpr (kInputs == 1) {
        result.lane[j] = f(values.inputs[0].lane[j]);
      } else if constexpr (kInputs == 2) {
        result.lane[j] = f(values.inputs[0].lane[j], values.inputs[1].lane[j]);
      } else {
        result.lane[j] = f(values.inputs[0].lane[j], values.inputs[1].lane[j], values.inputs[2].lane[j]);
      }
    }
    store_vector(y + i, result);
  }
};

// Work loads what N elements from i on need, Work::Values<N> = load<N>(i), and stores what becomes of them,
// store<N>(i, values). Vectors have Work::kLanes elements; a thread has Work::kVectors of them under way. The
// first `head` elements come before the vectors.
template <class Work>
__global__ void __launch_bounds__(kFlatThreads) flat_kernel(int64_t n, int64_t head, Work work) {
  constexpr int kLanes = Work::kLanes;
  const int64_t vectors = (n - head) / kLanes;
  const int64_t thread = threadIdx.x;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * (kFlatThreads * Work::kVectors) + thread;
  typename Work::template Values<kLanes> values[Work::kVectors];
  LOCKSTEP_UNROLL
  for (int v = 0; v < Work::kVectors; ++v) {
    const int64_t vector = first + v * kFlatThreads;
    if (vector < vectors) values[v] = work.template load<kLanes>(head + vector * kLanes);
  }
  LOCKSTEP_UNROLL
  for (int v = 0; v < Work::kVectors; ++v) {
    const int64_t vector = first + v * kFlatThreads;
    if (vector < vectors) work.template store<kLanes>(head + vector * kLanes, values[v]);
  }
  const int64_t rest = n - head - vectors * kLanes;
  if (blockIdx.x == 0 && thread < head + rest) {
    const int64_t i = thread < head ? thread : n - rest + (thread - head);
    typename Work::template Values<1> value = work.template load<1>(i);
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
void launch_flat(cudaStream_t stream, int64_t n, int64_t head, const Work& work) {
  if (n <= 0) return;
  const int64_t vectors = std::max<int64_t>(1, (n - head) / Work::kLanes);
  LOCKSTEP_LAUNCH(flat_kernel<Work>, blocks_for(vectors, kFlatThreads * Work::kVectors), kFlatThreads, 0,
                  stream, n, head, work);
}

// Launches y[i] = f(x[0][i], ...) for i in [0, n); input k stays at its first element where repeated[k]. y
// may be an input.
template <class S, class R, class F, int kInputs>
void map_flat(cudaStream_t stream, int64_t n, const S* const (&x)[kInputs], const bool (&repeated)[kInputs],
              R* y, const F& f) {
  using Work = FlatMap<S, R, kInputs, F>;
  const int64_t head = flat_head<Work::kLanes>(n, y);
  Work work{{}, y, f};
  for (int k = 0; k < kInputs; ++k) {
    const bool vectors = aligned_to(Work::kLanes * sizeof(S), x[k] + head);
    work.inputs[k] = {x[k], repeated[k] ? Reading::kRepeated
                            : vectors   ? Reading::kVectors
                                        : Reading::kElements};
  }
  launch_flat(stream, n, head, work);
}

template <class S, class R, class F, int kInputs>
void map_flat(cudaStream_t stream, int64_t n, const S* const (&x)[kInputs], R* y, const F& f) {
  constexpr bool kRepeated[kInputs] = {};
  map_flat(stream, n, x, kRepeated, y, f);
}

}  // namespace lockstep
