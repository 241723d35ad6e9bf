// Operation graphs: what cuDNN is to compute. Arrays are strided; those in memory are named by ids, and what
// lies between the operations exists inside the library's kernels alone.
#pragma once

#include <algorithm>
#include <deque>
#include <vector>

#include "lockstep/core/dtype.h"
#include "lockstep/kernels/backend.h"
#include "lockstep/kernels/cuda/with_cudnn/descriptor.h"

namespace lockstep {

// Bytes that the addresses of all arrays are multiples of. Engines take less, and some refuse to run then.
inline constexpr int64_t kCudnnAlignment = 16;

using CudnnExtents = std::vector<int64_t>;

// Of the floating types that cuDNN serves here: fp32, bf16, fp16.
cudnnDataType_t cudnn_type(DType dtype);

class CudnnGraph {
 public:
  using Array = const CudnnDescriptor&;  // lives as long as the graph

  explicit CudnnGraph(const CudnnLibrary& library)
      : library_(library), graph_(library, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR) {}

  // An array in memory, which begins at a multiple of kCudnnAlignment.
  Array array(int64_t id, cudnnDataType_t type, const CudnnExtents& extents, const CudnnExtents& strides);
  // An array that no memory holds.
  Array between(cudnnDataType_t type, const CudnnExtents& extents, const CudnnExtents& strides);
  // One fp32 number in host memory, read when the plan is run.
  Array scalar(int64_t id, size_t rank);

  // Convolutions are cross-correlations of (N, C, H, W) views, summed in fp32.
  void convolution(const ConvolutionArguments& arguments, Array x, Array w, Array y);
  void convolution_backward_data(const ConvolutionArguments& arguments, Array dy, Array w, Array dx);
  void convolution_backward_weights(const ConvolutionArguments& arguments, Array x, Array dy, Array dw);
  // y = mode(x) or mode(x, b), computed in `precision`; BINARY_SELECT: where is t ? x : b. axis: of
  // GEN_INDEX.
  struct Pointwise {
    const CudnnDescriptor* b = nullptr;
    const CudnnDescriptor* t = nullptr;
    cudnnDataType_t precision = CUDNN_DATA_FLOAT;
    int64_t axis = -1;
  };
  void pointwise(cudnnPointwiseMode_t mode, Array x, Array y, const Pointwise& options);
  void matmul(Array a, Array b, Array c);                          // over the last two axes
  void reduce(cudnnReduceTensorOp_t operation, Array x, Array y);  // axes of y that have extent 1
  void reshape(Array x, Array y);  // the elements of x seen through y's extents and strides

  // Whether an array or a number of that id is one of the graph's.
  bool has(int64_t id) const { return std::find(ids_.begin(), ids_.end(), id) != ids_.end(); }

  // No more operations follow. handle: of the device, or null when it is given by its properties.
  const CudnnDescriptor& finalize(cudnnHandle_t handle);

 private:
  Array add(CudnnDescriptor&& descriptor);
  CudnnDescriptor convolution_description(const ConvolutionArguments& arguments);
  CudnnDescriptor tensor(int64_t id, cudnnDataType_t type, const CudnnExtents& extents,
                         const CudnnExtents& strides, int64_t alignment);
  void operation(CudnnDescriptor&& descriptor);

  const CudnnLibrary& library_;
  std::deque<CudnnDescriptor> parts_;
  std::vector<const CudnnDescriptor*> operations_;
  std::vector<int64_t> ids_;  // of what is bound to memory
  int64_t unnamed_ = 1000;    // ids of what lies between
  CudnnDescriptor graph_;
};

}  // namespace lockstep
