// Bringing a micro-batch to the device, and a model to a batch.
#include "lockstep/train/batch.h"

#include <span>

namespace lockstep {

size_t Batch::bytes() const {
  size_t sum = 0;
  for (const auto& [name, tensor] : tensors.all()) sum += tensor.bytes();
  return sum;
}

DType device_dtype(const Field& field, DType dtype) {
  return field.dtype == DType::kI32 ? DType::kI32 : dtype;
}

Shape batch_shape(const Field& field, int64_t samples) {
  Shape shape{samples};
  for (const int64_t extent : field.shape.extents()) shape.push_back(extent);
  return shape;
}

namespace {

// A single number, or none where it is 1.
Tensor factor(float value, Backend& backend) {
  return value == 1.0f ? Tensor() : Tensor::full({1}, DType::kF32, backend, value);
}

}  // namespace

FeatureWidening::FeatureWidening(const Field& field, int64_t elements, DType dtype, Backend& backend)
    : stored_(field.dtype), scale_(factor(field.scale, backend)), divisor_(factor(field.divisor, backend)) {
  if (dtype != DType::kF32) single_ = Tensor::empty({elements}, DType::kF32, backend);
}

void FeatureWidening::issue(Backend& queue, const void* from, Tensor& to) {
  const int64_t n = to.elements();
  const bool wider = single_.defined();
  void* const single = wider ? single_.mutable_data() : to.mutable_data();
  queue.cast(stored_, DType::kF32, n, from, single);
  BroadcastPlan plan;
  plan.rank = 1;
  plan.extents[0] = n;
  plan.strides_a[0] = 1;
  if (scale_.defined()) queue.binary(BinaryOp::kMultiply, DType::kF32, plan, single, scale_.data(), single);
  if (divisor_.defined()) queue.binary(BinaryOp::kDivide, DType::kF32, plan, single, divisor_.data(), single);
  if (wider) queue.cast(DType::kF32, to.dtype(), n, single, to.mutable_data());
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
    if (field.narrow()) {
      Tensor stored = Tensor::empty({std::ssize(array.values)}, DType::kU8, backend);
      backend.copy_from_host(stored.mutable_data(), array.values.data(), array.values.size());
      Tensor features = Tensor::empty(batch_shape(field, batch.size), dtype, backend);
      FeatureWidening(field, features.elements(), dtype, backend).issue(backend, stored.data(), features);
      result.tensors.set(field.name, features);
    } else if (field.dtype == DType::kI32) {
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
