// SwiGLU of rows that hold both halves side by side, forward and backward.
#include "lockstep/kernels/cuda/cuda_backend.h"
#include "lockstep/kernels/cuda/rows.h"
#include "lockstep/kernels/dispatch.h"
#include "lockstep/kernels/math/gated.h"

namespace lockstep {

namespace {

// Threads along the columns, N each; blocks one behind the other, `across` a row.
template <class S, int N>
__global__ void __launch_bounds__(kFlatThreads)
    swiglu_kernel(int64_t across, int64_t columns, const S* h, S* y) {
  using T = Accumulation<S>;
  constexpr bool kWhole = N > 1;
  const int64_t block = blockIdx.x, row = block / across;
  const int64_t c = ((block - row * across) * kFlatThreads + threadIdx.x) * N;
  if (c >= columns) return;
  const S* const first = h + row * 2 * columns + c;
  T a[N], b[N];
  widen_vector(load_elements<kWhole, N>(first), a);
  widen_vector(load_elements<kWhole, N>(first + columns), b);
  LOCKSTEP_UNROLL
  for (int l = 0; l < N; ++l) a[l] = math::swiglu(a[l], b[l]);
  store_whole(y + row * columns + c, rounded_vector<S>(a));
}

template <class S, int N>
__global__ void __launch_bounds__(kFlatThreads)
    swiglu_backward_kernel(int64_t across, int64_t columns, const S* h, const S* dy, S* dh) {
  using T = Accumulation<S>;
  constexpr bool kWhole = N > 1;
  const int64_t block = blockIdx.x, row = block / across;
  const int64_t c = ((block - row * across) * kFlatThreads + threadIdx.x) * N;
  if (c >= columns) return;
  const int64_t first = row * 2 * columns + c;
  T a[N], b[N], gradient[N], da[N], db[N];
  widen_vector(load_elements<kWhole, N>(h + first), a);
  widen_vector(load_elements<kWhole, N>(h + first + columns), b);
  widen_vector(load_elements<kWhole, N>(dy + row * columns + c), gradient);
  LOCKSTEP_UNROLL
  for (int l = 0; l < N; ++l) math::swiglu_backward(a[l], b[l], gradient[l], da[l], db[l]);
  store_whole(dh + first, rounded_vector<S>(da));
  store_whole(dh + first + columns, rounded_vector<S>(db));
}

// Calls function(N{}, across) with the elements of a thread, whole vectors where they fit the columns and
// addresses.
template <class S, class F>
void dispatch_lanes(int64_t columns, bool aligned, const F& function) {
  constexpr int kFull = Vector<S>::kLanes;
  const auto with = [&]<int N>(std::integral_constant<int, N> lanes) {
    function(lanes, (columns / N + kFlatThreads - 1) / kFlatThreads);
  };
  if (columns % kFull == 0 && aligned) return with(std::integral_constant<int, kFull>{});
  with(std::integral_constant<int, 1>{});
}

}  // namespace

void CudaBackend::swiglu(DType dtype, int64_t rows, int64_t columns, const void* h, void* y) {
  if (columns <= 0) return;
  dispatch_floating("swiglu", dtype, [&](auto type) {
    using S = decltype(type);
    dispatch_lanes<S>(
        columns, aligned_to(16, h, y), [&]<int N>(std::integral_constant<int, N>, int64_t across) {
          LOCKSTEP_LAUNCH((swiglu_kernel<S, N>), blocks_for(rows * across, 1), kFlatThreads, 0, stream(),
                          across, columns, static_cast<const S*>(h), static_cast<S*>(y));
        });
  });
}

void CudaBackend::swiglu_backward(DType dtype, int64_t rows, int64_t columns, const void* h, const void* dy,
                                  void* dh) {
  if (columns <= 0) return;
  dispatch_floating("swiglu_backward", dtype, [&](auto type) {
    using S = decltype(type);
    dispatch_lanes<S>(columns, aligned_to(16, h, dy, dh),
                      [&]<int N>(std::integral_constant<int, N>, int64_t across) {
                        LOCKSTEP_LAUNCH((swiglu_backward_kernel<S, N>), blocks_for(rows * across, 1),
                                        kFlatThreads, 0, stream(), across, columns, static_cast<const S*>(h),
                                        static_cast<const S*>(dy), static_cast<S*>(dh));
                      });
  });
}

}  // namespace lockstep
