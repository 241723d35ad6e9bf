// The calls that cuDNN carries out for one queue: a graph and a plan for each, made once.
#pragma once

#include <cuda_runtime.h>

#include <functional>
#include <initializer_list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "lockstep/kernels/cuda/cudnn.h"
#include "lockstep/kernels/cuda/with_cudnn/engines.h"

namespace lockstep {

// Largest workspace of a plan. What would need more is split into ranges of the batch, or left to own
// kernels.
inline constexpr size_t kCudnnWorkspaceBytes = size_t{256} << 20;

class CudnnOperations final : public Cudnn {
 public:
  CudnnOperations(const CudnnLibrary& library, CudnnQueue queue);

  bool convolution(const ConvolutionArguments& arguments, const void* x, const void* weights,
                   const void* bias, void* y) override;
  bool convolution_backward_data(const ConvolutionArguments& arguments, const void* dy, const void* weights,
                                 void* dx) override;
  bool convolution_backward_weights(const ConvolutionArguments& arguments, const void* x, const void* dy,
                                    void* dweights) override;
  bool attention(const AttentionArguments& arguments, const void* q, const void* k, const void* v, void* y,
                 void* log_sums) override;
  bool attention_backward(const AttentionArguments& arguments, const void* q, const void* k, const void* v,
                          const void* y, const void* log_sums, const void* dy, void* dq, void* dk,
                          void* dv) override;

 private:
  struct DestroyHandle {
    const CudnnLibrary* library;
    void operator()(cudnnHandle_t handle) const { library->destroy(handle); }
  };
  // Memory of a call, by the id that its graph has for it.
  struct Binding {
    int64_t id;
    const void* memory;
  };
  // Adds a call's operations to a graph.
  using Build = std::function<void(CudnnGraph&)>;
  // Runs the call by a plan; may be done again.
  using Run = std::function<void(const CudnnPlan&)>;

  // The plan of a call, or null when own kernels have to serve. call: its key, in words; inputs: the dtype
  // that it reads.
  const CudnnPlan* plan_for(const std::string& call, DType inputs, const Build& build, const Run& run_by);
  std::optional<CudnnPlan> make_plan(const std::string& call, DType inputs, const Build& build,
                                     const Run& run_by);
  // How long a run takes, without the first one.
  double seconds_of(const CudnnPlan& plan, const Run& run_by) const;
  // Runs the call; false when own kernels have to.
  bool serve(const std::string& call, DType inputs, const Build& build, const Run& run_by);
  // Bindings of which the plan's graph knows nothing are passed over: the library refuses them.
  void run(const CudnnPlan& plan, const std::vector<Binding>& bindings, void* workspace);
  void check(cudnnStatus_t status, const char* what) const;

  const CudnnLibrary& library_;
  const CudnnQueue queue_;
  std::unique_ptr<cudnnContext, DestroyHandle> handle_;
  std::map<std::string, std::optional<CudnnPlan>> plans_;
  uint64_t generation_ = 0;  // of the plan table
};

// Whether every address (null is one) is a multiple of kCudnnAlignment.
bool cudnn_aligned(std::initializer_list<const void*> arrays);

}  // namespace lockstep
