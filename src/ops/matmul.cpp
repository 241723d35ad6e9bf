// Matrix products.
#include "ops/matmul.h"

#include <fmt/format.h>

#include "autodiff/autocast.h"
#include "autodiff/node.h"
#include "core/error.h"
#include "ops/cast.h"
#include "ops/elementwise.h"
#include "ops/movement.h"
#include "ops/reduction.h"

namespace lockstep {

namespace {

// The types of a product: what its operands are multiplied in, whatever they are given in, and what it gives: `compute`, its
// accumulation type, or a type that either is rounded to.
struct ProductTypes {
  DType compute, output;
};

Tensor product(const Tensor& a, const Tensor& b, bool transpose_a, bool transpose_b, ProductTypes types);

class MatmulNode final : public Node {
 public:
  MatmulNode(bool transpose_a, bool transpose_b, ProductTypes types)
      : transpose_a_(transpose_a), transpose_b_(transpose_b), types_(types) {}
  const char* name() const override { return "matmul"; }
  // C = A B: dA = dC B', dB = A' dC, each written with stored transposes so that nothing is moved, and given in the type of
  // what it is the gradient of.
  void vjp(const Tensor&, const Tensor& cotangent, std::span<Tensor> result) const override {
    const Tensor &a = inputs[0], &b = inputs[1];
    if (needs(0)) {
      const ProductTypes types{types_.compute, a.dtype()};
      const Tensor da = transpose_a_ ? product(b, cotangent, transpose_b_, true, types)
                                     : product(cotangent, b, false, !transpose_b_, types);
      result[0] = sum_to(da, a.shape());
    }
    if (needs(1)) {
      const ProductTypes types{types_.compute, b.dtype()};
      const Tensor db = transpose_b_ ? product(cotangent, a, true, transpose_a_, types)
                                     : product(a, cotangent, !transpose_a_, false, types);
      result[1] = sum_to(db, b.shape());
    }
  }
  Tensor jvp(const Tensor&, std::span<const Tensor> tangents) const override {
    Tensor result;
    if (tangents[0].defined()) result = product(tangents[0], inputs[1], transpose_a_, transpose_b_, types_);
    if (tangents[1].defined()) {
      const Tensor second = product(inputs[0], tangents[1], transpose_a_, transpose_b_, types_);
      result = result.defined() ? add(result, second) : second;
    }
    return result;
  }

 private:
  bool transpose_a_, transpose_b_;
  ProductTypes types_;
};

[[noreturn]] void reject(const char* rule, const Tensor& a, const Tensor& b) {
  fail(ErrorKind::kInternal, fmt::format("matmul: {}: {} x {}", rule, a.shape().to_string(), b.shape().to_string()));
}

// Rows of x seen as one matrix (rows, last extent).
Tensor as_matrix(const Tensor& x) { return x.view({x.shape().elements(0, x.rank() - 1), x.shape().last()}); }

class LinearNode final : public FusedNode {
 public:
  LinearNode(Activation activation, DType compute) : activation_(activation), compute_(compute) {}
  const char* name() const override { return "linear"; }

  // As the kernel does: bias and activation before the result is rounded.
  Tensor reference(std::span<const Tensor> in) const override {
    Tensor y = product(in[0], in[1], false, false, {compute_, accumulation_type(compute_)});
    if (in[2].defined()) y = add(y, in[2]);
    return cast(activation_ == Activation::kRelu ? relu(y) : y, compute_);
  }

  void fused_vjp(const Tensor& output, const Tensor& cotangent, std::span<Tensor> result) const override {
    Tensor dz = cotangent;
    if (activation_ == Activation::kRelu) {
      // y > 0 exactly where the argument was.
      dz = cotangent.empty_like();
      if (dz.elements() > 0) {
        dz.backend().unary_backward(UnaryOp::kRelu, dz.dtype(), dz.elements(), output.data(), output.data(),
                                    cotangent.data(), dz.mutable_data());
      }
    }
    const Tensor &x = inputs[0], &weight = inputs[1];
    const Tensor rows = as_matrix(dz);
    if (needs(2)) result[2] = sum(cast(rows, inputs[2].dtype()), {0});
    if (needs(1)) result[1] = product(as_matrix(x), rows, true, false, {compute_, weight.dtype()});
    if (needs(0)) result[0] = product(rows, weight, false, true, {compute_, x.dtype()}).view(x.shape());
  }

 private:
  Activation activation_;
  DType compute_;
};

Tensor product(const Tensor& a, const Tensor& b, bool transpose_a, bool transpose_b, ProductTypes types) {
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
  Tensor c = Tensor::empty(shape, arguments.output, a.backend());
  const Operand operand_a(a, types.compute), operand_b(b, types.compute);
  arguments.a = operand_a.data();
  arguments.b = operand_b.data();
  arguments.c = c.mutable_data();
  if (c.elements() > 0) a.backend().matmul(arguments);
  c = record<MatmulNode>(std::move(c), {&a, &b}, transpose_a, transpose_b, ProductTypes{types.compute, arguments.output});
  return types.output == arguments.output ? c : cast(c, types.output);
}

}  // namespace

Tensor matmul(const Tensor& a, const Tensor& b, bool transpose_a, bool transpose_b) {
  const DType type = autocast_type(OpFamily::kProduct, a.dtype(), b.dtype(), "matmul");
  return product(a, b, transpose_a, transpose_b, {type, type});
}

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias, Activation activation) {
  if (activation == Activation::kGelu) return gelu(linear(x, weight, bias));  // its derivative needs the argument
  if (x.rank() < 1 || weight.rank() != 2 || x.shape().last() != weight.shape()[0]) {
    fail(ErrorKind::kInternal, fmt::format("linear: inner dimensions differ: {} x {}", x.shape().to_string(),
                                           weight.shape().to_string()));
  }
  const DType compute = autocast_type(OpFamily::kProduct, x.dtype(), weight.dtype(), "linear");
  if (bias.defined() && !(bias.shape() == Shape{weight.shape()[1]})) {
    fail(ErrorKind::kInternal, fmt::format("linear: bias {} for weight {}", bias.shape().to_string(),
                                           weight.shape().to_string()));
  }
  if (bias.defined() && bias.dtype() != accumulation_type(compute)) {
    if (accumulation_type(bias.dtype()) != accumulation_type(compute)) {
      fail(ErrorKind::kInternal, fmt::format("linear: bias {} in a product of {}", name_of(bias.dtype()), name_of(compute)));
    }
    return linear(x, weight, cast(bias, accumulation_type(compute)), activation);
  }
  if (x.dtype() != compute && x.node() == nullptr) {
    // Nobody asks for the gradient of x: convert it once, for the backward sweep as well.
    return linear(x.converted(compute), weight, bias, activation);
  }
  Shape shape = x.shape();
  shape[shape.rank() - 1] = weight.shape()[1];
  Tensor y = Tensor::empty(shape, compute, x.backend());
  MatmulArguments arguments;
  arguments.dtype = arguments.output = compute;
  arguments.m = x.shape().elements(0, x.rank() - 1);
  arguments.k = weight.shape()[0];
  arguments.n = weight.shape()[1];
  const Operand operand_x(x, compute), operand_weight(weight, compute);
  arguments.a = operand_x.data();
  arguments.b = operand_weight.data();
  arguments.c = y.mutable_data();
  arguments.bias = bias.defined() ? bias.data() : nullptr;
  arguments.activation = activation;
  if (y.elements() > 0) x.backend().matmul(arguments);
  return record<LinearNode>(std::move(y), {&x, &weight, &bias}, activation, compute);
}

}  // namespace lockstep
