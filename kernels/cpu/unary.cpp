// Elementwise operations of one argument and their derivatives.
#include "kernels/math/unary.h"

#include <fmt/format.h>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/elements.h"

namespace lockstep {

void CpuBackend::unary(UnaryOp op, DType dtype, int64_t n, const void* x, void* y) {
  dispatch_floating("unary", dtype, [&](auto type) {
    using T = decltype(type);
    const T* in = static_cast<const T*>(x);
    math::visit_unary(op, [&](auto functor) {
      using Op = decltype(functor);
      write_elements(n, static_cast<T*>(y), [=](int64_t begin, int64_t end, T* out) {
        simd_for<T>(end - begin, [=](int64_t i) { out[i] = Op::value(in[begin + i]); });
      });
    });
  });
}

void CpuBackend::unary_backward(UnaryOp op, DType dtype, int64_t n, const void* x, const void* y,
                                const void* dy, void* dx) {
  dispatch_floating("unary_backward", dtype, [&](auto type) {
    using T = decltype(type);
    const T* in = static_cast<const T*>(x);
    const T* value = static_cast<const T*>(y);
    const T* gradient = static_cast<const T*>(dy);
    math::visit_unary(op, [&](auto functor) {
      using Op = decltype(functor);
      if constexpr (math::kHasBackward<Op>) {
        write_elements(n, static_cast<T*>(dx), [=](int64_t begin, int64_t end, T* out) {
          simd_for<T>(end - begin, [=](int64_t i) {
            out[i] = Op::backward(in[begin + i], value[begin + i], gradient[begin + i]);
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
