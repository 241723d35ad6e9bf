// Conversion of runs of elements between the types that arrays are stored in.
#pragma once

#include <cstdint>
#include <type_traits>

#include "lockstep/kernels/math/conversion.h"

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace lockstep {

template <class From, class To>
inline void convert_elements(int64_t n, const From* x, To* y) {
  int64_t i = 0;
#if defined(__AVX512F__)
  // The processor's own conversions of fp16: the bits of Float16's, which take a dozen instructions.
  if constexpr (std::is_same_v<From, Float16> && std::is_same_v<To, float>) {
    for (; i + 16 <= n; i += 16) {
      const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i));
      _mm512_storeu_ps(y + i, _mm512_maskz_cvtph_ps(0xFFFF, halves));
    }
  } else if constexpr (std::is_same_v<From, float> && std::is_same_v<To, Float16>) {
    for (; i + 16 <= n; i += 16) {
      const __m256i halves = _mm512_maskz_cvtps_ph(0xFFFF, _mm512_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(y + i), halves);
    }
  }
#endif
  for (; i < n; ++i) y[i] = math::convert<To>(x[i]);
}

}  // namespace lockstep
