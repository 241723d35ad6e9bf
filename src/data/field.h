// What a sample is made of: arrays with names, and where gathered samples put them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "lockstep/core/dtype.h"
#include "lockstep/core/shape.h"

namespace lockstep {

// Names of fields that every part of a run knows; any others are between a source and a model.
inline constexpr const char* kInputsName = "inputs";
inline constexpr const char* kTargetsName = "targets";
inline constexpr const char* kWeightsName = "weights";
// Of windows of text: which document of the window each input is of, 0, 1, ... in their order.
inline constexpr const char* kDocumentsName = "documents";

// One array of each sample.
struct Field {
  std::string name;
  DType dtype = DType::kF32;  // kF32 or kI32; of features also kU8 and kF16
  Shape shape;                // of one sample; (): a single number
  // Of kU8 and kF16: a model gets value * scale / divisor, in fp32.
  float scale = 1.0f, divisor = 1.0f;

  bool narrow() const { return dtype == DType::kU8 || dtype == DType::kF16; }

  int64_t bytes() const { return shape.elements() * static_cast<int64_t>(size_of(dtype)); }
  bool operator==(const Field&) const = default;
};

// `count` features as they are stored to what a model gets.
void widen_features(const Field& field, const std::byte* from, int64_t count, float* to);

// The field of weights that belongs to targets: one for each label, or row of real numbers.
Field weights_of(const Field& targets);

// Where gathered samples go: a place for each field, in the order of DataDescription::fields(), which holds
// the field of one sample behind that of the other. Allocates nothing.
class SampleBuffers {
 public:
  static constexpr size_t kMostFields = 8;

  // The place of the next field. Error (kInternal) when there are more than kMostFields.
  void add(void* place, const Field& field);
  // Of a field by its number; null where there is none.
  template <class T>
  T* at(size_t field) const {
    return field < count_ ? reinterpret_cast<T*>(places_[field].first) : nullptr;
  }
  // From the n-th sample on.
  SampleBuffers from(int64_t n) const;
  // With another place for inputs, which are the first field.
  SampleBuffers with_inputs(void* place, const Field& inputs) const;

 private:
  struct Place {
    std::byte* first = nullptr;
    int64_t bytes = 0;  // of a sample
  };
  std::array<Place, kMostFields> places_{};
  size_t count_ = 0;
};

}  // namespace lockstep
