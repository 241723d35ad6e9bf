// Recording a function by its inputs alone, and running it again.
#include "lockstep/autodiff/recompute.h"

#include <unordered_set>

#include "lockstep/autodiff/autocast.h"
#include "lockstep/core/error.h"

namespace lockstep {

namespace {

// The tensors older than `begin` that the graph of `output` grows from, each node once.
std::vector<Tensor> roots(const Tensor& output, uint64_t begin) {
  std::vector<Tensor> result;
  std::unordered_set<const Node*> seen{
      output.node().get()};  // asked, never walked through: its order does not matter
  std::vector<const Node*> stack{output.node().get()};
  while (!stack.empty()) {
    const Node* node = stack.back();
    stack.pop_back();
    for (const Tensor& input : node->inputs) {
      if (input.node() == nullptr || !seen.insert(input.node().get()).second) continue;
      if (input.node()->sequence() < begin) {
        result.push_back(input);
      } else {
        stack.push_back(input.node().get());
      }
    }
  }
  return result;
}

}  // namespace

Tensor recompute(const Function& f, std::span<const Tensor> inputs) {
  if (!recording()) return f(inputs);
  const std::optional<RandomPlace> random = random_place();
  const uint64_t begin = next_node_sequence();
  // Recorded although the graph is dropped at once: it tells which parameters f reached, and it is never
  // larger than what the backward sweep will hold when it runs f again.
  const Tensor y = f(inputs);
  if (y.node() == nullptr || y.node()->sequence() < begin) return y;
  auto node = std::make_shared<RecomputedNode>(f, inputs, random, autocast_compute());
  std::vector<Tensor> links = roots(y, begin);
  return links.empty() ? y : attach(y.detach(), std::move(links), std::move(node));
}

Tensor RecomputedNode::rerun(bool last, bool for_every_order) {
  const RecordingScope on(true);
  std::optional<EveryOrderScope> every;
  if (for_every_order) every.emplace();
  const AutocastScope autocast(compute_);
  std::optional<RandomScope> random;
  if (random_) random.emplace(*random_);
  const uint64_t begin = next_node_sequence();
  Tensor y = f_(arguments_);
  if (y.node() == nullptr || y.node()->sequence() < begin) {
    fail(ErrorKind::kUsage, "recompute: the function gave a result without history when it was run again");
  }
  if (last) {
    f_ = nullptr;
    arguments_.clear();
  }
  return y;
}

}  // namespace lockstep
