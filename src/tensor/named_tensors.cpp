// Looking for tensors by name.
#include "lockstep/tensor/named_tensors.h"

#include <fmt/format.h>

#include <algorithm>

#include "lockstep/core/error.h"

namespace lockstep {

void NamedTensors::set(const std::string& name, Tensor tensor) {
  const auto found = std::ranges::find_if(tensors_, [&](const auto& entry) { return entry.first == name; });
  if (found == tensors_.end()) {
    if (tensor.defined()) tensors_.emplace_back(name, std::move(tensor));
  } else if (tensor.defined()) {
    found->second = std::move(tensor);
  } else {
    tensors_.erase(found);
  }
}

const Tensor* NamedTensors::find(const std::string& name) const {
  for (const auto& [known, value] : tensors_) {
    if (known == name) return &value;
  }
  return nullptr;
}

const Tensor& NamedTensors::at(const std::string& name) const {
  if (const Tensor* found = find(name)) return *found;
  std::string known;
  for (const auto& entry : tensors_) known += (known.empty() ? "" : ", ") + entry.first;
  fail(ErrorKind::kUsage, fmt::format("batch: has no '{}': it has {}", name, known));
}

}  // namespace lockstep
