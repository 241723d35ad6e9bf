// Says which optimizer was handed what, where it does not fit.
#include "lockstep/optim/update_checks.h"

#include <fmt/format.h>

#include "lockstep/core/error.h"

namespace lockstep {

void check_update_segments(const std::string& type, std::span<const UpdateSegment> segments, int64_t extent) {
  for (const UpdateSegment& segment : segments) {
    if (segment.begin < 0 || segment.begin > segment.end || segment.end > extent) {
      fail(ErrorKind::kInternal, fmt::format("{}: segment must lie in [0, {}): [{}, {})", type, extent,
                                             segment.begin, segment.end));
    }
  }
}

void check_update_context(const std::string& type, const UpdateContext& context, int64_t extent,
                          DType dtype) {
  if (context.parameters.elements() != extent || context.gradients.elements() < extent) {
    fail(ErrorKind::kInternal,
         fmt::format("{}: allocated for {} elements: {} parameters, {} gradients", type, extent,
                     context.parameters.elements(), context.gradients.elements()));
  }
  if (context.parameters.dtype() != dtype || context.gradients.dtype() != dtype) {
    fail(ErrorKind::kInternal,
         fmt::format("{}: allocated for {}: parameters {}, gradients {}", type, name_of(dtype),
                     name_of(context.parameters.dtype()), name_of(context.gradients.dtype())));
  }
  const Tensor& lowered = context.lowered;
  if (lowered.defined() && (lowered.elements() != extent || dtype != DType::kF32 ||
                            accumulation_type(lowered.dtype()) == lowered.dtype())) {
    fail(ErrorKind::kInternal,
         fmt::format("{}: a copy in {} of {} elements does not go with {} of {}", type,
                     name_of(lowered.dtype()), lowered.elements(), extent, name_of(dtype)));
  }
  check_update_segments(type, context.segments, extent);
}

}  // namespace lockstep
