// A micro-batch on the device: tensors by name.
#pragma once

#include <cstdint>
#include <vector>

#include "lockstep/data/loader.h"
#include "lockstep/nn/module.h"
#include "lockstep/tensor/named_tensors.h"

namespace lockstep {

struct Batch {
  int64_t number = 0;  // in the global batch
  int64_t valid = 0;   // samples that are not padding
  // (B, shape of a sample's...), real numbers in the type of the parameters: those of
  // DataDescription::fields().
  NamedTensors tensors;

  const Tensor& inputs() const { return tensors.at(kInputsName); }  // (B, sample...)
  const Tensor& targets() const {
    return tensors.at(kTargetsName);
  }  // (B, positions...), or with a width behind
  // (B, positions...), what each target counts; undefined where each counts 1.
  Tensor weights() const {
    const Tensor* found = tensors.find(kWeightsName);
    return found == nullptr ? Tensor() : *found;
  }
  size_t bytes() const;  // of all tensors
};

// The type that the elements of a field have on the device, where real numbers are of `dtype`.
DType device_dtype(const Field& field, DType dtype);
// (samples, shape of the field)
Shape batch_shape(const Field& field, int64_t samples);

// Makes of features as they are stored, uint8 or fp16, what a model gets: the conversion is the device's, so
// that what travels to it is narrow. The bits are those of widen_features().
class FeatureWidening {
 public:
  // Of `elements` features, to fp32 or fp64. All memory is taken here, by the backend's own queue.
  FeatureWidening(const Field& field, int64_t elements, DType dtype, Backend& backend);
  // By entries of `queue`, from and to memory of the device.
  void issue(Backend& queue, const void* from, Tensor& to);

 private:
  DType stored_;
  Tensor scale_, divisor_;  // (1) fp32; undefined: 1
  Tensor single_;           // fp32, on the way to fp64
};

// A micro-batch by itself, with weights where there is padding.
Batch to_device(const MicroBatch& batch, DType dtype, Backend& backend);

// What the model makes of the batch, whose tensors it may also read by name (ForwardContext::batch).
Tensor forward(const Module& model, const Batch& batch, ForwardContext& context);

}  // namespace lockstep
