// Fills the arguments of a flat kernel from tensors.
#include "lockstep/optim/flat_update.h"

#include <algorithm>

namespace lockstep {

void flat_update(UpdateFormula formula, Tensor parameters, const Tensor& gradients, double gradient_scale,
                 std::vector<Tensor> slots, std::initializer_list<double> scalars) {
  UpdateArguments arguments;
  arguments.dtype = parameters.dtype();
  arguments.n = parameters.elements();
  arguments.parameters = parameters.mutable_data();
  arguments.gradients = gradients.data();
  arguments.gradient_scale = gradient_scale;
  for (size_t i = 0; i < slots.size(); ++i) arguments.slots[i] = slots[i].mutable_data();
  std::copy(scalars.begin(), scalars.end(), arguments.scalars);
  parameters.backend().update(formula, arguments);
}

}  // namespace lockstep
