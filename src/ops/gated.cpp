// SwiGLU and the squared ReLU out of simple ops.
#include "lockstep/ops/gated.h"

#include "lockstep/core/error.h"
#include "lockstep/ops/cast.h"
#include "lockstep/ops/elementwise.h"
#include "lockstep/ops/movement.h"

namespace lockstep {

Tensor swiglu(const Tensor& h) {
  if (h.rank() < 1 || h.shape().last() % 2 != 0) {
    fail(ErrorKind::kInternal, "swiglu: an even last extent expected, got " + h.shape().to_string());
  }
  const int64_t features = h.shape().last() / 2;
  const int axis = h.rank() - 1;
  const Tensor gate = widened(slice(h, axis, 0, features));
  const Tensor up = widened(slice(h, axis, features, 2 * features));
  return cast(gate * sigmoid(gate) * up, h.dtype());
}

Tensor relu_squared(const Tensor& x) {
  return cast(square(relu(widened(x))), x.dtype());
}

}  // namespace lockstep
