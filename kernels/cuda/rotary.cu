// Rotary positions (Su et al. 2021), and what of a window each position sees.
#include "lockstep/kernels/cuda/cuda_backend.h"
#include "lockstep/kernels/cuda/rows.h"
#include "lockstep/kernels/dispatch.h"

namespace lockstep {

namespace {

constexpr int kRowThreads = 128;

// A block a row, a thread N numbers of a head's first half and their partners of the second.
template <class S, int N>
__global__ void __launch_bounds__(kRowThreads)
    rotary_kernel(int64_t positions, int heads, int turned, int half, bool back, const S* x,
                  const Accumulation<S>* cosines, const Accumulation<S>* sines, S* y) {
  using T = Accumulation<S>;
  constexpr bool kWhole = N > 1;
  const int64_t row = blockIdx.x, begin = row * heads * 2 * half, angles = row % positions * half;
  const int groups = half / N;
  for (int i = static_cast<int>(threadIdx.x); i < heads * groups; i += kRowThreads) {
    const int head = i / groups, j = (i - head * groups) * N;
    const int64_t first = begin + static_cast<int64_t>(head) * 2 * half + j;
    T a[N], b[N];
    widen_vector(load_elements<kWhole, N>(x + first), a);
    widen_vector(load_elements<kWhole, N>(x + first + half), b);
    if (head < turned) {
      T c[N], s[N];
      load_numbers<N>(cosines + angles + j, kWhole, c);
      load_numbers<N>(sines + angles + j, kWhole, s);
      LOCKSTEP_UNROLL
      for (int l = 0; l < N; ++l) {
        const T sine = back ? -s[l] : s[l], left = a[l];
        a[l] = left * c[l] - b[l] * sine;
        b[l] = b[l] * c[l] + left * sine;
      }
    }
    store_row(y + first, a, kWhole);
    store_row(y + first + half, b, kWhole);
  }
}

__global__ void __launch_bounds__(kFlatThreads)
    first_keys_kernel(int64_t count, int64_t positions, int64_t window, const int32_t* documents,
                      int32_t* first) {
  const int64_t i = global_thread();
  if (i >= count) return;
  const int64_t t = i % positions;
  int64_t low = 0;
  if (documents != nullptr) {
    const int32_t* const row = documents + (i - t);
    const int32_t own = row[t];
    for (int64_t high = t; low < high;) {
      const int64_t middle = (low + high) / 2;
      if (row[middle] < own) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
  }
  const int64_t begin = window > 0 ? t - window + 1 : 0;
  first[i] = static_cast<int32_t>(begin > low ? begin : low);
}

}  // namespace

void CudaBackend::rotary(DType dtype, int64_t rows, int64_t positions, int64_t heads, int64_t turned,
                         int64_t size, bool back, const void* x, const void* cosines, const void* sines,
                         void* y) {
  if (heads * size <= 0) return;
  dispatch_floating("rotary", dtype, [&](auto type) {
    using S = decltype(type);
    using T = Accumulation<S>;
    const int64_t half = size / 2;
    const auto launch_with = [&]<int N>(std::integral_constant<int, N>) {
      LOCKSTEP_LAUNCH((rotary_kernel<S, N>), blocks_for(rows, 1), kRowThreads, 0, stream(), positions,
                      static_cast<int>(heads), static_cast<int>(turned), static_cast<int>(half), back,
                      static_cast<const S*>(x), static_cast<const T*>(cosines), static_cast<const T*>(sines),
                      static_cast<S*>(y));
    };
    constexpr int kFull = Vector<S>::kLanes;
    if (half % kFull == 0 && aligned_to(16, x, cosines, sines, y)) {
      return launch_with(std::integral_constant<int, kFull>{});
    }
    launch_with(std::integral_constant<int, 1>{});
  });
}

void CudaBackend::first_keys(int64_t batch, int64_t positions, int64_t window, const int32_t* documents,
                             int32_t* first) {
  const int64_t count = batch * positions;
  LOCKSTEP_LAUNCH(first_keys_kernel, blocks_for(count, kFlatThreads), kFlatThreads, 0, stream(), count,
                  positions, window, documents, first);
}

}  // namespace lockstep
