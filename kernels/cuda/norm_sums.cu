// Sums of squares for the global norm, and the check for infinities and NaN.
#include <bit>
#include <limits>

#include "lockstep/kernels/cuda/cuda_backend.h"
#include "lockstep/kernels/cuda/flat.h"
#include "lockstep/kernels/dispatch.h"

namespace lockstep {

namespace {

constexpr int kSquareWarps = 8;  // of a block; each has a norm block

// The CPU's order: element i of a norm block goes to lane i mod 32, lanes are added by halves.
template <class S>
__global__ void __launch_bounds__(kSquareWarps* kWarp)
    square_sums_kernel(int64_t n, const S* x, double* sums) {
  constexpr int64_t kBlock = Backend::kNormBlock;
  const int64_t block = global_thread() / kWarp, first = block * kBlock;
  if (first >= n) return;
  const int64_t lane = threadIdx.x % kWarp;
  const int64_t count = n - first < kBlock ? n - first : kBlock;
  double sum = 0.0;
  LOCKSTEP_UNROLL_BY(8)
  for (int64_t i = lane; i < count; i += kWarp) {
    const double value = static_cast<double>(widen(x[first + i]));
    sum += value * value;
  }
  for (unsigned half = kWarp / 2; half >= 1; half /= 2) sum += __shfl_down_sync(kAllLanes, sum, half);
  if (lane == 0) sums[block] = sum;
}

// Sets *found where an element is infinite or NaN: its exponent bits are all ones.
template <class S>
struct NonFinite {
  using Bits =
      std::conditional_t<sizeof(S) == 8, uint64_t, std::conditional_t<sizeof(S) == 4, uint32_t, uint16_t>>;
  static constexpr Bits kExponent = std::bit_cast<Bits>(S(std::numeric_limits<float>::infinity()));
  static constexpr int kLanes = Vector<S>::kLanes;
  static constexpr int kVectors = 4;
  template <int N>
  using Values = FlatValues<S, 1, N>;
  FlatInput<S> input;
  int* found;

  template <int N, bool kWhole>
  LOCKSTEP_DEVICE Values<N> load(int64_t i) const {
    return {{input.template load<N, kWhole>(i)}};
  }
  template <int N>
  LOCKSTEP_DEVICE void store(int64_t, const Values<N>& values) const {
    bool any = false;
    LOCKSTEP_UNROLL
    for (int j = 0; j < N; ++j) {
      any = any || (std::bit_cast<Bits>(values.inputs[0].lane[j]) & kExponent) == kExponent;
    }
    if (any) atomicOr(found, 1);
  }
};

}  // namespace

void CudaBackend::block_square_sums(DType dtype, int64_t n, const void* x, double* sums) {
  dispatch_floating("block_square_sums", dtype, [&](auto type) {
    using S = decltype(type);
    LOCKSTEP_LAUNCH(square_sums_kernel<S>, blocks_for(n, kSquareWarps * kNormBlock), kSquareWarps * kWarp, 0,
                    stream(), n, static_cast<const S*>(x), sums);
  });
}

bool CudaBackend::all_finite(DType dtype, int64_t n, const void* x) {
  if (n <= 0) return true;
  int* found = scratch<int>(1);
  fill(DType::kI32, 1, found, 0.0);
  dispatch_floating("all_finite", dtype, [&](auto type) {
    using S = decltype(type);
    const S* in = static_cast<const S*>(x);
    const int64_t head = flat_head<NonFinite<S>::kLanes>(n, in);
    launch_flat(stream(), n, head, true, NonFinite<S>{{in, Reading::kVectors}, found});
  });
  int result = 0;
  copy_to_host(&result, found, sizeof(result));
  return result == 0;
}

}  // namespace lockstep
