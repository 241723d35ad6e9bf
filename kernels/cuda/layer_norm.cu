// Layer norm (Ba et al. 2016) over the last axis of (rows, columns), forward and backward.
#include <cmath>

#include "kernels/cuda/column_sums.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/rows.h"
#include "kernels/dispatch.h"

namespace lockstep {

namespace {

// The variance is the mean of (x - mean)^2 of a row that is at hand: no cancellation.
template <class S, class Plan, class T = Accumulation<S>>
__global__ void __launch_bounds__(Team<Plan::kTeam>::kThreads, Plan::kBlocks)
    layer_norm_kernel(int64_t rows, int64_t columns, const S* x, const T* gamma, const T* beta, T epsilon,
                      S* y, T* mean, T* rstd, bool vectors) {
  using Rows = Team<Plan::kTeam>;
  constexpr int N = Plan::kLanes;
  LOCKSTEP_SHARED(T, shared, [2 * Plan::kTeam / kWarp]);
  const int64_t r = Rows::row();
  if (r >= rows) return;
  RowValues<S, 1, Plan> row({x}, r, columns, vectors);
  const T count = static_cast<T>(columns);
  T sum = 0;
  row.visit([&](int, typename Plan::Index, T(&values)[1][N]) {
    LOCKSTEP_UNROLL
    for (int j = 0; j < N; ++j) sum += values[0][j];
  });
  const T part = T(1) / count, center = Rows::template reduce<Plus>(sum, shared) * part;
  T squares = 0;
  row.visit([&](int, typename Plan::Index, T(&values)[1][N]) {
    LOCKSTEP_UNROLL
    for (int j = 0; j < N; ++j) squares += (values[0][j] - center) * (values[0][j] - center);
  });
  squares = Rows::template reduce<Plus>(squares, shared + Plan::kTeam / kWarp);
  const T inverse = T(1) / std::sqrt(squares * part + epsilon);
  row.visit([&](int, typename Plan::Index i, T(&values)[1][N]) {
    T scale[N], shift[N], result[N];
    load_numbers<N>(gamma + i, vectors, scale);
    load_numbers<N>(beta + i, vectors, shift);
    LOCKSTEP_UNROLL
    for (int j = 0; j < N; ++j) result[j] = (values[0][j] - center) * inverse * scale[j] + shift[j];
    store_row(y + r * columns + i, result, vectors);
  });
  if (Rows::lane() == 0) {
    mean[r] = center;
    rstd[r] = inverse;
  }
}

template <class T>
struct LayerNormSums {
  T *dgamma, *dbeta;  // (teams, columns)
};

// Team t of `teams` works on rows t, t + teams, ... With h = (x - mean) rstd and g = dy gamma,
//   dx = rstd (g - mean(g) - h mean(g h));
// and on the way sums dy h and dy of each lane's columns.
template <class S, class Plan, class T = Accumulation<S>>
__global__ void __launch_bounds__(Team<Plan::kTeam>::kThreads, Plan::kBlocks)
    layer_norm_backward_kernel(int64_t rows, int64_t columns, int64_t teams, const S* x, const T* gamma,
                               const T* mean, const T* rstd, const S* dy, S* dx, LayerNormSums<T> sums,
                               bool vectors) {
  using Rows = Team<Plan::kTeam>;
  constexpr int N = Plan::kLanes, V = Plan::kVectors, kHalf = 2 * Plan::kTeam / kWarp;
  constexpr bool kGammaHeld = V * N * sizeof(T) <= 32;  // where a lane has the registers for it
  LOCKSTEP_SHARED(T, shared, [2 * kHalf]);
  const int64_t team = Rows::row();
  if (team >= teams) return;
  const T part = T(1) / static_cast<T>(columns);
  const auto first_of = [](int v) { return (v * Plan::kTeam + Rows::lane()) * N; };
  const auto load_gamma = [&](int v, T(&scale)[N]) {
    load_numbers<N>(gamma + (first_of(v) < columns ? first_of(v) : columns - N), vectors, scale);
  };
  T products[V][N] = {}, gradients[V][N] = {}, scales[V][N];
  if constexpr (kGammaHeld) {
    LOCKSTEP_UNROLL
    for (int v = 0; v < V; ++v) load_gamma(v, scales[v]);
  }
  int half = 0;
  for (int64_t r = team; r < rows; r += teams) {
    RowValues<S, 2, Plan> row({x, dy}, r, columns, vectors);
    const T center = mean[r], inverse = rstd[r];
    T totals[2] = {};
    row.visit([&](int v, int, T(&values)[2][N]) {
      if constexpr (!kGammaHeld) load_gamma(v, scales[v]);
      LOCKSTEP_UNROLL
      for (int j = 0; j < N; ++j) {
        const T h = (values[0][j] - center) * inverse, dy_j = values[1][j], g = dy_j * scales[v][j];
        products[v][j] += dy_j * h;
        gradients[v][j] += dy_j;
        totals[0] += g;
        totals[1] += g * h;
        values[0][j] = h;
        values[1][j] = g;
      }
    });
    Rows::template reduce<Plus>(totals, shared + half);
    half = kHalf - half;
    const T mean_gradient = totals[0] * part, mean_product = totals[1] * part;
    row.visit([&](int, int i, T(&values)[2][N]) {
      T result[N];
      LOCKSTEP_UNROLL
      for (int j = 0; j < N; ++j)
        result[j] = inverse * (values[1][j] - mean_gradient - values[0][j] * mean_product);
      store_row(dx + r * columns + i, result, vectors);
    });
  }
  // Partial results lie in scratch memory, where every row begins as the first does.
  LOCKSTEP_UNROLL
  for (int v = 0; v < V; ++v) {
    if (first_of(v) >= columns) continue;
    const int64_t first = team * columns + first_of(v);
    store_numbers<N>(sums.dgamma + first, N > 1, products[v]);
    store_numbers<N>(sums.dbeta + first, N > 1, gradients[v]);
  }
}

// dx alone, for rows that are too long to be held.
template <class S, class Plan, class T = Accumulation<S>>
__global__ void __launch_bounds__(Team<Plan::kTeam>::kThreads, Plan::kBlocks)
    layer_norm_derivative_kernel(int64_t rows, int64_t columns, const S* x, const T* gamma, const T* mean,
                                 const T* rstd, const S* dy, S* dx, bool vectors) {
  using Rows = Team<Plan::kTeam>;
  constexpr int N = Plan::kLanes;
  LOCKSTEP_SHARED(T, shared, [2 * Plan::kTeam / kWarp]);
  const int64_t r = Rows::row();
  if (r >= rows) return;
  const T part = T(1) / static_cast<T>(columns), center = mean[r], inverse = rstd[r];
  RowValues<S, 2, Plan> row({x, dy}, r, columns, vectors);
  const auto prepare = [&](typename Plan::Index i, T(&values)[2][N]) {
    T scale[N];
    load_numbers<N>(gamma + i, vectors, scale);
    LOCKSTEP_UNROLL
    for (int j = 0; j < N; ++j) {
      values[0][j] = (values[0][j] - center) * inverse;
      values[1][j] *= scale[j];
    }
  };
  T totals[2] = {};
  row.visit([&](int, typename Plan::Index i, T(&values)[2][N]) {
    prepare(i, values);
    LOCKSTEP_UNROLL
    for (int j = 0; j < N; ++j) {
      totals[0] += values[1][j];
      totals[1] += values[1][j] * values[0][j];
    }
  });
  Rows::template reduce<Plus>(totals, shared);
  const T mean_gradient = totals[0] * part, mean_product = totals[1] * part;
  row.visit([&](int, typename Plan::Index i, T(&values)[2][N]) {
    prepare(i, values);
    T result[N];
    LOCKSTEP_UNROLL
    for (int j = 0; j < N; ++j)
      result[j] = inverse * (values[1][j] - mean_gradient - values[0][j] * mean_product);
    store_row(dx + r * columns + i, result, vectors);
  });
}

// dy h and dy, for rows that are too long to be held.
template <class S_>
struct LayerNormTerm {
  using S = S_;
  using T = Accumulation<S>;
  static constexpr int kSums = 2;
  const S *x, *dy;
  const T *mean, *rstd;
  bool vectors;

  template <bool kWhole, int N>
  LOCKSTEP_DEVICE void load(int64_t index, int64_t row, int64_t, T (&values)[2][N]) const {
    const Vector<S, N> value = load_elements<kWhole, N>(x + index),
                       gradient = load_elements<kWhole, N>(dy + index);
    const T center = mean[row], inverse = rstd[row];
    LOCKSTEP_UNROLL
    for (int j = 0; j < N; ++j) {
      values[1][j] = widen(gradient.lane[j]);
      values[0][j] = values[1][j] * ((widen(value.lane[j]) - center) * inverse);
    }
  }
};

// Teams: as many as H100 and H200 work on at a time, so that all end together; with four rows each at least,
// so that partial sums are few against the rows.
template <class Plan>
int64_t teams_for(int64_t rows) {
  constexpr int64_t kMost = int64_t{kMultiprocessors} * Plan::kBlocks * Team<Plan::kTeam>::kRows;
  return std::clamp<int64_t>(rows / 4, 1, kMost);
}

}  // namespace

void CudaBackend::layer_norm(DType dtype, int64_t rows, int64_t columns, const void* x, const void* gamma,
                             const void* beta, double epsilon, void* y, void* mean, void* rstd) {
  if (rows <= 0) return;
  dispatch_floating("layer_norm", dtype, [&](auto type) {
    using S = decltype(type);
    using T = Accumulation<S>;
    dispatch_rows<S>(columns, [&](auto plan) {
      using Plan = decltype(plan);
      using Rows = Team<Plan::kTeam>;
      LOCKSTEP_LAUNCH((layer_norm_kernel<S, Plan>), blocks_for(rows, Rows::kRows), Rows::kThreads, 0,
                      stream(), rows, columns, static_cast<const S*>(x), static_cast<const T*>(gamma),
                      static_cast<const T*>(beta), static_cast<T>(epsilon), static_cast<S*>(y),
                      static_cast<T*>(mean), static_cast<T*>(rstd), aligned_to(16, x, gamma, beta, y));
    });
  });
}

void CudaBackend::layer_norm_backward(DType dtype, int64_t rows, int64_t columns, const void* x,
                                      const void* gamma, const void* mean, const void* rstd, const void* dy,
                                      void* dx, void* dgamma, void* dbeta) {
  if (columns <= 0) return;
  if (rows <= 0) {
    fill(accumulation_type(dtype), columns, dgamma, 0.0);
    return fill(accumulation_type(dtype), columns, dbeta, 0.0);
  }
  dispatch_floating("layer_norm_backward", dtype, [&](auto type) {
    using S = decltype(type);
    using T = Accumulation<S>;
    const S* const values = static_cast<const S*>(x);
    const S* const gradients = static_cast<const S*>(dy);
    const T* const centers = static_cast<const T*>(mean);
    const T* const inverses = static_cast<const T*>(rstd);
    const StoreNumbers<T, 2> results = {{static_cast<T*>(dgamma), static_cast<T*>(dbeta)}};
    dispatch_rows<S, 4>(columns, [&](auto plan) {
      using Plan = decltype(plan);
      using Rows = Team<Plan::kTeam>;
      const bool vectors = aligned_to(16, x, gamma, dy, dx);
      if constexpr (Plan::kHeld) {
        const int64_t teams = teams_for<Plan>(rows), partials = teams * columns;
        using Sums = ColumnSums<Plus, ColumnElements<T, 2>>;
        T* const room = scratch<T>(2 * partials + column_room<Sums>(1, teams, columns));
        const LayerNormSums<T> sums = {room, room + partials};
        LOCKSTEP_LAUNCH((layer_norm_backward_kernel<S, Plan>), blocks_for(teams, Rows::kRows), Rows::kThreads,
                        0, stream(), rows, columns, teams, values, static_cast<const T*>(gamma), centers,
                        inverses, gradients, static_cast<S*>(dx), sums, vectors);
        column_reduce(stream(), 1, teams, columns,
                      Sums{{{sums.dgamma, sums.dbeta}, aligned_to(16, sums.dgamma, sums.dbeta)}},
                      room + 2 * partials, results);
      } else {
        LOCKSTEP_LAUNCH((layer_norm_derivative_kernel<S, Plan>), blocks_for(rows, Rows::kRows),
                        Rows::kThreads, 0, stream(), rows, columns, values, static_cast<const T*>(gamma),
                        centers, inverses, gradients, static_cast<S*>(dx), vectors);
        using Sums = ColumnSums<Plus, LayerNormTerm<S>>;
        column_reduce(stream(), 1, rows, columns,
                      Sums{{values, gradients, centers, inverses, aligned_to(16, values, gradients)}},
                      scratch<T>(column_room<Sums>(1, rows, columns)), results);
      }
    });
  });
}

}  // namespace lockstep
