// Rotary positions (Su et al. 2021), and what of a window each position sees.
#include <algorithm>

#include "lockstep/kernels/cpu/cpu_backend.h"
#include "lockstep/kernels/cpu/elements.h"
#include "lockstep/kernels/dispatch.h"

namespace lockstep {

void CpuBackend::rotary(DType dtype, int64_t rows, int64_t positions, int64_t heads, int64_t turned,
                        int64_t size, bool back, const void* x, const void* cosines, const void* sines,
                        void* y) {
  dispatch_floating("rotary", dtype, [&](auto type) {
    using S = decltype(type);
    using T = Accumulation<S>;
    const int64_t half = size / 2, row = heads * size;
    const T sign = back ? T(-1) : T(1);
    parallel_ranges(rows, rows_per_tile(row), [=](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const T* c = static_cast<const T*>(cosines) + r % positions * half;
        const T* s = static_cast<const T*>(sines) + r % positions * half;
        const S* in = static_cast<const S*>(x) + r * row;
        S* out = static_cast<S*>(y) + r * row;
        for (int64_t h = 0; h < turned; ++h, in += size, out += size) {
          simd_for<T>(half, [=](int64_t j) {
            const T a = T(in[j]), b = T(in[half + j]), sine = sign * s[j];
            out[j] = S(a * c[j] - b * sine);
            out[half + j] = S(b * c[j] + a * sine);
          });
        }
        if (in != out) std::copy_n(in, (heads - turned) * size, out);
      }
    });
  });
}

void CpuBackend::first_keys(int64_t batch, int64_t positions, int64_t window, const int32_t* documents,
                            int32_t* first) {
  for (int64_t b = 0; b < batch; ++b) {
    int64_t document = 0;  // where it begins
    for (int64_t t = 0; t < positions; ++t) {
      const int64_t at = b * positions + t;
      if (documents != nullptr && t > 0 && documents[at] != documents[at - 1]) document = t;
      first[at] = static_cast<int32_t>(window > 0 ? std::max(document, t - window + 1) : document);
    }
  }
}

}  // namespace lockstep
