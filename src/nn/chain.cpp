// Chain of modules.
#include "lockstep/nn/chain.h"

#include "lockstep/autodiff/recompute.h"
#include "lockstep/core/op_scope.h"

namespace lockstep {

Tensor Chain::apply(size_t begin, size_t end, const Tensor& x, ForwardContext& context) const {
  Tensor y = x;
  for (size_t i = begin; i < end; ++i) {
    const OpScope scope(links_[i].name.c_str());
    y = links_[i].module->forward(y, context);
  }
  return y;
}

Tensor Chain::forward(const Tensor& x, ForwardContext& context) const {
  const auto run = static_cast<size_t>(context.recompute_every);
  if (run == 0 || !context.training || links_.size() <= run) return apply(0, links_.size(), x, context);
  // A context of this pass: a run that is computed again, after this call, must not write its statistics
  // twice.
  const auto own = std::make_shared<ForwardContext>(context);
  own->recompute_every = 0;
  Tensor y = x;
  size_t begin = 0;
  for (; begin + run < links_.size(); begin += run) {
    y = recompute([this, begin, run,
                   own](std::span<const Tensor> in) { return apply(begin, begin + run, in[0], *own); },
                  {&y, 1});
  }
  y = apply(begin, links_.size(), y, *own);
  context.batch_statistics = own->batch_statistics;
  return y;
}

}  // namespace lockstep
