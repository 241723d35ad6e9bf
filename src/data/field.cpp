// Places of fields.
#include "lockstep/data/field.h"

#include <fmt/format.h>

#include <cstring>

#include "lockstep/core/error.h"
#include "lockstep/core/half_precision.h"

namespace lockstep {

void widen_features(const Field& field, const std::byte* from, int64_t count, float* to) {
  // Multiplying by one changes nothing and costs less than asking; a division by one costs too much.
  const auto widen = [&]<class T>(const T* values) {
    const float scale = field.scale, divisor = field.divisor;
    if (divisor == 1.0f) {
      for (int64_t i = 0; i < count; ++i) to[i] = static_cast<float>(values[i]) * scale;
    } else {
      for (int64_t i = 0; i < count; ++i) to[i] = static_cast<float>(values[i]) * scale / divisor;
    }
  };
  switch (field.dtype) {
    case DType::kU8:
      return widen(reinterpret_cast<const uint8_t*>(from));
    case DType::kF16:
      return widen(reinterpret_cast<const Float16*>(from));
    default:
      std::memcpy(to, from, static_cast<size_t>(count) * sizeof(float));
  }
}

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

SampleBuffers SampleBuffers::with_inputs(void* place, const Field& inputs) const {
  SampleBuffers other = *this;
  other.places_[0] = {static_cast<std::byte*>(place), inputs.bytes()};
  return other;
}

}  // namespace lockstep
