// Derivatives as functions on functions: grad, value_and_grad, vjp, jvp, hvp; and the backward sweep under
// them.
#pragma once

#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "lockstep/autodiff/node.h"

namespace lockstep {

using Function = std::function<Tensor(std::span<const Tensor>)>;

// `value` as a source of differentiation: same elements, new leaf.
Tensor variable(const Tensor& value, int index = -1);

// Receives each leaf's finished gradient as soon as its last contribution has landed.
using GradientSink = std::function<void(const Leaf& leaf, Tensor gradient)>;

// Reverse sweep from `output` with dL/d(output) = cotangent. The order of contributions is fixed (creation
// order), so gradients are reproducible bit for bit. Not recorded. Consumes the graph: activations are freed
// as the sweep passes them.
void backward(const Tensor& output, const Tensor& cotangent, const GradientSink& sink);

// dL/d(targets[i]) for tensors of the graph of `output`; zeros where it does not depend on one. The sweep
// stops at the targets. With create_graph the result is itself differentiable; the graph has then been
// recorded in an EveryOrderScope.
std::vector<Tensor> gradients(const Tensor& output, const Tensor& cotangent, std::span<const Tensor> targets,
                              bool create_graph);

// Forward sweep: the tangents of `outputs` where those of `leaves` are `tangents`; zeros where an output does
// not depend on them. The graph has been recorded in an EveryOrderScope and is kept. keep: see
// FirstDerivative::times().
std::vector<Tensor> push_forward(std::span<const Tensor> outputs, std::span<const Tensor> leaves,
                                 std::span<const Tensor> tangents, bool keep = false);

// (f(inputs), gradients of the scalar f) at inputs.
std::pair<Tensor, std::vector<Tensor>> value_and_grad(const Function& f, std::span<const Tensor> inputs,
                                                      bool create_graph = false);
std::vector<Tensor> grad(const Function& f, std::span<const Tensor> inputs, bool create_graph = false);

// (f(inputs), J' cotangent).
std::pair<Tensor, std::vector<Tensor>> vjp(const Function& f, std::span<const Tensor> inputs,
                                           const Tensor& cotangent);

// (f(inputs), J tangents): forward mode, one sweep along the recorded graph.
std::pair<Tensor, Tensor> jvp(const Function& f, std::span<const Tensor> inputs,
                              std::span<const Tensor> tangents);

// H v for the scalar f: forward over reverse.
std::vector<Tensor> hvp(const Function& f, std::span<const Tensor> inputs, std::span<const Tensor> vectors);

// The derivative J of f at `inputs`, for more than one product: what is recorded of f is kept. The elements
// of the inputs are not copied, and must be the same whenever a product is asked for.
class FirstDerivative {
 public:
  FirstDerivative(const Function& f, std::span<const Tensor> inputs);
  Tensor value() const { return value_.detach(); }
  // J vectors, by one forward sweep. keep: it leaves what fused ops are made of in their nodes, which spares
  // later products making it again.
  Tensor times(std::span<const Tensor> vectors, bool keep = false) const;
  // J' cotangent, by one reverse sweep; for every input.
  std::vector<Tensor> transposed_times(const Tensor& cotangent) const;

 private:
  std::vector<Tensor> inputs_;
  Tensor value_;
};

// The same for the second derivative H of the scalar f; what is recorded of its gradient is kept as well.
class SecondDerivative {
 public:
  SecondDerivative(const Function& f, std::span<const Tensor> inputs);
  // H vectors, by one forward sweep.
  std::vector<Tensor> times(std::span<const Tensor> vectors) const;

 private:
  std::vector<Tensor> inputs_, gradient_;
};

}  // namespace lockstep
