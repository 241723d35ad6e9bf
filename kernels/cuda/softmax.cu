// Softmax and log-softmax over the rows of (rows, columns), and their derivatives.
#include "lockstep/kernels/cuda/cuda_backend.h"
#include "lockstep/kernels/cuda/softmax.h"
#include "lockstep/kernels/dispatch.h"

namespace lockstep {

namespace {

template <bool kLog, class S, class Plan>
__global__ void __launch_bounds__(Team<Plan::kTeam>::kThreads, Plan::kBlocks)
    softmax_kernel(int64_t rows, int64_t columns, const S* x, S* y, bool vectors) {
  using T = Accumulation<S>;
  constexpr int N = Plan::kLanes;
  LOCKSTEP_SHARED(T, shared, [2 * Team<Plan::kTeam>::kWarps]);
  const int64_t r = Team<Plan::kTeam>::row();
  if (r >= rows) return;
  RowValues<S, 1, Plan> row({x}, r, columns, vectors);
  S* const out = y + r * columns;
  const Exponentials<T> whole = row_exponentials<!kLog>(row, shared);
  if constexpr (kLog) {
    const T log_sum = math::log(whole.sum);
    row.visit([&](int, typename Plan::Index i, T(&values)[1][N]) {
      T result[N];
      LOCKSTEP_UNROLL
      for (int j = 0; j < N; ++j) result[j] = (values[0][j] - whole.maximum) - log_sum;
      store_row(out + i, result, vectors);
    });
  } else {
    write_probabilities(row, whole, out, vectors);
  }
}

// softmax: dx = y (dy - sum(dy y)); log-softmax: dx = dy - e^y sum(dy)
template <bool kLog, class S, class Plan>
__global__ void __launch_bounds__(Team<Plan::kTeam>::kThreads, Plan::kBlocks)
    softmax_backward_kernel(int64_t rows, int64_t columns, const S* y, const S* dy, S* dx, bool vectors) {
  using T = Accumulation<S>;
  constexpr int N = Plan::kLanes;
  LOCKSTEP_SHARED(T, shared, [Team<Plan::kTeam>::kWarps]);
  const int64_t r = Team<Plan::kTeam>::row();
  if (r >= rows) return;
  RowValues<S, 2, Plan> row({y, dy}, r, columns, vectors);
  S* const out = dx + r * columns;
  T sum = 0;
  row.visit([&](int, typename Plan::Index, T(&values)[2][N]) {
    LOCKSTEP_UNROLL
    for (int j = 0; j < N; ++j) sum += kLog ? values[1][j] : values[1][j] * values[0][j];
  });
  sum = Team<Plan::kTeam>::template reduce<Plus>(sum, shared);
  row.visit([&](int, typename Plan::Index i, T(&values)[2][N]) {
    T result[N];
    LOCKSTEP_UNROLL
    for (int j = 0; j < N; ++j) {
      const T value = values[0][j], gradient = values[1][j];
      result[j] = kLog ? gradient - math::exp(value) * sum : value * (gradient - sum);
    }
    store_row(out + i, result, vectors);
  });
}

}  // namespace

void CudaBackend::softmax(bool log_form, DType dtype, int64_t rows, int64_t columns, const void* x, void* y) {
  if (rows <= 0 || columns <= 0) return;
  dispatch_floating("softmax", dtype, [&](auto type) {
    using S = decltype(type);
    dispatch_rows<S>(columns, [&](auto plan) {
      using Plan = decltype(plan);
      using Rows = Team<Plan::kTeam>;
      const auto kernel = log_form ? softmax_kernel<true, S, Plan> : softmax_kernel<false, S, Plan>;
      LOCKSTEP_LAUNCH(kernel, blocks_for(rows, Rows::kRows), plan.threads, 0, stream(), rows, columns,
                      static_cast<const S*>(x), static_cast<S*>(y), aligned_to(16, x, y));
    });
  });
}

void CudaBackend::softmax_backward(bool log_form, DType dtype, int64_t rows, int64_t columns, const void* y,
                                   const void* dy, void* dx) {
  if (rows <= 0 || columns <= 0) return;
  dispatch_floating("softmax_backward", dtype, [&](auto type) {
    using S = decltype(type);
    dispatch_rows<S, 2>(columns, [&](auto plan) {
      using Plan = decltype(plan);
      using Rows = Team<Plan::kTeam>;
      const auto kernel =
          log_form ? softmax_backward_kernel<true, S, Plan> : softmax_backward_kernel<false, S, Plan>;
      LOCKSTEP_LAUNCH(kernel, blocks_for(rows, Rows::kRows), plan.threads, 0, stream(), rows, columns,
                      static_cast<const S*>(y), static_cast<const S*>(dy), static_cast<S*>(dx),
                      aligned_to(16, y, dy, dx));
    });
  });
}

}  // namespace lockstep
