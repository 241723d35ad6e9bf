// Random masks from counters.
#include <type_traits>

#include "lockstep/kernels/cpu/cpu_backend.h"
#include "lockstep/kernels/cpu/elements.h"
#include "lockstep/kernels/cpu/philox_batch.h"
#include "lockstep/kernels/dispatch.h"

namespace lockstep {

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
      for (int64_t i = begin; i < end; i += kPhiloxBatch * kDraws) {
        alignas(64) uint32_t by_word[4][kPhiloxBatch], words[4 * kPhiloxBatch];
        philox_batch(stream, static_cast<uint32_t>(i / kDraws), 1, by_word);
        for (int b = 0; b < kPhiloxBatch; ++b) {
          for (int word = 0; word < 4; ++word) words[4 * b + word] = by_word[word][b];
        }
        S* piece = out + (i - begin);
        simd_for<T>(std::min(kPhiloxBatch * kDraws, end - i), [=, &words](int64_t d) {
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
