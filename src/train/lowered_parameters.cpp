// Keeping the copy up, and finding out whether it was.
#include "lockstep/train/lowered_parameters.h"

#include <cstddef>

#include "lockstep/kernels/backend.h"

namespace lockstep {

namespace {

std::vector<std::byte> bytes_of(const Tensor& tensor) {
  std::vector<std::byte> bytes(tensor.bytes());
  if (!bytes.empty()) tensor.backend().copy_to_host(bytes.data(), tensor.data(), bytes.size());
  return bytes;
}

}  // namespace

LoweredParameters::LoweredParameters(const ParameterStore& store, const std::vector<Tensor>& leaves,
                                     DType compute)
    : parameters_(store.values()),
      values_(Tensor::empty({store.parameter_extent()}, compute, store.backend())),
      copies_{compute, {}} {
  for (size_t i = 0; i < leaves.size(); ++i) {
    const ParameterEntry& entry = store.parameters()[i];
    copies_.pairs[leaves[i].node().get()] = {leaves[i], values_.view(entry.shape, entry.offset)};
  }
}

const AutocastScope::Copies& LoweredParameters::current() {
  if (!parameters_.unchanged()) {
    values_.backend().cast(parameters_.dtype(), values_.dtype(), values_.elements(), parameters_.data(),
                           values_.mutable_data());
    parameters_.watch();
  }
  return copies_;
}

bool LoweredParameters::exact() const {
  // Rounded on the host: a device that is full has no room for a second copy.
  const std::vector<std::byte> parameters = bytes_of(parameters_), copy = bytes_of(values_);
  std::vector<std::byte> rounded(copy.size());
  cpu_backend().cast(parameters_.dtype(), values_.dtype(), values_.elements(), parameters.data(),
                     rounded.data());
  return copy == rounded;
}

}  // namespace lockstep
