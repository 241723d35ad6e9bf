// The processor's widest floating-point vectors and their fused multiply-add, for kernels that are bound by
// arithmetic.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "lockstep/core/dtype.h"

#if defined(__AVX512F__) || (defined(__AVX2__) && defined(__FMA__))
#include <immintrin.h>
#endif

namespace lockstep {

// 16 floats or 8 doubles with AVX-512, half with AVX2, a quarter elsewhere (SSE2, NEON).
#if defined(__AVX512F__)
inline constexpr int kVectorBytes = 64;
inline constexpr int kVectorRegisters = 32;
#elif defined(__AVX2__) && defined(__FMA__)
inline constexpr int kVectorBytes = 32;
inline constexpr int kVectorRegisters = 16;
#else
inline constexpr int kVectorBytes = 16;
inline constexpr int kVectorRegisters = 16;
#endif

// Two neighbours of bf16 along k: what the processor's bf16 units multiply at a time. A lane holds the
// earlier in its lower half. Any array of bf16 may be read in pairs, wherever it starts.
struct Pair {
  BFloat16 earlier, later;
};

template <class T>
struct VectorOf {
  typedef T Type __attribute__((vector_size(kVectorBytes)));
  typedef T Unaligned __attribute__((vector_size(kVectorBytes), aligned(alignof(T)), may_alias));
};
template <>
struct VectorOf<Pair> {
  typedef uint32_t Type __attribute__((vector_size(kVectorBytes)));
  typedef uint32_t Unaligned __attribute__((vector_size(kVectorBytes), aligned(alignof(Pair)), may_alias));
};
template <class T>
using Vector = typename VectorOf<T>::Type;
template <class T>
inline constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

// p need not be aligned.
template <class T>
inline Vector<T> load(const T* p) {
  return *reinterpret_cast<const typename VectorOf<T>::Unaligned*>(p);
}
template <class T>
inline void store(T* p, Vector<T> x) {
  *reinterpret_cast<typename VectorOf<T>::Unaligned*>(p) = x;
}

#if defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512VL__)
inline constexpr bool kMultipliesBFloat16 = true;
#else
inline constexpr bool kMultipliesBFloat16 = false;
#endif

// What elements of type S are multiplied as.
template <class S>
using Factor = std::conditional_t<kMultipliesBFloat16 && std::is_same_v<S, BFloat16>, Pair, Accumulation<S>>;
// What products of factors are added up in.
template <class T>
using Sum = std::conditional_t<std::is_same_v<T, Pair>, float, T>;
// Elements of a factor.
template <class T>
inline constexpr int kGroup = std::is_same_v<T, Pair> ? 2 : 1;

// a * b + c in every lane, rounded once where the processor can.
#if defined(__AVX512F__)
inline Vector<float> multiply_add(Vector<float> a, Vector<float> b, Vector<float> c) {
  return _mm512_fmadd_ps(a, b, c);
}
inline Vector<double> multiply_add(Vector<double> a, Vector<double> b, Vector<double> c) {
  return _mm512_fmadd_pd(a, b, c);
}
inline Vector<float> broadcast(float x) {
  return _mm512_set1_ps(x);
}
inline Vector<double> broadcast(double x) {
  return _mm512_set1_pd(x);
}
#if defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512VL__)
// Both products of the pair are added, the unit's way: subnormals count as zero.
inline Vector<float> multiply_add(Vector<Pair> a, Vector<Pair> b, Vector<float> c) {
  return _mm512_dpbf16_ps(c, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
}
inline Vector<Pair> broadcast(const Pair& x) {
  int bits;  // read at once, not half by half
  std::memcpy(&bits, &x, sizeof(bits));
  return reinterpret_cast<Vector<Pair>>(_mm512_set1_epi32(bits));
}
#endif
#elif defined(__AVX2__) && defined(__FMA__)
inline Vector<float> multiply_add(Vector<float> a, Vector<float> b, Vector<float> c) {
  return _mm256_fmadd_ps(a, b, c);
}
inline Vector<double> multiply_add(Vector<double> a, Vector<double> b, Vector<double> c) {
  return _mm256_fmadd_pd(a, b, c);
}
inline Vector<float> broadcast(float x) {
  return _mm256_set1_ps(x);
}
inline Vector<double> broadcast(double x) {
  return _mm256_set1_pd(x);
}
#else
template <class V>
inline V multiply_add(V a, V b, V c) {
  return a * b + c;
}
inline Vector<float> broadcast(float x) {
  return Vector<float>{x, x, x, x};
}
inline Vector<double> broadcast(double x) {
  return Vector<double>{x, x};
}
#endif

// The first `count` lanes (0 < count <= lanes) from memory, the others zero; nothing behind them is touched.
template <class T>
inline Vector<T> load_first(const T* p, int64_t count) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) {
    return _mm512_maskz_loadu_ps(static_cast<__mmask16>(0xFFFFu >> (16 - count)), p);
  } else {
    return _mm512_maskz_loadu_pd(static_cast<__mmask8>(0xFFu >> (8 - count)), p);
  }
#elif defined(__AVX2__) && defined(__FMA__)
  // Lanes of ones and behind them lanes of zeros, of which `count` ones are taken.
  static constexpr int32_t kMasks[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
  const int64_t words = count * static_cast<int64_t>(sizeof(T) / 4);
  const __m256i mask = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kMasks + 8 - words));
  if constexpr (sizeof(T) == 4) {
    return _mm256_maskload_ps(p, mask);
  } else {
    return _mm256_maskload_pd(p, mask);
  }
#else
  Vector<T> x{};
  for (int64_t i = 0; i < count; ++i) x[i] = p[i];
  return x;
#endif
}
// Writes the first `count` lanes.
template <class T>
inline void store_first(T* p, int64_t count, Vector<T> x) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) {
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>(0xFFFFu >> (16 - count)), x);
  } else {
    _mm512_mask_storeu_pd(p, static_cast<__mmask8>(0xFFu >> (8 - count)), x);
  }
#else
  for (int64_t i = 0; i < count; ++i) p[i] = x[i];
#endif
}

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
// The first `count` of eight elements of 16 bits (0 < count < 8), the others zero; nothing behind them is
// touched.
inline __m128i first_halves(const void* p, int64_t count) {
  const char* at = static_cast<const char*>(p);
  uint64_t parts[2] = {0, 0};
  uint64_t* part = parts;
  if (count >= 4) {
    std::memcpy(part++, at, 8);
    at += 8;
    count -= 4;
  }
  if (count >= 2) std::memcpy(part, at, 4);
  if (count % 2 != 0) {
    const int64_t before = count - 1;  // 0 or 2
    uint16_t last;
    std::memcpy(&last, at + 2 * before, 2);
    *part |= static_cast<uint64_t>(last) << (16 * before);
  }
  return _mm_set_epi64x(static_cast<int64_t>(parts[1]), static_cast<int64_t>(parts[0]));
}
#endif

// Factors out of the first `count` elements from memory (0 < count <= lanes * kGroup), the others zero.
template <class T, class S>
inline Vector<T> load_factors(const S* p, int64_t count) {
  if constexpr (std::is_same_v<T, S>) {
    return count == kLanes<T> ? load(p) : load_first(p, count);
  } else {
#if defined(__AVX512BW__) && defined(__AVX512VL__)
    if constexpr (std::is_same_v<T, Pair>) {
      return reinterpret_cast<Vector<T>>(
          _mm512_maskz_loadu_epi16(static_cast<__mmask32>(0xFFFFFFFFu >> (32 - count)), p));
    } else {
      const __m256i bits = _mm256_maskz_loadu_epi16(static_cast<__mmask16>(0xFFFFu >> (16 - count)), p);
      // Intrinsics whose unused lanes are "undefined" make GCC 12 warn, hence the mask and the plain
      // conversion.
      if constexpr (std::is_same_v<S, Float16>) {
        return _mm512_maskz_cvtph_ps(0xFFFF, bits);
      } else {
        typedef uint16_t Halves __attribute__((vector_size(32)));
        const auto wide = __builtin_convertvector(reinterpret_cast<Halves>(bits), Vector<uint32_t>);
        return reinterpret_cast<Vector<T>>(wide << 16);
      }
    }
#else
#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
    const __m128i bits =
        count == kLanes<T> ? _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)) : first_halves(p, count);
    if constexpr (std::is_same_v<S, Float16>) return _mm256_cvtph_ps(bits);
    return reinterpret_cast<Vector<T>>(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
#else
    T lanes[kLanes<T>];
    for (int64_t i = 0; i < kLanes<T>; ++i) lanes[i] = i < count ? T(p[i]) : T{0};
    return load(lanes);
#endif
#endif
  }
}

// Turns a square of lanes x lanes elements: row i, lane j goes to row j, lane i. Each of the log2(lanes)
// rounds interleaves row i with row i + lanes/2.
template <class T>
inline void transpose(Vector<T> (&rows)[kLanes<T>]) {
  constexpr int n = kLanes<T>;
  const auto interleave = []<int... i>(Vector<T> x, Vector<T> y, int high, std::integer_sequence<int, i...>) {
    return high ? __builtin_shufflevector(x, y, (n / 2 + i / 2 + (i % 2) * n)...)
                : __builtin_shufflevector(x, y, (i / 2 + (i % 2) * n)...);
  };
#pragma GCC unroll 4
  for (int round = 1; round < n; round *= 2) {
    Vector<T> next[n];
#pragma GCC unroll 8
    for (int i = 0; i < n / 2; ++i) {
      next[2 * i] = interleave(rows[i], rows[i + n / 2], 0, std::make_integer_sequence<int, n>{});
      next[2 * i + 1] = interleave(rows[i], rows[i + n / 2], 1, std::make_integer_sequence<int, n>{});
    }
#pragma GCC unroll 16
    for (int i = 0; i < n; ++i) rows[i] = next[i];
  }
}

}  // namespace lockstep
