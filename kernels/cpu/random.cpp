// Random masks from counters.
#include <type_traits>

#include "lockstep/kernels/cpu/cpu_backend.h"
#include "lockstep/kernels/cpu/elements.h"
#include "lockstep/kernels/dispatch.h"

namespace lockstep {

namespace {

constexpr int kBatch = 64;  // Philox blocks computed together

// words[4 b + w] = word w of philox(source.key, {first + b, ...}) for b < kBatch: the function of
// core/philox.h with the loop over blocks inside the loop over rounds, where compilers can vectorize it.
void philox_batch(const RandomStream& source, uint32_t first, uint32_t* words) {
  constexpr uint32_t kMultiplier0 = 0xD2511F53u, kMultiplier1 = 0xCD9E8D57u;
  constexpr uint32_t kWeyl0 = 0x9E3779B9u, kWeyl1 = 0xBB67AE85u;
  const uint32_t step = source.step_at != nullptr ? *source.step_at : source.step;
  alignas(64) uint32_t c0[kBatch], c1[kBatch], c2[kBatch], c3[kBatch];
  for (int b = 0; b < kBatch; ++b) {
    c0[b] = first + static_cast<uint32_t>(b);
    c1[b] = source.op_ordinal;
    c2[b] = step;
    c3[b] = source.stream;
  }
  uint32_t k0 = source.key.k0, k1 = source.key.k1;
  for (int round = 0; round < 10; ++round) {
#pragma omp simd
    for (int b = 0; b < kBatch; ++b) {
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
  for (int b = 0; b < kBatch; ++b) {
    words[4 * b] = c0[b];
    words[4 * b + 1] = c1[b];
    words[4 * b + 2] = c2[b];
    words[4 * b + 3] = c3[b];
  }
}

}  // namespace

void CpuBackend::dropout_mask(DType dtype, int64_t n, const RandomStream& stream, double probability,
                              void* mask) {
  dispatch_floating("dropout_mask", dtype, [&](auto type) {
    using S = decltype(type);
    using T = Accumulation<S>;
    constexpr int64_t kDraws = 16 / sizeof(T);  // of a Philox block
    const T threshold = static_cast<T>(probability);
    const S kept = S(1.0 / (1.0 - probability));
    // Ranges begin at multiples of kDraws: tiles and pieces are powers of two.
    write_elements(n, static_cast<S*>(mask), [=](int64_t begin, int64_t end, S* out) {
      for (int64_t i = begin; i < end; i += kBatch * kDraws) {
        alignas(64) uint32_t words[4 * kBatch];
        philox_batch(stream, static_cast<uint32_t>(i / kDraws), words);
        S* piece = out + (i - begin);
        simd_for<T>(std::min(kBatch * kDraws, end - i), [=, &words](int64_t d) {
          T draw;
          if constexpr (std::is_same_v<T, float>) {
            draw = uniform_float(words[d]);
          } else {
            draw = uniform_double(words[2 * d], words[2 * d + 1]);
          }
          piece[d] = draw < threshold ? S(0) : kept;
        });
      }
    });
  });
}

}  // namespace lockstep
