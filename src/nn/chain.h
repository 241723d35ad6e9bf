// Chain: modules applied one after the other.
#pragma once

#include "nn/module.h"

namespace lockstep {

class Chain final : public Module {
 public:
  void append(std::unique_ptr<Module> module) { modules_.push_back(std::move(module)); }
  Tensor forward(const Tensor& x, ForwardContext& context) const override;

 private:
  std::vector<std::unique_ptr<Module>> modules_;
};

}  // namespace lockstep
