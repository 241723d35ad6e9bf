// Nodes: recording mode, destruction without recursion, and derivatives of fused ops through their
// references.
#include "lockstep/autodiff/node.h"

#include <atomic>

#include "lockstep/autodiff/derivatives.h"
#include "lockstep/core/error.h"

namespace lockstep {

namespace {

thread_local bool recording_enabled = true;
thread_local bool every_order = false;
thread_local bool leave_cheap = false;
std::atomic<uint64_t> next_sequence{1};

// The same values, differentiable with respect to themselves: cuts a subgraph off from the graph above it.
class Alias final : public Node {
 public:
  const char* name() const override { return "alias"; }
  Saved saved() const override { return Saved::nothing(); }
  void vjp(const Tensor&, const Tensor& cotangent, InputGradients& result) const override {
    result[0] = cotangent;
  }
  Tensor jvp(const Tensor&, std::span<const Tensor> tangents) const override { return tangents[0]; }
};

}  // namespace

Node::Node() : sequence_(next_sequence.fetch_add(1, std::memory_order_relaxed)) {}

// A long chain of nodes (a recurrent net over many steps) would overflow the stack if each destroyed its
// inputs in turn; the outermost destructor works off a list instead.
Node::~Node() {
  static thread_local std::vector<Tensor> doomed;
  static thread_local bool draining = false;
  for (Tensor& input : inputs) {
    if (input.node() != nullptr && input.node().use_count() == 1) doomed.push_back(std::move(input));
  }
  if (draining) return;
  draining = true;
  while (!doomed.empty()) {
    const Tensor last = std::move(doomed.back());
    doomed.pop_back();
  }
  draining = false;
}

void Node::let_go() {
  value = {};
  for (Tensor& input : inputs) input.drop_elements();
}

uint64_t next_node_sequence() {
  return next_sequence.load(std::memory_order_relaxed);
}

bool recording() {
  return recording_enabled;
}

RecordingScope::RecordingScope(bool enabled) : previous_(recording_enabled) {
  recording_enabled = enabled;
}
RecordingScope::~RecordingScope() {
  recording_enabled = previous_;
}

EveryOrderScope::EveryOrderScope() : previous_(every_order) {
  every_order = true;
}
EveryOrderScope::~EveryOrderScope() {
  every_order = previous_;
}

LeaveCheapScope::LeaveCheapScope(bool leave) : previous_(leave_cheap) {
  leave_cheap = leave;
}
LeaveCheapScope::~LeaveCheapScope() {
  leave_cheap = previous_;
}
bool leaves_cheap() {
  return leave_cheap && !every_order;
}

Tensor attach(Tensor value, std::vector<Tensor> inputs, std::shared_ptr<Node> node) {
  node->inputs = std::move(inputs);
  const Saved saved = node->saved();
  for (size_t i = 0; i < node->inputs.size(); ++i) {
    Tensor& input = node->inputs[i];
    if (saved.has_input(i)) {
      const Node* const from = leaves_cheap() ? input.node().get() : nullptr;
      if (from == nullptr || !from->is_cheap()) continue;
      node->left_out |= uint32_t{1} << i;
    }
    input.drop_elements();
  }
  node->value = value;
  if (!saved.has_output()) node->value.drop_elements();
  value.set_node(std::move(node));
  return value;
}

Saved FusedNode::saved() const {
  return every_order ? fused_saved() | Saved::every_input() : fused_saved();
}

void FusedNode::require_inputs() const {
  for (const Tensor& input : inputs) {
    if (input.defined() && !input.has_elements()) {
      fail(ErrorKind::kUsage,
           std::string(name()) +
               ": was recorded for first derivatives; others need an EveryOrderScope around the recording");
    }
  }
}

Tensor FusedNode::unfolded(bool make) const {
  if (unfolded_.defined() || !make) return unfolded_;
  require_inputs();
  const RecordingScope on(true);
  std::vector<Tensor> aliases;
  for (const Tensor& input : inputs) aliases.push_back(record<Alias>(input.detach(), {&input}));
  const EveryOrderScope every;  // a reference has fused ops in it, and its sweep is recorded
  Tensor again = reference(aliases);
  again.drop_elements();
  for (Tensor& alias : aliases) alias.drop_elements();
  unfolded_inputs_ = std::move(aliases);
  unfolded_ = std::move(again);
  return unfolded_;
}

void FusedNode::let_go() {
  Node::let_go();
  unfolded_ = {};
  unfolded_inputs_.clear();
}

void FusedNode::vjp(const Tensor& output, const Tensor& cotangent, InputGradients& result) const {
  if (!recording()) {
    fused_vjp(output, cotangent, result);
    return;
  }
  const Tensor plain = unfolded(true);
  std::vector<Tensor> targets;
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (result.wanted(i)) targets.push_back(unfolded_inputs_[i]);
  }
  const std::vector<Tensor> derivatives = gradients(plain, cotangent, targets, true);
  for (size_t i = 0, next = 0; i < inputs.size(); ++i) {
    if (result.wanted(i)) result[i] = derivatives[next++];
  }
}

// Inputs without a tangent are constants.
Tensor FusedNode::jvp(const Tensor&, std::span<const Tensor> tangents) const {
  require_inputs();
  std::vector<Tensor> moving, directions;
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (!tangents[i].defined()) continue;
    moving.push_back(inputs[i]);
    directions.push_back(tangents[i]);
  }
  const auto function = [&](std::span<const Tensor> x) {
    std::vector<Tensor> all;
    for (size_t i = 0, next = 0; i < inputs.size(); ++i) {
      all.push_back(tangents[i].defined() ? x[next++] : inputs[i].detach());
    }
    return reference(all);
  };
  return lockstep::jvp(function, moving, directions).second;
}

}  // namespace lockstep
