// Random masks from counters: the draws of core/philox.h, the same on every device.
#include <cmath>
#include <limits>

#include "lockstep/kernels/cuda/cuda_backend.h"
#include "lockstep/kernels/cuda/flat.h"
#include "lockstep/kernels/dispatch.h"

namespace lockstep {

namespace {

constexpr int kDropoutVectors = 4;  // of a thread, which computes the key's schedule once

// Bits as whole numbers: draw < threshold where they are below a limit.
template <class T>
using DrawBits = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;

// A thread makes vectors of 16 bytes, of the elements of one Philox block or of several side by side.
template <class S>
__global__ void __launch_bounds__(kFlatThreads)
    dropout_kernel(int64_t n, RandomStream source, DrawBits<Accumulation<S>> limit, S dropped, S kept,
                   bool vectors, S* mask) {
  using Bits = DrawBits<Accumulation<S>>;
  constexpr int kDraws = 16 / static_cast<int>(sizeof(Accumulation<S>)), kLanes = Vector<S>::kLanes,
                kVectors = kDropoutVectors;
  const uint32_t step = source.step_at != nullptr ? *source.step_at : source.step;
  const auto draw = [&](int64_t vector) {
    Vector<S, kLanes> result;
    LOCKSTEP_UNROLL
    for (int b = 0; b < kLanes / kDraws; ++b) {
      const uint32_t block = static_cast<uint32_t>(vector) * (kLanes / kDraws) + b;
      const PhiloxBlock words = philox(source.key, {block, source.op_ordinal, step, source.stream});
      LOCKSTEP_UNROLL
      for (int d = 0; d < kDraws; ++d) {
        Bits bits;
        if constexpr (kDraws == 4) {
          bits = words.r[d];
        } else {
          bits = (static_cast<uint64_t>(words.r[2 * d]) << 32) | words.r[2 * d + 1];
        }
        result.lane[b * kDraws + d] = bits < limit ? dropped : kept;
      }
    }
    return result;
  };
  const int64_t first = static_cast<int64_t>(blockIdx.x) * (kFlatThreads * kVectors), thread = threadIdx.x;
  if (vectors && (first + kFlatThreads * kVectors) * kLanes <= n) {
    LOCKSTEP_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      const int64_t vector = first + thread + v * kFlatThreads;
      store_vector(mask + vector * kLanes, draw(vector));
    }
  } else {
    LOCKSTEP_UNROLL_BY(1)
    for (int v = 0; v < kVectors; ++v) {
      const int64_t vector = first + thread + v * kFlatThreads;
      const Vector<S, kLanes> result = draw(vector);
      LOCKSTEP_UNROLL
      for (int d = 0; d < kLanes; ++d) {
        if (vector * kLanes + d < n) mask[vector * kLanes + d] = result.lane[d];
      }
    }
  }
}

}  // namespace

void CudaBackend::dropout_mask(DType dtype, int64_t n, const RandomStream& stream, double probability,
                               void* mask) {
  dispatch_floating("dropout_mask", dtype, [&](auto type) {
    using S = decltype(type);
    using T = Accumulation<S>;
    // A draw is a whole number of 2^-24 or 2^-53, the upper bits of its words (core/philox.h): it is below
    // the threshold where all of the bits are below the limit. A limit beyond their range: all draws are
    // below it.
    using Bits = DrawBits<T>;
    constexpr int kDigits = std::numeric_limits<T>::digits,
                  kUnused = std::numeric_limits<Bits>::digits - kDigits;
    const double below = std::ceil(std::ldexp(static_cast<double>(static_cast<T>(probability)), kDigits));
    const bool all = below >= std::ldexp(1.0, kDigits);
    const Bits limit = all ? Bits(0) : static_cast<Bits>(below) << kUnused;
    const S kept = S(1.0 / (1.0 - probability)), zero = S(0);
    LOCKSTEP_LAUNCH(dropout_kernel<S>, blocks_for(n, kFlatThreads * kDropoutVectors * Vector<S>::kLanes),
                    kFlatThreads, 0, this->stream(), n, stream, limit, zero, all ? zero : kept,
                    aligned_to(16, mask), static_cast<S*>(mask));
  });
}

}  // namespace lockstep
