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

}  // namespace lockstep
