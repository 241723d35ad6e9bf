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
__global__ void __launch_bounds__(Team<Plan::kTeam>::kThreads, Team<Plan::kTeam>::kBlocks)
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
  const T center = Rows::template reduce<Plus>(sum, shared) / count;
  T squares = 0;
  row.visit([&](int, typename Plan::Index, T(&values)[1][N]) {
    LOCKSTEP_UNROLL
    for (int j = 0; j < N; ++j) squares += (values[0][j] - center) * (values[0][j] - center);
  });
  squares = Rows::template reduce<Plus>(squares, shared + Plan::kTeam / kWarp);
  const T inverse = T(1) / std::sqrt(squares / count + epsilon);
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
  T *dgamma, *dbeta;  // (segments, columns)
};

// A team works on the rows of a segment, one after the other. With h = (x - mean) rstd and g = dy gamma,
//   dx = rstd (g - mean(g) - h mean(g h));
// where rows are held, their sums of dy h and dy too, of each lane's columns.
template <class S, class Plan, class T = Accumulation<S>>
__global__ void __launch_bounds__(Team<Plan::kTeam>::kThreads, Team<Plan::kTeam>::kBlocks)
    layer_norm_backward_kernel(int64_t rows, int64_t columns, int64_t segment, const S* x, const T* gamma,
                               const T* mean, const T* rstd, const S* dy, S* dx, LayerNormSums<T> sums,
                               bool vectors) {
  using Rows = Team<Plan::kTeam>;
  constexpr int N = Plan::kLanes;
  LOCKSTEP_SHARED(T, shared, [2 * Plan::kTeam / kWarp]);
  const int64_t begin = Rows::row() * segment;
  if (begin >= rows) return;
  const int64_t end = begin + segment < rows ? begin + segment : rows;
  const T count = static_cast<T>(columns);
  T products[Plan::kHeld ? Plan::kVectors : 1][N] = {}, gradients[Plan::kHeld ? Plan::kVectors : 1][N] = {};
  for (int64_t r = begin; r < end; ++r) {
    RowValues<S, 2, Plan> row({x, dy}, r, columns, vectors);
    const T center = mean[r], inverse = rstd[r];
    T gradient_sum = 0, product_sum = 0;
    row.visit([&](int v, typename Plan::Index i, T(&values)[2][N]) {
      T scale[N];
      load_numbers<N>(gamma + i, vectors, scale);
      LOCKSTEP_UNROLL
      for (int j = 0; j < N; ++j) {
        const T h = (values[0][j] - center) * inverse, dy_j = values[1][j], g = dy_j * scale[j];
        gradient_sum += g;
        product_sum += g * h;
        if constexpr (Plan::kHeld) {
          products[v][j] += dy_j * h;
          gradients[v][j] += dy_j;
          values[0][j] = h;
          values[1][j] = g;
        }
      }
    });
    const T mean_gradient = Rows::template reduce<Plus>(gradient_sum, shared) / count;
    const T mean_product = Rows::template reduce<Plus>(product_sum, shared + Plan::kTeam / kWarp) / count;
    row.visit([&](int, typename Plan::Index i, T(&values)[2][N]) {
      T result[N];
      if constexpr (!Plan::kHeld) {
        T scale[N];
        load_numbers<N>(gamma + i, vectors, scale);
        LOCKSTEP_UNROLL
        for (int j = 0; j < N; ++j) {
          values[0][j] = (values[0][j] - center) * inverse;
          values[1][j] *= scale[j];
        }
      }
      LOCKSTEP_UNROLL
      for (int j = 0; j < N; ++j)
        result[j] = inverse * (values[1][j] - mean_gradient - values[0][j] * mean_product);
      store_row(dx + r * columns + i, result, vectors);
    });
  }
  if constexpr (Plan::kHeld) {
    // Partial results lie in scratch memory, where every row begins as the first does.
    const int64_t first = Rows::row() * columns;
    LOCKSTEP_UNROLL
    for (int v = 0; v < Plan::kVectors; ++v) {
      const int64_t i = (v * Plan::kTeam + Rows::lane()) * N;
      if (i < columns) {
        store_numbers<N>(sums.dgamma + first + i, N > 1, products[v]);
        store_numbers<N>(sums.dbeta + first + i, N > 1, gradients[v]);
      }
    }
  }
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

// Rows that a team works on, so that partial sums are few against the rows and teams many against any device.
template <class Plan>
int64_t segment_rows(int64_t rows) {
  if (!Plan::kHeld) return 1;
  constexpr int64_t kMostTeams = Plan::kTeam == kWarp ? 8192 : 1024;
  return std::max(std::clamp<int64_t>(rows / 256, 1, 16), (rows + kMostTeams - 1) / kMostTeams);
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
    const std::array<T*, 2> results = {static_cast<T*>(dgamma), static_cast<T*>(dbeta)};
    dispatch_rows<S, false>(columns, [&](auto plan) {
      using Plan = decltype(plan);
      using Rows = Team<Plan::kTeam>;
      const int64_t segment = segment_rows<Plan>(rows), segments = (rows + segment - 1) / segment;
      const int64_t partials = Plan::kHeld ? segments * columns : 0;
      T* const room = scratch<T>(2 * partials + (Plan::kHeld ? column_room<T>(2, 1, segments, columns)
                                                             : column_room<S>(2, 1, rows, columns)));
      const LayerNormSums<T> sums = {room, room + partials};
      LOCKSTEP_LAUNCH((layer_norm_backward_kernel<S, Plan>), blocks_for(segments, Rows::kRows),
                      Rows::kThreads, 0, stream(), rows, columns, segment, values,
                      static_cast<const T*>(gamma), centers, inverses, gradients, static_cast<S*>(dx), sums,
                      aligned_to(16, x, gamma, dy, dx));
      if constexpr (Plan::kHeld) {
        const ColumnElements<T, 2> term = {{sums.dgamma, sums.dbeta},
                                           aligned_to(16, sums.dgamma, sums.dbeta)};
        column_reduce<Plus>(stream(), 1, segments, columns, term, room + 2 * partials, results);
      } else {
        const LayerNormTerm<S> term = {values, gradients, centers, inverses,
                                       aligned_to(16, values, gradients)};
        column_reduce<Plus>(stream(), 1, rows, columns, term, room, results);
      }
    });
  });
}

}  // namespace lockstep
