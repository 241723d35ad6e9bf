// Nodes: recording mode, destruction without recursion, and derivatives of fused ops through their
// references.
#include "autodiff/node.h"

#include <atomic>

#include "autodiff/derivatives.h"

namespace lockstep {

namespace {

thread_local bool recording_enabled = true;
std::atomic<uint64_t> next_sequence{1};

// The same values, differentiable with respect to themselves: cuts a subgraph off from the graph above it.
class Alias final : public Node {
 public:
  const char* name() const override { return "alias"; }
  void vjp(const Tensor&, const Tensor& cotangent, std::span<Tensor> result) const override {
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

void FusedNode::vjp(const Tensor& output, const Tensor& cotangent, std::span<Tensor> result) const {
  if (!recording()) {
    fused_vjp(output, cotangent, result);
    return;
  }
  std::vector<Tensor> aliases;
  std::vector<Tensor> targets;
  for (size_t i = 0; i < inputs.size(); ++i) {
    aliases.push_back(needs(i) ? record<Alias>(inputs[i].detach(), {&inputs[i]}) : inputs[i].detach());
    if (needs(i)) targets.push_back(aliases.back());
  }
  const std::vector<Tensor> derivatives = gradients(reference(aliases), cotangent, targets, true);
  for (size_t i = 0, next = 0; i < inputs.size(); ++i) {
    if (needs(i)) result[i] = derivatives[next++];
  }
}

Tensor FusedNode::jvp(const Tensor&, std::span<const Tensor> tangents) const {
  std::vector<Tensor> all(tangents.begin(), tangents.end());
  for (size_t i = 0; i < all.size(); ++i) {
    if (!all[i].defined() && inputs[i].defined() && is_floating(inputs[i].dtype()))
      all[i] = inputs[i].full_like(0.0);
  }
  return lockstep::jvp([this](std::span<const Tensor> x) { return reference(x); }, inputs, all).second;
}

}  // namespace lockstep
