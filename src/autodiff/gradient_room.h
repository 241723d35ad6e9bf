// Where the gradients of leaves are to end up, offered to the ops that compute them, so that nobody has to
// copy them there.
#pragma once

#include <functional>
#include <unordered_map>

#include "lockstep/autodiff/node.h"
#include "lockstep/tensor/tensor.h"

namespace lockstep {

// Offers memory on this thread for a scope around one backward() and the pass that it goes back through.
class GradientRoomScope {
 public:
  // Room for the gradient of a leaf, of its shape and type: a tensor whose elements nothing else reads before
  // that gradient has reached the sink; undefined: none. Asked at most once for a leaf.
  using Offer = std::function<Tensor(const Leaf& leaf)>;

  explicit GradientRoomScope(Offer offer);
  ~GradientRoomScope();
  GradientRoomScope(const GradientRoomScope&) = delete;
  GradientRoomScope& operator=(const GradientRoomScope&) = delete;

 private:
  GradientRoomScope* previous_;
  Offer offer_;
  std::unordered_map<const Node*, const void*> given_;  // looked up, never walked through
  friend Tensor gradient_room(const Tensor&);
  friend bool in_gradient_room(const Node&, const Tensor&);
};

// For ops that compute a gradient of `input`, or a part of it, without being recorded: uninitialized elements
// of its shape and type to write it to. What a scope offers for a leaf goes to the first that asks, as a rule
// to the only one.
Tensor gradient_room(const Tensor& input);

// For sweeps: whether `gradient` lies in the room that has been given out for this leaf. It is theirs alone
// then, whoever else holds that memory.
bool in_gradient_room(const Node& leaf, const Tensor& gradient);

}  // namespace lockstep
