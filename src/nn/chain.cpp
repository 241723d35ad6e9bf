// Chain of modules.
#include "nn/chain.h"

namespace lockstep {

Tensor Chain::forward(const Tensor& x, ForwardContext& context) const {
  Tensor y = x;
  for (const auto& module : modules_) y = module->forward(y, context);
  return y;
}

}  // namespace lockstep
