// One recorded application of an op: its inputs, and how derivatives pass through it in both directions.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "tensor/tensor.h"

namespace lockstep {

class RecomputedNode;  // autodiff/recompute.h

class Node : public std::enable_shared_from_this<Node> {
 public:
  Node();
  virtual ~Node();
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;

  virtual const char* name() const = 0;

  // Reverse mode. `output` is the recorded result, `cotangent` dL/d(output) of its shape. Writes
  // dL/d(inputs[i]) into result[i] wherever needs(i). Written in tensor ops, so that it can itself be
  // differentiated.
  virtual void vjp(const Tensor& output, const Tensor& cotangent, std::span<Tensor> result) const = 0;

  // Forward mode. tangents[i] is the tangent of inputs[i]; an undefined tensor stands for zero. At least one
  // is defined.
  virtual Tensor jvp(const Tensor& output, std::span<const Tensor> tangents) const = 0;

  // This node when it stands for a whole graph that sweeps must run again to go through it; else null.
  virtual RecomputedNode* recomputed() { return nullptr; }

  // During a sweep: is the derivative with respect to this input wanted?
  bool needs(size_t input) const {
    return inputs[input].node() != nullptr && inputs[input].node()->sweep.useful;
  }

  std::vector<Tensor> inputs;
  Tensor value;  // the result without history, so that the sweep can hand it to vjp and jvp

  // Creation order: a topological order of every graph.
  uint64_t sequence() const { return sequence_; }

  // Scratch of the sweep that is running over this node.
  struct Sweep {
    Tensor derivative;    // cotangent (reverse) or tangent (forward) gathered so far
    int32_t pending = 0;  // contributions still to come
    bool visited = false;
    bool target = false;  // a derivative with respect to this node was asked for
    bool useful = false;  // a leaf or target lies below
  };
  mutable Sweep sweep;

 private:
  uint64_t sequence_;
};

// A source of differentiation: a parameter or an argument of grad/vjp/jvp. `index` is free for the owner
// (parameter index).
class Leaf final : public Node {
 public:
  explicit Leaf(int leaf_index) : index(leaf_index) {}
  const char* name() const override { return "leaf"; }
  void vjp(const Tensor&, const Tensor&, std::span<Tensor>) const override {}
  Tensor jvp(const Tensor&, std::span<const Tensor>) const override { return {}; }
  const int index;
};

// Above the sequence() of every node so far, and not above that of any node to come.
uint64_t next_node_sequence();

// Is the current thread recording? On by default.
bool recording();

// Sets recording for a scope: RecordingScope off(false);
class RecordingScope {
 public:
  explicit RecordingScope(bool enabled);
  ~RecordingScope();
  RecordingScope(const RecordingScope&) = delete;
  RecordingScope& operator=(const RecordingScope&) = delete;

 private:
  bool previous_;
};

// Attaches a NodeType(arguments...) to `value` when the thread records and an input carries history; else
// returns value. Null pointers among the inputs stand for absent optional ones; they are recorded as
// undefined tensors.
template <class NodeType, class... Arguments>
Tensor record(Tensor value, std::initializer_list<const Tensor*> inputs, Arguments&&... arguments) {
  if (!recording()) return value;
  bool any = false;
  for (const Tensor* input : inputs) any = any || (input != nullptr && input->node() != nullptr);
  if (!any) return value;
  auto node = std::make_shared<NodeType>(std::forward<Arguments>(arguments)...);
  node->inputs.reserve(inputs.size());
  for (const Tensor* input : inputs) node->inputs.push_back(input != nullptr ? *input : Tensor());
  node->value = value;
  value.set_node(std::move(node));
  return value;
}

// The same for a list of inputs.
template <class NodeType, class... Arguments>
Tensor record_list(Tensor value, const std::vector<Tensor>& inputs, Arguments&&... arguments) {
  if (!recording()) return value;
  bool any = false;
  for (const Tensor& input : inputs) any = any || input.node() != nullptr;
  if (!any) return value;
  auto node = std::make_shared<NodeType>(std::forward<Arguments>(arguments)...);
  node->inputs = inputs;
  node->value = value;
  value.set_node(std::move(node));
  return value;
}

// An op with hand-written kernels and a reference composition out of simple ops. First derivatives use
// fused_vjp; when the sweep itself is being recorded (higher derivatives), and in forward mode, derivatives
// go through the reference.
class FusedNode : public Node {
 public:
  // The same function of the inputs, out of simple differentiable ops.
  virtual Tensor reference(std::span<const Tensor> inputs) const = 0;
  virtual void fused_vjp(const Tensor& output, const Tensor& cotangent, std::span<Tensor> result) const = 0;

  void vjp(const Tensor& output, const Tensor& cotangent, std::span<Tensor> result) const final;
  Tensor jvp(const Tensor& output, std::span<const Tensor> tangents) const final;
};

}  // namespace lockstep
