// Dropout as multiplication by a drawn mask.
#include "ops/dropout.h"

#include <fmt/format.h>

#include "autodiff/random_scope.h"
#include "core/error.h"
#include "ops/elementwise.h"

namespace lockstep {

Tensor dropout(const Tensor& x, double probability) {
  if (!(probability >= 0.0 && probability < 1.0)) {
    fail(ErrorKind::kInternal, fmt::format("dropout: probability must be in [0, 1), got {}", probability));
  }
  if (probability == 0.0) return x;
  Tensor mask = x.empty_like();
  const RandomStream stream = next_random_stream(RandomPurpose::kDropout);
  if (x.elements() > 0) {
    x.backend().dropout_mask(x.dtype(), x.elements(), stream, probability, mask.mutable_data());
  }
  return multiply(x, mask);
}

}  // namespace lockstep
