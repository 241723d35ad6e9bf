// Objects of cuDNN's backend interface, and what its statuses mean.
#include "lockstep/kernels/cuda/with_cudnn/descriptor.h"

#include <algorithm>
#include <array>
#include <string>

#include "lockstep/core/error.h"

namespace lockstep {

std::string CudnnLibrary::name() const {
  const size_t number = version();
  return "cuDNN " + std::to_string(number / 10000) + "." + std::to_string(number / 100 % 100) + "." +
         std::to_string(number % 100) + ", " + compiler;
}

std::string CudnnLibrary::explain(cudnnStatus_t status) const {
  std::array<char, 1024> text = {};
  last_error_string(text.data(), text.size());
  std::string line = std::string(error_string(status)) + ": " + text.data();
  std::replace(line.begin(), line.end(), '\n', ' ');
  return line;
}

CudnnDescriptor::CudnnDescriptor(const CudnnLibrary& library, cudnnBackendDescriptorType_t type)
    : library_(&library), type_(type) {
  check(library.create_descriptor(type, &handle_), "create");
}

void CudnnDescriptor::check(cudnnStatus_t status, const char* what, int attribute) const {
  if (status == CUDNN_STATUS_SUCCESS) return;
  std::string message = library_->name() + ": " + what + ": object of type " + std::to_string(type_);
  if (attribute >= 0) message += ", attribute " + std::to_string(attribute);
  message += ": " + library_->explain(status);
  constexpr int kCategory = 1000;  // of statuses
  if (status / kCategory == CUDNN_STATUS_NOT_SUPPORTED / kCategory) throw CudnnUnsupported(message);
  fail(ErrorKind::kInternal, "cuda: " + message);
}

void CudnnDescriptor::set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t count,
                          const void* values) {
  check(library_->set_attribute(handle_, name, type, count, values), "set", name);
}

void CudnnDescriptor::set(cudnnBackendAttributeName_t name,
                          const std::vector<const CudnnDescriptor*>& values) {
  std::vector<cudnnBackendDescriptor_t> handles;
  for (const CudnnDescriptor* value : values) handles.push_back(value->handle_);
  set(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, static_cast<int64_t>(handles.size()), handles.data());
}

int64_t CudnnDescriptor::get(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                             int64_t count, void* values) const {
  int64_t written = 0;
  check(library_->get_attribute(handle_, name, type, count, &written, values), "get", name);
  return written;
}

std::vector<CudnnDescriptor> CudnnDescriptor::get(cudnnBackendAttributeName_t name,
                                                  cudnnBackendDescriptorType_t type, int64_t most) const {
  std::vector<CudnnDescriptor> values;
  std::vector<cudnnBackendDescriptor_t> handles;
  for (int64_t i = 0; i < most; ++i) handles.push_back(values.emplace_back(*library_, type).handle_);
  const int64_t written = get(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, most, handles.data());
  while (static_cast<int64_t>(values.size()) > written) values.pop_back();
  return values;
}

}  // namespace lockstep
