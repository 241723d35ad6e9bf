// Rotary positions: a linear op whose adjoint turns the other way.
#include "lockstep/ops/rotary.h"

#include <fmt/format.h>

#include "lockstep/autodiff/node.h"
#include "lockstep/core/error.h"
#include "lockstep/ops/cast.h"
#include "lockstep/ops/operands.h"

namespace lockstep {

namespace {

Tensor turn(const Tensor& x, const Tensor& cosines, const Tensor& sines, int64_t turned, bool back);

// Inputs: x, cosines, sines.
class RotaryNode final : public Node {
 public:
  RotaryNode(int64_t turned, bool back) : turned_(turned), back_(back) {}
  const char* name() const override { return "rotary"; }
  Saved saved() const override { return Saved::input(1) | Saved::input(2); }
  void vjp(const Tensor&, const Tensor& cotangent, InputGradients& result) const override {
    result[0] = turn(cotangent, inputs[1], inputs[2], turned_, !back_);
  }
  Tensor jvp(const Tensor&, std::span<const Tensor> tangents) const override {
    return turn(tangents[0], inputs[1], inputs[2], turned_, back_);
  }

 private:
  int64_t turned_;
  bool back_;
};

Tensor turn(const Tensor& x, const Tensor& cosines, const Tensor& sines, int64_t turned, bool back) {
  const Shape& shape = x.shape();
  Tensor y = x.empty_like();
  if (x.elements() > 0) {
    x.backend().rotary(x.dtype(), shape[0] * shape[1], shape[1], shape[2], turned, shape[3], back, x.data(),
                       cosines.data(), sines.data(), y.mutable_data());
  }
  return record<RotaryNode>(std::move(y), {&x, &cosines, &sines}, turned, back);
}

}  // namespace

Tensor rotary(const Tensor& x, const Tensor& cosines, const Tensor& sines, int64_t turned) {
  const Shape table = x.rank() == 4 ? Shape{x.shape()[1], x.shape()[3] / 2} : Shape{};
  require_one_device("rotary", {&x, &cosines, &sines});
  if (x.rank() != 4 || x.shape()[3] % 2 != 0 || !(cosines.shape() == table) || !(sines.shape() == table) ||
      turned > x.shape()[2]) {
    fail(ErrorKind::kUsage,
         fmt::format("rotary: x (B,T,H,D), D even, with tables (T,D/2) and at most H heads to turn expected, "
                     "got {}, {}, {} and {}",
                     x.shape().to_string(), cosines.shape().to_string(), sines.shape().to_string(), turned));
  }
  const DType wide = accumulation_type(x.dtype());
  return turn(x, cosines.detach().converted(wide), sines.detach().converted(wide),
              turned < 0 ? x.shape()[2] : turned, false);
}

}  // namespace lockstep
