// The part that optimizers made of one flat kernel share: state arrays, and one kernel call a segment.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "optim/optimizer.h"

namespace lockstep {

class FlatOptimizer : public Optimizer {
 public:
  // array_names: the state arrays of `formula`, in the order of UpdateArguments::slots.
  FlatOptimizer(std::string type, UpdateFormula formula, std::vector<std::string> array_names,
                double weight_decay);

  std::string type() const override { return type_; }
  void allocate(const std::vector<ParameterEntry>& parameters, int64_t extent, DType dtype,
                Backend& backend) override;
  std::vector<OptimizerSlot> slots() override { return arrays_; }
  void update(const UpdateContext& context) override;

 protected:
  // Sets the formula's scalars from index 2 on (kernels/math/update.h) for the update with number updates(),
  // 0-based. 0 and 1, learning rate and weight decay, are set here, segment by segment.
  virtual void set_scalars(double (&scalars)[8]) const { (void)scalars; }

  // Error (kInternal) unless every segment lies within the allocated extent.
  void check_segments(std::span<const UpdateSegment> segments) const;

  std::vector<OptimizerSlot> arrays_;

 private:
  std::string type_;
  UpdateFormula formula_;
  double weight_decay_;
  int64_t extent_ = 0;
  DType dtype_ = DType::kF32;
};

}  // namespace lockstep
