// What training costs in floating-point operations, and what devices could do: MFU, the share of the peak
// that goes into the model (Chowdhery et al. 2022, appendix B), is the ratio of the two a second.
#pragma once

#include <cstdint>
#include <string>

#include "lockstep/core/dtype.h"
#include "lockstep/nn/module.h"
#include "lockstep/tensor/parameter_store.h"

namespace lockstep {

struct ModelOperations {
  double of_token = 0.0;     // forward and backward sweep; what is computed twice counts once
  std::string formula = {};  // in words
  double device_peak = 0.0;  // operations a second of a worker's device; 0: not known
  int workers = 1;
  double peak() const { return device_peak * workers; }
};

// Operations a second of products of this type on a device, by its description: dense, as its maker has them
// without sparsity. 0: not one of those that are known.
double known_peak(const std::string& device, DType compute);

// Of text in samples of `tokens`: three times what the model says of its forward pass (Module::operations),
// twice where its weights are frozen, whose gradients nobody takes; where it says nothing, 6 for each
// parameter of more than one axis, as if all of them entered a product a token.
ModelOperations model_operations(const Module& model, const ParameterStore& store, int64_t tokens);

}  // namespace lockstep
