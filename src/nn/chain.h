// Chain: modules applied one after the other.
#pragma once

#include "nn/module.h"

namespace lockstep {

class Chain final : public Module {
 public:
  void append(std::unique_ptr<Module> module) { modules_.push_back(std::move(module)); }
  // With context.recompute_every = k, the run of the last k modules is kept all the same: the backward sweep
  // begins with it. Chains inside of this one recompute nothing of their own.
  Tensor forward(const Tensor& x, ForwardContext& context) const override;

 private:
  Tensor apply(size_t begin, size_t end, const Tensor& x, ForwardContext& context) const;

  std::vector<std::unique_ptr<Module>> modules_;
};

}  // namespace lockstep
