// Elementwise operations of two broadcast arguments, scaling, and the addition of the reduction tree.
#include "lockstep/kernels/cuda/cuda_backend.h"
#include "lockstep/kernels/cuda/division.h"
#include "lockstep/kernels/cuda/flat.h"
#include "lockstep/kernels/dispatch.h"
#include "lockstep/kernels/math/binary.h"

namespace lockstep {

namespace {

template <class Op, class S>
struct Combination {
  LOCKSTEP_DEVICE S operator()(S a, S b) const { return rounded<S>(Op::value(widen(a), widen(b))); }
};

// Multiplied and added with two roundings, as the CPU does.
template <class S>
struct Scaling {
  Accumulation<S> scale, shift;
  LOCKSTEP_DEVICE S operator()(S x) const { return rounded<S>(widen(x) * scale + shift); }
};

// fp32 and 16 bits added, for flat_kernel.
template <class R>
struct NarrowSum {
  static constexpr int kLanes = 4, kVectors = 4;
  template <int N>
  struct Values {
    Vector<float, N> x;
    Vector<R, N> change;
  };

  FlatInput<float> x;
  FlatInput<R> change;
  float* y;

  template <int N, bool kWhole>
  LOCKSTEP_DEVICE Values<N> load(int64_t i) const {
    return {x.template load<N, kWhole>(i), change.template load<N, kWhole>(i)};
  }
  template <int N>
  LOCKSTEP_DEVICE void store(int64_t i, const Values<N>& values) const {
    Vector<float, N> result;
    float own[N];
    widen_vector(values.change, own);
    LOCKSTEP_UNROLL
    for (int j = 0; j < N; ++j) result.lane[j] = values.x.lane[j] + own[j];
    store_vector(y + i, result);
  }
};

// Cells of N neighbours along the last axis, of which `walk` counts the cells; an operand is read as a vector
// where it runs along that axis and as one element where it stays. kCells of them a thread, for enough loads
// under way.
template <class Op, class S, int N>
__global__ void __launch_bounds__(kFlatThreads)
    broadcast_kernel(uint32_t cells, Walk walk, const S* a, bool a_runs, const S* b, bool b_runs, S* y) {
  constexpr int kCells = N == 1 ? 4 : 2;
  const uint32_t first = blockIdx.x * (kFlatThreads * kCells) + threadIdx.x;
  Vector<S, N> left[kCells], right[kCells];
  LOCKSTEP_UNROLL
  for (int k = 0; k < kCells; ++k) {
    const uint32_t cell = first + k * kFlatThreads;
    if (cell < cells) {
      const Walk::Offsets at = walk.offsets(cell);
      const FlatInput<S> from_a = {a + at.first, a_runs ? Reading::kVectors : Reading::kRepeated};
      const FlatInput<S> from_b = {b + at.second, b_runs ? Reading::kVectors : Reading::kRepeated};
      left[k] = from_a.template load<N>(0);
      right[k] = from_b.template load<N>(0);
    }
  }
  LOCKSTEP_UNROLL
  for (int k = 0; k < kCells; ++k) {
    const uint32_t cell = first + k * kFlatThreads;
    if (cell < cells) {
      Vector<S, N> result;
      LOCKSTEP_UNROLL
      for (int j = 0; j < N; ++j) result.lane[j] = Combination<Op, S>{}(left[k].lane[j], right[k].lane[j]);
      store_vector(y + static_cast<int64_t>(cell) * N, result);
    }
  }
}

template <class Op, class S, int N>
void launch_broadcast(cudaStream_t stream, const BroadcastPlan& plan, const S* a, const S* b, S* y) {
  const int last = plan.rank - 1;
  Walk walk;
  for (int axis = 0; axis < last; ++axis)
    walk.add_axis(plan.extents[axis], plan.strides_a[axis], plan.strides_b[axis]);
  walk.add_axis(plan.extents[last] / N, plan.strides_a[last] * N, plan.strides_b[last] * N);
  const int64_t cells = walk.cells();
  LOCKSTEP_LAUNCH((broadcast_kernel<Op, S, N>), blocks_for(cells, kFlatThreads * (N == 1 ? 4 : 2)),
                  kFlatThreads, 0, stream, static_cast<uint32_t>(cells), walk, a, plan.strides_a[last] != 0,
                  b, plan.strides_b[last] != 0, y);
}

// Whether every row of the operand can be read in vectors of `lanes`, or is one element repeated.
template <class S>
bool rows_in_vectors(const BroadcastPlan& plan, const int64_t* strides, const S* x, int lanes) {
  const int last = plan.rank - 1;
  if (strides[last] == 0) return true;
  bool whole = strides[last] == 1 && aligned_to(static_cast<size_t>(lanes) * sizeof(S), x);
  for (int axis = 0; axis < last; ++axis) whole = whole && strides[axis] % lanes == 0;
  return whole;
}

template <class Op, class S>
void binary_broadcast(cudaStream_t stream, const BroadcastPlan& plan, const S* a, const S* b, S* y) {
  int64_t n = 1;
  for (int axis = 0; axis < plan.rank; ++axis) n *= plan.extents[axis];
  if (n == 0) return;
  const int64_t along_a = plan.rank == 0 ? 0 : plan.strides_a[0],
                along_b = plan.rank == 0 ? 0 : plan.strides_b[0];
  if (plan.rank <= 1 && along_a <= 1 && along_b <= 1) {
    const S* const inputs[] = {a, b};
    const bool repeated[] = {along_a == 0, along_b == 0};
    return map_flat(stream, n, inputs, repeated, y, Combination<Op, S>{});
  }
  if (n > kLongestWalk) {
    // In halves along the outermost axis that is worth one.
    BroadcastPlan part = plan;
    int axis = 0;
    while (part.extents[axis] == 1) ++axis;
    const int64_t half = plan.extents[axis] / 2;
    part.extents[axis] = half;
    binary_broadcast<Op>(stream, part, a, b, y);
    part.extents[axis] = plan.extents[axis] - half;
    return binary_broadcast<Op>(stream, part, a + half * plan.strides_a[axis],
                                b + half * plan.strides_b[axis], y + half * (n / plan.extents[axis]));
  }
  constexpr int kLanes = Vector<S>::kLanes;
  const bool vectors = plan.extents[plan.rank - 1] % kLanes == 0 && aligned_to(16, y) &&
                       rows_in_vectors(plan, plan.strides_a, a, kLanes) &&
                       rows_in_vectors(plan, plan.strides_b, b, kLanes);
  if (vectors) {
    launch_broadcast<Op, S, kLanes>(stream, plan, a, b, y);
  } else {
    launch_broadcast<Op, S, 1>(stream, plan, a, b, y);
  }
}

}  // namespace

void CudaBackend::binary(BinaryOp op, DType dtype, const BroadcastPlan& plan, const void* a, const void* b,
                         void* y) {
  dispatch_floating("binary", dtype, [&](auto type) {
    using S = decltype(type);
    math::visit_binary(op, [&](auto functor) {
      binary_broadcast<decltype(functor)>(stream(), plan, static_cast<const S*>(a), static_cast<const S*>(b),
                                          static_cast<S*>(y));
    });
  });
}

void CudaBackend::add_narrow(DType narrow, int64_t n, const void* x, const void* change, void* y) {
  dispatch_narrow("add_narrow", narrow, [&](auto type) {
    using R = decltype(type);
    using Work = NarrowSum<R>;
    const auto* const wide = static_cast<const float*>(x);
    const auto* const part = static_cast<const R*>(change);
    auto* const to = static_cast<float*>(y);
    const int64_t head = flat_head<Work::kLanes>(n, to);
    const auto reading = [](bool vectors) { return vectors ? Reading::kVectors : Reading::kElements; };
    const bool whole_x = aligned_to(Work::kLanes * sizeof(float), wide + head),
               whole_change = aligned_to(Work::kLanes * sizeof(R), part + head);
    launch_flat(stream(), n, head, whole_x && whole_change,
                Work{{wide, reading(whole_x)}, {part, reading(whole_change)}, to});
  });
}

void CudaBackend::scale_shift(DType dtype, int64_t n, const void* x, double scale, double shift, void* y) {
  dispatch_floating("scale_shift", dtype, [&](auto type) {
    using S = decltype(type);
    using T = Accumulation<S>;
    const S* const inputs[] = {static_cast<const S*>(x)};
    map_flat(stream(), n, inputs, static_cast<S*>(y),
             Scaling<S>{static_cast<T>(scale), static_cast<T>(shift)});
  });
}

void CudaBackend::accumulate(DType dtype, int64_t n, const void* x, void* y) {
  dispatch_floating("accumulate", dtype, [&](auto type) {
    using S = decltype(type);
    const S* const inputs[] = {static_cast<const S*>(y), static_cast<const S*>(x)};
    map_flat(stream(), n, inputs, static_cast<S*>(y), Combination<math::Add, S>{});
  });
}

}  // namespace lockstep
