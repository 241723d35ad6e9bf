// Differentiable recurrent layers over whole sequences.
#pragma once

#include "lockstep/tensor/tensor.h"

namespace lockstep {

// The state of every step, (T,B,H), of one layer of the cell, starting from zero. The cell's equations and
// the order of its G gates stand at RecurrentCell in kernels/backend.h.
//
// inputs (T,B,G*H) is what the inputs contribute to the gates, bias included: linear(x, W, b) of all steps at
// once. weight (H,G*H) is R, from the state before to the gates. bias (H) is d of kGru; undefined for none.
// reverse runs from the last step to the first; the state of step t stays at index t.
//
// States are fp64 or fp32: 16-bit operands are widened. Each step adds to what all before it have left, and
// 16 bits would forget most of that; the product that makes the inputs runs in the type that autocast gives
// it.
Tensor recurrent(RecurrentCell cell, const Tensor& inputs, const Tensor& weight, const Tensor& bias = {},
                 bool reverse = false);

}  // namespace lockstep
