// RMS norm (Zhang and Sennrich 2019) over the last axis of (rows, columns), forward and backward.
#include <cmath>

#include "lockstep/kernels/cuda/column_sums.h"
#include "lockstep/kernels/cuda/cuda_backend.h"
#include "lockstep/kernels/cuda/rows.h"
#include "lockstep/kernels/dispatch.h"

namespace lockstep {

namespace {

template <class S, class Plan, class T = Accumulation<S>>
__global__ void __launch_bounds__(Team<Plan::kTeam>::kThreads, Plan::kBlocks)
    rms_norm_kernel(int64_t rows, int64_t columns, const S* x, const T* gamma, T epsilon, S* y, T* rstd,
                    bool vectors) {
  using Rows = Team<Plan::kTeam>;
  constexpr int N = Plan::kLanes;
  LOCKSTEP_SHARED(T, shared, [Plan::kTeam / kWarp]);
  const int64_t r = Rows::row();
  if (r >= rows) return;
  RowValues<S, 1, Plan> row({x}, r, columns, vectors);
  T squares = 0;
  row.visit([&](int, typename Plan::Index, T(&values)[1][N]) {
    LOCKSTEP_UNROLL
    for (int j = 0; j < N; ++j) squares = std::fma(values[0][j], values[0][j], squares);
  });
  squares = Rows::template reduce<Plus>(squares, shared);
  const T inverse = T(1) / std::sqrt(squares / static_cast<T>(columns) + epsilon);
  row.visit([&](int, typename Plan::Index i, T(&values)[1][N]) {
    T scale[N], result[N];
    load_numbers<N>(gamma + i, vectors, scale);
    LOCKSTEP_UNROLL
    for (int j = 0; j < N; ++j) result[j] = values[0][j] * inverse * scale[j];
    store_row(y + r * columns + i, result, vectors);
  });
  if (Rows::lane() == 0) rstd[r] = inverse;
}

// Elements one by one cost the registers of their addresses, of two arrays here.
template <class Plan>
[[maybe_unused]] constexpr int kBackwardBlocks =
    Plan::kLanes > 1 || Plan::kBlocks < 2 ? Plan::kBlocks : Plan::kBlocks / 2;

// With h = x rstd and g = dy gamma: dx = rstd (g - h mean(g h)).
template <class S, class Plan, class T = Accumulation<S>>
__global__ void __launch_bounds__(Team<Plan::kTeam>::kThreads, kBackwardBlocks<Plan>)
    rms_norm_backward_kernel(int64_t rows, int64_t columns, const S* x, const T* gamma, const T* rstd,
                             const S* dy, S* dx, bool vectors) {
  using Rows = Team<Plan::kTeam>;
  constexpr int N = Plan::kLanes;
  LOCKSTEP_SHARED(T, shared, [Plan::kTeam / kWarp]);
  const int64_t r = Rows::row();
  if (r >= rows) return;
  const T inverse = rstd[r];
  RowValues<S, 2, Plan> row({x, dy}, r, columns, vectors);
  T total = 0;
  const auto prepare = [&](typename Plan::Index i, T(&values)[2][N]) {
    T scale[N];
    load_numbers<N>(gamma + i, vectors, scale);
    LOCKSTEP_UNROLL
    for (int j = 0; j < N; ++j) {
      values[0][j] *= inverse;
      values[1][j] *= scale[j];
    }
  };
  row.visit([&](int, typename Plan::Index i, T(&values)[2][N]) {
    prepare(i, values);
    LOCKSTEP_UNROLL
    for (int j = 0; j < N; ++j) total = std::fma(values[1][j], values[0][j], total);
  });
  const T product = Rows::template reduce<Plus>(total, shared) / static_cast<T>(columns);
  row.visit([&](int, typename Plan::Index i, T(&values)[2][N]) {
    if constexpr (!Plan::kHeld) prepare(i, values);
    T result[N];
    LOCKSTEP_UNROLL
    for (int j = 0; j < N; ++j) result[j] = inverse * std::fma(-values[0][j], product, values[1][j]);
    store_row(dx + r * columns + i, result, vectors);
  });
}

// dy h
template <class S_>
struct RmsNormTerm {
  using S = S_;
  using T = Accumulation<S>;
  static constexpr int kSums = 1, kResident = 3, kAhead = 2;
  const S *x, *dy;
  const T* rstd;
  bool vectors;

  template <int N>
  struct Stored {
    Vector<S, N> x, dy;
    T inverse;
  };
  template <bool kWhole, int N>
  LOCKSTEP_DEVICE Stored<N> fetch(int64_t index, int64_t row) const {
    return {load_elements<kWhole, N>(x + index), load_elements<kWhole, N>(dy + index), rstd[row]};
  }
  template <int N>
  LOCKSTEP_DEVICE void widen_all(const Stored<N>& stored, int64_t, T (&values)[1][N]) const {
    T gradient[N];
    widen_vector(stored.x, values[0]);
    widen_vector(stored.dy, gradient);
    LOCKSTEP_UNROLL
    for (int j = 0; j < N; ++j) values[0][j] = gradient[j] * (values[0][j] * stored.inverse);
  }
};

}  // namespace

void CudaBackend::rms_norm(DType dtype, int64_t rows, int64_t columns, const void* x, const void* gamma,
                           double epsilon, void* y, void* rstd) {
  if (rows <= 0 || columns <= 0) return;
  dispatch_floating("rms_norm", dtype, [&](auto type) {
    using S = decltype(type);
    using T = Accumulation<S>;
    dispatch_rows<S>(columns, [&](auto plan) {
      using Plan = decltype(plan);
      using Rows = Team<Plan::kTeam>;
      LOCKSTEP_LAUNCH((rms_norm_kernel<S, Plan>), blocks_for(rows, Rows::kRows), Rows::kThreads, 0, stream(),
                      rows, columns, static_cast<const S*>(x), static_cast<const T*>(gamma),
                      static_cast<T>(epsilon), static_cast<S*>(y), static_cast<T*>(rstd),
                      aligned_to(16, x, gamma, y));
    });
  });
}

void CudaBackend::rms_norm_backward(DType dtype, int64_t rows, int64_t columns, const void* x,
                                    const void* gamma, const void* rstd, const void* dy, void* dx,
                                    void* dgamma) {
  if (columns <= 0) return;
  if (rows <= 0) return fill(accumulation_type(dtype), columns, dgamma, 0.0);
  dispatch_floating("rms_norm_backward", dtype, [&](auto type) {
    using S = decltype(type);
    using T = Accumulation<S>;
    const S* const values = static_cast<const S*>(x);
    const S* const gradients = static_cast<const S*>(dy);
    const T* const inverses = static_cast<const T*>(rstd);
    dispatch_rows<S, 2>(columns, [&](auto plan) {
      using Plan = decltype(plan);
      using Rows = Team<Plan::kTeam>;
      LOCKSTEP_LAUNCH((rms_norm_backward_kernel<S, Plan>), blocks_for(rows, Rows::kRows), Rows::kThreads, 0,
                      stream(), rows, columns, values, static_cast<const T*>(gamma), inverses, gradients,
                      static_cast<S*>(dx), aligned_to(16, x, gamma, dy, dx));
    });
    using Sums = ColumnSums<Plus, RmsNormTerm<S>>;
    const StoreNumbers<T, 1> result = {{static_cast<T*>(dgamma)}};
    column_reduce(stream(), 1, rows, columns, Sums{{values, gradients, inverses, aligned_to(16, x, dy)}},
                  scratch<T>(column_room<Sums>(1, rows, columns)), result);
  });
}

}  // namespace lockstep
