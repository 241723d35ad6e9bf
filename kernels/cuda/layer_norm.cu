// Layer norm (Ba et al. 2016) over the last axis of (rows, columns), forward and backward.
#include <cmath>

#include "lockstep/kernels/cuda/column_sums.h"
#include "lockstep/kernels/cuda/cuda_backend.h"
#include "lockstep/kernels/cuda/rows.h"
#include "lockstep/kernels/dispatch.h"

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
  T *dgamma, *dbeta;  // (blocks, columns)
};

// Bytes of one number for each of a lane's columns.
template <class Plan, class T>
constexpr int kLaneBytes = Plan::kVectors* Plan::kLanes* static_cast<int>(sizeof(T));

// How the backward kernel works on rows that are held. Teams of a warp share blocks of four, which write one
// sum. Where gamma does not fit the registers beside the sums, each lane's own lies in shared memory.
template <class Plan, class T>
struct LayerNormTeams {
  static constexpr bool kGammaHeld = kLaneBytes<Plan, T> <= 32;
  static constexpr int kThreads = Plan::kTeam == kWarp ? 4 * kWarp : Plan::kTeam;
  static constexpr int kRows = kThreads / Plan::kTeam;
  // Threads of a multiprocessor. Elements one by one cost the registers of their addresses.
  static constexpr int kResident = kGammaHeld && sizeof(T) < 8 && Plan::kLanes > 1 ? 768 : 512;
  static constexpr int kBlocks = kResident / kThreads;
};

// A row of two arrays as it lies in memory, and what is known of it.
template <class S, class Plan>
struct StoredRow {
  using T = Accumulation<S>;
  static constexpr int N = Plan::kLanes, V = Plan::kVectors;
  Vector<S, N> x[V], dy[V];
  T center, inverse;

  // Where a lane has no columns, it reads nothing.
  template <bool kWhole>
  LOCKSTEP_DEVICE void load(const S* x_, const S* dy_, const T* mean, const T* rstd, int64_t row, int columns,
                            int lane) {
    LOCKSTEP_UNROLL
    for (int v = 0; v < V; ++v) {
      const int i = (v * Plan::kTeam + lane) * N;
      if (i >= columns) continue;
      x[v] = load_elements<kWhole, N>(x_ + row * columns + i);
      dy[v] = load_elements<kWhole, N>(dy_ + row * columns + i);
    }
    center = mean[row];
    inverse = rstd[row];
  }
};

// Team t of `teams` works on rows t, t + teams, ... With h = (x - mean) rstd and g = dy gamma,
//   dx = rstd (g - mean(g) - h mean(g h));
// and on the way sums dy h and dy of each lane's columns, of which each block writes its sum. Rows are held
// as they lie in memory, the next one on its way where there is room, and what is computed from them for the
// sums is computed again for dx: registers are scarcer than instructions.
template <class S, class Plan, class T = Accumulation<S>>
__global__ void __launch_bounds__(LayerNormTeams<Plan, T>::kThreads, LayerNormTeams<Plan, T>::kBlocks)
    layer_norm_backward_kernel(int64_t rows, int64_t columns_, const S* x, const T* gamma, const T* mean,
                               const T* rstd, const S* dy, S* dx, LayerNormSums<T> sums, bool vectors) {
  using Teams = LayerNormTeams<Plan, T>;
  constexpr int N = Plan::kLanes, V = Plan::kVectors, kTeam = Plan::kTeam, kHalf = 2 * kTeam / kWarp;
  constexpr bool kGammaHeld = Teams::kGammaHeld;
  LOCKSTEP_SHARED(T, shared, [2 * kHalf]);
  constexpr int kPiece = N < Vector<T>::kLanes ? N : Vector<T>::kLanes;
  using Piece = Vector<T, kPiece>;
  LOCKSTEP_SHARED(Piece, gammas, [kGammaHeld ? 1 : V * N / kPiece][kGammaHeld ? 1 : kTeam]);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kTeam;
  const int64_t team = static_cast<int64_t>(blockIdx.x) * Teams::kRows + thread / kTeam;
  const int64_t teams = static_cast<int64_t>(gridDim.x) * Teams::kRows;
  const int columns = static_cast<int>(columns_);
  const T part = T(1) / static_cast<T>(columns);
  const auto first_of = [&](int v) { return (v * kTeam + lane) * N; };
  T products[V][N] = {}, gradients[V][N] = {}, scales[V][N] = {};
  LOCKSTEP_UNROLL
  for (int v = 0; v < V; ++v) {
    if (first_of(v) < columns) load_numbers<N>(gamma + first_of(v), vectors, scales[v]);
  }
  if constexpr (!kGammaHeld) {
    if (thread < kTeam) {  // the block's first team for all
      LOCKSTEP_UNROLL
      for (int v = 0; v < V; ++v) {
        LOCKSTEP_UNROLL
        for (int j = 0; j < N; j += kPiece) {
          Piece piece;
          LOCKSTEP_UNROLL
          for (int l = 0; l < kPiece; ++l) piece.lane[l] = scales[v][j + l];
          gammas[(v * N + j) / kPiece][lane] = piece;
        }
      }
    }
    __syncthreads();
  }
  const auto scale_of = [&](int v, T(&scale)[N]) {
    LOCKSTEP_UNROLL
    for (int j = 0; j < N; j += kPiece) {
      Piece piece;
      if constexpr (!kGammaHeld) piece = gammas[(v * N + j) / kPiece][lane];
      LOCKSTEP_UNROLL
      for (int l = 0; l < kPiece; ++l) scale[j + l] = kGammaHeld ? scales[v][j + l] : piece.lane[l];
    }
  };
  const auto work = [&]<bool kWhole>(std::bool_constant<kWhole>) {
    constexpr bool kAhead = kWhole && V * N * sizeof(S) <= 32;  // more would not fit the registers
    StoredRow<S, Plan> next;
    if (kAhead && team < rows) next.template load<kWhole>(x, dy, mean, rstd, team, columns, lane);
    int half = 0;
    LOCKSTEP_UNROLL_BY(1)
    for (int64_t r = team; r < rows; r += teams) {
      if constexpr (!kAhead) next.template load<kWhole>(x, dy, mean, rstd, r, columns, lane);
      StoredRow<S, Plan> now = next;
      if constexpr (kAhead) {
        next.template load<kWhole>(x, dy, mean, rstd, r + teams < rows ? r + teams : r, columns, lane);
      }
      const T center = now.center, inverse = now.inverse;
      T totals[2] = {};
      LOCKSTEP_UNROLL
      for (int v = 0; v < V; ++v) {
        if (first_of(v) >= columns) continue;
        T scale[N], value[N], gradient[N];
        scale_of(v, scale);
        widen_vector(now.x[v], value);
        widen_vector(now.dy[v], gradient);
        LOCKSTEP_UNROLL
        for (int j = 0; j < N; ++j) {
          const T h = (value[j] - center) * inverse, g = gradient[j] * scale[j];
          products[v][j] = std::fma(gradient[j], h, products[v][j]);
          gradients[v][j] += gradient[j];
          totals[0] += g;
          totals[1] = std::fma(g, h, totals[1]);
        }
      }
      block_reduce<Plus, kTeam>(totals, shared + half);
      half = kHalf - half;
      const T base = -inverse * (totals[0] * part), slope = -inverse * (totals[1] * part) * inverse;
      LOCKSTEP_UNROLL
      for (int v = 0; v < V; ++v) {
        T scale[N], value[N], gradient[N], result[N];
        scale_of(v, scale);
        recompute(now.x[v]);
        recompute(now.dy[v]);
        widen_vector(now.x[v], value);
        widen_vector(now.dy[v], gradient);
        LOCKSTEP_UNROLL
        for (int j = 0; j < N; ++j) {
          result[j] = std::fma(gradient[j] * scale[j], inverse, std::fma(value[j] - center, slope, base));
        }
        if (first_of(v) < columns) store_row(dx + r * columns + first_of(v), result, kWhole && N > 1);
      }
    }
  };
  if (N > 1 && vectors) {
    work(std::true_type{});
  } else {
    work(std::false_type{});
  }
  // One team after the other adds what it has.
  if constexpr (Teams::kRows > 1) {
    LOCKSTEP_SHARED(T, collected, [2 * V * N][kWarp]);
    const int own = thread / kWarp;
    LOCKSTEP_UNROLL_BY(1)
    for (int warp = 0; warp < Teams::kRows; ++warp) {
      if (warp == own) {
        LOCKSTEP_UNROLL
        for (int v = 0; v < V; ++v) {
          LOCKSTEP_UNROLL
          for (int j = 0; j < N; ++j) {
            const int at = 2 * (v * N + j);
            if (warp > 0) products[v][j] += collected[at][lane], gradients[v][j] += collected[at + 1][lane];
            collected[at][lane] = products[v][j], collected[at + 1][lane] = gradients[v][j];
          }
        }
      }
      __syncthreads();
    }
    if (own < Teams::kRows - 1) return;
  }
  // Partial results lie in scratch memory, where every row begins as the first does.
  LOCKSTEP_UNROLL
  for (int v = 0; v < V; ++v) {
    if (first_of(v) >= columns) continue;
    const int64_t first = static_cast<int64_t>(blockIdx.x) * columns + first_of(v);
    store_numbers<N>(sums.dgamma + first, N > 1, products[v]);
    store_numbers<N>(sums.dbeta + first, N > 1, gradients[v]);
  }
}

// dx alone, for rows that are too long to be held beside the sums; Plan reads them again.
template <class S, class Plan, class T = Accumulation<S>>
__global__ void __launch_bounds__(Team<Plan::kTeam>::kThreads, Plan::kBlocks)
    layer_norm_derivative_kernel(int64_t rows, int64_t columns, const S* x, const T* gamma, const T* mean,
                                 const T* rstd, const S* dy, S* dx, bool vectors) {
  using Rows = Team<Plan::kTeam>;
  constexpr int N = Plan::kLanes;
  LOCKSTEP_SHARED(T, shared, [2 * Plan::kTeam / kWarp]);
  const int64_t r = Rows::row();
  if (r >= rows) return;
  static_assert(!Plan::kHeld);
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

// dy h and dy, for the same rows.
template <class S_>
struct LayerNormTerm {
  using S = S_;
  using T = Accumulation<S>;
  static constexpr int kSums = 2, kResident = 4, kAhead = 2;
  const S *x, *dy;
  const T *mean, *rstd;
  bool vectors;

  template <int N>
  struct Stored {
    Vector<S, N> x, dy;
    T center, inverse;
  };
  template <bool kWhole, int N>
  LOCKSTEP_DEVICE Stored<N> fetch(int64_t index, int64_t row) const {
    return {load_elements<kWhole, N>(x + index), load_elements<kWhole, N>(dy + index), mean[row], rstd[row]};
  }
  template <int N>
  LOCKSTEP_DEVICE void widen_all(const Stored<N>& stored, int64_t, T (&values)[2][N]) const {
    widen_vector(stored.x, values[0]);
    widen_vector(stored.dy, values[1]);
    LOCKSTEP_UNROLL
    for (int j = 0; j < N; ++j)
      values[0][j] = values[1][j] * ((values[0][j] - stored.center) * stored.inverse);
  }
};

// Blocks: as many as H100 and H200 work on at a time, so that all end together; with four rows each team at
// least, so that partial sums are few against the rows.
template <class Teams>
int64_t backward_blocks(int64_t rows) {
  return std::clamp<int64_t>(rows / (4 * Teams::kRows), 1, int64_t{kMultiprocessors} * Teams::kBlocks);
}

}  // namespace

void CudaBackend::layer_norm(DType dtype, int64_t rows, int64_t columns, const void* x, const void* gamma,
                             const void* beta, double epsilon, void* y, void* mean, void* rstd) {
  if (rows <= 0 || columns <= 0) return;
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
    dispatch_rows<S, 2>(columns, [&](auto plan) {
      using Plan = decltype(plan);
      const bool vectors = aligned_to(16, x, gamma, dy, dx);
      if constexpr (Plan::kHeld && kLaneBytes<Plan, T> <= 64) {
        using Teams = LayerNormTeams<Plan, T>;
        const int64_t blocks = backward_blocks<Teams>(rows), partials = blocks * columns;
        using Sums = ColumnSums<Plus, ColumnElements<T, 2>>;
        T* const room = scratch<T>(2 * partials + column_room<Sums>(1, blocks, columns));
        const LayerNormSums<T> sums = {room, room + partials};
        LOCKSTEP_LAUNCH((layer_norm_backward_kernel<S, Plan>), blocks_for(blocks, 1), Teams::kThreads, 0,
                        stream(), rows, columns, values, static_cast<const T*>(gamma), centers, inverses,
                        gradients, static_cast<S*>(dx), sums, vectors);
        column_reduce(stream(), 1, blocks, columns,
                      Sums{{{sums.dgamma, sums.dbeta}, aligned_to(16, sums.dgamma, sums.dbeta)}},
                      room + 2 * partials, results);
      } else {
        using Long = RowPlan<Plan::kTeam, 0, Plan::kLanes, 512>;
        using Rows = Team<Plan::kTeam>;
        LOCKSTEP_LAUNCH((layer_norm_derivative_kernel<S, Long>), blocks_for(rows, Rows::kRows),
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
