// One recorded application of an op: what it was applied to, how derivatives pass through it in both
// directions, and which elements that takes.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "lockstep/tensor/tensor.h"

namespace lockstep {

class RecomputedNode;  // autodiff/recompute.h

// The elements that the derivatives of an op read: of some inputs, of the output. A node keeps those, and of
// everything else shape, type and history. `when`: for what only some derivatives read, whether one of them
// can be asked for.
class Saved {
 public:
  static constexpr Saved nothing() { return {}; }
  static constexpr Saved input(size_t index, bool when = true) {
    Saved saved;
    if (when) saved.inputs_ = uint32_t{1} << index;
    return saved;
  }
  static constexpr Saved output(bool when = true) {
    Saved saved;
    saved.output_ = when;
    return saved;
  }
  static constexpr Saved every_input() {
    Saved saved;
    saved.inputs_ = ~uint32_t{0};
    return saved;
  }
  constexpr Saved operator|(const Saved& other) const {
    Saved saved;
    saved.inputs_ = inputs_ | other.inputs_;
    saved.output_ = output_ || other.output_;
    return saved;
  }

  bool has_input(size_t index) const { return index < 32 && ((inputs_ >> index) & 1) != 0; }
  bool has_output() const { return output_; }

 private:
  uint32_t inputs_ = 0;
  bool output_ = false;
};

// Where a vjp leaves dL/d(inputs[i]). Those that nobody wants need not be computed.
//
// A vjp that is the last to contribute to an input may take what the others have, and leave the sum in place
// of its own part: a pass over memory less. It may also leave a copy of it in the 16-bit type that the
// input's node asks for (Node::narrow_cotangent). In sweeps that are recorded nothing is offered.
class InputGradients {
 public:
  bool wanted(size_t input) const { return inputs_[input].wanted; }
  Tensor& operator[](size_t input) { return inputs_[input].gradient; }
  size_t size() const { return inputs_.size(); }

  // Whether this contribution is the last one; then what the others amount to, undefined where there are
  // none.
  bool last(size_t input) const { return inputs_[input].gathered != nullptr; }
  const Tensor& gathered(size_t input) const { return *inputs_[input].gathered; }
  // Takes it: the gradient that is left includes it.
  Tensor take_gathered(size_t input) { return std::exchange(*inputs_[input].gathered, {}); }
  // Leaves a copy of all contributions to an input, this one being the last.
  void set_narrow(size_t input, Tensor copy) { *inputs_[input].narrow = std::move(copy); }
  // The copy of the cotangent that vjp is called with; undefined where nobody has left one.
  const Tensor& narrow_cotangent() const { return narrow_cotangent_; }

  // For the sweep that asks: begins anew, with nothing wanted.
  void reset(size_t inputs, Tensor narrow_cotangent) {
    inputs_.assign(inputs, {});
    narrow_cotangent_ = std::move(narrow_cotangent);
  }
  void want(size_t input) { inputs_[input].wanted = true; }
  // Of an input to which this is the last contribution: where what the others amount to lies, and where a
  // copy of the whole goes.
  void offer(size_t input, Tensor& gathered, Tensor& narrow) {
    inputs_[input].gathered = &gathered;
    inputs_[input].narrow = &narrow;
  }

 private:
  struct Input {
    Tensor gradient;
    bool wanted = false;
    Tensor *gathered = nullptr, *narrow = nullptr;
  };
  std::vector<Input> inputs_;
  Tensor narrow_cotangent_;
};

class Node : public std::enable_shared_from_this<Node> {
 public:
  Node();
  virtual ~Node();
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;

  virtual const char* name() const = 0;

  // What vjp and jvp read. Asked once, when the inputs are in place. Elements that are not declared here are
  // not there: reading them is an Error (kInternal) in every build.
  virtual Saved saved() const = 0;

  // Reverse mode. `output` is the recorded result, `cotangent` dL/d(output) of its shape. Writes
  // dL/d(inputs[i]) into result[i] wherever result.wanted(i). Written in tensor ops, so that it can itself be
  // differentiated.
  virtual void vjp(const Tensor& output, const Tensor& cotangent, InputGradients& result) const = 0;

  // Forward mode. tangents[i] is the tangent of inputs[i]; an undefined tensor stands for zero. At least one
  // is defined.
  virtual Tensor jvp(const Tensor& output, std::span<const Tensor> tangents) const = 0;

  // The 16-bit type in which vjp hands its cotangent on, if any: whoever completes the cotangent may leave a
  // copy in it (InputGradients).
  virtual std::optional<DType> narrow_cotangent() const { return std::nullopt; }

  // Whether the result takes little to compute again from what the node keeps, as those of norms and of what
  // goes element by element do. Then made_again() gives it, without history, with the same bits.
  virtual bool is_cheap() const { return false; }
  virtual Tensor made_again() const { return {}; }

  // This node when it stands for a whole graph that sweeps must run again to go through it; else null.
  virtual RecomputedNode* recomputed() { return nullptr; }

  // The same result out of other ops, without elements, grown from the same inputs by nodes younger than this
  // one, which tangents go through: where a recorded sweep has left it, or, with `make`, made and left now.
  // Else undefined.
  virtual Tensor unfolded(bool make) const {
    (void)make;
    return {};
  }

  // Frees the elements that it keeps, once a sweep has passed that is the last; keeps the links.
  virtual void let_go();

  // Whether a derivative with respect to this input can be asked for.
  bool differentiable(size_t input) const { return inputs[input].node() != nullptr; }

  // The operands, then what else the derivatives read (masks, statistics), without history. All that a node
  // keeps stands here and in `value`, but for what it is unfolded to. Without elements but for what is
  // saved().
  std::vector<Tensor> inputs;
  Tensor value;  // the result without history, so that the sweep can hand it to vjp and jvp
  // A bit an input that is saved() and yet without elements: the sweep has the input's node make them again.
  uint32_t left_out = 0;

  // Creation order: a topological order of every graph.
  uint64_t sequence() const { return sequence_; }

 private:
  uint64_t sequence_;
};

// A source of differentiation: a parameter or an argument of grad/vjp/jvp. `index` is free for the owner
// (parameter index).
class Leaf final : public Node {
 public:
  explicit Leaf(int leaf_index) : index(leaf_index) {}
  const char* name() const override { return "leaf"; }
  Saved saved() const override { return Saved::nothing(); }
  void vjp(const Tensor&, const Tensor&, InputGradients&) const override {}
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

// Graphs of this thread are recorded for reverse sweeps that are not recorded themselves, which is what
// training needs; within this scope for derivatives of every order and for forward mode too, which read more
// (FusedNode). value_and_grad with create_graph, jvp, hvp, FirstDerivative and SecondDerivative open it
// around the function that they are given.
class EveryOrderScope {
 public:
  EveryOrderScope();
  ~EveryOrderScope();
  EveryOrderScope(const EveryOrderScope&) = delete;
  EveryOrderScope& operator=(const EveryOrderScope&) = delete;

 private:
  bool previous_;
};

// Graphs of this thread do not keep what is_cheap(), where `leave`: sweeps make it again when they come to
// what reads it, so that two threads must not sweep one graph at once. For first derivatives alone: within an
// EveryOrderScope everything is kept.
class LeaveCheapScope {
 public:
  explicit LeaveCheapScope(bool leave);
  ~LeaveCheapScope();
  LeaveCheapScope(const LeaveCheapScope&) = delete;
  LeaveCheapScope& operator=(const LeaveCheapScope&) = delete;

 private:
  bool previous_;
};
bool leaves_cheap();

// Makes `node` the history of `value`, with these inputs, and lets it keep what it declares.
Tensor attach(Tensor value, std::vector<Tensor> inputs, std::shared_ptr<Node> node);

// Attaches a NodeType(arguments...) to `value` when the thread records and an input carries history; else
// returns value.
template <class NodeType, class... Arguments>
Tensor record_list(Tensor value, std::vector<Tensor> inputs, Arguments&&... arguments) {
  bool any = false;
  for (const Tensor& input : inputs) any = any || input.node() != nullptr;
  if (!any || !recording()) return value;
  return attach(std::move(value), std::move(inputs),
                std::make_shared<NodeType>(std::forward<Arguments>(arguments)...));
}

// The same for inputs by name. Undefined tensors stand for absent optional ones.
template <class NodeType, class... Arguments>
Tensor record(Tensor value, std::initializer_list<const Tensor*> inputs, Arguments&&... arguments) {
  bool any = false;
  for (const Tensor* input : inputs) any = any || input->node() != nullptr;
  if (!any || !recording()) return value;
  std::vector<Tensor> list;
  list.reserve(inputs.size());
  for (const Tensor* input : inputs) list.push_back(*input);
  return attach(std::move(value), std::move(list),
                std::make_shared<NodeType>(std::forward<Arguments>(arguments)...));
}

// An op with hand-written kernels and a reference composition out of simple ops. First derivatives use
// fused_vjp; when the sweep itself is being recorded (higher derivatives), and in forward mode, derivatives
// go through the reference, for which an EveryOrderScope keeps all inputs. Recorded sweeps, and forward ones
// that are told to keep it, leave the reference's graph in the node for those that follow: two threads must
// not run such sweeps of one graph at once.
class FusedNode : public Node {
 public:
  // The same function of the inputs, out of simple differentiable ops.
  virtual Tensor reference(std::span<const Tensor> inputs) const = 0;
  virtual void fused_vjp(const Tensor& output, const Tensor& cotangent, InputGradients& result) const = 0;
  // What fused_vjp reads.
  virtual Saved fused_saved() const = 0;

  Saved saved() const final;
  void vjp(const Tensor& output, const Tensor& cotangent, InputGradients& result) const final;
  Tensor jvp(const Tensor& output, std::span<const Tensor> tangents) const final;
  Tensor unfolded(bool make) const final;
  void let_go() final;

 private:
  void require_inputs() const;

  // Without elements: the reference's result, and what it grows from, which are aliases of the inputs.
  mutable Tensor unfolded_;
  mutable std::vector<Tensor> unfolded_inputs_;
};

}  // namespace lockstep
