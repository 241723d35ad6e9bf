// The reverse and forward sweeps over a recorded graph.
#include "lockstep/autodiff/derivatives.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <memory_resource>
#include <unordered_map>
#include <unordered_set>

#include "lockstep/autodiff/autocast.h"
#include "lockstep/autodiff/gradient_room.h"
#include "lockstep/autodiff/recompute.h"
#include "lockstep/core/error.h"
#include "lockstep/core/op_scope.h"

namespace lockstep {

namespace {

// What a sweep knows of the nodes that it meets. It belongs to the call and is gone with it, whatever
// happens: leaves are not written to, so that sweeps over the same parameters can run at the same time.
class SweepStates {
 public:
  struct State {
    Tensor derivative;    // cotangent (reverse) or tangent (forward) gathered so far
    Tensor narrow;        // a copy of it in 16 bits, where somebody has left one
    int32_t pending = 0;  // contributions still to come
    bool visited = false;
    bool target = false;  // a derivative with respect to this node was asked for
    bool useful = false;  // a leaf or target lies below
  };

  uint64_t oldest_target = 0;  // its sequence(): nothing older leads to a target

  State& of(const Node& node) { return states_[&node]; }
  void forget(const Node& node) { states_.erase(&node); }

 private:
  // For the states of some forty nodes before anything is allocated; small models have no more.
  std::array<std::byte, 12288> first_;
  std::pmr::monotonic_buffer_resource memory_{first_.data(), first_.size()};
  std::pmr::unordered_map<const Node*, State> states_{64, &memory_};  // asked, never walked through: its
                                                                      // order does not matter
};

void sort_newest_first(std::vector<std::shared_ptr<Node>>& nodes) {
  std::sort(nodes.begin(), nodes.end(),
            [](const auto& a, const auto& b) { return a->sequence() > b->sequence(); });
}

// The nodes below some outputs, newest first. Their states go when it does.
class Graph {
 public:
  // Does not go below nodes marked as targets, nor into nodes that another graph of the sweep has visited or
  // that are older than all targets.
  Graph(std::span<const Tensor> outputs, SweepStates& states) : states_(states) {
    for (const Tensor& output : outputs) visit(output.node());
    while (!stack_.empty()) {
      const std::shared_ptr<Node> node = std::move(stack_.back());
      stack_.pop_back();
      if (!states_.of(*node).target) {
        for (const Tensor& input : node->inputs) visit(input.node());
      }
      nodes_.push_back(node);
    }
    sort_newest_first(nodes_);
  }
  // While the nodes are alive, so that no new one can be taken for one of them.
  ~Graph() {
    for (const auto& node : nodes_) states_.forget(*node);
  }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  const std::vector<std::shared_ptr<Node>>& nodes() const { return nodes_; }

 private:
  void visit(const std::shared_ptr<Node>& node) {
    if (node == nullptr || node->sequence() < states_.oldest_target || states_.of(*node).visited) return;
    states_.of(*node).visited = true;
    stack_.push_back(node);
  }

  SweepStates& states_;
  std::vector<std::shared_ptr<Node>> nodes_;
  std::vector<std::shared_ptr<Node>> stack_;
};

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
  Saved saved() const override { return Saved::nothing(); }
  void vjp(const Tensor&, const Tensor& cotangent, InputGradients& result) const override {
    if (result.wanted(0)) result[0] = cotangent;
    if (result.wanted(1)) result[1] = cotangent;
  }
  Tensor jvp(const Tensor&, std::span<const Tensor> tangents) const override {
    if (!tangents[0].defined()) return tangents[1];
    if (!tangents[1].defined()) return tangents[0];
    return record<AddDerivatives>(add_derivatives(tangents[0], tangents[1]), {&tangents[0], &tangents[1]});
  }
};

// Adds a contribution to what has been gathered for a node.
void gather(const Node& node, Tensor& gathered, Tensor contribution) {
  if (!gathered.defined()) {
    gathered = std::move(contribution);
  } else if (!recording() && (gathered.sole_owner() || in_gradient_room(node, gathered))) {
    gathered.backend().accumulate(gathered.dtype(), gathered.elements(), contribution.data(),
                                  gathered.mutable_data());
  } else {
    gathered = record<AddDerivatives>(add_derivatives(gathered, contribution), {&gathered, &contribution});
  }
}

void check_cotangent(const Tensor& output, const Tensor& cotangent) {
  if (!(output.shape() == cotangent.shape()) || output.dtype() != cotangent.dtype()) {
    fail(ErrorKind::kUsage, "backward: cotangent " + cotangent.shape().to_string() + " for an output " +
                                output.shape().to_string());
  }
}

void check_tangents(std::span<const Tensor> leaves, std::span<const Tensor> tangents) {
  if (leaves.size() != tangents.size()) {
    fail(ErrorKind::kUsage,
         fmt::format("forward mode: {} tangents for {} inputs", tangents.size(), leaves.size()));
  }
  const auto described = [](const Tensor& x) {
    return x.defined() ? fmt::format("{} of {}", x.shape().to_string(), name_of(x.dtype())) : "none";
  };
  for (size_t i = 0; i < leaves.size(); ++i) {
    const Tensor &leaf = leaves[i], &tangent = tangents[i];
    if (tangent.defined() && leaf.shape() == tangent.shape() && leaf.dtype() == tangent.dtype()) continue;
    fail(ErrorKind::kUsage,
         fmt::format("forward mode: tangent {} for an input {}", described(tangent), described(leaf)));
  }
}

// Fills in what the node has left out, for as long as its derivatives are computed.
class InputsMadeAgain {
 public:
  explicit InputsMadeAgain(Node& node) : node_(node) {
    for_each([](Tensor& input) {
      const std::shared_ptr<Node> from = input.node();
      const InputsMadeAgain below(*from);
      const OpScope scope(from->name(), " (again)");
      input = from->made_again();
      input.set_node(from);
    });
  }
  ~InputsMadeAgain() {
    for_each([](Tensor& input) { input.drop_elements(); });
  }
  InputsMadeAgain(const InputsMadeAgain&) = delete;
  InputsMadeAgain& operator=(const InputsMadeAgain&) = delete;

 private:
  template <class Function>
  void for_each(const Function& function) {
    for (uint32_t left = node_.left_out; left != 0; left &= left - 1)
      function(node_.inputs[static_cast<size_t>(std::countr_zero(left))]);
  }

  Node& node_;
};

// One reverse sweep. finished(node, derivative) is called when the last contribution of a leaf or target has
// landed; the derivative is undefined where nothing has.
template <class Finished>
class ReverseSweep {
 public:
  ReverseSweep(SweepStates& states, bool to_targets, bool consume, const Finished& finished)
      : states_(states), to_targets_(to_targets), consume_(consume), finished_(finished) {}

  void run(const Graph& graph, Node& root, const Tensor& cotangent) {
    plan(graph);
    SweepStates::State& state = states_.of(root);
    if (!state.useful) return;
    state.derivative = cotangent;
    if (root.inputs.empty() || state.target) {
      finished_(root, state.derivative);
    } else {
      pass(graph);
    }
  }

 private:
  bool useful(const Tensor& input) { return input.node() != nullptr && states_.of(*input.node()).useful; }

  // Marks what leads to a target (or, without targets, to a leaf) and counts the contributions each node will
  // get.
  void plan(const Graph& graph) {
    const auto& nodes = graph.nodes();
    for (auto node = nodes.rbegin(); node != nodes.rend(); ++node) {
      SweepStates::State& state = states_.of(**node);
      state.useful = to_targets_ ? state.target : (*node)->inputs.empty();
      if (state.target) continue;
      for (const Tensor& input : (*node)->inputs) {
        if (!useful(input)) continue;
        state.useful = true;
        ++states_.of(*input.node()).pending;
      }
    }
  }

  void pass(const Graph& graph) {
    InputGradients contributions;
    for (const std::shared_ptr<Node>& node : graph.nodes()) {
      SweepStates::State& state = states_.of(*node);
      if (!state.useful || state.target || node->inputs.empty()) continue;
      const Tensor derivative = std::move(state.derivative);
      state.derivative = {};
      Tensor narrow = std::move(state.narrow);
      state.narrow = {};
      if (node->recomputed() != nullptr && derivative.defined()) {
        pass_recomputed(*node, derivative);
        continue;
      }
      contributions.reset(node->inputs.size(), std::move(narrow));
      for (size_t i = 0; i < node->inputs.size(); ++i) {
        if (!useful(node->inputs[i])) continue;
        contributions.want(i);
        SweepStates::State& below = states_.of(*node->inputs[i].node());
        if (!recording() && below.pending == 1) contributions.offer(i, below.derivative, below.narrow);
      }
      if (derivative.defined()) {
        const InputsMadeAgain inputs(*node);
        const OpScope scope(node->name(), " (backward)");
        Tensor value = node->value;
        if (recording()) value.set_node(node);
        node->vjp(value, derivative, contributions);
      }
      for (size_t i = 0; i < contributions.size(); ++i) {
        if (!contributions.wanted(i)) continue;
        const Node& below = *node->inputs[i].node();
        if (contributions[i].defined())
          gather(below, states_.of(below).derivative, std::move(contributions[i]));
        landed(below);
      }
      if (consume_) node->let_go();
    }
  }

  // Runs the function again and sweeps its graph at once, straight into the derivatives of the nodes that it
  // grows from: each of them gathers what the plain run would have given it, in the same order. Those nodes
  // have been visited by the graph around, so the new one ends above them.
  void pass_recomputed(Node& node, const Tensor& derivative) {
    Tensor output = node.recomputed()->rerun(consume_, recording());
    const Graph graph({&output, 1}, states_);
    const std::shared_ptr<Node> root = output.node();
    output = {};
    plan(graph);
    // The contributions that this node stood for are counted one by one from here on.
    for (const Tensor& input : node.inputs) {
      if (useful(input)) landed(*input.node());
    }
    if (consume_) node.let_go();
    states_.of(*root).derivative = derivative;
    pass(graph);
  }

  void landed(const Node& below) {
    SweepStates::State& state = states_.of(below);
    if (--state.pending == 0 && (state.target || below.inputs.empty())) finished_(below, state.derivative);
  }

  SweepStates& states_;
  bool to_targets_, consume_;
  const Finished& finished_;
};

// Pushes tangents upward; every node's derivative is then its tangent. Leaves must hold theirs before.
// keep: see FirstDerivative::times().
void forward_sweep(const std::vector<std::shared_ptr<Node>>& newest_first, SweepStates& states, bool keep);

// The nodes of what `node` has been unfolded to, newest first.
std::vector<std::shared_ptr<Node>> unfolded_nodes(const Node& node, const Tensor& unfolded) {
  std::vector<std::shared_ptr<Node>> nodes, stack{unfolded.node()};
  std::unordered_set<const Node*> seen{unfolded.node().get()};  // asked, never walked through
  while (!stack.empty()) {
    nodes.push_back(std::move(stack.back()));
    stack.pop_back();
    for (const Tensor& input : nodes.back()->inputs) {
      if (input.node() == nullptr || input.node()->sequence() < node.sequence()) continue;
      if (seen.insert(input.node().get()).second) stack.push_back(input.node());
    }
  }
  sort_newest_first(nodes);
  return nodes;
}

Tensor push_through(Node& node, std::span<const Tensor> tangents, SweepStates& states, bool keep) {
  if (node.recomputed() != nullptr) {
    const Tensor output = node.recomputed()->rerun(false, true);
    const Graph below({&output, 1}, states);
    forward_sweep(below.nodes(), states, false);
    return states.of(*output.node()).derivative;
  }
  if (const Tensor unfolded = node.unfolded(keep); unfolded.node() != nullptr) {
    const std::vector<std::shared_ptr<Node>> below = unfolded_nodes(node, unfolded);
    forward_sweep(below, states, keep);
    Tensor tangent = states.of(*unfolded.node()).derivative;
    // Those that no graph of this sweep has are asked for by no other node, and may be gone before it ends.
    for (const auto& inner : below) {
      if (!states.of(*inner).visited) states.forget(*inner);
    }
    return tangent;
  }
  const OpScope scope(node.name(), " (forward mode)");
  return node.jvp(node.value, tangents);
}

void forward_sweep(const std::vector<std::shared_ptr<Node>>& newest_first, SweepStates& states, bool keep) {
  std::vector<Tensor> tangents;
  for (auto it = newest_first.rbegin(); it != newest_first.rend(); ++it) {
    Node& node = **it;
    if (node.inputs.empty() || states.of(node).derivative.defined()) continue;  // the latter by an unfolding
    tangents.clear();
    bool any = false;
    for (const Tensor& input : node.inputs) {
      tangents.push_back(input.node() != nullptr ? states.of(*input.node()).derivative : Tensor());
      any = any || tangents.back().defined();
    }
    if (any) {
      Tensor tangent = push_through(node, tangents, states, keep);
      states.of(node).derivative = std::move(tangent);
    }
  }
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
  SweepStates states;
  const Graph graph({&output, 1}, states);
  const auto finished = [&](const Node& leaf, Tensor& gradient) {
    if (gradient.defined()) sink(static_cast<const Leaf&>(leaf), std::move(gradient));
  };
  ReverseSweep(states, false, true, finished).run(graph, *output.node(), cotangent);
}

std::vector<Tensor> gradients(const Tensor& output, const Tensor& cotangent, std::span<const Tensor> targets,
                              bool create_graph) {
  check_cotangent(output, cotangent);
  const RecordingScope scope(create_graph);
  const GradientRoomScope none({});  // what is offered is for the sweep around, if there is one
  const AutocastScope as_recorded(DType::kF32);
  std::vector<Tensor> result(targets.size());
  if (output.node() != nullptr) {
    SweepStates states;
    states.oldest_target = next_node_sequence();
    for (const Tensor& target : targets) {
      if (target.node() == nullptr)
        fail(ErrorKind::kUsage, "gradients: a target takes no part in differentiation");
      states.of(*target.node()).target = true;
      states.oldest_target = std::min(states.oldest_target, target.node()->sequence());
    }
    const Graph graph({&output, 1}, states);
    const auto finished = [](const Node&, const Tensor&) {};
    ReverseSweep(states, true, false, finished).run(graph, *output.node(), cotangent);
    for (size_t i = 0; i < targets.size(); ++i) result[i] = states.of(*targets[i].node()).derivative;
  }
  for (size_t i = 0; i < targets.size(); ++i) {
    if (!result[i].defined()) result[i] = targets[i].full_like(0.0);
  }
  return result;
}

std::vector<Tensor> push_forward(std::span<const Tensor> outputs, std::span<const Tensor> leaves,
                                 std::span<const Tensor> tangents, bool keep) {
  check_tangents(leaves, tangents);
  const RecordingScope off(false);
  const EveryOrderScope every;
  const AutocastScope as_recorded(DType::kF32);
  SweepStates states;
  const Graph graph(outputs, states);
  for (size_t i = 0; i < leaves.size(); ++i) {
    if (leaves[i].node() == nullptr) continue;
    SweepStates::State& state = states.of(*leaves[i].node());
    if (state.visited) state.derivative = tangents[i].detach();
  }
  forward_sweep(graph.nodes(), states, keep);
  std::vector<Tensor> result;
  for (const Tensor& output : outputs) {
    const Tensor tangent = output.node() != nullptr ? states.of(*output.node()).derivative : Tensor();
    result.push_back(tangent.defined() ? tangent : output.full_like(0.0));
  }
  return result;
}

}  // namespace lockstep
