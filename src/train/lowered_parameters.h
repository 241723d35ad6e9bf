// The 16-bit copy of the parameters that products compute with under autocast, kept from step to step.
#pragma once

#include <vector>

#include "lockstep/autodiff/autocast.h"
#include "lockstep/tensor/parameter_store.h"

namespace lockstep {

class LoweredParameters {
 public:
  // Of the store's parameters, fp32, in `compute`, bf16 or fp16. leaves: those parameters as leaves of
  // differentiation, indexed like ParameterStore::parameters(). The copy is made when it is first asked for.
  LoweredParameters(const ParameterStore& store, const std::vector<Tensor>& leaves, DType compute);

  // (parameter_extent), parallel to ParameterStore::values(); for UpdateContext::lowered.
  Tensor values() const { return values_; }
  // The copies of the leaves, for AutocastScope. Makes them anew first, by one pass over all parameters,
  // where anything has had access to the parameters for writing since they were made: whoever changes
  // parameters has nothing to announce.
  const AutocastScope::Copies& current();
  // After an update that has changed the copy together with the parameters: it counts as made now.
  void take_as_current() { parameters_.watch(); }
  // Whether the copy has the bits of the present parameters, rounded. Waits for the device.
  bool exact() const;

 private:
  Tensor parameters_, values_;  // fp32, 16 bits
  AutocastScope::Copies copies_;
};

}  // namespace lockstep
