// Runs a flat update kernel over the segments of the parameter array.
#include "optim/flat_optimizer.h"

#include <utility>

#include "optim/update_checks.h"

namespace lockstep {

FlatOptimizer::FlatOptimizer(std::string type, UpdateFormula formula, std::vector<std::string> array_names,
                             double weight_decay)
    : type_(std::move(type)), formula_(formula), weight_decay_(weight_decay) {
  for (std::string& name : array_names) arrays_.push_back({std::move(name), Tensor(), {}});
}

void FlatOptimizer::allocate(const std::vector<ParameterEntry>&, int64_t extent, DType dtype,
                             Backend& backend) {
  extent_ = extent;
  dtype_ = dtype;
  for (OptimizerSlot& array : arrays_) array.values = Tensor::zeros({extent}, dtype, backend);
}

void FlatOptimizer::check_segments(std::span<const UpdateSegment> segments) const {
  check_update_segments(type_, segments, extent_);
}

void FlatOptimizer::update(const UpdateContext& context) {
  Tensor parameters = context.parameters;
  check_update_context(type_, context, extent_, dtype_);

  UpdateArguments arguments;
  arguments.dtype = dtype_;
  arguments.gradient_scale = context.gradient_scale;
  set_scalars(arguments.scalars);
  auto* parameter_bytes = static_cast<std::byte*>(parameters.mutable_data());
  const auto* gradient_bytes = static_cast<const std::byte*>(context.gradients.data());
  for (const UpdateSegment& segment : context.segments) {
    const size_t offset = static_cast<size_t>(segment.begin) * size_of(dtype_);
    arguments.n = segment.end - segment.begin;
    arguments.parameters = parameter_bytes + offset;
    arguments.gradients = gradient_bytes + offset;
    for (size_t i = 0; i < arrays_.size(); ++i) {
      arguments.slots[i] = static_cast<std::byte*>(arrays_[i].values.mutable_data()) + offset;
    }
    arguments.scalars[0] = context.learning_rate * segment.learning_rate_factor;
    arguments.scalars[1] = segment.weight_decay ? weight_decay_ : 0.0;
    parameters.backend().update(formula_, arguments);
  }
  ++updates_;
}

}  // namespace lockstep
