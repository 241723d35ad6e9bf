// Walks over the parameters of the segments, and lays out the state that each asks for.
#include "lockstep/optim/parameter_optimizer.h"

#include <fmt/format.h>

#include <algorithm>

#include "lockstep/core/error.h"
#include "lockstep/optim/update_checks.h"

namespace lockstep {

void ParameterOptimizer::allocate(const std::vector<ParameterEntry>& parameters, int64_t extent,
                                  const std::vector<ElementRange>& owned, DType dtype, Backend& backend) {
  check_parameters(parameters);
  parameters_ = parameters;
  if (!std::ranges::is_sorted(parameters_, {}, &ParameterEntry::offset)) {
    fail(ErrorKind::kInternal, fmt::format("{}: parameters must be in the order of their offsets", type_));
  }
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
    owned_.push_back(common > 0);
  }
  for (declared_ = 0; declared_ < parameters_.size(); ++declared_) {
    declare_state(declared_, parameters_[declared_]);
  }
  for (size_t s = 0; s < slots_.size(); ++s) {
    int64_t extent_here = 0;
    for (size_t i = 0; i < parameters_.size(); ++i) {
      Part& part = parts_[s][i];
      if (part.entry == kNone || !owned_[i]) continue;
      part.position = extent_here;
      extent_here += slots_[s].entries[part.entry].shape.elements();
    }
    slots_[s].values = Tensor::zeros({extent_here}, dtype, backend);
  }
}

void ParameterOptimizer::reserve(const std::string& name, const Shape& shape) {
  size_t s = 0;
  while (s < slots_.size() && slots_[s].name != name) ++s;
  if (s == slots_.size()) {
    slots_.push_back({name, Tensor(), {}});
    parts_.emplace_back(parameters_.size());
  }
  std::vector<SlotEntry>& entries = slots_[s].entries;
  const int64_t offset = entries.empty() ? 0 : entries.back().offset + entries.back().shape.elements();
  parts_[s][declared_].entry = entries.size();
  entries.push_back({parameters_[declared_].name, shape, offset});
}

Tensor ParameterOptimizer::state(const std::string& name, size_t index) const {
  for (size_t s = 0; s < slots_.size(); ++s) {
    const Part& part = parts_[s].at(index);
    if (slots_[s].name == name && part.entry != kNone) {
      return slots_[s].values.view(slots_[s].entries[part.entry].shape, part.position);
    }
  }
  fail(ErrorKind::kInternal, fmt::format("{}: {} has no {}", type_, parameters_[index].name, name));
}

void ParameterOptimizer::update(const UpdateContext& context) {
  check_update_context(type_, context, extent_, dtype_);
  // Calls function with the index of each parameter that has elements in the segment.
  const auto each_within = [this](const UpdateSegment& segment, const auto& function) {
    const auto first = std::ranges::partition_point(parameters_, [&](const ParameterEntry& entry) {
      return entry.offset + entry.shape.elements() <= segment.begin;
    });
    for (size_t i = static_cast<size_t>(first - parameters_.begin());
         i < parameters_.size() && parameters_[i].offset < segment.end; ++i) {
      function(i, parameters_[i]);
    }
  };
  for (const UpdateSegment& segment : context.segments) {
    each_within(segment, [&](size_t, const ParameterEntry& entry) {
      const int64_t end = entry.offset + entry.shape.elements();
      if (entry.offset < segment.begin || end > segment.end) {
        fail(ErrorKind::kInternal, fmt::format("{}: segment [{}, {}) must not cut {}: [{}, {})", type_,
                                               segment.begin, segment.end, entry.name, entry.offset, end));
      }
    });
  }
  for (const UpdateSegment& segment : context.segments) {
    each_within(segment, [&](size_t i, const ParameterEntry& entry) {
      if (!owned_[i]) return;
      update_parameter({i, context.parameters.view(entry.shape, entry.offset),
                        context.gradients.view(entry.shape, entry.offset), context.gradient_scale,
                        context.learning_rate * segment.learning_rate_factor, segment.weight_decay});
    });
  }
  ++updates_;
}

}  // namespace lockstep
