// Bringing a micro-batch to the device, and a model to a batch.
#include "train/batch.h"

#include <span>

namespace lockstep {

DType device_dtype(const Field& field, DType dtype) {
  return field.dtype == DType::kI32 ? DType::kI32 : dtype;
}

Shape batch_shape(const Field& field, int64_t samples) {
  Shape shape{samples};
  for (const int64_t extent : field.shape.extents()) shape.push_back(extent);
  return shape;
}

Batch to_device(const MicroBatch& batch, DType dtype, Backend& backend) {
  Batch result;
  result.number = batch.number;
  result.valid = batch.valid;
  const auto add = [&]<class T>(const Field& field, std::span<const T> values) {
    result.tensors.set(
        field.name,
        Tensor::from(batch_shape(field, batch.size), values, backend).converted(device_dtype(field, dtype)));
  };
  for (const MicroBatch::Array& array : batch.arrays) {
    const Field& field = array.field;
    if (field.dtype == DType::kI32) {
      add(field, batch.values<int32_t>(field.name));
    } else {
      add(field, batch.values<float>(field.name));
    }
  }
  if (const std::vector<float> weights = batch.weights(); !weights.empty())
    add(weights_of(batch.field(kTargetsName)), std::span(weights));
  return result;
}

Tensor forward(const Module& model, const Batch& batch, ForwardContext& context) {
  context.batch = &batch.tensors;
  Tensor output = model.forward(batch.inputs(), context);
  context.batch = nullptr;
  return output;
}

}  // namespace lockstep
