// One call of an update formula on whole tensors: the step that composed optimizers end with.
#pragma once

#include <initializer_list>
#include <vector>

#include "lockstep/kernels/backend.h"
#include "lockstep/tensor/tensor.h"

namespace lockstep {

// Runs `formula` over tensors of equal extent. scalars: the formula's, from 0 on (kernels/math/update.h).
void flat_update(UpdateFormula formula, Tensor parameters, const Tensor& gradients, double gradient_scale,
                 std::vector<Tensor> slots, std::initializer_list<double> scalars);

}  // namespace lockstep
