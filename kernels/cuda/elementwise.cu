// Elementwise operations of one argument and their derivatives.
#include <string>
#include <type_traits>

#include "lockstep/kernels/cuda/cuda_backend.h"
#include "lockstep/kernels/cuda/flat.h"
#include "lockstep/kernels/dispatch.h"
#include "lockstep/kernels/math/unary.h"

namespace lockstep {

namespace {

// Operations whose results are their arguments, of another sign perhaps: of a NaN as well.
template <class Op>
inline constexpr bool kPasses = std::is_same_v<Op, math::Negate> || std::is_same_v<Op, math::Relu> ||
                                std::is_same_v<Op, math::Abs> || std::is_same_v<Op, math::Sign>;

template <class Op, class S>
struct Value {
  using T = Accumulation<S>;
  using Arithmetic = std::bool_constant<!kPasses<Op>>;
  LOCKSTEP_DEVICE T number(T x) const { return Op::value(x); }
  LOCKSTEP_DEVICE S operator()(S x) const { return rounded<S>(number(widen(x))); }
};

template <class Op, class S>
struct Derivative {
  using T = Accumulation<S>;
  // The root divides in a call, beside which registers for the results of a vector are spilled.
  using Arithmetic = std::bool_constant<!kPasses<Op> && !std::is_same_v<Op, math::Sqrt>>;
  LOCKSTEP_DEVICE T number(T x, T y, T dy) const { return Op::backward(x, y, dy); }
  LOCKSTEP_DEVICE S operator()(S x, S y, S dy) const {
    return rounded<S>(number(widen(x), widen(y), widen(dy)));
  }
};

}  // namespace

void CudaBackend::unary(UnaryOp op, DType dtype, int64_t n, const void* x, void* y) {
  dispatch_floating("unary", dtype, [&](auto type) {
    using S = decltype(type);
    math::visit_unary<S>(op, [&](auto functor) {
      const S* const inputs[] = {static_cast<const S*>(x)};
      map_flat(stream(), n, inputs, static_cast<S*>(y), Value<decltype(functor), S>{});
    });
  });
}

void CudaBackend::unary_backward(UnaryOp op, DType dtype, int64_t n, const void* x, const void* y,
                                 const void* dy, void* dx) {
  dispatch_floating("unary_backward", dtype, [&](auto type) {
    using S = decltype(type);
    math::visit_unary<S>(op, [&](auto functor) {
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
