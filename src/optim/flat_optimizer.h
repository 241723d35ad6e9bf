// The part that optimizers made of one flat kernel share: state arrays, and one kernel call for all
// neighbouring segments.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "lockstep/kernels/backend.h"
#include "lockstep/optim/optimizer.h"

namespace lockstep {

class FlatOptimizer : public Optimizer {
 public:
  // array_names: the state arrays of `formula`, in the order of UpdateArguments::slots.
  FlatOptimizer(std::string type, UpdateFormula formula, std::vector<std::string> array_names,
                double weight_decay);

  std::string type() const override { return type_; }
  void allocate(const std::vector<ParameterEntry>& parameters, int64_t extent,
                const std::vector<ElementRange>& owned, DType dtype, Backend& backend) override;
  std::vector<OptimizerSlot> slots() override { return arrays_; }
  void update(const UpdateContext& context) override;
  bool prearranged() const override { return true; }
  bool lowers() const override { return true; }
  void write_rows(int64_t update, double learning_rate, std::span<const UpdateSegment> segments,
                  std::span<double> rows) const override;

 protected:
  // Sets the formula's scalars from index 2 on (kernels/math/update.h) for the update with number `update`,
  // 0-based. 0 and 1, learning rate and weight decay, are set here, segment by segment.
  virtual void set_scalars(int64_t update, double* scalars) const {
    (void)update;
    (void)scalars;
  }

  // Calls use(segment, elements, position) for the elements of each segment that this worker owns, run by
  // run; position: where their state begins in the arrays. Error (kInternal) unless every segment lies within
  // the extent.
  void for_owned(
      std::span<const UpdateSegment> segments,
      const std::function<void(const UpdateSegment&, const ElementRange&, int64_t position)>& use) const;
  const std::vector<ElementRange>& owned() const { return owned_; }

  std::vector<OptimizerSlot> arrays_;

 private:
  // Their ends, in ends_.
  void place_ends(std::span<const UpdateSegment> segments, Backend& backend);

  std::string type_;
  UpdateFormula formula_;
  double weight_decay_;
  int64_t extent_ = 0;
  std::vector<ElementRange> owned_;
  DType dtype_ = DType::kF32;
  std::vector<int64_t> placed_ends_;
  Tensor ends_;  // (segments) i64, in the memory of the parameters
};

}  // namespace lockstep
