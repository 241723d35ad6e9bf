// Walks over the parameters of the segments, and lays out the state that each asks for.
#include "optim/parameter_optimizer.h"

#include <fmt/format.h>

#include "core/error.h"
#include "optim/update_checks.h"

namespace lockstep {

void ParameterOptimizer::allocate(const std::vector<ParameterEntry>& parameters, int64_t extent,
                                  const std::vector<ElementRange>& owned, DType dtype, Backend& backend) {
  check_parameters(parameters);
  parameters_ = parameters;
  extent_ = extent;
  dtype_ = dtype;
  for (const ParameterEntry& entry : parameters_) {
    const ElementRange elements{entry.offset, entry.offset + entry.shape.elements()};
    int64_t common = 0;
    for (const ElementRange& range : owned) common += overlap(range, elements).size();
    if (common != 0 && common != elements.size()) {
      fail(ErrorKind::kInternal,
           fmt::format("{}: a worker must own the whole of {} or nothing of it: {} of {} elements", type_,
                       entry.name, common, elements.size()));
    }
    if (common > 0) owned_.insert(entry.name);
  }
  for (declared_ = 0; declared_ < parameters_.size(); ++declared_) {
    declare_state(declared_, parameters_[declared_]);
  }
  for (OptimizerSlot& slot : slots_) {
    int64_t extent_here = 0;
    for (const SlotEntry& entry : slot.entries) {
      if (owned_.contains(entry.parameter)) extent_here += entry.shape.elements();
    }
    slot.values = Tensor::zeros({extent_here}, dtype, backend);
  }
}

void ParameterOptimizer::reserve(const std::string& name, const Shape& shape) {
  const std::string& parameter = parameters_[declared_].name;
  for (OptimizerSlot& slot : slots_) {
    if (slot.name != name) continue;
    const SlotEntry& last = slot.entries.back();
    slot.entries.push_back({parameter, shape, last.offset + last.shape.elements()});
    return;
  }
  slots_.push_back({name, Tensor(), {{parameter, shape, 0}}});
}

Tensor ParameterOptimizer::state(const std::string& name, size_t index) const {
  for (const OptimizerSlot& slot : slots_) {
    if (slot.name != name) continue;
    int64_t position = 0;
    for (const SlotEntry& entry : slot.entries) {
      if (entry.parameter == parameters_[index].name) return slot.values.view(entry.shape, position);
      if (owned_.contains(entry.parameter)) position += entry.shape.elements();
    }
  }
  fail(ErrorKind::kInternal, fmt::format("{}: {} has no {}", type_, parameters_[index].name, name));
}

void ParameterOptimizer::update(const UpdateContext& context) {
  check_update_context(type_, context, extent_, dtype_);
  const auto overlaps = [](const ParameterEntry& entry, const UpdateSegment& segment) {
    return entry.offset < segment.end && entry.offset + entry.shape.elements() > segment.begin;
  };
  for (const UpdateSegment& segment : context.segments) {
    for (const ParameterEntry& entry : parameters_) {
      const int64_t end = entry.offset + entry.shape.elements();
      if (overlaps(entry, segment) && (entry.offset < segment.begin || end > segment.end)) {
        fail(ErrorKind::kInternal, fmt::format("{}: segment [{}, {}) must not cut {}: [{}, {})", type_,
                                               segment.begin, segment.end, entry.name, entry.offset, end));
      }
    }
  }
  for (const UpdateSegment& segment : context.segments) {
    for (size_t i = 0; i < parameters_.size(); ++i) {
      const ParameterEntry& entry = parameters_[i];
      if (!overlaps(entry, segment) || !owned_.contains(entry.name)) continue;
      update_parameter({i, context.parameters.view(entry.shape, entry.offset),
                        context.gradients.view(entry.shape, entry.offset), context.gradient_scale,
                        context.learning_rate * segment.learning_rate_factor, segment.weight_decay});
    }
  }
  ++updates_;
}

}  // namespace lockstep
