// Sums, means and maxima over an axis.
#include "lockstep/kernels/cuda/column_sums.h"
#include "lockstep/kernels/cuda/cuda_backend.h"
#include "lockstep/kernels/cuda/rows.h"
#include "lockstep/kernels/dispatch.h"

namespace lockstep {

namespace {

constexpr int64_t kSegment = 16384;  // elements of a long row that one block reduces
constexpr int64_t kWarpRow = 1024;   // the longest row that a warp reduces

// y[row, segment] = combination of a segment of the row / divisor. Element i of a segment goes to lane (i /
// N) mod kTeam.
template <class Op, int N, int kTeam, class S, class R>
__global__ void __launch_bounds__(Team<kTeam>::kThreads)
    row_kernel(int64_t items, int64_t segments, int64_t extent, const S* x, bool vectors,
               Accumulation<S> divisor, R* y) {
  using T = Accumulation<S>;
  LOCKSTEP_SHARED(T, shared, [kTeam / kWarp]);
  const int64_t item = Team<kTeam>::row();
  if (item >= items) return;
  const int64_t row = segments == 1 ? item : item / segments, begin = (item - row * segments) * kSegment;
  const int64_t count = extent - begin < kSegment ? extent - begin : kSegment;
  const int64_t base = row * extent + begin;
  T total = Op::template neutral<T>();
  const auto add_elements = [&]<bool kWhole>(std::bool_constant<kWhole>) {
    int64_t i = static_cast<int64_t>(Team<kTeam>::lane()) * N;
    LOCKSTEP_UNROLL_BY(4)
    for (; i + N <= count; i += kTeam * N) {
      const Vector<S, N> values = load_elements<kWhole, N>(x + base + i);
      LOCKSTEP_UNROLL
      for (int j = 0; j < N; ++j) total = Op::combine(total, widen(values.lane[j]));
    }
    for (; i < count; ++i) total = Op::combine(total, widen(x[base + i]));
  };
  // Decided once: branches between the loads would make each wait for the one before it.
  if (N > 1 && vectors) {
    add_elements(std::true_type{});
  } else {
    add_elements(std::false_type{});
  }
  total = Team<kTeam>::template reduce<Op>(total, shared);
  if (Team<kTeam>::lane() == 0) y[item] = rounded<R>(total / divisor);
}

int64_t segments_of(int64_t extent) {
  return std::max<int64_t>(1, (extent + kSegment - 1) / kSegment);
}

// Room, in numbers, for the partial results of rows.
int64_t row_room(int64_t rows, int64_t extent) {
  const int64_t segments = segments_of(extent);
  return segments == 1 ? 0 : rows * segments + row_room(rows, segments);
}

template <class Op, class S, class R>
void launch_rows(cudaStream_t stream, int64_t rows, int64_t segments, int64_t extent, const S* x,
                 Accumulation<S> divisor, R* y) {
  constexpr int kFull = Vector<S>::kLanes, kBlock = 256;
  const int64_t items = rows * segments;
  const auto launch_team = [&](auto team, auto lanes) {
    constexpr int kTeam = decltype(team)::value, kLanes = decltype(lanes)::value;
    LOCKSTEP_LAUNCH((row_kernel<Op, kLanes, kTeam, S, R>), blocks_for(items, Team<kTeam>::kRows),
                    Team<kTeam>::kThreads, 0, stream, items, segments, extent, x, aligned_to(16, x), divisor,
                    y);
  };
  const auto with_lanes = [&](auto lanes) {
    if (extent <= kWarpRow) return launch_team(std::integral_constant<int, kWarp>{}, lanes);
    return launch_team(std::integral_constant<int, kBlock>{}, lanes);
  };
  // Vectors must not straddle rows.
  if (extent % kFull == 0 || rows == 1) return with_lanes(std::integral_constant<int, kFull>{});
  return with_lanes(std::integral_constant<int, 1>{});
}

// y[row] = combination of the row / divisor.
template <class Op, class S, class R>
void row_reduce(cudaStream_t stream, int64_t rows, int64_t extent, const S* x, Accumulation<S> divisor,
                Accumulation<S>* room, R* y) {
  using T = Accumulation<S>;
  const int64_t segments = segments_of(extent);
  if (segments == 1) return launch_rows<Op>(stream, rows, segments, extent, x, divisor, y);
  launch_rows<Op>(stream, rows, segments, extent, x, T(1), room);
  row_reduce<Op, T, R>(stream, rows, segments, room, divisor, room + rows * segments, y);
}

// y = total / divisor, rounded.
template <class R>
struct StoreQuotient {
  Accumulation<R> divisor;
  R* y;
  LOCKSTEP_DEVICE void operator()(int64_t index, int64_t, const Accumulation<R> (&total)[1]) const {
    y[index] = rounded<R>(total[0] / divisor);
  }
};

}  // namespace

void CudaBackend::reduce(ReduceOp op, DType dtype, int64_t outer, int64_t extent, int64_t inner,
                         const void* x, void* y) {
  if (outer <= 0 || inner <= 0) return;
  dispatch_floating("reduce", dtype, [&](auto type) {
    using S = decltype(type);
    using T = Accumulation<S>;
    const S* const in = static_cast<const S*>(x);
    S* const out = static_cast<S*>(y);
    const T divisor = op == ReduceOp::kMean ? static_cast<T>(extent) : T(1);
    const auto run = [&]<class Op>(Op) {
      if (inner == 1) {
        return row_reduce<Op>(stream(), outer, extent, in, divisor, scratch<T>(row_room(outer, extent)), out);
      }
      using Sums = ColumnSums<Op, ColumnElements<S, 1>>;
      column_reduce(stream(), outer, extent, inner, Sums{{{in}, aligned_to(16, in)}},
                    scratch<T>(column_room<Sums>(outer, extent, inner)), StoreQuotient<S>{divisor, out});
    };
    if (op == ReduceOp::kMax) {
      run(Larger{});
    } else {
      run(Plus{});
    }
  });
}

void CudaBackend::sum_columns(DType dtype, int64_t rows, int64_t columns, const void* x, void* sums) {
  if (columns <= 0) return;
  dispatch_floating("column sums", dtype, [&](auto type) {
    using S = decltype(type);
    using T = Accumulation<S>;
    const S* const in = static_cast<const S*>(x);
    using Sums = ColumnSums<Plus, ColumnElements<S, 1>>;
    column_reduce(stream(), 1, rows, columns, Sums{{{in}, aligned_to(16, in)}},
                  scratch<T>(column_room<Sums>(1, rows, columns)),
                  StoreNumbers<T, 1>{{static_cast<T*>(sums)}});
  });
}

}  // namespace lockstep
