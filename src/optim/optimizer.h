// Optimizers: update rules over the flat parameter array.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "lockstep/core/configuration.h"
#include "lockstep/parallel/parameter_shards.h"
#include "lockstep/tensor/parameter_store.h"
#include "lockstep/tensor/tensor.h"

namespace lockstep {

// A run of consecutive elements of the flat arrays that are updated with the same settings.
struct UpdateSegment {
  int64_t begin = 0, end = 0;  // elements of the flat arrays
  double learning_rate_factor = 1.0;
  bool weight_decay = true;  // false for biases and norms when optimizer.decay_biases = false
};

// What one update sees.
struct UpdateContext {
  Tensor parameters = {};       // (parameter_extent), changed in place
  Tensor gradients = {};        // (>= parameter_extent), not scaled
  double gradient_scale = 1.0;  // 1/count, unscaling and clip factor in one; multiply gradients by it first
  double learning_rate = 0.0;   // of this step, from the schedule
  std::span<const UpdateSegment> segments = {};
  // Both null, or, of an update that is prearranged(), both in the memory of the parameters' backend.
  // verdict: on this step, whether there is an update and what gradients are multiplied by beside
  // gradient_scale. rows: the scalars of this update, as write_rows() put them there, a row a segment;
  // learning_rate is not looked at then.
  const StepState* verdict = nullptr;
  const double* rows = nullptr;
  // (parameter_extent) bf16 or fp16, of fp32 parameters: their copy, which an update that lowers() changes
  // with them where this worker owns them. Undefined: none.
  Tensor lowered = {};
};

// Where a slot that is not laid out as the parameters are keeps the state of one of them.
struct SlotEntry {
  std::string parameter;
  Shape shape;
  int64_t offset = 0;  // elements from the start of the whole slot
};

// A named state array in the parameters' dtype, initially zero; stored in checkpoints.
struct OptimizerSlot {
  std::string name;                // "first_moment"
  Tensor values;                   // what this worker owns of the whole slot, part behind part
  std::vector<SlotEntry> entries;  // of the whole slot; empty: it is parallel to the parameters
};

class Minimizer;
class DiagonalCurvature;
class LayerCurvature;

// Of an optimizer that looks at the objective by itself before it moves (optim/minimizing.h).
struct Minimization {
  Minimizer* minimizer = nullptr;
  double tolerance = 0.0;  // largest |element| of the gradient at which it has converged
  std::string asked_by;    // the key and value that make it one, for messages
};

class Optimizer {
 public:
  virtual ~Optimizer() = default;
  virtual std::string type() const = 0;

  // Allocates slots for arrays of `extent` elements that hold the given parameters, as far as they are
  // `owned`: ascending ranges, which cut no parameter where whole_parameters(). The rest is another worker's,
  // and left alone by everything below. Called once before the first update.
  virtual void allocate(const std::vector<ParameterEntry>& parameters, int64_t extent,
                        const std::vector<ElementRange>& owned, DType dtype, Backend& backend) = 0;
  virtual std::vector<OptimizerSlot> slots() = 0;
  // What slots() gave has been filled from a checkpoint. Most keep those very tensors.
  virtual void slots_restored(const std::vector<OptimizerSlot>& slots) { (void)slots; }

  // Moves the parameters to where the gradient is to be taken (Nesterov's look-ahead); update() undoes it.
  // Most do nothing. learning_rate and segments: those of the update that follows. Returns whether it moved
  // them.
  virtual bool before_gradient(Tensor& parameters, double learning_rate,
                               std::span<const UpdateSegment> segments) {
    (void)parameters;
    (void)learning_rate;
    (void)segments;
    return false;
  }
  // While before_gradient has moved them: the parameters themselves, where this worker has all of them.
  // Undefined else.
  virtual Tensor origin() const { return {}; }
  // Undoes before_gradient without an update (a skipped step). Returns whether it moved the parameters.
  virtual bool cancel_gradient(Tensor& parameters) {
    (void)parameters;
    return false;
  }
  // Whether the scalars of update number u (rates, bias corrections) are a function of u and the learning
  // rate alone. The trainer then writes those of the coming steps into a table in the device's memory, row u
  // mod rows for update u, and the device picks the row: only it knows u early enough, since steps that loss
  // scaling skips count no update.
  virtual bool prearranged() const { return false; }
  static constexpr int64_t kRowSize = 8;  // UpdateArguments::kScalars
  // Those numbers, kRowSize a segment, of the update with number `update`, counted from 0. Only where
  // prearranged().
  virtual void write_rows(int64_t update, double learning_rate, std::span<const UpdateSegment> segments,
                          std::span<double> rows) const {
    (void)update;
    (void)learning_rate;
    (void)segments;
    (void)rows;
  }
  // One step. Splitting the segments differently gives the same bits: between any elements, or between
  // parameters where whole_parameters(). Adds 1 to updates(), but not where the context carries the device's
  // verdict: the host learns it steps later and then calls set_updates(). Error (kInternal) when the context
  // does not fit what was allocated.
  virtual void update(const UpdateContext& context) = 0;

  // Whether update() keeps UpdateContext::lowered up. Others leave it as it is.
  virtual bool lowers() const { return false; }

  // Updates done so far (bias correction); part of the checkpoint.
  int64_t updates() const { return updates_; }
  void set_updates(int64_t updates) { updates_ = updates; }

  // True when an element's update depends on other elements of its parameter, so that no segment may end
  // inside one.
  virtual bool whole_parameters() const { return false; }

  // What updating the parameter costs, in any unit: how those of a sharded optimizer are dealt out where
  // whole_parameters().
  virtual double load(const ParameterEntry& parameter) const {
    return static_cast<double>(parameter.shape.elements());
  }

  // Whether the parameter with this place in the order of offsets is updated together with the one before it,
  // by the same worker. Only where whole_parameters().
  virtual bool joins_previous(size_t index) const {
    (void)index;
    return false;
  }

  // True when one step must see the whole training set (gradient descent).
  virtual bool full_batch() const { return false; }

  // How it steps where update() is not what it does; null for most.
  virtual const Minimization* minimization() const { return nullptr; }

  // Of one that asks for sums over layers (optim/layer_curvature.h) before its updates; null for most.
  virtual LayerCurvature* layer_curvature() { return nullptr; }
  // Of one that asks for the diagonal of a second derivative (optim/diagonal_curvature.h); null for most.
  virtual DiagonalCurvature* diagonal_curvature() { return nullptr; }

 protected:
  int64_t updates_ = 0;
};

// A program's own optimizers, by name in optimizer.type. The factory reads its keys of [optimizer]. Error
// (kUsage) when the name is taken.
using OptimizerFactory = std::function<std::unique_ptr<Optimizer>(Section& section)>;
void register_optimizer(const std::string& type, OptimizerFactory factory);

std::vector<std::string> optimizer_types();
// Reads optimizer.type (default "adam") and that type's keys, documented at its make function; Error (kUsage)
// for bad values. optimizer.learning_rate belongs to the schedule's caller.
std::unique_ptr<Optimizer> make_optimizer(Section& section);
// The same, of the given type, one of optimizer_types(), whatever optimizer.type says: how `config
// --describe` lists every type's keys.
std::unique_ptr<Optimizer> make_optimizer(Section& section, const std::string& type);

}  // namespace lockstep
