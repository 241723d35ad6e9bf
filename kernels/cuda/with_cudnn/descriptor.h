// One object of cuDNN's backend interface: attributes are set by name, finalize() makes it usable.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <utility>
#include <vector>

#include "lockstep/kernels/cuda/with_cudnn/library.h"

namespace lockstep {

// cuDNN has no kernel for what was asked: the caller uses its own.
class CudnnUnsupported : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The type tag that goes with a C++ type in cuDNN's attributes.
template <class T>
struct CudnnAttributeType;
#define LOCKSTEP_CUDNN_ATTRIBUTE(type, tag)                   \
  template <>                                                 \
  struct CudnnAttributeType<type> {                           \
    static constexpr cudnnBackendAttributeType_t value = tag; \
  }
LOCKSTEP_CUDNN_ATTRIBUTE(cudnnHandle_t, CUDNN_TYPE_HANDLE);
LOCKSTEP_CUDNN_ATTRIBUTE(cudnnDataType_t, CUDNN_TYPE_DATA_TYPE);
LOCKSTEP_CUDNN_ATTRIBUTE(bool, CUDNN_TYPE_BOOLEAN);
LOCKSTEP_CUDNN_ATTRIBUTE(int64_t, CUDNN_TYPE_INT64);
LOCKSTEP_CUDNN_ATTRIBUTE(float, CUDNN_TYPE_FLOAT);
LOCKSTEP_CUDNN_ATTRIBUTE(char, CUDNN_TYPE_CHAR);
LOCKSTEP_CUDNN_ATTRIBUTE(cudnnConvolutionMode_t, CUDNN_TYPE_CONVOLUTION_MODE);
LOCKSTEP_CUDNN_ATTRIBUTE(cudnnBackendHeurMode_t, CUDNN_TYPE_HEUR_MODE);
LOCKSTEP_CUDNN_ATTRIBUTE(cudnnBackendKnobType_t, CUDNN_TYPE_KNOB_TYPE);
LOCKSTEP_CUDNN_ATTRIBUTE(cudnnBackendNumericalNote_t, CUDNN_TYPE_NUMERICAL_NOTE);
LOCKSTEP_CUDNN_ATTRIBUTE(cudnnPointwiseMode_t, CUDNN_TYPE_POINTWISE_MODE);
LOCKSTEP_CUDNN_ATTRIBUTE(cudnnReduceTensorOp_t, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE);
LOCKSTEP_CUDNN_ATTRIBUTE(void*, CUDNN_TYPE_VOID_PTR);
#undef LOCKSTEP_CUDNN_ATTRIBUTE

// Where the interface refuses, members throw CudnnUnsupported when cuDNN has no such kernel, else Error
// (kInternal).
class CudnnDescriptor {
 public:
  CudnnDescriptor(const CudnnLibrary& library, cudnnBackendDescriptorType_t type);
  ~CudnnDescriptor() {
    if (handle_ != nullptr) library_->destroy_descriptor(handle_);
  }
  CudnnDescriptor(CudnnDescriptor&& other) noexcept
      : library_(other.library_), type_(other.type_), handle_(std::exchange(other.handle_, nullptr)) {}
  CudnnDescriptor& operator=(CudnnDescriptor&& other) noexcept {
    std::swap(library_, other.library_);
    std::swap(type_, other.type_);
    std::swap(handle_, other.handle_);
    return *this;
  }

  template <class T>
  void set(cudnnBackendAttributeName_t name, const T& value) {
    set(name, CudnnAttributeType<T>::value, 1, &value);
  }
  template <class T>
  void set(cudnnBackendAttributeName_t name, const std::vector<T>& values) {
    set(name, CudnnAttributeType<T>::value, static_cast<int64_t>(values.size()), values.data());
  }
  void set(cudnnBackendAttributeName_t name, const CudnnDescriptor& value) {
    set(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value.handle_);
  }
  void set(cudnnBackendAttributeName_t name, const std::vector<const CudnnDescriptor*>& values);
  void finalize() { check(library_->finalize(handle_), "finalize"); }
  // False where cuDNN cannot, for whatever reason.
  bool try_finalize() { return library_->finalize(handle_) == CUDNN_STATUS_SUCCESS; }

  // The values of an attribute of a finalized object, up to `most`.
  template <class T>
  std::vector<T> get(cudnnBackendAttributeName_t name, int64_t most = 1) const {
    std::vector<T> values(static_cast<size_t>(most));
    values.resize(static_cast<size_t>(get(name, CudnnAttributeType<T>::value, most, values.data())));
    return values;
  }
  // The objects of type `type` that an attribute holds, up to `most`.
  std::vector<CudnnDescriptor> get(cudnnBackendAttributeName_t name, cudnnBackendDescriptorType_t type,
                                   int64_t most = 1) const;
  // How many values an attribute has. Not every attribute says so.
  int64_t count(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type) const {
    return get(name, type, 0, nullptr);
  }

  cudnnBackendDescriptor_t handle() const { return handle_; }

 private:
  void set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t count,
           const void* values);
  // Answers how many values were written.
  int64_t get(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t count,
              void* values) const;
  void check(cudnnStatus_t status, const char* what, int attribute = -1) const;

  const CudnnLibrary* library_;
  cudnnBackendDescriptorType_t type_;
  cudnnBackendDescriptor_t handle_ = nullptr;
};

}  // namespace lockstep
