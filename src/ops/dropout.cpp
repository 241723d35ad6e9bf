// Dropout as multiplication by a drawn mask, which is drawn again where it is needed again.
#include "lockstep/ops/dropout.h"

#include <fmt/format.h>

#include "lockstep/autodiff/node.h"
#include "lockstep/autodiff/random_scope.h"
#include "lockstep/core/error.h"
#include "lockstep/ops/elementwise.h"

namespace lockstep {

namespace {

// x times the mask of these draws.
Tensor apply_mask(const Tensor& x, const RandomStream& draws, double probability);

// The op is linear in x: both directions multiply by the mask. It is a function of the counters in `draws`,
// of which a node takes less memory than of the mask.
class DropoutNode final : public Node {
 public:
  DropoutNode(const RandomStream& draws, double probability) : draws_(draws), probability_(probability) {}
  const char* name() const override { return "dropout"; }
  Saved saved() const override { return Saved::nothing(); }
  void vjp(const Tensor&, const Tensor& cotangent, InputGradients& result) const override {
    result[0] = apply_mask(cotangent, draws_, probability_);
  }
  Tensor jvp(const Tensor&, std::span<const Tensor> tangents) const override {
    return apply_mask(tangents[0], draws_, probability_);
  }

 private:
  RandomStream draws_;
  double probability_;
};

Tensor apply_mask(const Tensor& x, const RandomStream& draws, double probability) {
  Tensor mask = x.empty_like();
  if (x.elements() > 0) {
    x.backend().dropout_mask(x.dtype(), x.elements(), draws, probability, mask.mutable_data());
  }
  return record<DropoutNode>(multiply(x.detach(), mask), {&x}, draws, probability);
}

}  // namespace

Tensor dropout(const Tensor& x, double probability) {
  if (!(probability >= 0.0 && probability < 1.0)) {
    fail(ErrorKind::kUsage, fmt::format("dropout: probability must be in [0, 1), got {}", probability));
  }
  if (probability == 0.0) return x;
  return apply_mask(x, next_random_stream(RandomPurpose::kDropout), probability);
}

}  // namespace lockstep
