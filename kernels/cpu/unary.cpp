// Elementwise operations of one argument and their derivatives.
#include "lockstep/kernels/math/unary.h"

#include <fmt/format.h>

#include "lockstep/kernels/cpu/cpu_backend.h"
#include "lockstep/kernels/cpu/elements.h"
#include "lockstep/kernels/dispatch.h"

namespace lockstep {

void CpuBackend::unary(UnaryOp op, DType dtype, int64_t n, const void* x, void* y) {
  dispatch_floating("unary", dtype, [&](auto type) {
    using S = decltype(type);
    using T = Accumulation<S>;
    const S* in = static_cast<const S*>(x);
    math::visit_unary<S>(op, [&](auto functor) {
      using Op = decltype(functor);
      write_elements(n, static_cast<S*>(y), [=](int64_t begin, int64_t end, S* out) {
        simd_for<T>(end - begin, [=](int64_t i) { out[i] = S(Op::value(T(in[begin + i]))); });
      });
    });
  });
}

void CpuBackend::unary_backward(UnaryOp op, DType dtype, int64_t n, const void* x, const void* y,
                                const void* dy, void* dx) {
  dispatch_floating("unary_backward", dtype, [&](auto type) {
    using S = decltype(type);
    using T = Accumulation<S>;
    const S* in = static_cast<const S*>(x);
    const S* value = static_cast<const S*>(y);
    const S* gradient = static_cast<const S*>(dy);
    math::visit_unary<S>(op, [&](auto functor) {
      using Op = decltype(functor);
      if constexpr (math::kHasBackward<Op>) {
        write_elements(n, static_cast<S*>(dx), [=](int64_t begin, int64_t end, S* out) {
          simd_for<T>(end - begin, [=](int64_t i) {
            out[i] = S(Op::backward(T(in[begin + i]), T(value[begin + i]), T(gradient[begin + i])));
          });
        });
      } else {
        fail(ErrorKind::kInternal,
             fmt::format("unary_backward: the operation has no backward kernel: UnaryOp {}",
                         static_cast<int>(op)));
      }
    });
  });
}

}  // namespace lockstep
