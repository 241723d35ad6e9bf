// SwiGLU as a fused op.
#include "lockstep/ops/gated.h"

#include "lockstep/autodiff/node.h"
#include "lockstep/core/error.h"
#include "lockstep/ops/cast.h"
#include "lockstep/ops/elementwise.h"
#include "lockstep/ops/movement.h"

namespace lockstep {

namespace {

Tensor compute_swiglu(const Tensor& h) {
  Shape shape = h.shape();
  const int64_t features = shape.last() / 2;
  shape[shape.rank() - 1] = features;
  Tensor y = Tensor::empty(shape, h.dtype(), h.backend());
  if (y.elements() > 0) {
    y.backend().swiglu(h.dtype(), y.shape().rows(), features, h.data(), y.mutable_data());
  }
  return y;
}

// Input: both halves, h.
class SwigluNode final : public FusedNode {
 public:
  const char* name() const override { return "swiglu"; }
  Saved fused_saved() const override { return Saved::input(0); }
  bool is_cheap() const override { return true; }
  Tensor made_again() const override { return compute_swiglu(inputs[0]); }

  Tensor reference(std::span<const Tensor> in) const override {
    const int axis = in[0].rank() - 1;
    const int64_t features = in[0].shape().last() / 2;
    const Tensor gate = widened(slice(in[0], axis, 0, features));
    const Tensor up = widened(slice(in[0], axis, features, 2 * features));
    return cast(gate * sigmoid(gate) * up, in[0].dtype());
  }

  void fused_vjp(const Tensor&, const Tensor& cotangent, InputGradients& result) const override {
    const int64_t features = cotangent.shape().last();
    Tensor dh = inputs[0].empty_like();
    if (dh.elements() > 0) {
      dh.backend().swiglu_backward(dh.dtype(), cotangent.elements() / features, features, inputs[0].data(),
                                   cotangent.data(), dh.mutable_data());
    }
    result[0] = std::move(dh);
  }
};

}  // namespace

Tensor swiglu(const Tensor& h) {
  if (h.rank() < 1 || h.shape().last() % 2 != 0) {
    fail(ErrorKind::kUsage, "swiglu: an even last extent expected, got " + h.shape().to_string());
  }
  return record<SwigluNode>(compute_swiglu(h), {&h});
}

}  // namespace lockstep
