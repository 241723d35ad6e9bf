// Chain: modules applied one after the other.
#pragma once

#include "lockstep/nn/module.h"

namespace lockstep {

class Chain final : public Module {
 public:
  // `name` is for messages: "hidden.0 (linear)".
  void append(std::string name, std::unique_ptr<Module> module) {
    links_.push_back({std::move(name), std::move(module)});
  }
  // With context.recompute_every = k, the run of the last k modules is kept all the same: the backward sweep
  // begins with it. Chains inside of this one recompute nothing of their own.
  Tensor forward(const Tensor& x, ForwardContext& context) const override;
  int64_t index_limit() const override { return links_.empty() ? 0 : links_.front().module->index_limit(); }

 private:
  Tensor apply(size_t begin, size_t end, const Tensor& x, ForwardContext& context) const;

  struct Link {
    std::string name;
    std::unique_ptr<Module> module;
  };
  std::vector<Link> links_;
};

}  // namespace lockstep
