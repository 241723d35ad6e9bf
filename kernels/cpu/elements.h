// Loops over elements: tiles for the threads, and stores that bypass the cache when the output cannot stay in
// it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "lockstep/core/thread_pool.h"
#include "lockstep/kernels/cpu/cpu_backend.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace lockstep {

// An output at least this large is written with streaming stores: a plain store first reads the cache line
// that it will overwrite, a third of the traffic of y = f(x). Half of a typical share of last-level cache.
inline constexpr int64_t kStreamBytes = int64_t{16} << 20;

// Copies bytes to memory past the caches. Whole lines only where the processor allows; falls back to memcpy.
inline void stream_copy(void* destination, const void* source, size_t bytes) {
#if defined(__SSE2__)
  auto* to = static_cast<char*>(destination);
  const auto* from = static_cast<const char*>(source);
  const size_t head = std::min(bytes, (64 - reinterpret_cast<uintptr_t>(to) % 64) % 64);
  std::memcpy(to, from, head);
  size_t i = head;
  for (; i + 64 <= bytes; i += 64) {
#if defined(__AVX512F__)
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to + i), _mm512_loadu_si512(from + i));
#else
    for (size_t part = 0; part < 64; part += 16) {
      _mm_stream_si128(reinterpret_cast<__m128i*>(to + i + part),
                       _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i + part)));
    }
#endif
  }
  std::memcpy(to + i, from + i, bytes - i);
#else
  std::memcpy(destination, source, bytes);
#endif
}

// Makes streamed stores visible to other threads before the tile counts as done.
inline void stream_fence() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// body(i) for i in [0, n), in no particular order: packs of 64 bytes, the last one masked. Written out
// because compilers without it finish a vector loop element by element, which costs more than the loop where
// rows are short. body must be element by element: what it writes for i depends on no other i.
template <class T, class Body>
[[gnu::flatten]] inline void simd_for(int64_t n, const Body body) {
  constexpr int kLanes = 64 / sizeof(T);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
#pragma omp simd
    for (int lane = 0; lane < kLanes; ++lane) body(i + lane);
  }
  if (i < n) {
    const int rest = static_cast<int>(n - i);
#pragma omp simd
    for (int lane = 0; lane < kLanes; ++lane) {
      if (lane < rest) body(i + lane);
    }
  }
}

// Runs compute(begin, end, out) over pieces of [0, n); it writes elements [begin, end) to out[0 .. end -
// begin).
template <class T, class Compute>
void write_elements(int64_t n, T* y, const Compute& compute) {
  if (n <= kElementGrain) {
    if (n > 0) compute(int64_t{0}, n, y);
  } else if (n * static_cast<int64_t>(sizeof(T)) < kStreamBytes) {
    parallel_ranges(n, kElementGrain, [&](int64_t begin, int64_t end) { compute(begin, end, y + begin); });
  } else {
    parallel_ranges(n, kElementGrain, [&](int64_t begin, int64_t end) {
      // Short, so that the loads of one piece overlap the stores of the one before: at 64 MB, 8 KB pieces
      // reached two thirds of the bandwidth of 1 KB ones.
      constexpr int64_t kPiece = 1024 / sizeof(T);
      alignas(64) T piece[kPiece];
      for (int64_t i = begin; i < end; i += kPiece) {
        const int64_t stop = std::min(i + kPiece, end);
        compute(i, stop, piece);
        stream_copy(y + i, piece, static_cast<size_t>(stop - i) * sizeof(T));
      }
      stream_fence();
    });
  }
}

// Rows of a tile of (rows, columns), so that a tile is about kElementGrain elements.
inline int64_t rows_per_tile(int64_t columns) {
  return std::max<int64_t>(1, kElementGrain / std::max<int64_t>(1, columns));
}

}  // namespace lockstep
