// Random masks from counters: the draws of core/philox.h, the same on every device.
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/flat.h"
#include "kernels/dispatch.h"

namespace lockstep {

namespace {

// A thread makes the elements of one Philox block.
template <class S>
__global__ void __launch_bounds__(kFlatThreads)
    dropout_kernel(int64_t n, RandomStream source, Accumulation<S> threshold, S kept, bool vectors, S* mask) {
  constexpr int kDraws = 16 / static_cast<int>(sizeof(Accumulation<S>));
  const int64_t block = global_thread(), first = block * kDraws;
  if (first >= n) return;
  const uint32_t step = source.step_at != nullptr ? *source.step_at : source.step;
  const PhiloxBlock words =
      philox(source.key, {static_cast<uint32_t>(block), source.op_ordinal, step, source.stream});
  Vector<S, kDraws> result;
  LOCKSTEP_UNROLL
  for (int d = 0; d < kDraws; ++d) {
    Accumulation<S> draw;
    if constexpr (kDraws == 4) {
      draw = uniform_float(words.r[d]);
    } else {
      draw = uniform_double(words.r[2 * d], words.r[2 * d + 1]);
    }
    result.lane[d] = draw < threshold ? S(0) : kept;
  }
  if (vectors && first + kDraws <= n) {
    store_vector(mask + first, result);
  } else {
    LOCKSTEP_UNROLL
    for (int d = 0; d < kDraws; ++d) {
      if (first + d < n) mask[first + d] = result.lane[d];
    }
  }
}

}  // namespace

void CudaBackend::dropout_mask(DType dtype, int64_t n, const RandomStream& stream, double probability,
                               void* mask) {
  dispatch_floating("dropout_mask", dtype, [&](auto type) {
    using S = decltype(type);
    using T = Accumulation<S>;
    constexpr int kDraws = 16 / static_cast<int>(sizeof(T));
    LOCKSTEP_LAUNCH(dropout_kernel<S>, blocks_for(n, kFlatThreads * kDraws), kFlatThreads, 0, this->stream(),
                    n, stream, static_cast<T>(probability), S(1.0 / (1.0 - probability)),
                    aligned_to(kDraws * sizeof(S), mask), static_cast<S*>(mask));
  });
}

}  // namespace lockstep
