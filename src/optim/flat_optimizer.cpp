// Runs a flat update kernel over the segments of the parameter array.
#include "optim/flat_optimizer.h"

#include <fmt/format.h>

#include <utility>

#include "core/error.h"

namespace lockstep {

FlatOptimizer::FlatOptimizer(std::string type, UpdateFormula formula, std::vector<std::string> array_names,
                             double weight_decay)
    : type_(std::move(type)), formula_(formula), weight_decay_(weight_decay) {
  for (std::string& name : array_names) arrays_.push_back({std::move(name), Tensor()});
}

void FlatOptimizer::allocate(int64_t extent, DType dtype, Backend& backend) {
  extent_ = extent;
  dtype_ = dtype;
  for (OptimizerSlot& array : arrays_) array.values = Tensor::zeros({extent}, dtype, backend);
}

void FlatOptimizer::check_segments(std::span<const UpdateSegment> segments) const {
  for (const UpdateSegment& segment : segments) {
    if (segment.begin < 0 || segment.begin > segment.end || segment.end > extent_) {
      fail(ErrorKind::kInternal, fmt::format("{}: segment must lie in [0, {}): [{}, {})", type_, extent_,
                                             segment.begin, segment.end));
    }
  }
}

void FlatOptimizer::update(const UpdateContext& context) {
  Tensor parameters = context.parameters;
  if (parameters.elements() != extent_ || context.gradients.elements() < extent_) {
    fail(ErrorKind::kInternal,
         fmt::format("{}: allocated for {} elements: {} parameters, {} gradients", type_, extent_,
                     parameters.elements(), context.gradients.elements()));
  }
  if (parameters.dtype() != dtype_ || context.gradients.dtype() != dtype_) {
    fail(ErrorKind::kInternal,
         fmt::format("{}: allocated for {}: parameters {}, gradients {}", type_, name_of(dtype_),
                     name_of(parameters.dtype()), name_of(context.gradients.dtype())));
  }
  check_segments(context.segments);

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
