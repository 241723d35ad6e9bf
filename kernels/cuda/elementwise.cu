// Elementwise operations of one argument and their derivatives.
#include <string>

#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/flat.h"
#include "kernels/dispatch.h"
#include "kernels/math/unary.h"

namespace lockstep {

namespace {

template <class Op, class S>
struct Value {
  LOCKSTEP_DEVICE S operator()(S x) const { return rounded<S>(Op::value(widen(x))); }
};

template <class Op, class S>
struct Derivative {
  LOCKSTEP_DEVICE S operator()(S x, S y, S dy) const {
    return rounded<S>(Op::backward(widen(x), widen(y), widen(dy)));
  }
};

}  // namespace

void CudaBackend::unary(UnaryOp op, DType dtype, int64_t n, const void* x, void* y) {
  dispatch_floating("unary", dtype, [&](auto type) {
    using S = decltype(type);
    math::visit_unary(op, [&](auto functor) {
      const S* const inputs[] = {static_cast<const S*>(x)};
      map_flat(stream(), n, inputs, static_cast<S*>(y), Value<decltype(functor), S>{});
    });
  });
}

void CudaBackend::unary_backward(UnaryOp op, DType dtype, int64_t n, const void* x, const void* y,
                                 const void* dy, void* dx) {
  dispatch_floating("unary_backward", dtype, [&](auto type) {
    using S = decltype(type);
    math::visit_unary(op, [&](auto functor) {
      using Op = decltype(functor);
      if constexpr (math::kHasBackward<Op>) {
        const S* const inputs[] = {static_cast<const S*>(x), static_cast<const S*>(y),
                                   static_cast<const S*>(dy)};
        map_flat(stream(), n, inputs, static_cast<S*>(dx), Derivative<Op, S>{});
      } else {
        fail(ErrorKind::kInternal, "unary_backward: the operation has no backward kernel: UnaryOp " +
                                       std::to_string(static_cast<int>(op)));
      }
    });
  });
}

}  // namespace lockstep
