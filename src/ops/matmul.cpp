// Matrix products.
#include "ops/matmul.h"

#include <fmt/format.h>

#include "autodiff/node.h"
#include "core/error.h"
#include "ops/elementwise.h"
#include "ops/movement.h"
#include "ops/reduction.h"

namespace lockstep {

namespace {

class MatmulNode final : public Node {
 public:
  MatmulNode(bool transpose_a, bool transpose_b) : transpose_a_(transpose_a), transpose_b_(transpose_b) {}
  const char* name() const override { return "matmul"; }
  // C = A B: dA = dC B', dB = A' dC, each written with stored transposes so that nothing is moved.
  void vjp(const Tensor&, const Tensor& cotangent, std::span<Tensor> result) const override {
    const Tensor &a = inputs[0], &b = inputs[1];
    if (needs(0)) {
      const Tensor da = transpose_a_ ? matmul(b, cotangent, transpose_b_, true) : matmul(cotangent, b, false, !transpose_b_);
      result[0] = sum_to(da, a.shape());
    }
    if (needs(1)) {
      const Tensor db = transpose_b_ ? matmul(cotangent, a, true, transpose_a_) : matmul(a, cotangent, !transpose_a_, false);
      result[1] = sum_to(db, b.shape());
    }
  }
  Tensor jvp(const Tensor&, std::span<const Tensor> tangents) const override {
    Tensor result;
    if (tangents[0].defined()) result = matmul(tangents[0], inputs[1], transpose_a_, transpose_b_);
    if (tangents[1].defined()) {
      const Tensor second = matmul(inputs[0], tangents[1], transpose_a_, transpose_b_);
      result = result.defined() ? add(result, second) : second;
    }
    return result;
  }

 private:
  bool transpose_a_, transpose_b_;
};

[[noreturn]] void reject(const char* rule, const Tensor& a, const Tensor& b) {
  fail(ErrorKind::kInternal, fmt::format("matmul: {}: {} x {}", rule, a.shape().to_string(), b.shape().to_string()));
}

// Rows of x seen as one matrix (rows, last extent).
Tensor as_matrix(const Tensor& x) { return x.view({x.shape().elements(0, x.rank() - 1), x.shape().last()}); }

class LinearNode final : public FusedNode {
 public:
  explicit LinearNode(Activation activation) : activation_(activation) {}
  const char* name() const override { return "linear"; }

  Tensor reference(std::span<const Tensor> in) const override {
    Tensor y = matmul(in[0], in[1]);
    if (in[2].defined()) y = add(y, in[2]);
    return activation_ == Activation::kRelu ? relu(y) : y;
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
    if (needs(2)) result[2] = sum(rows, {0});
    if (needs(1)) result[1] = matmul(as_matrix(x), rows, true, false);
    if (needs(0)) result[0] = matmul(rows, weight.detach(), false, true).view(x.shape());
  }

 private:
  Activation activation_;
};

}  // namespace

Tensor matmul(const Tensor& a, const Tensor& b, bool transpose_a, bool transpose_b) {
  if (a.rank() < 2 || b.rank() < 2) reject("both need at least two axes", a, b);
  if (a.dtype() != b.dtype()) reject("dtypes differ", a, b);
  const int ra = a.rank(), rb = b.rank();
  MatmulArguments arguments;
  arguments.dtype = arguments.output = a.dtype();
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
  Tensor c = Tensor::empty(shape, a.dtype(), a.backend());
  arguments.a = a.data();
  arguments.b = b.data();
  arguments.c = c.mutable_data();
  if (c.elements() > 0) a.backend().matmul(arguments);
  return record<MatmulNode>(std::move(c), {&a, &b}, transpose_a, transpose_b);
}

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias, Activation activation) {
  if (activation == Activation::kGelu) return gelu(linear(x, weight, bias));  // its derivative needs the argument
  if (x.rank() < 1 || weight.rank() != 2 || x.shape().last() != weight.shape()[0]) {
    fail(ErrorKind::kInternal, fmt::format("linear: inner dimensions differ: {} x {}", x.shape().to_string(),
                                           weight.shape().to_string()));
  }
  if (x.dtype() != weight.dtype()) {
    fail(ErrorKind::kInternal,
         fmt::format("linear: dtypes differ: {} and {}", name_of(x.dtype()), name_of(weight.dtype())));
  }
  if (bias.defined() && !(bias.shape() == Shape{weight.shape()[1]})) {
    fail(ErrorKind::kInternal, fmt::format("linear: bias {} for weight {}", bias.shape().to_string(),
                                           weight.shape().to_string()));
  }
  Shape shape = x.shape();
  shape[shape.rank() - 1] = weight.shape()[1];
  Tensor y = Tensor::empty(shape, x.dtype(), x.backend());
  MatmulArguments arguments;
  arguments.dtype = arguments.output = x.dtype();
  arguments.m = x.shape().elements(0, x.rank() - 1);
  arguments.k = weight.shape()[0];
  arguments.n = weight.shape()[1];
  arguments.a = x.data();
  arguments.b = weight.data();
  arguments.c = y.mutable_data();
  arguments.bias = bias.defined() ? bias.data() : nullptr;
  arguments.activation = activation;
  if (y.elements() > 0) x.backend().matmul(arguments);
  return record<LinearNode>(std::move(y), {&x, &weight, &bias}, activation);
}

}  // namespace lockstep
