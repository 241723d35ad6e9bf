// Elementwise ops: kernels forward, derivatives as kernels (first order) or as ops (when they are
// differentiated again).
#include "lockstep/ops/elementwise.h"

#include <fmt/format.h>

#include <cmath>
#include <numbers>

#include "lockstep/autodiff/autocast.h"
#include "lockstep/autodiff/node.h"
#include "lockstep/core/error.h"
#include "lockstep/kernels/math/elementary.h"
#include "lockstep/ops/broadcast_plan.h"
#include "lockstep/ops/cast.h"
#include "lockstep/ops/operands.h"
#include "lockstep/ops/reduction.h"

namespace lockstep {

namespace {

// The op on operands of different types, where autocast brings them together.
Tensor meet(Tensor (*op)(const Tensor&, const Tensor&), const Tensor& a, const Tensor& b, const char* name) {
  const DType type = autocast_type(OpFamily::kBinary, a.dtype(), b.dtype(), name);
  return op(cast(a, type), cast(b, type));
}

Tensor compute_binary(BinaryOp op, const Tensor& a, const Tensor& b, const char* name) {
  require_one_device(name, {&a, &b});
  BroadcastPlan plan;
  Tensor y;
  if (a.shape() == b.shape()) {
    y = a.empty_like();
    plan.rank = 1;
    plan.extents[0] = a.elements();
    plan.strides_a[0] = plan.strides_b[0] = 1;
  } else {
    const Shape shape = broadcast_shapes(a.shape(), b.shape(), name);
    y = Tensor::empty(shape, a.dtype(), a.backend());
    plan = plan_broadcast(a.shape(), b.shape(), shape);
  }
  if (y.elements() > 0) a.backend().binary(op, a.dtype(), plan, a.data(), b.data(), y.mutable_data());
  return y;
}

Tensor tangent_or_zero(const Tensor& tangent, const Tensor& like) {
  return tangent.defined() ? tangent : like.full_like(0.0);
}

// Inputs may be of different types: the sum is of the wider one.
class AddNode final : public Node {
 public:
  const char* name() const override { return "add"; }
  Saved saved() const override { return Saved::nothing(); }
  std::optional<DType> narrow_cotangent() const override {
    for (size_t i = 0; i < 2; ++i) {
      const DType own = inputs[i].dtype();
      if (differentiable(i) && own != inputs[1 - i].dtype() && own != accumulation_type(own)) return own;
    }
    return std::nullopt;
  }
  void vjp(const Tensor&, const Tensor& cotangent, InputGradients& result) const override {
    for (size_t i = 0; i < 2; ++i) {
      if (!result.wanted(i)) continue;
      const Tensor& narrow = result.narrow_cotangent();
      if (narrow.defined() && narrow.dtype() == inputs[i].dtype()) {
        result[i] = narrow;
      } else {
        result[i] = cast(sum_to(cotangent, inputs[i].shape()), inputs[i].dtype());
      }
    }
  }
  Tensor jvp(const Tensor& output, std::span<const Tensor> tangents) const override {
    const auto tangent = [&](size_t i) { return cast(tangents[i], output.dtype()); };
    if (tangents[0].defined() && tangents[1].defined()) return add(tangent(0), tangent(1));
    return broadcast_to(tangent(tangents[0].defined() ? 0 : 1), output.shape());
  }
};

class SubtractNode final : public Node {
 public:
  const char* name() const override { return "subtract"; }
  Saved saved() const override { return Saved::nothing(); }
  void vjp(const Tensor&, const Tensor& cotangent, InputGradients& result) const override {
    if (result.wanted(0)) result[0] = sum_to(cotangent, inputs[0].shape());
    if (result.wanted(1)) result[1] = negate(sum_to(cotangent, inputs[1].shape()));
  }
  Tensor jvp(const Tensor& output, std::span<const Tensor> tangents) const override {
    if (tangents[0].defined() && tangents[1].defined()) return subtract(tangents[0], tangents[1]);
    if (tangents[0].defined()) return broadcast_to(tangents[0], output.shape());
    return broadcast_to(negate(tangents[1]), output.shape());
  }
};

class MultiplyNode final : public Node {
 public:
  const char* name() const override { return "multiply"; }
  Saved saved() const override {
    return Saved::input(1, differentiable(0)) | Saved::input(0, differentiable(1));
  }
  void vjp(const Tensor&, const Tensor& cotangent, InputGradients& result) const override {
    if (result.wanted(0)) result[0] = sum_to(multiply(cotangent, inputs[1]), inputs[0].shape());
    if (result.wanted(1)) result[1] = sum_to(multiply(cotangent, inputs[0]), inputs[1].shape());
  }
  Tensor jvp(const Tensor&, std::span<const Tensor> tangents) const override {
    if (!tangents[1].defined()) return multiply(tangents[0], inputs[1]);
    if (!tangents[0].defined()) return multiply(inputs[0], tangents[1]);
    return sum_of(multiply(tangents[0], inputs[1]), multiply(inputs[0], tangents[1]));
  }
};

class DivideNode final : public Node {
 public:
  const char* name() const override { return "divide"; }
  Saved saved() const override { return Saved::input(1) | Saved::output(differentiable(1)); }
  void vjp(const Tensor& output, const Tensor& cotangent, InputGradients& result) const override {
    const Tensor scaled = divide(cotangent, inputs[1]);
    if (result.wanted(0)) result[0] = sum_to(scaled, inputs[0].shape());
    if (result.wanted(1)) result[1] = negate(sum_to(multiply(scaled, output), inputs[1].shape()));
  }
  Tensor jvp(const Tensor& output, std::span<const Tensor> tangents) const override {
    if (!tangents[1].defined()) return divide(tangents[0], inputs[1]);
    const Tensor from_denominator = multiply(output, tangents[1]);
    if (!tangents[0].defined()) return divide(negate(from_denominator), inputs[1]);
    return divide(subtract(tangents[0], from_denominator), inputs[1]);
  }
};

// Maximum and minimum. Inputs: the operands, and a mask that says where the first one wins.
class SelectNode final : public Node {
 public:
  const char* name() const override { return "maximum"; }
  Saved saved() const override { return Saved::input(2); }
  void vjp(const Tensor&, const Tensor& cotangent, InputGradients& result) const override {
    const Tensor first = multiply(cotangent, inputs[2]);
    if (result.wanted(0)) result[0] = sum_to(first, inputs[0].shape());
    if (result.wanted(1)) result[1] = sum_to(subtract(cotangent, first), inputs[1].shape());
  }
  Tensor jvp(const Tensor&, std::span<const Tensor> tangents) const override {
    const Tensor first = multiply(tangent_or_zero(tangents[0], inputs[0]), inputs[2]);
    const Tensor second = tangent_or_zero(tangents[1], inputs[1]);
    return add(first, subtract(second, multiply(second, inputs[2])));
  }
};

class ScaleNode final : public Node {
 public:
  explicit ScaleNode(double factor) : factor_(factor) {}
  const char* name() const override { return "scale"; }
  Saved saved() const override { return Saved::nothing(); }
  void vjp(const Tensor&, const Tensor& cotangent, InputGradients& result) const override {
    result[0] = scale(cotangent, factor_);
  }
  Tensor jvp(const Tensor&, std::span<const Tensor> tangents) const override {
    return scale(tangents[0], factor_);
  }

 private:
  double factor_;
};

Tensor scale_shift(const Tensor& x, double factor, double shift) {
  Tensor y = x.empty_like();
  if (x.elements() > 0)
    x.backend().scale_shift(x.dtype(), x.elements(), x.data(), factor, shift, y.mutable_data());
  return record<ScaleNode>(std::move(y), {&x}, factor);
}

// x where it lies within [-bound, bound], else the nearer end.
Tensor clamp(const Tensor& x, double bound) {
  const Tensor end = add_scalar(Tensor::zeros({1}, x.dtype(), x.backend()), bound);
  return minimum(maximum(x, negate(end)), end);
}

// op'(x) out of differentiable ops; y = op(x). It and the kernels read either x or y: what UnaryNode keeps.
Tensor derivative(UnaryOp op, const Tensor& x, const Tensor& y) {
  switch (op) {
    case UnaryOp::kNegate:
      return x.full_like(-1.0);
    case UnaryOp::kExp:
      return y;
    case UnaryOp::kLog:
      return reciprocal(x);
    case UnaryOp::kSqrt:
      return scale(reciprocal(y), 0.5);
    case UnaryOp::kTanh:
      return scale_shift(square(y), -1.0, 1.0);
    case UnaryOp::kSigmoid:
      return subtract(y, square(y));
    case UnaryOp::kSoftplus:
      return sigmoid(x);
    case UnaryOp::kRelu:
      return greater(y, Tensor::zeros({1}, y.dtype(), y.backend()));  // y > 0 exactly where x is
    case UnaryOp::kGelu: {
      // Phi(x) + x phi(x); beyond the bound, as in the kernel, 0 or 1 before anything overflows.
      const Tensor bounded =
          clamp(x, x.dtype() == DType::kF64 ? math::kGaussianBound<double> : math::kGaussianBound<float>);
      const Tensor distribution = scale_shift(erf(scale(bounded, std::numbers::sqrt2 / 2)), 0.5, 0.5);
      const Tensor density = scale(exp(scale(square(bounded), -0.5)),
                                   std::numbers::inv_sqrtpi_v<double> * std::numbers::sqrt2 / 2);
      return add(distribution, multiply(bounded, density));
    }
    case UnaryOp::kGeluTanh: {
      // s + x s (1 - s) (2u)', s = sigmoid(2u), u(x) = sqrt(2/pi) (x + 0.044715 x^3); bounded as well.
      const double factor = 2.0 * std::numbers::sqrt2 * std::numbers::inv_sqrtpi_v<double>;
      const Tensor bounded =
          clamp(x, x.dtype() == DType::kF64 ? math::kGeluTanhBound<double> : math::kGeluTanhBound<float>);
      const Tensor squared = square(bounded);
      const Tensor s = sigmoid(scale(multiply(bounded, scale_shift(squared, 0.044715, 1.0)), factor));
      const Tensor slope = scale(scale_shift(squared, 3.0 * 0.044715, 1.0), factor);
      return add(s, multiply(multiply(bounded, slope), subtract(s, square(s))));
    }
    case UnaryOp::kAbs:
      return sign(x);
    case UnaryOp::kSquare:
      return scale(x, 2.0);
    case UnaryOp::kReciprocal:
      return negate(square(y));
    case UnaryOp::kErf:
      return scale(exp(negate(square(x))), 2.0 * std::numbers::inv_sqrtpi_v<double>);
    case UnaryOp::kReluSquared:
      return scale(relu(x), 2.0);
    case UnaryOp::kSign:
      break;
  }
  fail(ErrorKind::kInternal, "unary op has no derivative");
}

Tensor apply_unary(UnaryOp op, const Tensor& x) {
  Tensor y = x.empty_like();
  if (x.elements() > 0) x.backend().unary(op, x.dtype(), x.elements(), x.data(), y.mutable_data());
  return y;
}

class UnaryNode final : public Node {
 public:
  explicit UnaryNode(UnaryOp op) : op_(op) {}
  const char* name() const override { return "unary"; }
  Saved saved() const override {
    if (op_ == UnaryOp::kNegate) return Saved::nothing();
    return reads_output() ? Saved::output() : Saved::input(0);
  }
  bool is_cheap() const override { return op_ != UnaryOp::kNegate && !reads_output(); }
  Tensor made_again() const override { return apply_unary(op_, inputs[0]); }
  void vjp(const Tensor& output, const Tensor& cotangent, InputGradients& result) const override {
    result[0] = apply(output, cotangent);
  }
  // The Jacobian is diagonal: both directions multiply by it.
  Tensor jvp(const Tensor& output, std::span<const Tensor> tangents) const override {
    return apply(output, tangents[0]);
  }

 private:
  // Whether the derivative is a function of the result, or else of the argument. The result is what the next
  // op is likely to keep as well.
  bool reads_output() const {
    switch (op_) {
      case UnaryOp::kExp:
      case UnaryOp::kSqrt:
      case UnaryOp::kTanh:
      case UnaryOp::kSigmoid:
      case UnaryOp::kRelu:
      case UnaryOp::kReciprocal:
        return true;
      default:
        return false;
    }
  }
  Tensor apply(const Tensor& output, const Tensor& direction) const {
    if (op_ == UnaryOp::kNegate) return negate(direction);
    if (recording()) return multiply(direction, derivative(op_, inputs[0], output));
    Tensor dx = direction.empty_like();
    if (dx.elements() > 0) {
      const void* const read = reads_output() ? output.data() : inputs[0].data();
      dx.backend().unary_backward(op_, dx.dtype(), dx.elements(), read, read, direction.data(),
                                  dx.mutable_data());
    }
    return dx;
  }
  UnaryOp op_;
};

Tensor unary(UnaryOp op, const Tensor& x) {
  return record<UnaryNode>(apply_unary(op, x), {&x}, op);
}

// exp and its like: a rounded argument or result would lose more than the op itself does.
Tensor exponential(UnaryOp op, const Tensor& x) {
  const DType type = autocast_type(OpFamily::kExponential, x.dtype());
  return type == x.dtype() ? unary(op, x) : unary(op, cast(x, type));
}

}  // namespace

Tensor as_sum(Tensor value, const Tensor& a, const Tensor& b) {
  return record<AddNode>(std::move(value), {&a, &b});
}

Tensor sum_of(Tensor a, const Tensor& b) {
  if (!a.defined() || !b.defined()) return a.defined() ? a : b;
  if (recording() || !a.sole_owner()) return add(a, b);
  a.backend().accumulate(a.dtype(), a.elements(), b.data(), a.mutable_data());
  return a;
}

Tensor add(const Tensor& a, const Tensor& b) {
  if (a.dtype() != b.dtype()) {
    const DType type = autocast_type(OpFamily::kBinary, a.dtype(), b.dtype(), "add");
    if (!(a.shape() == b.shape()) || type != DType::kF32) return meet(add, a, b, "add");
    require_one_device("add", {&a, &b});
    const Tensor &wide = a.dtype() == type ? a : b, &narrow = a.dtype() == type ? b : a;
    Tensor sum = wide.empty_like();
    if (sum.elements() > 0) {
      sum.backend().add_narrow(narrow.dtype(), sum.elements(), wide.data(), narrow.data(),
                               sum.mutable_data());
    }
    return as_sum(std::move(sum), a, b);
  }
  return record<AddNode>(compute_binary(BinaryOp::kAdd, a, b, "add"), {&a, &b});
}
Tensor subtract(const Tensor& a, const Tensor& b) {
  if (a.dtype() != b.dtype()) return meet(subtract, a, b, "subtract");
  return record<SubtractNode>(compute_binary(BinaryOp::kSubtract, a, b, "subtract"), {&a, &b});
}
Tensor multiply(const Tensor& a, const Tensor& b) {
  if (a.dtype() != b.dtype()) return meet(multiply, a, b, "multiply");
  return record<MultiplyNode>(compute_binary(BinaryOp::kMultiply, a, b, "multiply"), {&a, &b});
}
Tensor divide(const Tensor& a, const Tensor& b) {
  if (a.dtype() != b.dtype()) return meet(divide, a, b, "divide");
  return record<DivideNode>(compute_binary(BinaryOp::kDivide, a, b, "divide"), {&a, &b});
}
Tensor maximum(const Tensor& a, const Tensor& b) {
  if (a.dtype() != b.dtype()) return meet(maximum, a, b, "maximum");
  Tensor y = compute_binary(BinaryOp::kMaximum, a, b, "maximum");
  if (!recording() || (a.node() == nullptr && b.node() == nullptr)) return y;
  const Tensor first_wins = greater_equal(a, b);
  return record<SelectNode>(std::move(y), {&a, &b, &first_wins});
}
Tensor minimum(const Tensor& a, const Tensor& b) {
  if (a.dtype() != b.dtype()) return meet(minimum, a, b, "minimum");
  Tensor y = compute_binary(BinaryOp::kMinimum, a, b, "minimum");
  if (!recording() || (a.node() == nullptr && b.node() == nullptr)) return y;
  const Tensor first_wins = greater_equal(b, a);
  return record<SelectNode>(std::move(y), {&a, &b, &first_wins});
}
Tensor equal(const Tensor& a, const Tensor& b) {
  if (a.dtype() != b.dtype()) return meet(equal, a, b, "equal");
  return compute_binary(BinaryOp::kEqual, a, b, "equal");
}
Tensor greater(const Tensor& a, const Tensor& b) {
  if (a.dtype() != b.dtype()) return meet(greater, a, b, "greater");
  return compute_binary(BinaryOp::kGreater, a, b, "greater");
}
Tensor greater_equal(const Tensor& a, const Tensor& b) {
  if (a.dtype() != b.dtype()) return meet(greater_equal, a, b, "greater_equal");
  return compute_binary(BinaryOp::kGreaterEqual, a, b, "greater_equal");
}

Tensor add_scalar(const Tensor& x, double value) {
  return scale_shift(x, 1.0, value);
}
Tensor scale(const Tensor& x, double factor) {
  return scale_shift(x, factor, 0.0);
}

Tensor negate(const Tensor& x) {
  return unary(UnaryOp::kNegate, x);
}
Tensor exp(const Tensor& x) {
  return exponential(UnaryOp::kExp, x);
}
Tensor log(const Tensor& x) {
  return exponential(UnaryOp::kLog, x);
}
Tensor sqrt(const Tensor& x) {
  return exponential(UnaryOp::kSqrt, x);
}
Tensor square(const Tensor& x) {
  return exponential(UnaryOp::kSquare, x);
}
Tensor reciprocal(const Tensor& x) {
  return exponential(UnaryOp::kReciprocal, x);
}
Tensor abs(const Tensor& x) {
  return unary(UnaryOp::kAbs, x);
}
Tensor sign(const Tensor& x) {
  return apply_unary(UnaryOp::kSign, x);
}
Tensor erf(const Tensor& x) {
  return unary(UnaryOp::kErf, x);
}
Tensor tanh(const Tensor& x) {
  return unary(UnaryOp::kTanh, x);
}
Tensor sigmoid(const Tensor& x) {
  return unary(UnaryOp::kSigmoid, x);
}
Tensor softplus(const Tensor& x) {
  return exponential(UnaryOp::kSoftplus, x);
}
Tensor relu(const Tensor& x) {
  return unary(UnaryOp::kRelu, x);
}
Tensor relu_squared(const Tensor& x) {
  return unary(UnaryOp::kReluSquared, x);
}
Tensor gelu(const Tensor& x) {
  return unary(UnaryOp::kGelu, x);
}
Tensor gelu_tanh(const Tensor& x) {
  return unary(UnaryOp::kGeluTanh, x);
}

}  // namespace lockstep
