// The dialect that GPU kernels are written in: what both nvcc and an ordinary C++ compiler with stand-ins for
// the CUDA headers accept.
//
// A kernel is a __global__ function launched through LOCKSTEP_LAUNCH. It may use LOCKSTEP_SHARED and
// LOCKSTEP_DYNAMIC_SHARED, __syncthreads, __syncwarp, __shfl_sync, __shfl_xor_sync, __shfl_down_sync and
// __ballot_sync; atomics only on integers and only where their order cannot show; blocks of at most 1024
// threads. 16-bit numbers are core/half_precision.h's. Instructions that C++ has no words for stand here,
// each beside a plain body with the same bits up to a zero's sign and a NaN's payload where that is said;
// those of tensor cores in tensor_cores.h and warp_groups.h.
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "lockstep/core/dtype.h"
#include "lockstep/core/philox.h"

#define LOCKSTEP_DEVICE __device__ __forceinline__

// LOCKSTEP_UNROLL before a loop of few, constant iterations: no loop is left. LOCKSTEP_UNROLL_BY(n) before
// one of many: the loads of n iterations are under way together.
#if defined(__CUDACC__)
#define LOCKSTEP_PRAGMA(text) _Pragma(#text)
#define LOCKSTEP_UNROLL LOCKSTEP_PRAGMA(unroll)
#define LOCKSTEP_UNROLL_BY(n) LOCKSTEP_PRAGMA(unroll n)
#else
#define LOCKSTEP_UNROLL
#define LOCKSTEP_UNROLL_BY(n)
#endif

// LOCKSTEP_LAUNCH(kernel, grid, block, shared_bytes, stream, arguments...): queues one launch. `kernel` is a
// __global__ function, parenthesized when it contains commas, or a pointer to one; arguments are converted at
// the call. An empty grid launches nothing. Error (kInternal) naming the kernel when the launch is refused.
#define LOCKSTEP_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  ::lockstep::launch(#kernel, kernel, grid, block, shared_bytes, stream __VA_OPT__(, ) __VA_ARGS__)

// LOCKSTEP_SHARED(type, name, extents): static shared memory, `type name extents`: LOCKSTEP_SHARED(float,
// tile, [32][33]). LOCKSTEP_DYNAMIC_SHARED(type, name): the launch's dynamic shared memory, as
// `type* name`, which begins at a multiple of 1024 bytes where the launch asks for a multiple.
#if defined(__CUDACC__)
#define LOCKSTEP_SHARED(type, name, extents) __shared__ type name extents
#define LOCKSTEP_DYNAMIC_SHARED(type, name)                                  \
  extern __shared__ __align__(1024) unsigned char lockstep_dynamic_shared[]; \
  type* const name = reinterpret_cast<type*>(lockstep_dynamic_shared)
#else
#define LOCKSTEP_SHARED(type, name, extents) CUDA_ON_CPU_SHARED(type, name, extents)
#define LOCKSTEP_DYNAMIC_SHARED(type, name) \
  type* const name = static_cast<type*>(::cuda_on_cpu::dynamic_shared())
#endif

namespace lockstep {

// ---- launches (host)

// Error "cuda: where: what the runtime says" unless `status` is success; kInternal but where users can help
// it.
void check_cuda(cudaError_t status, const char* where);

template <class... P>
void launch(const char* name, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes,
            cudaStream_t stream, std::type_identity_t<P>... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
#if defined(__CUDACC__)
  kernel<<<grid, block, shared_bytes, stream>>>(arguments...);
#else
  ::cuda_on_cpu::launch(name, kernel, grid, block, shared_bytes, stream, [=] { kernel(arguments...); });
#endif
  check_cuda(cudaGetLastError(), name);
}

// Blocks that cover n elements with `per_block` each, all along x; 0 for none. Error (kInternal) beyond 2^31
// - 1.
unsigned blocks_for(int64_t n, int64_t per_block);

// ---- where a thread is

inline constexpr int kWarp = 32;
inline constexpr unsigned kAllLanes = 0xFFFFFFFFu;
// Multiprocessors of the devices that work is cut for, H100 and H200, where the cut shows in results: those
// must not depend on the device that is there.
inline constexpr int kMultiprocessors = 132;

// Position among all threads of a grid along x, and their number.
LOCKSTEP_DEVICE int64_t global_thread() {
  return static_cast<int64_t>(blockIdx.x) * static_cast<int64_t>(blockDim.x) +
         static_cast<int64_t>(threadIdx.x);
}
LOCKSTEP_DEVICE int64_t global_threads() {
  return static_cast<int64_t>(gridDim.x) * static_cast<int64_t>(blockDim.x);
}

// ---- 16-bit numbers

// A stored element as a number to compute with: float for the 16-bit types.
template <class S>
LOCKSTEP_DEVICE Accumulation<S> widen(S x) {
#if defined(__CUDA_ARCH__)
  if constexpr (std::is_same_v<S, Float16>) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
  }
#endif
  return static_cast<Accumulation<S>>(x);
}

// The stored element nearest to x, ties to even.
template <class S>
LOCKSTEP_DEVICE S rounded(Accumulation<S> x) {
#if defined(__CUDA_ARCH__)
  // The instruction makes every NaN the same one; the plain body keeps its payload.
  if constexpr (std::is_same_v<S, BFloat16>) {
    if (x == x) {
      S y;
      asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
      return y;
    }
  } else if constexpr (std::is_same_v<S, Float16>) {
    if (x == x) {
      S y;
      asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
      return y;
    }
  }
#endif
  return static_cast<S>(x);
}

// ---- vectors of elements

// N neighbours that move as one load or store of at most 16 bytes; their address must be a multiple of the
// size.
template <class S, int N = 16 / static_cast<int>(sizeof(S))>
struct alignas(sizeof(S) * N) Vector {
  static_assert(sizeof(S) * N <= 16 && (N & (N - 1)) == 0);
  static constexpr int kLanes = N;
  S lane[N];
};

template <int N, class S>
LOCKSTEP_DEVICE Vector<S, N> load_vector(const S* x) {
  return *reinterpret_cast<const Vector<S, N>*>(x);
}
template <class S, int N>
LOCKSTEP_DEVICE void store_vector(S* y, const Vector<S, N>& value) {
  *reinterpret_cast<Vector<S, N>*>(y) = value;
}

// The elements of a vector as numbers to compute with.
template <class S, int N>
LOCKSTEP_DEVICE void widen_vector(const Vector<S, N>& stored, Accumulation<S> (&x)[N]) {
  if constexpr (std::is_same_v<S, BFloat16> && N % 2 == 0) {
    // Two at a time, as the halves of a word.
    const auto words = std::bit_cast<std::array<uint32_t, N / 2>>(stored);
    LOCKSTEP_UNROLL
    for (int j = 0; j < N; j += 2) {
      x[j] = std::bit_cast<float>(words[j / 2] << 16);
      x[j + 1] = std::bit_cast<float>(words[j / 2] & 0xFFFF0000u);
    }
  } else {
    LOCKSTEP_UNROLL
    for (int j = 0; j < N; ++j) x[j] = widen(stored.lane[j]);
  }
}

// The stored elements nearest to x, two an instruction. Of every NaN it makes the same one, which is what
// `rounded` makes of the NaN of this device's arithmetic: for results, not for elements that are only moved.
template <class S, int N>
LOCKSTEP_DEVICE Vector<S, N> rounded_vector(const Accumulation<S> (&x)[N]) {
#if defined(__CUDA_ARCH__)
  if constexpr (sizeof(S) == 2 && N % 2 == 0) {
    std::array<uint32_t, N / 2> words;
    LOCKSTEP_UNROLL
    for (int j = 0; j < N; j += 2) {
      if constexpr (std::is_same_v<S, BFloat16>) {
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(words[j / 2]) : "f"(x[j + 1]), "f"(x[j]));
      } else {
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(words[j / 2]) : "f"(x[j + 1]), "f"(x[j]));
      }
    }
    return std::bit_cast<Vector<S, N>>(words);
  } else
#endif
  {
    Vector<S, N> stored;
    LOCKSTEP_UNROLL
    for (int j = 0; j < N; ++j) stored.lane[j] = rounded<S>(x[j]);
    return stored;
  }
}

// Keeps the compiler from holding what it computed of a vector of 16-bit elements until it is needed again,
// as if the vector were another one by then: widened, it takes twice the registers.
template <class S, int N>
LOCKSTEP_DEVICE void recompute([[maybe_unused]] Vector<S, N>& held) {
#if defined(__CUDA_ARCH__)
  if constexpr (sizeof(S) == 2 && N % 2 == 0) {
    auto words = std::bit_cast<std::array<uint32_t, N / 2>>(held);
    LOCKSTEP_UNROLL
    for (int j = 0; j < N / 2; ++j) asm volatile("" : "+r"(words[j]));
    held = std::bit_cast<Vector<S, N>>(words);
  }
#endif
}

// The same for a number: what is computed of it is computed where it is used, not once before a loop to lie
// in registers throughout.
LOCKSTEP_DEVICE int computed_again(int number) {
#if defined(__CUDA_ARCH__)
  asm volatile("" : "+r"(number));
#endif
  return number;
}

// Whether every given address is a multiple of `bytes`: what a vectorized kernel asks for.
template <class... P>
bool aligned_to(size_t bytes, const P*... addresses) {
  return ((reinterpret_cast<uintptr_t>(addresses) % bytes == 0) && ...);
}

// ---- reductions in a fixed order

struct Plus {
  template <class T>
  LOCKSTEP_DEVICE static T neutral() {
    return T(0);
  }
  template <class T>
  LOCKSTEP_DEVICE static T combine(T a, T b) {
    return a + b;
  }
};

// The larger one; NaN wins. Which of two zeros that differ in sign, and which NaN, is open.
struct Larger {
  template <class T>
  LOCKSTEP_DEVICE static T neutral() {
    return -std::numeric_limits<T>::infinity();
  }
  template <class T>
  LOCKSTEP_DEVICE static T combine(T a, T b) {
#if defined(__CUDA_ARCH__)
    if constexpr (std::is_same_v<T, float>) {
      float larger;
      asm("max.NaN.f32 %0, %1, %2;" : "=f"(larger) : "f"(a), "f"(b));
      return larger;
    }
#endif
    return a > b || a != a ? a : b;
  }
};

// Over the first `kLanes` lanes of each group of kLanes (a power of two up to 32): a butterfly, in which
// every lane ends up with the same bits, because it combines the same pairs. All 32 lanes of the warp must
// call it.
template <class Op, int kLanes = kWarp, class T>
LOCKSTEP_DEVICE T warp_reduce(T value) {
  LOCKSTEP_UNROLL
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    value = Op::combine(value, __shfl_xor_sync(kAllLanes, value, distance));
  }
  return value;
}

// K numbers, a power of two, over a warp: lanes exchange halves of what they have until each has one number,
// of K lanes, and these are combined by a butterfly. Fewer exchanges than a butterfly a number. Lane l
// returns number l / (32 / K). All 32 lanes of the warp must call it.
template <class Op, int K, class T>
LOCKSTEP_DEVICE T warp_reduce_transposed(T (&values)[K]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  int distance = kWarp / 2;
  LOCKSTEP_UNROLL
  for (int left = K / 2; left > 0; left /= 2, distance /= 2) {
    const bool upper = (lane & distance) != 0;
    LOCKSTEP_UNROLL
    for (int k = 0; k < left; ++k) {
      const T sent = upper ? values[k] : values[k + left], kept = upper ? values[k + left] : values[k];
      values[k] = Op::combine(kept, __shfl_xor_sync(kAllLanes, sent, distance));
    }
  }
  return warp_reduce<Op, kWarp / K>(values[0]);
}

// Over a block of `kThreads` threads (a multiple of 32), the same on every thread: each warp, then the warps'
// results in order. `shared` has room for kThreads / 32 numbers. There is one barrier, between what is
// written there and what is read: after a second one, every thread has read, and `shared` may be used again.
// Without shared memory and barrier for one warp, which may be one of several in a block then.
template <class Op, int kThreads, class T>
LOCKSTEP_DEVICE T block_reduce(T value, T* shared) {
  static_assert(kThreads % kWarp == 0 && kThreads <= 1024);
  constexpr int kWarps = kThreads / kWarp;
  value = warp_reduce<Op>(value);
  if constexpr (kWarps > 1) {
    if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = value;
    __syncthreads();
    value = shared[0];
    LOCKSTEP_UNROLL
    for (int warp = 1; warp < kWarps; ++warp) value = Op::combine(value, shared[warp]);
  }
  return value;
}

// The same for each of K numbers, a power of two, in place; `shared` has room for K times as many. The
// results of 16 or 32 warps are combined by a butterfly, as one or more for each lane of a warp.
template <class Op, int kThreads, int K, class T>
LOCKSTEP_DEVICE void block_reduce(T (&values)[K], T* shared) {
  static_assert(kThreads % kWarp == 0 && kThreads <= 1024);
  constexpr int kWarps = kThreads / kWarp, kEach = kWarp / K, kNumbers = kWarps * K;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const T own = warp_reduce_transposed<Op>(values);
  if constexpr (kWarps == 1) {
    LOCKSTEP_UNROLL
    for (int k = 0; k < K; ++k) values[k] = __shfl_sync(kAllLanes, own, k * kEach);
  } else {
    if (lane % kEach == 0) shared[static_cast<int>(threadIdx.x) / kWarp * K + lane / kEach] = own;
    __syncthreads();
    if constexpr (kWarps >= 16 && (kWarps & (kWarps - 1)) == 0) {
      T total = shared[lane];
      LOCKSTEP_UNROLL
      for (int i = kWarp; i < kNumbers; i += kWarp) total = Op::combine(total, shared[i + lane]);
      LOCKSTEP_UNROLL
      for (int distance = kWarp / 2; distance >= K; distance /= 2) {
        total = Op::combine(total, __shfl_xor_sync(kAllLanes, total, distance));
      }
      LOCKSTEP_UNROLL
      for (int k = 0; k < K; ++k) values[k] = __shfl_sync(kAllLanes, total, k);
    } else {
      LOCKSTEP_UNROLL
      for (int k = 0; k < K; ++k) values[k] = shared[k];
      LOCKSTEP_UNROLL
      for (int warp = 1; warp < kWarps; ++warp) {
        LOCKSTEP_UNROLL
        for (int k = 0; k < K; ++k) values[k] = Op::combine(values[k], shared[warp * K + k]);
      }
    }
  }
}

}  // namespace lockstep
