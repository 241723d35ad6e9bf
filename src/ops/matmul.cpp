// Matrix products.
#include "lockstep/ops/matmul.h"

#include <fmt/format.h>

#include <algorithm>

#include "lockstep/autodiff/autocast.h"
#include "lockstep/autodiff/gradient_room.h"
#include "lockstep/autodiff/layer_scope.h"
#include "lockstep/autodiff/node.h"
#include "lockstep/core/error.h"
#include "lockstep/ops/cast.h"
#include "lockstep/ops/elementwise.h"
#include "lockstep/ops/movement.h"
#include "lockstep/ops/operands.h"
#include "lockstep/ops/reduction.h"

namespace lockstep {

namespace {

// The types of a product: what its operands are multiplied in, whatever they are given in, and what it gives:
// `compute`, its accumulation type, or a type that either is rounded to.
struct ProductTypes {
  DType compute, output;
};

// What a product does on the side, see MatmulArguments. Leaves no history.
struct Extras {
  const Tensor* gradient_of = nullptr;  // what the product is the gradient of, for gradient_room()
  Activation activation = Activation::kNone;
  const Tensor* derivative_at = nullptr;
  Tensor* column_sums = nullptr;
};

Tensor product(const Tensor& a, const Tensor& b, bool transpose_a, bool transpose_b, ProductTypes types,
               const Extras& extras = {});

class MatmulNode final : public Node {
 public:
  MatmulNode(bool transpose_a, bool transpose_b, ProductTypes types)
      : transpose_a_(transpose_a), transpose_b_(transpose_b), types_(types) {}
  const char* name() const override { return "matmul"; }
  Saved saved() const override {
    return Saved::input(1, differentiable(0)) | Saved::input(0, differentiable(1));
  }
  // C = A B: dA = dC B', dB = A' dC, each written with stored transposes so that nothing is moved, and given
  // in the type of what it is the gradient of.
  void vjp(const Tensor&, const Tensor& cotangent, InputGradients& result) const override {
    const Tensor &a = inputs[0], &b = inputs[1];
    if (result.wanted(0)) {
      const ProductTypes types{types_.compute, a.dtype()};
      const Tensor da = transpose_a_ ? product(b, cotangent, transpose_b_, true, types)
                                     : product(cotangent, b, false, !transpose_b_, types);
      result[0] = sum_to(da, a.shape());
    }
    if (result.wanted(1)) {
      const ProductTypes types{types_.compute, b.dtype()};
      const Tensor db = transpose_b_ ? product(cotangent, a, true, transpose_a_, types)
                                     : product(a, cotangent, !transpose_a_, false, types);
      result[1] = sum_to(db, b.shape());
    }
  }
  Tensor jvp(const Tensor&, std::span<const Tensor> tangents) const override {
    Tensor result;
    if (tangents[0].defined()) result = product(tangents[0], inputs[1], transpose_a_, transpose_b_, types_);
    if (tangents[1].defined())
      result = sum_of(std::move(result), product(inputs[0], tangents[1], transpose_a_, transpose_b_, types_));
    return result;
  }

 private:
  bool transpose_a_, transpose_b_;
  ProductTypes types_;
};

[[noreturn]] void reject(const char* rule, const Tensor& a, const Tensor& b) {
  fail(ErrorKind::kUsage,
       fmt::format("matmul: {}: {} x {}", rule, a.shape().to_string(), b.shape().to_string()));
}

// Rows of x seen as one matrix (rows, last extent).
Tensor as_matrix(const Tensor& x) {
  return x.view({x.shape().elements(0, x.rank() - 1), x.shape().last()});
}

// activation(y), y being of the accumulation type, in `compute`: as kernels give it, which round before a
// GELU and after everything else.
Tensor activate(Activation activation, const Tensor& y, DType compute) {
  switch (activation) {
    case Activation::kNone:
      break;
    case Activation::kRelu:
      return cast(relu(y), compute);
    case Activation::kGelu:
      return gelu(cast(y, compute));
    case Activation::kGeluTanh:
      return gelu_tanh(cast(y, compute));
  }
  return cast(y, compute);
}

// linear() out of simple ops.
Tensor reference_linear(const Tensor& x, const Tensor& weight, const Tensor& bias, Activation activation,
                        DType compute, bool transpose_weight = false) {
  const Tensor y = product(x, weight, false, transpose_weight, {compute, accumulation_type(compute)});
  return activate(activation, bias.defined() ? add(y, bias) : y, compute);
}

// The gradients of x weight + bias that are asked for (not null), dz being that of the result. That of x goes
// through the activation that x is the result of, where one is named.
struct LinearGradients {
  Tensor *x = nullptr, *weight = nullptr, *bias = nullptr;
  Activation activation = Activation::kNone;
  const Tensor* argument = nullptr;
  bool transpose_weight = false;
};

void linear_vjp(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& dz, DType compute,
                LinearGradients gradients) {
  const Tensor rows = as_matrix(dz);
  Extras with_weight, with_x;
  const bool transposed = gradients.transpose_weight;
  const auto use = [&] {
    LayerUse shown;
    shown.inputs_first = !transposed;
    shown.rows = rows.shape()[0];
    shown.width = x.shape().last();
    shown.outputs = rows.shape()[1];
    shown.inputs = [&] { return as_matrix(x); };
    shown.cotangents = rows;
    return shown;
  };
  if (gradients.weight != nullptr && show_layer(weight, gradients.bias == nullptr ? Tensor() : bias, use))
    gradients.weight = gradients.bias = nullptr;
  if (gradients.bias != nullptr && gradients.weight != nullptr && !transposed) {
    *gradients.bias = gradient_room(bias);
    with_weight.column_sums = gradients.bias;
  } else if (gradients.bias != nullptr) {
    *gradients.bias = sum(cast(rows, bias.dtype()), {0});
  }
  if (gradients.weight != nullptr) {
    const ProductTypes types{compute, weight.dtype()};
    with_weight.gradient_of = &weight;
    *gradients.weight = transposed ? product(rows, as_matrix(x), true, false, types, with_weight)
                                   : product(as_matrix(x), rows, true, false, types, with_weight);
  }
  if (gradients.x == nullptr) return;
  with_x.activation = gradients.activation;
  with_x.derivative_at = gradients.argument;
  *gradients.x = product(rows, weight, false, !transposed, {compute, x.dtype()}, with_x).view(x.shape());
}

// The activation of what it was applied to, as a product has made it.
Tensor activated(Activation activation, const Tensor& argument) {
  Tensor y = argument.empty_like();
  if (y.elements() > 0) {
    y.backend().unary(unary_of(activation), y.dtype(), y.elements(), argument.data(), y.mutable_data());
  }
  return y;
}

// Inputs: x, weight, bias (may be undefined), and for the GELUs what they were applied to, without history.
class LinearNode final : public FusedNode {
 public:
  LinearNode(Activation activation, DType compute, bool transpose_weight)
      : activation_(activation), compute_(compute), transpose_weight_(transpose_weight) {}
  const char* name() const override { return "linear"; }
  Saved fused_saved() const override {
    return Saved::input(0, differentiable(1)) | Saved::input(1, differentiable(0)) | Saved::input(3) |
           Saved::output(activation_ == Activation::kRelu);
  }
  bool is_cheap() const override { return inputs[3].defined(); }
  Tensor made_again() const override { return activated(activation_, inputs[3]); }

  Tensor reference(std::span<const Tensor> in) const override {
    return reference_linear(in[0], in[1], in[2], activation_, compute_, transpose_weight_);
  }

  void fused_vjp(const Tensor& output, const Tensor& cotangent, InputGradients& result) const override {
    Tensor dz = cotangent;
    if (activation_ != Activation::kNone) {
      dz = cotangent.empty_like();
      const Tensor& at =
          activation_ == Activation::kRelu ? output : inputs[3];  // y > 0 exactly where the argument was
      if (dz.elements() > 0) {
        dz.backend().unary_backward(unary_of(activation_), dz.dtype(), dz.elements(), at.data(), at.data(),
                                    cotangent.data(), dz.mutable_data());
      }
    }
    linear_vjp(inputs[0], inputs[1], inputs[2], dz, compute_,
               {.x = result.wanted(0) ? &result[0] : nullptr,
                .weight = result.wanted(1) ? &result[1] : nullptr,
                .bias = result.wanted(2) ? &result[2] : nullptr,
                .transpose_weight = transpose_weight_});
  }

 private:
  Activation activation_;
  DType compute_;
  bool transpose_weight_;
};

// Inputs: x, weights and biases (may be undefined) of both products; without history what the second product
// was given, and what the activation was applied to to make it.
class FeedForwardNode final : public FusedNode {
 public:
  // made_hidden: what the second product is given is made again out of the activation's argument.
  FeedForwardNode(Activation activation, DType compute, bool made_hidden)
      : activation_(activation), compute_(compute), made_hidden_(made_hidden) {}
  const char* name() const override { return "feed_forward"; }
  Saved fused_saved() const override {
    const bool first = differentiable(0) || differentiable(1) || differentiable(2);
    const bool argument = first || (made_hidden_ && differentiable(3));
    return Saved::input(0, differentiable(1)) | Saved::input(1, differentiable(0)) | Saved::input(3, first) |
           Saved::input(5, (differentiable(3) && !made_hidden_) || (first && !inputs[6].defined())) |
           Saved::input(6, argument);
  }

  Tensor reference(std::span<const Tensor> in) const override {
    const Tensor hidden = reference_linear(in[0], in[1], in[2], activation_, compute_);
    return reference_linear(hidden, in[3], in[4], Activation::kNone, compute_);
  }

  void fused_vjp(const Tensor&, const Tensor& cotangent, InputGradients& result) const override {
    const auto wanted = [&](size_t input) { return result.wanted(input) ? &result[input] : nullptr; };
    const Tensor hidden = made_hidden_ && result.wanted(3) ? activated(activation_, inputs[6]) : inputs[5];
    const Tensor& argument = inputs[6].defined() ? inputs[6] : hidden;
    Tensor dz;
    const bool first = result.wanted(0) || result.wanted(1) || result.wanted(2);
    linear_vjp(hidden, inputs[3], inputs[4], cotangent, compute_,
               {first ? &dz : nullptr, wanted(3), wanted(4), activation_, &argument});
    if (first) linear_vjp(inputs[0], inputs[1], inputs[2], dz, compute_, {wanted(0), wanted(1), wanted(2)});
  }

 private:
  Activation activation_;
  DType compute_;
  bool made_hidden_;
};

Tensor product(const Tensor& a, const Tensor& b, bool transpose_a, bool transpose_b, ProductTypes types,
               const Extras& extras) {
  require_one_device("matmul", {&a, &b});
  if (a.rank() < 2 || b.rank() < 2) reject("both need at least two axes", a, b);
  const int ra = a.rank(), rb = b.rank();
  MatmulArguments arguments;
  arguments.dtype = types.compute;
  arguments.output = types.output == types.compute ? types.compute : accumulation_type(types.compute);
  arguments.transpose_a = transpose_a;
  arguments.transpose_b = transpose_b;
  arguments.m = a.shape()[transpose_a ? ra - 1 : ra - 2];
  arguments.k = a.shape()[transpose_a ? ra - 2 : ra - 1];
  arguments.n = b.shape()[transpose_b ? rb - 2 : rb - 1];
  if (b.shape()[transpose_b ? rb - 1 : rb - 2] != arguments.k) reject("inner dimensions differ", a, b);
  const Shape batch_a(a.shape().extents().subspan(0, static_cast<size_t>(ra - 2)));
  const Shape batch_b(b.shape().extents().subspan(0, static_cast<size_t>(rb - 2)));
  if (!(batch_a == batch_b) && ra > 2 && rb > 2) reject("batch axes differ", a, b);
  Shape shape = ra > 2 ? batch_a : batch_b;
  arguments.batch = shape.elements();
  arguments.batch_stride_a = ra > 2 ? arguments.m * arguments.k : 0;
  arguments.batch_stride_b = rb > 2 ? arguments.k * arguments.n : 0;
  shape.push_back(arguments.m);
  shape.push_back(arguments.n);
  if (ra > 2 && rb == 2 && !transpose_a) {
    // One matrix for all: the batch is just more rows.
    arguments.m *= arguments.batch;
    arguments.batch = 1;
  }
  const Tensor* const gradient_of = types.output == arguments.output ? extras.gradient_of : nullptr;
  Tensor c = gradient_of != nullptr ? gradient_room(*gradient_of)
                                    : Tensor::empty(shape, arguments.output, a.backend());
  const Operand operand_a(a, types.compute), operand_b(b, types.compute);
  arguments.a = operand_a.data();
  arguments.b = operand_b.data();
  arguments.c = c.mutable_data();
  arguments.activation = extras.activation;
  if (extras.derivative_at != nullptr) arguments.derivative_at = extras.derivative_at->data();
  if (extras.column_sums != nullptr) arguments.column_sums = extras.column_sums->mutable_data();
  if (c.elements() > 0 || extras.column_sums != nullptr) a.backend().matmul(arguments);
  c = record<MatmulNode>(std::move(c), {&a, &b}, transpose_a, transpose_b,
                         ProductTypes{types.compute, arguments.output});
  return types.output == arguments.output ? c : cast(c, types.output);
}

// Operands of linear(): checked, and brought into the types that the product takes.
struct LinearOperands {
  Tensor x, bias;
  DType compute;
  bool transpose_weight;
  int64_t outputs;
};

LinearOperands prepare_linear(const Tensor& x, const Tensor& weight, const Tensor& bias,
                              bool transpose_weight = false) {
  require_one_device("linear", {&x, &weight, &bias});
  if (x.rank() < 1 || weight.rank() != 2 || x.shape().last() != weight.shape()[transpose_weight ? 1 : 0]) {
    fail(ErrorKind::kUsage, fmt::format("linear: inner dimensions differ: {} x {}{}", x.shape().to_string(),
                                        weight.shape().to_string(), transpose_weight ? " transposed" : ""));
  }
  LinearOperands operands{x, bias, autocast_type(OpFamily::kProduct, x.dtype(), weight.dtype(), "linear"),
                          transpose_weight, weight.shape()[transpose_weight ? 0 : 1]};
  const DType compute = operands.compute;
  if (bias.defined()) {
    if (!(bias.shape() == Shape{operands.outputs})) {
      refuse_operands("linear", fmt::format("a bias ({}) for the weight", operands.outputs),
                      {&bias, &weight});
    }
    if (accumulation_type(bias.dtype()) != accumulation_type(compute)) {
      fail(ErrorKind::kUsage,
           fmt::format("linear: bias {} in a product of {}", name_of(bias.dtype()), name_of(compute)));
    }
    operands.bias = cast(bias, accumulation_type(compute));
  }
  // Nobody asks for the gradient of x: convert it once, for the backward sweep as well.
  if (x.dtype() != compute && x.node() == nullptr) operands.x = x.converted(compute);
  return operands;
}

// linear() of prepared operands, without history. argument: gets what a GELU was applied to, where its
// derivative will be needed.
Tensor apply_linear(const LinearOperands& operands, const Tensor& weight, Activation activation,
                    bool differentiable, Tensor* argument) {
  const Tensor& x = operands.x;
  const DType compute = operands.compute;
  Shape shape = x.shape();
  shape[shape.rank() - 1] = operands.outputs;
  Tensor y = Tensor::empty(shape, compute, x.backend());
  MatmulArguments arguments;
  arguments.dtype = arguments.output = compute;
  arguments.m = x.shape().elements(0, x.rank() - 1);
  arguments.k = x.shape().last();
  arguments.n = operands.outputs;
  arguments.transpose_b = operands.transpose_weight;
  const Operand operand_x(x, compute), operand_weight(weight, compute);
  arguments.a = operand_x.data();
  arguments.b = operand_weight.data();
  arguments.c = y.mutable_data();
  arguments.bias = operands.bias.defined() ? operands.bias.data() : nullptr;
  arguments.activation = activation;
  const bool gelu = activation == Activation::kGelu || activation == Activation::kGeluTanh;
  if (gelu && differentiable) {
    *argument = y.empty_like();
    arguments.argument = argument->mutable_data();
  }
  if (y.elements() > 0) x.backend().matmul(arguments);
  return y;
}

// Whether an op on these is recorded.
bool has_history(std::initializer_list<const Tensor*> inputs) {
  return recording() &&
         std::ranges::any_of(inputs, [](const Tensor* input) { return input->node() != nullptr; });
}

}  // namespace

Tensor matmul(const Tensor& a, const Tensor& b, bool transpose_a, bool transpose_b) {
  const DType type = autocast_type(OpFamily::kProduct, a.dtype(), b.dtype(), "matmul");
  return product(a, b, transpose_a, transpose_b, {type, type});
}

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias, Activation activation,
              bool transpose_weight) {
  const LinearOperands operands = prepare_linear(x, weight, bias, transpose_weight);
  Tensor argument;
  Tensor y = apply_linear(operands, weight, activation, has_history({&x, &weight, &bias}), &argument);
  return record<LinearNode>(std::move(y), {&operands.x, &weight, &operands.bias, &argument}, activation,
                            operands.compute, transpose_weight);
}

Tensor feed_forward(const Tensor& x, const Tensor& weight, const Tensor& bias, Activation activation,
                    const Tensor& weight_out, const Tensor& bias_out) {
  const LinearOperands first = prepare_linear(x, weight, bias);
  Tensor argument;
  const Tensor hidden = apply_linear(first, weight, activation,
                                     has_history({&x, &weight, &bias, &weight_out, &bias_out}), &argument);
  const LinearOperands second = prepare_linear(hidden, weight_out, bias_out);
  Tensor y = apply_linear(second, weight_out, Activation::kNone, false, nullptr);
  return record<FeedForwardNode>(
      std::move(y), {&first.x, &weight, &first.bias, &weight_out, &second.bias, &hidden, &argument},
      activation, first.compute, leaves_cheap() && argument.defined());
}

}  // namespace lockstep
