// The part that optimizers share whose updates look at a parameter as a whole: its norm, its rows, its
// matrix.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lockstep/optim/optimizer.h"

namespace lockstep {

// One parameter in one update. Views of its elements, in its shape.
struct ParameterUpdate {
  size_t index;      // in the table given to allocate
  Tensor parameter;  // changed in place
  Tensor gradient;   // not scaled
  double gradient_scale;
  double learning_rate;  // the segment's factor included
  bool weight_decay;     // whether the segment decays
};

class ParameterOptimizer : public Optimizer {
 public:
  explicit ParameterOptimizer(std::string type) : type_(std::move(type)) {}

  std::string type() const override { return type_; }
  bool whole_parameters() const override { return true; }
  void allocate(const std::vector<ParameterEntry>& parameters, int64_t extent,
                const std::vector<ElementRange>& owned, DType dtype, Backend& backend) final;
  std::vector<OptimizerSlot> slots() final { return slots_; }
  // Error (kInternal) also when a segment ends inside a parameter.
  void update(const UpdateContext& context) final;

 protected:
  // Settings that name parameters are checked here, before declare_state.
  virtual void check_parameters(const std::vector<ParameterEntry>& parameters) const { (void)parameters; }
  // Which state this parameter has, by repeated calls of reserve; also for parameters of other workers.
  virtual void declare_state(size_t index, const ParameterEntry& parameter) = 0;
  // State for the parameter under way in declare_state: a part of the slot of that name.
  void reserve(const std::string& slot, const Shape& shape);
  // The part of a slot that an owned parameter has.
  Tensor state(const std::string& slot, size_t index) const;

  virtual void update_parameter(const ParameterUpdate& update) = 0;
  size_t parameters() const { return parameters_.size(); }
  const ParameterEntry& entry(size_t index) const { return parameters_[index]; }
  // Whether it is this worker that updates the parameter.
  bool owns(size_t index) const { return owned_[index]; }

 private:
  std::string type_;
  static constexpr size_t kNone = static_cast<size_t>(-1);
  // What a parameter has of a slot.
  struct Part {
    size_t entry = kNone;  // of OptimizerSlot::entries
    int64_t position = 0;  // in OptimizerSlot::values, where the parameter is owned
  };

  std::vector<ParameterEntry> parameters_;  // in the order of their offsets
  std::vector<bool> owned_;                 // by parameter
  std::vector<OptimizerSlot> slots_;
  std::vector<std::vector<Part>> parts_;  // by slot and parameter
  int64_t extent_ = 0;
  DType dtype_ = DType::kF32;
  size_t declared_ = 0;  // the parameter under way in declare_state
};

}  // namespace lockstep
