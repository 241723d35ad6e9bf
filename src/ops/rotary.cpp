// Rotary positions out of simple ops.
#include "lockstep/ops/rotary.h"

#include <fmt/format.h>

#include "lockstep/core/error.h"
#include "lockstep/ops/cast.h"
#include "lockstep/ops/elementwise.h"
#include "lockstep/ops/movement.h"

namespace lockstep {

Tensor rotary(const Tensor& x, const Tensor& cosines, const Tensor& sines) {
  const Shape table = x.rank() == 4 ? Shape{x.shape()[1], x.shape()[3] / 2} : Shape{};
  if (x.rank() != 4 || x.shape()[3] % 2 != 0 || !(cosines.shape() == table) || !(sines.shape() == table)) {
    fail(ErrorKind::kInternal,
         fmt::format("rotary: x (B,T,H,D), D even, with tables (T,D/2) expected, got {}, {} and {}",
                     x.shape().to_string(), cosines.shape().to_string(), sines.shape().to_string()));
  }
  const int64_t half = table[1];
  const Tensor wide = widened(x);
  const Tensor c = reshape(cosines, {table[0], 1, half}), s = reshape(sines, {table[0], 1, half});
  const Tensor a = slice(wide, 3, 0, half), b = slice(wide, 3, half, 2 * half);
  return cast(concatenate({a * c - b * s, b * c + a * s}, 3), x.dtype());
}

}  // namespace lockstep
