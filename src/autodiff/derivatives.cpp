// The reverse and forward sweeps over a recorded graph.
#include "autodiff/derivatives.h"

#include <algorithm>

#include "autodiff/autocast.h"
#include "autodiff/recompute.h"
#include "core/error.h"
#include "core/op_scope.h"

namespace lockstep {

namespace {

// The nodes below some outputs, newest first; clears their scratch when it goes out of scope.
class Graph {
 public:
  // Does not go below nodes marked as targets.
  explicit Graph(std::span<const Tensor> outputs) {
    for (const Tensor& output : outputs) visit(output.node());
    while (!stack_.empty()) {
      const std::shared_ptr<Node> node = std::move(stack_.back());
      stack_.pop_back();
      if (!node->sweep.target) {
        for (const Tensor& input : node->inputs) visit(input.node());
      }
      nodes_.push_back(node);
    }
    std::sort(nodes_.begin(), nodes_.end(),
              [](const auto& a, const auto& b) { return a->sequence() > b->sequence(); });
  }
  ~Graph() {
    for (const auto& node : nodes_) node->sweep = {};
  }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  std::vector<std::shared_ptr<Node>>& nodes() { return nodes_; }

 private:
  void visit(const std::shared_ptr<Node>& node) {
    if (node == nullptr || node->sweep.visited) return;
    node->sweep.visited = true;
    stack_.push_back(node);
  }

  std::vector<std::shared_ptr<Node>> nodes_;
  std::vector<std::shared_ptr<Node>> stack_;
};

// Marks what leads to a target (or, without targets, to a leaf) and counts the contributions each node will
// get.
void plan_reverse(std::vector<std::shared_ptr<Node>>& nodes, bool to_targets) {
  for (auto node = nodes.rbegin(); node != nodes.rend(); ++node) {
    Node::Sweep& sweep = (*node)->sweep;
    sweep.useful = to_targets ? sweep.target : (*node)->inputs.empty();
    if (sweep.target) continue;
    for (const Tensor& input : (*node)->inputs) {
      if (input.node() != nullptr && input.node()->sweep.useful) {
        sweep.useful = true;
        ++input.node()->sweep.pending;
      }
    }
  }
}

Tensor add_derivatives(const Tensor& a, const Tensor& b) {
  BroadcastPlan plan;
  plan.rank = 1;
  plan.extents[0] = a.elements();
  plan.strides_a[0] = plan.strides_b[0] = 1;
  Tensor sum = a.empty_like();
  a.backend().binary(BinaryOp::kAdd, a.dtype(), plan, a.data(), b.data(), sum.mutable_data());
  return sum;
}

// Addition as a recorded op; ops/ lies above this layer.
class AddDerivatives final : public Node {
 public:
  const char* name() const override { return "add_derivatives"; }
  void vjp(const Tensor&, const Tensor& cotangent, std::span<Tensor> result) const override {
    if (needs(0)) result[0] = cotangent;
    if (needs(1)) result[1] = cotangent;
  }
  Tensor jvp(const Tensor&, std::span<const Tensor> tangents) const override {
    if (!tangents[0].defined()) return tangents[1];
    if (!tangents[1].defined()) return tangents[0];
    return record<AddDerivatives>(add_derivatives(tangents[0], tangents[1]), {&tangents[0], &tangents[1]});
  }
};

void gather(Tensor& gathered, Tensor contribution) {
  if (!gathered.defined()) {
    gathered = std::move(contribution);
  } else if (!recording() && gathered.sole_owner()) {
    gathered.backend().accumulate(gathered.dtype(), gathered.elements(), contribution.data(),
                                  gathered.mutable_data());
  } else {
    gathered = record<AddDerivatives>(add_derivatives(gathered, contribution), {&gathered, &contribution});
  }
}

void check_cotangent(const Tensor& output, const Tensor& cotangent) {
  if (!(output.shape() == cotangent.shape()) || output.dtype() != cotangent.dtype()) {
    fail(ErrorKind::kInternal, "backward: cotangent " + cotangent.shape().to_string() + " for an output " +
                                   output.shape().to_string());
  }
}

// One reverse sweep. finished(node) is called when the last contribution of a leaf or target has landed.
template <class Finished>
class ReverseSweep {
 public:
  ReverseSweep(bool to_targets, bool consume, const Finished& finished)
      : to_targets_(to_targets), consume_(consume), finished_(finished) {}

  void run(Graph& graph, Node& root, const Tensor& cotangent) {
    plan_reverse(graph.nodes(), to_targets_);
    if (!root.sweep.useful) return;
    root.sweep.derivative = cotangent;
    if (root.inputs.empty() || root.sweep.target) {
      finished_(root);
    } else {
      pass(graph);
    }
  }

 private:
  void pass(Graph& graph) {
    std::vector<Tensor> contributions;
    for (std::shared_ptr<Node>& node : graph.nodes()) {
      if (!node->sweep.useful || node->sweep.target || node->inputs.empty()) continue;
      Tensor derivative = std::move(node->sweep.derivative);
      node->sweep.derivative = {};
      if (node->recomputed() != nullptr && derivative.defined()) {
        pass_recomputed(*node, std::move(derivative));
        continue;
      }
      contributions.assign(node->inputs.size(), {});
      if (derivative.defined()) {
        const OpScope scope(node->name(), " (backward)");
        Tensor value = node->value;
        if (recording()) value.set_node(node);
        node->vjp(value, derivative, contributions);
      }
      for (size_t i = 0; i < contributions.size(); ++i) {
        if (!node->needs(i)) continue;
        if (contributions[i].defined()) {
          gather(node->inputs[i].node()->sweep.derivative, std::move(contributions[i]));
        }
        landed(*node->inputs[i].node());
      }
      if (consume_) let_go(*node);
    }
  }

  // Runs the function again and sweeps its graph at once, straight into the derivatives of the nodes that it
  // grows from: each of them gathers what the plain run would have given it, in the same order. Those nodes
  // have been visited by the graph around, so the new one ends above them.
  void pass_recomputed(Node& node, Tensor derivative) {
    Tensor output = node.recomputed()->rerun(consume_);
    Graph graph({&output, 1});
    const std::shared_ptr<Node> root = output.node();
    output = {};
    plan_reverse(graph.nodes(), to_targets_);
    // The contributions that this node stood for are counted one by one from here on.
    for (size_t i = 0; i < node.inputs.size(); ++i) {
      if (node.needs(i)) landed(*node.inputs[i].node());
    }
    if (consume_) let_go(node);
    root->sweep.derivative = std::move(derivative);
    pass(graph);
  }

  void landed(Node& below) {
    if (--below.sweep.pending == 0 && (below.sweep.target || below.inputs.empty())) finished_(below);
  }

  // Frees values, keeps the links.
  static void let_go(Node& node) {
    node.value = {};
    for (Tensor& input : node.inputs) {
      std::shared_ptr<Node> below = input.node();
      input = {};
      input.set_node(std::move(below));
    }
  }

  bool to_targets_, consume_;
  const Finished& finished_;
};

// Pushes tangents upward; every node's sweep.derivative is then its tangent. Leaves must hold theirs before.
void forward_sweep(Graph& graph) {
  std::vector<Tensor> tangents;
  for (auto it = graph.nodes().rbegin(); it != graph.nodes().rend(); ++it) {
    Node& node = **it;
    if (node.inputs.empty()) continue;
    tangents.clear();
    bool any = false;
    for (const Tensor& input : node.inputs) {
      tangents.push_back(input.node() != nullptr ? input.node()->sweep.derivative : Tensor());
      any = any || tangents.back().defined();
    }
    if (!any) continue;
    if (node.recomputed() != nullptr) {
      const Tensor output = node.recomputed()->rerun(false);
      Graph below({&output, 1});
      forward_sweep(below);
      node.sweep.derivative = output.node()->sweep.derivative;
    } else {
      node.sweep.derivative = node.jvp(node.value, tangents);
    }
  }
}

std::vector<Tensor> variables(std::span<const Tensor> inputs) {
  std::vector<Tensor> result;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const bool differentiable = inputs[i].defined() && is_floating(inputs[i].dtype());
    result.push_back(differentiable ? variable(inputs[i], static_cast<int>(i)) : inputs[i]);
  }
  return result;
}

// Tangents of `outputs` along the graph that leads to them from `leaves`.
std::vector<Tensor> push_forward(std::span<const Tensor> outputs, std::span<const Tensor> leaves,
                                 std::span<const Tensor> tangents) {
  const RecordingScope off(false);
  const AutocastScope as_recorded(DType::kF32);
  Graph graph(outputs);
  for (size_t i = 0; i < leaves.size(); ++i) {
    if (leaves[i].node() != nullptr && leaves[i].node()->sweep.visited) {
      leaves[i].node()->sweep.derivative = tangents[i].detach();
    }
  }
  forward_sweep(graph);
  std::vector<Tensor> result;
  for (const Tensor& output : outputs) {
    const Tensor tangent = output.node() != nullptr ? output.node()->sweep.derivative : Tensor();
    result.push_back(tangent.defined() ? tangent : output.full_like(0.0));
  }
  return result;
}

}  // namespace

Tensor variable(const Tensor& value, int index) {
  Tensor result = value.detach();
  result.set_node(std::make_shared<Leaf>(index));
  return result;
}

void backward(const Tensor& output, const Tensor& cotangent, const GradientSink& sink) {
  check_cotangent(output, cotangent);
  if (output.node() == nullptr) return;
  const RecordingScope off(false);
  const AutocastScope as_recorded(DType::kF32);
  Graph graph({&output, 1});
  const auto finished = [&](Node& node) {
    if (node.sweep.derivative.defined())
      sink(static_cast<const Leaf&>(node), std::move(node.sweep.derivative));
  };
  ReverseSweep(false, true, finished).run(graph, *output.node(), cotangent);
}

std::vector<Tensor> gradients(const Tensor& output, const Tensor& cotangent, std::span<const Tensor> targets,
                              bool create_graph) {
  check_cotangent(output, cotangent);
  const RecordingScope scope(create_graph);
  const AutocastScope as_recorded(DType::kF32);
  std::vector<Tensor> result(targets.size());
  if (output.node() != nullptr) {
    for (const Tensor& target : targets) {
      if (target.node() == nullptr)
        fail(ErrorKind::kInternal, "gradients: a target takes no part in differentiation");
      target.node()->sweep.target = true;
    }
    Graph graph({&output, 1});
    const auto finished = [](Node&) {};
    ReverseSweep(true, false, finished).run(graph, *output.node(), cotangent);
    for (size_t i = 0; i < targets.size(); ++i) result[i] = targets[i].node()->sweep.derivative;
  }
  for (size_t i = 0; i < targets.size(); ++i) {
    if (targets[i].node() != nullptr) targets[i].node()->sweep = {};
    if (!result[i].defined()) result[i] = targets[i].full_like(0.0);
  }
  return result;
}

std::pair<Tensor, std::vector<Tensor>> value_and_grad(const Function& f, std::span<const Tensor> inputs,
                                                      bool create_graph) {
  // Inputs that already carry history keep it, so that calls nest.
  std::vector<Tensor> arguments(inputs.begin(), inputs.end());
  for (size_t i = 0; i < arguments.size(); ++i) {
    if (arguments[i].node() == nullptr) arguments[i] = variable(arguments[i], static_cast<int>(i));
  }
  Tensor value;
  {
    const RecordingScope on(true);
    value = f(arguments);
  }
  if (value.elements() != 1) {
    fail(ErrorKind::kInternal,
         "grad: the function's value must be one number, its shape is " + value.shape().to_string());
  }
  std::vector<Tensor> derivatives = gradients(value, value.full_like(1.0), arguments, create_graph);
  return {create_graph ? value : value.detach(), std::move(derivatives)};
}

std::vector<Tensor> grad(const Function& f, std::span<const Tensor> inputs, bool create_graph) {
  return value_and_grad(f, inputs, create_graph).second;
}

std::pair<Tensor, std::vector<Tensor>> vjp(const Function& f, std::span<const Tensor> inputs,
                                           const Tensor& cotangent) {
  const RecordingScope on(true);
  const std::vector<Tensor> arguments = variables(inputs);
  const Tensor value = f(arguments);
  std::vector<Tensor> targets;
  for (const Tensor& argument : arguments) {
    if (argument.node() != nullptr) targets.push_back(argument);
  }
  const std::vector<Tensor> derivatives = gradients(value, cotangent, targets, false);
  std::vector<Tensor> result(arguments.size());
  for (size_t i = 0, next = 0; i < arguments.size(); ++i) {
    if (arguments[i].node() != nullptr) result[i] = derivatives[next++];
  }
  return {value.detach(), std::move(result)};
}

std::pair<Tensor, Tensor> jvp(const Function& f, std::span<const Tensor> inputs,
                              std::span<const Tensor> tangents) {
  const RecordingScope on(true);
  const std::vector<Tensor> arguments = variables(inputs);
  const Tensor value = f(arguments);
  return {value.detach(), push_forward({&value, 1}, arguments, tangents)[0]};
}

std::vector<Tensor> hvp(const Function& f, std::span<const Tensor> inputs, std::span<const Tensor> vectors) {
  const RecordingScope on(true);
  const std::vector<Tensor> arguments = variables(inputs);
  const std::vector<Tensor> gradient = grad(f, arguments, true);
  return push_forward(gradient, arguments, vectors);
}

}  // namespace lockstep
