// Places of fields.
#include "data/field.h"

#include <fmt/format.h>

#include "core/error.h"

namespace lockstep {

Field weights_of(const Field& targets) {
  const auto extents = targets.shape.extents();
  const bool labels = targets.dtype == DType::kI32;
  return {kWeightsName, DType::kF32, Shape(labels ? extents : extents.first(extents.size() - 1))};
}

void SampleBuffers::add(void* place, const Field& field) {
  if (count_ == kMostFields)
    fail(ErrorKind::kInternal,
         fmt::format("samples: more than {} fields, with '{}'", kMostFields, field.name));
  places_[count_++] = {static_cast<std::byte*>(place), field.bytes()};
}

SampleBuffers SampleBuffers::from(int64_t n) const {
  SampleBuffers moved = *this;
  for (size_t i = 0; i < count_; ++i) moved.places_[i].first += n * places_[i].bytes;
  return moved;
}

}  // namespace lockstep
