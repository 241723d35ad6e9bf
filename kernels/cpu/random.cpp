// Random masks from counters.
#include <type_traits>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/elements.h"

namespace lockstep {

void CpuBackend::dropout_mask(DType dtype, int64_t n, const RandomStream& stream, double probability,
                              void* mask) {
  dispatch_floating("dropout_mask", dtype, [&](auto type) {
    using T = decltype(type);
    constexpr int64_t kWords = sizeof(T) / 4;  // of a draw
    constexpr int64_t kDraws = 4 / kWords;     // of a Philox block
    constexpr int64_t kBlocks = 64;            // computed together
    const T threshold = static_cast<T>(probability);
    const T kept = static_cast<T>(1.0 / (1.0 - probability));
    const RandomStream source = stream;
    // Ranges begin at multiples of kDraws: tiles and pieces are powers of two.
    write_elements(n, static_cast<T*>(mask), [=](int64_t begin, int64_t end, T* out) {
      for (int64_t i = begin; i < end; i += kBlocks * kDraws) {
        uint32_t words[4 * kBlocks];
        const uint32_t first = static_cast<uint32_t>(i / kDraws);
#pragma omp simd
        for (uint32_t b = 0; b < kBlocks; ++b) {
          const PhiloxBlock block =
              philox(source.key, {first + b, source.op_ordinal, source.step, source.stream});
          for (int w = 0; w < 4; ++w) words[4 * b + w] = block.r[w];
        }
        T* piece = out + (i - begin);
        simd_for<T>(std::min(kBlocks * kDraws, end - i), [=, &words](int64_t d) {
          T draw;
          if constexpr (std::is_same_v<T, float>) {
            draw = uniform_float(words[d]);
          } else {
            draw = uniform_double(words[2 * d], words[2 * d + 1]);
          }
          piece[d] = draw < threshold ? T(0) : kept;
        });
      }
    });
  });
}

}  // namespace lockstep
