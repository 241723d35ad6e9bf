// Timing by events, of calls that are recorded.
#include <algorithm>

#include "lockstep/kernels/cuda/dialect.h"
#include "lockstep/kernels/cuda/stopwatch.h"

namespace lockstep {

Stopwatch::Stopwatch(cudaStream_t stream, const std::function<void()>& issue) : stream_(stream) {
  // Long enough for the clock of events, which counts half microseconds.
  constexpr double kRound = 200e-6;
  constexpr double kMostCalls = 50;
  check_cuda(cudaEventCreate(&start_), "event");
  check_cuda(cudaEventCreate(&stop_), "event");
  issue();  // may load code
  first_seconds_ = timed(issue);
  count_ = static_cast<int>(std::clamp(kRound / std::max(first_seconds_, 1e-6), 1.0, kMostCalls));
  cudaGraph_t graph = nullptr;
  check_cuda(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeRelaxed), "recording");
  for (int i = 0; i < count_; ++i) issue();
  check_cuda(cudaStreamEndCapture(stream_, &graph), "recording");
  const cudaError_t status = cudaGraphInstantiate(&calls_, graph, 0);
  cudaGraphDestroy(graph);
  check_cuda(status, "graph");
}

Stopwatch::~Stopwatch() {
  if (calls_ != nullptr) cudaGraphExecDestroy(calls_);
  cudaEventDestroy(start_);
  cudaEventDestroy(stop_);
}

double Stopwatch::seconds() {
  return timed([this] { check_cuda(cudaGraphLaunch(calls_, stream_), "graph launch"); }) / count_;
}

double Stopwatch::timed(const std::function<void()>& issue) const {
  check_cuda(cudaEventRecord(start_, stream_), "event");
  issue();
  check_cuda(cudaEventRecord(stop_, stream_), "event");
  check_cuda(cudaEventSynchronize(stop_), "event");
  float milliseconds = 0.0f;
  check_cuda(cudaEventElapsedTime(&milliseconds, start_, stop_), "event");
  return 1e-3 * static_cast<double>(milliseconds);
}

}  // namespace lockstep
