// Elementwise operations of two broadcast arguments, scaling, and the addition of the reduction tree.
#include "lockstep/kernels/math/binary.h"

#include "lockstep/kernels/cpu/cpu_backend.h"
#include "lockstep/kernels/cpu/elements.h"
#include "lockstep/kernels/dispatch.h"

namespace lockstep {

namespace {

// Elements [begin, end) of one row; strides along the row are 0 or 1 for contiguous operands, anything else
// in general.
template <class Op, class S>
void binary_row(int64_t count, const S* a, int64_t stride_a, const S* b, int64_t stride_b, S* y) {
  using T = Accumulation<S>;
  if (stride_a == 1 && stride_b == 1) {
    simd_for<T>(count, [=](int64_t i) { y[i] = S(Op::value(T(a[i]), T(b[i]))); });
  } else if (stride_a == 1 && stride_b == 0) {
    const T scalar = T(*b);
    simd_for<T>(count, [=](int64_t i) { y[i] = S(Op::value(T(a[i]), scalar)); });
  } else if (stride_a == 0 && stride_b == 1) {
    const T scalar = T(*a);
    simd_for<T>(count, [=](int64_t i) { y[i] = S(Op::value(scalar, T(b[i]))); });
  } else {
    for (int64_t i = 0; i < count; ++i) y[i] = S(Op::value(T(a[i * stride_a]), T(b[i * stride_b])));
  }
}

template <class Op, class S>
void binary_broadcast(const BroadcastPlan& plan, const S* a, const S* b, S* y) {
  const int last = plan.rank - 1;
  const int64_t inner = plan.rank == 0 ? 1 : plan.extents[last];
  const int64_t stride_a = plan.rank == 0 ? 0 : plan.strides_a[last];
  const int64_t stride_b = plan.rank == 0 ? 0 : plan.strides_b[last];
  int64_t outer = 1;
  for (int axis = 0; axis < last; ++axis) outer *= plan.extents[axis];
  if (outer == 1) {
    write_elements(inner, y, [=](int64_t begin, int64_t end, S* out) {
      binary_row<Op>(end - begin, a + begin * stride_a, stride_a, b + begin * stride_b, stride_b, out);
    });
    return;
  }
  // A tile is some consecutive rows, or a part of one when rows are long: parts are equally many for every
  // row.
  const int64_t rows = rows_per_tile(inner);
  const int64_t parts = (inner + kElementGrain - 1) / kElementGrain;
  parallel_ranges(outer * parts, rows, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t row = item / parts;
      const int64_t first = item % parts * kElementGrain;
      const int64_t count = std::min(inner - first, kElementGrain);
      int64_t rest = row, offset_a = first * stride_a, offset_b = first * stride_b;
      for (int axis = last - 1; axis >= 0; --axis) {
        const int64_t index = rest % plan.extents[axis];
        rest /= plan.extents[axis];
        offset_a += index * plan.strides_a[axis];
        offset_b += index * plan.strides_b[axis];
      }
      binary_row<Op>(count, a + offset_a, stride_a, b + offset_b, stride_b, y + row * inner + first);
    }
  });
}

}  // namespace

void CpuBackend::binary(BinaryOp op, DType dtype, const BroadcastPlan& plan, const void* a, const void* b,
                        void* y) {
  dispatch_floating("binary", dtype, [&](auto type) {
    using S = decltype(type);
    math::visit_binary(op, [&](auto functor) {
      binary_broadcast<decltype(functor)>(plan, static_cast<const S*>(a), static_cast<const S*>(b),
                                          static_cast<S*>(y));
    });
  });
}

void CpuBackend::add_narrow(DType narrow, int64_t n, const void* x, const void* change, void* y) {
  dispatch_narrow("add_narrow", narrow, [&](auto type) {
    using R = decltype(type);
    const float* const from = static_cast<const float*>(x);
    const R* const part = static_cast<const R*>(change);
    write_elements(n, static_cast<float*>(y), [=](int64_t begin, int64_t end, float* out) {
      simd_for<float>(end - begin, [=](int64_t i) { out[i] = from[begin + i] + float(part[begin + i]); });
    });
  });
}

void CpuBackend::scale_shift(DType dtype, int64_t n, const void* x, double scale, double shift, void* y) {
  dispatch_floating("scale_shift", dtype, [&](auto type) {
    using S = decltype(type);
    using T = Accumulation<S>;
    const S* in = static_cast<const S*>(x);
    const T factor = static_cast<T>(scale), offset = static_cast<T>(shift);
    write_elements(n, static_cast<S*>(y), [=](int64_t begin, int64_t end, S* out) {
      simd_for<T>(end - begin, [=](int64_t i) { out[i] = S(T(in[begin + i]) * factor + offset); });
    });
  });
}

void CpuBackend::accumulate(DType dtype, int64_t n, const void* x, void* y) {
  dispatch_floating("accumulate", dtype, [&](auto type) {
    using S = decltype(type);
    using T = Accumulation<S>;
    const S* in = static_cast<const S*>(x);
    S* sum = static_cast<S*>(y);
    parallel_ranges(n, kElementGrain, [=](int64_t begin, int64_t end) {
      simd_for<T>(end - begin, [=](int64_t i) { sum[begin + i] = S(T(sum[begin + i]) + T(in[begin + i])); });
    });
  });
}

}  // namespace lockstep
