// Random numbers by the batch: the function of core/philox.h with the loop over blocks inside the loop over
// rounds, where compilers can vectorize it.
#pragma once

#include <cstdint>

#include "lockstep/kernels/backend.h"

namespace lockstep {

inline constexpr int kPhiloxBatch = 64;  // blocks computed together

// words[w][b] = word w of philox(source.key, {first + b stride, ...}).
inline void philox_batch(const RandomStream& source, uint32_t first, uint32_t stride,
                         uint32_t (&words)[4][kPhiloxBatch]) {
  constexpr uint32_t kMultiplier0 = 0xD2511F53u, kMultiplier1 = 0xCD9E8D57u;
  constexpr uint32_t kWeyl0 = 0x9E3779B9u, kWeyl1 = 0xBB67AE85u;
  const uint32_t step = source.step_at != nullptr ? *source.step_at : source.step;
  uint32_t *const c0 = words[0], *const c1 = words[1], *const c2 = words[2], *const c3 = words[3];
  for (int b = 0; b < kPhiloxBatch; ++b) {
    c0[b] = first + static_cast<uint32_t>(b) * stride;
    c1[b] = source.op_ordinal;
    c2[b] = step;
    c3[b] = source.stream;
  }
  uint32_t k0 = source.key.k0, k1 = source.key.k1;
  for (int round = 0; round < 10; ++round) {
#pragma omp simd
    for (int b = 0; b < kPhiloxBatch; ++b) {
      const uint64_t p0 = static_cast<uint64_t>(kMultiplier0) * c0[b];
      const uint64_t p1 = static_cast<uint64_t>(kMultiplier1) * c2[b];
      c0[b] = static_cast<uint32_t>(p1 >> 32) ^ c1[b] ^ k0;
      c2[b] = static_cast<uint32_t>(p0 >> 32) ^ c3[b] ^ k1;
      c1[b] = static_cast<uint32_t>(p1);
      c3[b] = static_cast<uint32_t>(p0);
    }
    k0 += kWeyl0;
    k1 += kWeyl1;
  }
}

}  // namespace lockstep
