// Layer norm (Ba et al. 2016) and RMS norm (Zhang and Sennrich 2019) over the last axis of (rows, columns),
// of an array or of a sum that is made on the way, forward and backward.
#include <cmath>

#include "lockstep/kernels/cuda/column_sums.h"
#include "lockstep/kernels/cuda/cuda_backend.h"
#include "lockstep/kernels/cuda/rows.h"
#include "lockstep/kernels/dispatch.h"

namespace lockstep {

namespace {

using Kind = NormArguments::Kind;

// S: of what is normed; R: the narrow type beside it, or S as well.
template <class S, class R, class T = Accumulation<S>>
struct NormForward {
  Kind kind;
  int64_t rows, columns;
  const S* x;
  const R* change;
  const T *gamma, *beta;
  T epsilon;
  S* sum;
  R* y;
  T *mean, *rstd;
  bool vectors;
};

// Blocks of a multiprocessor. Vectors of 16-bit elements and of what is added to them do not fit 64 registers
// beside a row of 32 numbers a lane.
template <class S, class Plan>
[[maybe_unused]] constexpr int kNormBlocks = sizeof(S) == 2 && Plan::kHeld&& Plan::kLanes > 1
                                                 ? std::max(1, 768 / Team<Plan::kTeam>::kThreads)
                                                 : Plan::kBlocks;

// The variance of layer norm is the mean of (s - mean)^2 of a row that is at hand: no cancellation. RMS norm
// is written as one with mean 0 and beta -0: subtracting and adding those changes no bit.
template <class S, class R, class Plan, class T = Accumulation<S>>
__global__ void __launch_bounds__(Team<Plan::kTeam>::kThreads, kNormBlocks<S, Plan>)
    norm_kernel(NormForward<S, R> a) {
  using Rows = Team<Plan::kTeam>;
  using Index = typename Plan::Index;
  constexpr int N = Plan::kLanes;
  LOCKSTEP_SHARED(T, shared, [2 * Rows::kWarps]);
  const int64_t r = Rows::row();
  if (r >= a.rows) return;
  const int64_t begin = r * a.columns;
  const bool vectors = a.vectors, layer = a.kind == Kind::kLayer;
  const S* in = a.x;
  if constexpr (!Plan::kHeld) {
    // A lane reads again what it writes here.
    if (a.change != nullptr) {
      RowValues<S, 1, Plan>({in}, r, a.columns, vectors).visit([&](int, Index i, T(&values)[1][N]) {
        T part[N];
        load_numbers<N>(a.change + begin + i, vectors, part);
        LOCKSTEP_UNROLL
        for (int j = 0; j < N; ++j) part[j] = values[0][j] + part[j];
        store_row(a.sum + begin + i, part, vectors);
      });
      in = a.sum;
    }
  }
  RowValues<S, 1, Plan> row({in}, r, a.columns, vectors);
  if constexpr (Plan::kHeld) {
    if (a.change != nullptr) {
      row.add(a.change + begin);
      row.visit([&](int, Index i, T(&values)[1][N]) { store_row(a.sum + begin + i, values[0], vectors); });
    }
  }
  const T count = static_cast<T>(a.columns);
  T center = 0, inverse;
  if (layer) {
    T sum = 0;
    row.visit([&](int, Index, T(&values)[1][N]) {
      LOCKSTEP_UNROLL
      for (int j = 0; j < N; ++j) sum += values[0][j];
    });
    const T part = T(1) / count;
    center = Rows::template reduce<Plus>(sum, shared) * part;
    T squares = 0;
    row.visit([&](int, Index, T(&values)[1][N]) {
      LOCKSTEP_UNROLL
      for (int j = 0; j < N; ++j) squares += (values[0][j] - center) * (values[0][j] - center);
    });
    squares = Rows::template reduce<Plus>(squares, shared + Rows::kWarps);
    inverse = T(1) / std::sqrt(squares * part + a.epsilon);
  } else {
    T squares = 0;
    row.visit([&](int, Index, T(&values)[1][N]) {
      LOCKSTEP_UNROLL
      for (int j = 0; j < N; ++j) squares = std::fma(values[0][j], values[0][j], squares);
    });
    squares = Rows::template reduce<Plus>(squares, shared);
    inverse = T(1) / std::sqrt(squares / count + a.epsilon);
  }
  row.visit([&](int, Index i, T(&values)[1][N]) {
    T scale[N], shift[N], result[N];
    load_numbers<N>(a.gamma + i, vectors, scale);
    LOCKSTEP_UNROLL
    for (int j = 0; j < N; ++j) shift[j] = -T(0);
    if (layer) load_numbers<N>(a.beta + i, vectors, shift);
    LOCKSTEP_UNROLL
    for (int j = 0; j < N; ++j) result[j] = (values[0][j] - center) * inverse * scale[j] + shift[j];
    store_row(a.y + begin + i, result, vectors);
  });
  if (Rows::lane() == 0) {
    if (layer) a.mean[r] = center;
    a.rstd[r] = inverse;
  }
}

// Of one element, what comes through the norm: rounded, and added to what else there is.
template <class S, int N, class T = Accumulation<S>>
LOCKSTEP_DEVICE void add_rounded(const T (&added)[N], T (&result)[N]) {
  if constexpr (sizeof(S) == 2) widen_vector(rounded_vector<S>(result), result);
  LOCKSTEP_UNROLL
  for (int j = 0; j < N; ++j) result[j] = added[j] + result[j];
}

template <class S, class R, class T = Accumulation<S>>
struct NormBackward {
  Kind kind;
  int64_t rows, columns;
  const S* s;
  const T *gamma, *mean, *rstd;
  const R* dy;
  const S* added;
  S* dx;
  R* narrow;
  T *dgamma, *dbeta;  // (blocks, columns)
  bool vectors;
};

// Elements from `at` on of dx, and of its copy in the narrow type.
template <class S, class R, int N, class T = Accumulation<S>>
LOCKSTEP_DEVICE void store_gradient(const NormBackward<S, R>& a, int64_t at, T (&result)[N], bool vectors) {
  store_row(a.dx + at, result, vectors);
  if constexpr (sizeof(R) < sizeof(S)) {
    if (a.narrow != nullptr) store_row(a.narrow + at, result, vectors);
  }
}

// Bytes of one number for each of a lane's columns.
template <class Plan, class T>
constexpr int kLaneBytes = Plan::kVectors* Plan::kLanes* static_cast<int>(sizeof(T));

// Where gamma does not fit the registers beside the sums, each lane's own lies in shared memory.
template <class Plan, class T>
[[maybe_unused]] constexpr bool kGammaFits = kLaneBytes<Plan, T> <= 32;

// Threads of a multiprocessor on rows that are held. kFull: what comes through the norm is not all of the
// gradient; kNarrow: dy is narrower than s. Elements one by one cost the registers of their addresses; what
// is added those of its vectors, which is too much beside two rows in fp32, and beside the sums that each of
// six or twelve warps combines with all others'.
template <class Plan, class T, bool kFull, bool kNarrow>
[[maybe_unused]] constexpr int kNormResident =
    !kGammaFits<Plan, T> || sizeof(T) == 8 || Plan::kLanes == 1          ? 512
    : kFull && (!kNarrow || (Plan::kTeam > 96 && Plan::kTeam % 96 == 0)) ? 576
                                                                         : 768;

// How the backward kernel works on them: teams of a warp share blocks of four, which write one sum.
template <class Plan, class T, bool kFull, bool kNarrow>
struct NormTeams {
  static constexpr bool kGammaHeld = kGammaFits<Plan, T>;
  static constexpr int kRows = Plan::kTeam == kWarp ? 4 : 1;
  static constexpr int kThreads = kRows * Team<Plan::kTeam>::kMost;  // at most
  static constexpr int kResident = kNormResident<Plan, T, kFull, kNarrow>;
  static constexpr int kBlocks = kResident / kThreads;
};

// A row of two arrays as it lies in memory, and what is known of it.
template <class S, class R, class Plan>
struct StoredRow {
  using T = Accumulation<S>;
  static constexpr int N = Plan::kLanes, V = Plan::kVectors;
  Vector<S, N> x[V];
  Vector<R, N> dy[V];
  T center, inverse;

  // Where a lane has no columns, it reads nothing.
  template <bool kWhole>
  LOCKSTEP_DEVICE void load(const NormBackward<S, R>& a, int64_t row, int columns, int lane) {
    LOCKSTEP_UNROLL
    for (int v = 0; v < V; ++v) {
      const int i = (v * Team<Plan::kTeam>::lanes() + lane) * N;
      if (i >= columns) continue;
      x[v] = load_elements<kWhole, N>(a.s + row * columns + i);
      dy[v] = load_elements<kWhole, N>(a.dy + row * columns + i);
    }
    center = a.kind == Kind::kLayer ? a.mean[row] : T(0);
    inverse = a.rstd[row];
  }
};

// Team t of `teams` works on rows t, t + teams, ... With h = (s - mean) rstd (of RMS norm s rstd) and
// g = dy gamma,
//   ds = rstd (g - mean(g) - h mean(g h)), of RMS norm without mean(g);
// and on the way sums dy h and dy of each lane's columns, of which each block writes its sum. Rows are held
// as they lie in memory, the next one on its way where there is room, and what is computed from them for the
// sums is computed again for ds: registers are scarcer than instructions. RMS norm is written as in the
// forward kernel, with a sum of dy that nobody asks for: it is bound by memory.
template <class S, class R, class Plan, bool kFull>
using NormTeamsOf = NormTeams<Plan, Accumulation<S>, kFull, sizeof(R) < sizeof(S)>;

template <bool kFull, class S, class R, class Plan, class T = Accumulation<S>>
__global__ void __launch_bounds__(NormTeamsOf<S, R, Plan, kFull>::kThreads,
                                  NormTeamsOf<S, R, Plan, kFull>::kBlocks)
    norm_backward_kernel(NormBackward<S, R> a) {
  using Teams = NormTeamsOf<S, R, Plan, kFull>;
  using Rows = Team<Plan::kTeam>;
  const bool layer = a.kind == Kind::kLayer;
  constexpr int N = Plan::kLanes, V = Plan::kVectors, kHalf = 2 * Rows::kWarps;
  constexpr bool kGammaHeld = Teams::kGammaHeld;
  LOCKSTEP_SHARED(T, shared, [2 * kHalf]);
  constexpr int kPiece = N < Vector<T>::kLanes ? N : Vector<T>::kLanes;
  using Piece = Vector<T, kPiece>;
  LOCKSTEP_SHARED(Piece, gammas, [kGammaHeld ? 1 : V * N / kPiece][kGammaHeld ? 1 : Rows::kMost]);
  const int thread = static_cast<int>(threadIdx.x), lane = Rows::lane(), lanes = Rows::lanes();
  const int64_t team =
      static_cast<int64_t>(blockIdx.x) * Teams::kRows + (Teams::kRows > 1 ? thread / kWarp : 0);
  const int64_t teams = static_cast<int64_t>(gridDim.x) * Teams::kRows, rows = a.rows;
  const int columns = static_cast<int>(a.columns);
  const T part = T(1) / static_cast<T>(columns);
  const auto first_of = [&](int v) { return (v * lanes + lane) * N; };
  T products[V][N] = {}, gradients[V][N] = {}, scales[V][N] = {};
  LOCKSTEP_UNROLL
  for (int v = 0; v < V; ++v) {
    if (first_of(v) < columns) load_numbers<N>(a.gamma + first_of(v), a.vectors, scales[v]);
  }
  if constexpr (!kGammaHeld) {
    if (thread < lanes) {  // the block's first team for all
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
    StoredRow<S, R, Plan> next;
    if (kAhead && team < rows) next.template load<kWhole>(a, team, columns, lane);
    int half = 0;
    LOCKSTEP_UNROLL_BY(1)
    for (int64_t r = team; r < rows; r += teams) {
      if constexpr (!kAhead) next.template load<kWhole>(a, r, columns, lane);
      StoredRow<S, R, Plan> now = next;
      if constexpr (kAhead) {
        next.template load<kWhole>(a, r + teams < rows ? r + teams : r, columns, lane);
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
      if (layer) {
        Rows::template reduce<Plus>(totals, shared + half);
      } else {
        totals[1] = Rows::template reduce<Plus>(totals[1], shared + half);
      }
      half = kHalf - half;
      const T base = layer ? -inverse * (totals[0] * part) : -T(0);
      const T slope = -inverse * (totals[1] * part) * inverse;
      LOCKSTEP_UNROLL
      for (int v = 0; v < V; ++v) {
        if (first_of(v) >= columns) continue;
        const int64_t at = r * columns + first_of(v);
        T scale[N], value[N], gradient[N], result[N];
        Vector<S, N> added;
        if (kFull && a.added != nullptr) added = load_elements<kWhole, N>(a.added + at);
        scale_of(v, scale);
        recompute(now.x[v]);
        recompute(now.dy[v]);
        widen_vector(now.x[v], value);
        widen_vector(now.dy[v], gradient);
        LOCKSTEP_UNROLL
        for (int j = 0; j < N; ++j) {
          const T own = std::fma(value[j] - center, slope, base);
          result[j] = std::fma(gradient[j] * scale[j], inverse, own);
        }
        if (kFull && a.added != nullptr) {
          T others[N];
          widen_vector(added, others);
          add_rounded<S>(others, result);
        }
        store_gradient(a, at, result, kWhole && N > 1);
      }
    }
  };
  if (N > 1 && a.vectors) {
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
            if (warp > 0) products[v][j] += collected[at][lane];
            collected[at][lane] = products[v][j];
            if (warp > 0) gradients[v][j] += collected[at + 1][lane];
            collected[at + 1][lane] = gradients[v][j];
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
    store_numbers<N>(a.dgamma + first, N > 1, products[v]);
    if (layer) store_numbers<N>(a.dbeta + first, N > 1, gradients[v]);
  }
}

// dx alone, for rows that are too long to be held beside the sums; Plan reads them again.
template <class S, class R, class Plan, class T = Accumulation<S>>
__global__ void __launch_bounds__(Team<Plan::kTeam>::kThreads, Plan::kBlocks)
    norm_derivative_kernel(NormBackward<S, R> a) {
  using Rows = Team<Plan::kTeam>;
  using Index = typename Plan::Index;
  constexpr int N = Plan::kLanes;
  LOCKSTEP_SHARED(T, shared, [2 * Rows::kWarps]);
  const int64_t r = Rows::row();
  if (r >= a.rows) return;
  static_assert(!Plan::kHeld);
  const int64_t begin = r * a.columns;
  const bool vectors = a.vectors;
  const T part = T(1) / static_cast<T>(a.columns), inverse = a.rstd[r];
  const bool layer = a.kind == Kind::kLayer;
  const T center = layer ? a.mean[r] : T(0);
  RowValues<S, 1, Plan> row({a.s}, r, a.columns, vectors);
  // h in place of s, and g
  const auto prepare = [&](Index i, T(&h)[N], T(&g)[N]) {
    T scale[N];
    load_numbers<N>(a.gamma + i, vectors, scale);
    load_numbers<N>(a.dy + begin + i, vectors, g);
    LOCKSTEP_UNROLL
    for (int j = 0; j < N; ++j) {
      h[j] = (h[j] - center) * inverse;
      g[j] *= scale[j];
    }
  };
  T totals[2] = {};
  row.visit([&](int, Index i, T(&values)[1][N]) {
    T g[N];
    prepare(i, values[0], g);
    LOCKSTEP_UNROLL
    for (int j = 0; j < N; ++j) {
      totals[0] += g[j];
      totals[1] += g[j] * values[0][j];
    }
  });
  Rows::template reduce<Plus>(totals, shared);
  const T mean_gradient = layer ? totals[0] * part : T(0), mean_product = totals[1] * part;
  row.visit([&](int, Index i, T(&values)[1][N]) {
    T g[N], result[N];
    prepare(i, values[0], g);
    LOCKSTEP_UNROLL
    for (int j = 0; j < N; ++j) result[j] = inverse * (g[j] - mean_gradient - values[0][j] * mean_product);
    if (a.added != nullptr) {
      T others[N];
      load_numbers<N>(a.added + begin + i, vectors, others);
      add_rounded<S>(others, result);
    }
    store_gradient(a, begin + i, result, vectors);
  });
}

// dy h and dy, for the same rows.
template <Kind kKind, class S_, class R>
struct NormTerm {
  using S = S_;
  using T = Accumulation<S>;
  static constexpr bool kLayer = kKind == Kind::kLayer;
  static constexpr int kSums = kLayer ? 2 : 1, kResident = sizeof(S) == 2 ? 3 : 4, kAhead = 2;
  const S* s;
  const R* dy;
  const T *mean, *rstd;
  bool vectors;

  template <int N>
  struct Stored {
    Vector<S, N> s;
    Vector<R, N> dy;
    T center, inverse;
  };
  template <bool kWhole, int N>
  LOCKSTEP_DEVICE Stored<N> fetch(int64_t index, int64_t row) const {
    return {load_elements<kWhole, N>(s + index), load_elements<kWhole, N>(dy + index),
            kLayer ? mean[row] : T(0), rstd[row]};
  }
  template <int N>
  LOCKSTEP_DEVICE void widen_all(const Stored<N>& stored, int64_t, T (&values)[kSums][N]) const {
    T gradient[N];
    widen_vector(stored.s, values[0]);
    widen_vector(stored.dy, gradient);
    LOCKSTEP_UNROLL
    for (int j = 0; j < N; ++j) {
      const T h = (kLayer ? values[0][j] - stored.center : values[0][j]) * stored.inverse;
      values[0][j] = gradient[j] * h;
      if constexpr (kLayer) values[1][j] = gradient[j];
    }
  }
};

// Blocks: as many as H100 and H200 work on at a time, so that all end together; with four rows each team at
// least, so that partial sums are few against the rows.
template <class Teams>
int64_t backward_blocks(int64_t rows, int threads) {
  const int resident = Teams::kResident / threads;
  return std::clamp<int64_t>(rows / (4 * Teams::kRows), 1, int64_t{kMultiprocessors} * resident);
}

template <Kind kKind>
constexpr int kSumsOf = kKind == Kind::kLayer ? 2 : 1;  // of a column

// room(count): scratch memory for so many numbers.
template <Kind kKind, bool kFull, class Plan, class S, class R, class T, class Room>
void launch_held(cudaStream_t stream, const Plan& plan, NormBackward<S, R> call,
                 const StoreNumbers<T, kSumsOf<kKind>>& results, const Room& room) {
  using Teams = NormTeamsOf<S, R, Plan, kFull>;
  constexpr int kSums = kSumsOf<kKind>;
  using Sums = ColumnSums<Plus, ColumnElements<T, kSums>>;
  const int threads = Plan::kTeam == kWarp ? Teams::kThreads : plan.threads;
  const int64_t blocks = backward_blocks<Teams>(call.rows, threads), partials = blocks * call.columns;
  T* const memory = room(kSums * partials + column_room<Sums>(1, blocks, call.columns));
  T* parts[kSums];
  for (int k = 0; k < kSums; ++k) parts[k] = memory + k * partials;
  call.dgamma = parts[0];
  call.dbeta = parts[kSums - 1];
  LOCKSTEP_LAUNCH((norm_backward_kernel<kFull, S, R, Plan>), blocks_for(blocks, 1), threads, 0, stream, call);
  column_reduce(stream, 1, blocks, call.columns, Sums::of_partials(parts), memory + kSums * partials,
                results);
}

// Calls function(kind) with the kind as a constant.
template <class F>
void dispatch_kind(Kind kind, const F& function) {
  if (kind == Kind::kLayer) return function(std::integral_constant<Kind, Kind::kLayer>{});
  function(std::integral_constant<Kind, Kind::kRms>{});
}

}  // namespace

void CudaBackend::norm(const NormArguments& a, const void* x, const void* change, const void* beta, void* sum,
                       void* y, void* mean, void* rstd) {
  if (a.rows <= 0 || a.columns <= 0) return;
  dispatch_norm(a, [&](auto type, auto narrow) {
    using S = decltype(type);
    using R = decltype(narrow);
    using T = Accumulation<S>;
    const NormForward<S, R> call{a.kind,
                                 a.rows,
                                 a.columns,
                                 static_cast<const S*>(x),
                                 static_cast<const R*>(change),
                                 static_cast<const T*>(a.gamma),
                                 static_cast<const T*>(beta),
                                 static_cast<T>(a.epsilon),
                                 static_cast<S*>(sum),
                                 static_cast<R*>(y),
                                 static_cast<T*>(mean),
                                 static_cast<T*>(rstd),
                                 aligned_to(16, x, change, a.gamma, beta, sum, y)};
    dispatch_rows<S>(a.columns, [&](auto found) {
      // 64 numbers a lane are too many beside vectors of 16-bit elements: such rows are read again.
      using Found = decltype(found);
      constexpr bool kFits = sizeof(S) > 2 || Found::kVectors * Found::kLanes <= 32;
      using Plan = std::conditional_t<kFits, Found, RowPlan<512, 0, Found::kLanes, 512>>;
      const int threads = found.threads;  // of the longest rows as many, held or not
      LOCKSTEP_LAUNCH((norm_kernel<S, R, Plan>), blocks_for(a.rows, Team<Plan::kTeam>::kRows), threads, 0,
                      stream(), call);
    });
  });
}

void CudaBackend::norm_backward(const NormArguments& a, const void* s, const void* mean, const void* rstd,
                                const void* dy, const void* added, void* dx, void* dx_narrow, void* dgamma,
                                void* dbeta) {
  if (a.columns <= 0) return;
  const bool layer = a.kind == Kind::kLayer;
  if (a.rows <= 0) {
    fill(accumulation_type(a.dtype), a.columns, dgamma, 0.0);
    if (layer) fill(accumulation_type(a.dtype), a.columns, dbeta, 0.0);
    return;
  }
  dispatch_norm(a, [&](auto type, auto narrow) {
    using S = decltype(type);
    using R = decltype(narrow);
    using T = Accumulation<S>;
    NormBackward<S, R> call{a.kind,
                            a.rows,
                            a.columns,
                            static_cast<const S*>(s),
                            static_cast<const T*>(a.gamma),
                            static_cast<const T*>(mean),
                            static_cast<const T*>(rstd),
                            static_cast<const R*>(dy),
                            static_cast<const S*>(added),
                            static_cast<S*>(dx),
                            static_cast<R*>(dx_narrow),
                            nullptr,
                            nullptr,
                            aligned_to(16, s, a.gamma, dy, added, dx, dx_narrow)};
    dispatch_kind(a.kind, [&]<Kind kKind>(std::integral_constant<Kind, kKind>) {
      StoreNumbers<T, kSumsOf<kKind>> results;
      results.arrays[0] = static_cast<T*>(dgamma);
      if constexpr (kKind == Kind::kLayer) results.arrays[1] = static_cast<T*>(dbeta);
      dispatch_rows<S, 2>(a.columns, [&](auto plan) {
        using Plan = decltype(plan);
        if constexpr (Plan::kHeld && kLaneBytes<Plan, T> <= (Plan::kLanes > 1 ? 64 : 32)) {
          const auto room = [&](int64_t count) { return scratch<T>(count); };
          // A kernel without `added` only where a multiprocessor has room for more of its threads.
          constexpr int kWith = kNormResident<Plan, T, true, false>;
          constexpr int kWithout = kNormResident<Plan, T, false, false>;
          if (!std::is_same_v<S, R> || kWith == kWithout || added != nullptr) {
            launch_held<kKind, true>(stream(), plan, call, results, room);
          } else if constexpr (std::is_same_v<S, R> && kWith != kWithout) {
            launch_held<kKind, false>(stream(), plan, call, results, room);
          }
        } else {
          using Long = RowPlan<Plan::kTeam, 0, Plan::kLanes, 512>;
          using Rows = Team<Plan::kTeam>;
          LOCKSTEP_LAUNCH((norm_derivative_kernel<S, R, Long>), blocks_for(a.rows, Rows::kRows),
                          Rows::kThreads, 0, stream(), call);
          using Sums = ColumnSums<Plus, NormTerm<kKind, S, R>>;
          column_reduce(stream(), 1, a.rows, a.columns,
                        Sums{{call.s, call.dy, call.mean, call.rstd, aligned_to(16, s, dy)}},
                        scratch<T>(column_room<Sums>(1, a.rows, a.columns)), results);
        }
      });
    });
  });
}

}  // namespace lockstep
