// What cuDNN computes for a queue, where the build and the machine have the library. kernels/cuda/with_cudnn
// implements it; kernels/cuda/without_cudnn stands for it in builds without cuDNN's headers.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <string>

#include "lockstep/kernels/backend.h"

namespace lockstep {

class PlanTable;

// Calls are the backend's, with the same arguments. Each answers whether it was carried out: cuDNN does not
// serve every type and shape, and what it serves is a function of the call, the library and the model of GPU.
// Only engines are used that give the same bits every time, sum in fp32 and never lower fp32 inputs to TF32.
class Cudnn {
 public:
  virtual ~Cudnn() = default;

  // bias: of the dtype of y.
  virtual bool convolution(const ConvolutionArguments& arguments, const void* x, const void* weights,
                           const void* bias, void* y) = 0;
  virtual bool convolution_backward_data(const ConvolutionArguments& arguments, const void* dy,
                                         const void* weights, void* dx) = 0;
  virtual bool convolution_backward_weights(const ConvolutionArguments& arguments, const void* x,
                                            const void* dy, void* dweights) = 0;
  virtual bool attention(const AttentionArguments& arguments, const void* q, const void* k, const void* v,
                         void* y, void* log_sums) = 0;
  virtual bool attention_backward(const AttentionArguments& arguments, const void* q, const void* k,
                                  const void* v, const void* y, const void* log_sums, const void* dy,
                                  void* dq, void* dk, void* dv) = 0;
};

// What it works with, for as long as it lives.
struct CudnnQueue {
  cudaStream_t stream = nullptr;  // of the current device
  int compute_capability = 0;     // 90 of an H100
  PlanTable* plans = nullptr;
  // Working memory of so many bytes, 256-byte aligned, for what is issued before the next call.
  std::function<void*(size_t)> scratch;
};

// The library that this process can load, "cuDNN 9.19.0", or nothing.
std::string cudnn_name();
// Null where there is none. Error (kInternal) when the library is there but does not start.
std::unique_ptr<Cudnn> make_cudnn(CudnnQueue queue);

}  // namespace lockstep
