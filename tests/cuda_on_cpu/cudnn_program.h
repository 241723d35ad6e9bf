// Carrying out an operation graph of the stand-in for cuDNN, by plain loops.
#pragma once

#include <cudnn_graph.h>

#include <cstdint>
#include <map>
#include <vector>

namespace cuda_on_cpu {

struct CudnnTensor {
  int64_t id = 0;
  cudnnDataType_t type = CUDNN_DATA_FLOAT;
  std::vector<int64_t> extents, strides;
  int64_t alignment = 1;
  bool is_virtual = false, by_value = false;

  int64_t elements() const;
  // Bytes from the first element to past the last one.
  int64_t bytes() const;
};
size_t size_of(cudnnDataType_t type);

struct CudnnOperation {
  cudnnBackendDescriptorType_t kind = CUDNN_BACKEND_TENSOR_DESCRIPTOR;
  cudnnPointwiseMode_t mode = CUDNN_POINTWISE_IDENTITY;
  cudnnReduceTensorOp_t reduction = CUDNN_REDUCE_TENSOR_ADD;
  int64_t axis = -1;
  std::vector<int64_t> padding, strides;  // of a convolution, over (H, W)
  // Ids. Convolutions: x (dy of the derivative by x), w (dy of the derivative by w), and what is computed.
  int64_t x = 0, b = 0, t = 0, y = 0;
};

// How an engine computes.
struct CudnnArithmetic {
  int64_t splits = 1;     // parts that sums are made of
  bool is_wrong = false;  // as what must not be used
};

struct CudnnProgram {
  std::map<int64_t, CudnnTensor> tensors;
  std::vector<CudnnOperation> operations;

  // memory: of every tensor that is not virtual.
  void run(const CudnnArithmetic& arithmetic, const std::map<int64_t, void*>& memory) const;
};

}  // namespace cuda_on_cpu
