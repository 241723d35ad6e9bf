// Who offers room for the gradients of this thread.
#include "lockstep/autodiff/gradient_room.h"

#include <utility>

namespace lockstep {

namespace {
thread_local GradientRoomScope* offering = nullptr;
}

GradientRoomScope::GradientRoomScope(Offer offer) : previous_(offering), offer_(std::move(offer)) {
  offering = this;
}

GradientRoomScope::~GradientRoomScope() {
  offering = previous_;
}

Tensor gradient_room(const Tensor& input) {
  const auto* leaf = dynamic_cast<const Leaf*>(input.node().get());
  if (leaf == nullptr || recording() || offering == nullptr || !offering->offer_) return input.empty_like();
  const auto [given, first] = offering->given_.try_emplace(leaf, nullptr);
  if (!first) return input.empty_like();
  Tensor room = offering->offer_(*leaf);
  if (!room.defined() || room.dtype() != input.dtype() || !(room.shape() == input.shape())) {
    return input.empty_like();
  }
  given->second = room.data();
  return room;
}

bool in_gradient_room(const Node& leaf, const Tensor& gradient) {
  if (offering == nullptr) return false;
  const auto given = offering->given_.find(&leaf);
  return given != offering->given_.end() && given->second == gradient.data();
}

}  // namespace lockstep
