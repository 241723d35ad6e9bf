// Differentiable matrix products. Under autocast operands may be of any type but fp64, and the result is of
// the compute type; else both are of one type, and so is the result. A bias is of the accumulation type or of
// the operands'.
#pragma once

#include "lockstep/tensor/tensor.h"

namespace lockstep {

// (..., m, k) x (..., k, n) -> (..., m, n). transpose_a says that a is stored (..., k, m), transpose_b that b
// is (..., n, k). Leading axes are batches: equal in both, or absent in one (that matrix is repeated).
Tensor matmul(const Tensor& a, const Tensor& b, bool transpose_a = false, bool transpose_b = false);

// activation(x weight + bias): x (..., in), weight (in, out), bias (out) or undefined. One fused product.
// transpose_weight says that the weight is stored (out, in): so a head shares the table of an embedding.
Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias,
              Activation activation = Activation::kNone, bool transpose_weight = false);

// linear(linear(x, weight, bias, activation), weight_out, bias_out) as one op, whose backward sweep goes
// through the activation (not kNone) on the way out of a product. x (..., in), weight (in, hidden),
// weight_out (hidden, out).
Tensor feed_forward(const Tensor& x, const Tensor& weight, const Tensor& bias, Activation activation,
                    const Tensor& weight_out, const Tensor& bias_out);

}  // namespace lockstep
