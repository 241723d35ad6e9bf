// Recomputation (gradient checkpointing, Chen et al. 2016): a function whose activations are not kept but
// computed again when the backward sweep reaches it. In a chain of n layers cut into runs of k, about n/k + k
// activations live at once instead of n; the least at k = sqrt(n), for one more forward pass.
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "lockstep/autodiff/derivatives.h"
#include "lockstep/autodiff/random_scope.h"

namespace lockstep {

// f(inputs), of which only the inputs are kept. The sweeps run f again where they need its graph: with the
// same random draws and autocast, and so with the same bits; contributions reach every leaf in the order of
// the plain run, so first derivatives are bitwise those of f(inputs). f may capture parameters and other
// tensors with history. It must be callable as long as the graph lives, and give the same result each time:
// what it writes elsewhere, it writes twice. Nests; derivatives of every order and forward mode go through it
// (a sweep that is itself recorded keeps the activations).
Tensor recompute(const Function& f, std::span<const Tensor> inputs);

// What recompute records. `inputs` are the tensors with history that f reached, given or captured: links; the
// elements are those that f and its arguments hold.
class RecomputedNode final : public Node {
 public:
  RecomputedNode(Function f, std::span<const Tensor> arguments, std::optional<RandomPlace> random,
                 DType compute)
      : f_(std::move(f)),
        arguments_(arguments.begin(), arguments.end()),
        random_(random),
        compute_(compute) {}
  const char* name() const override { return "recompute"; }
  RecomputedNode* recomputed() override { return this; }
  Saved saved() const override { return Saved::nothing(); }
  // The sweeps go through the graph of rerun() instead.
  void vjp(const Tensor&, const Tensor&, InputGradients&) const override {}
  Tensor jvp(const Tensor&, std::span<const Tensor>) const override { return {}; }

  // The result with its history. `last`: nobody will ask again, so the arguments are let go. `every_order`:
  // recorded under an EveryOrderScope.
  Tensor rerun(bool last, bool every_order);

 private:
  Function f_;
  std::vector<Tensor> arguments_;
  std::optional<RandomPlace> random_;
  DType compute_;  // of autocast
};

}  // namespace lockstep
