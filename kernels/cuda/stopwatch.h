// How long a device takes for a call.
#pragma once

#include <cuda_runtime.h>

#include <functional>

namespace lockstep {

// One call, again and again. Its launches are recorded and replayed, so that only the device's part counts.
class Stopwatch {
 public:
  // issue: issues the call to the stream; it is run here and never later. Waits.
  Stopwatch(cudaStream_t stream, const std::function<void()>& issue);
  ~Stopwatch();
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

  // Of the first measured call, the host's part included.
  double first_seconds() const { return first_seconds_; }
  // Of one of several calls in a row. Waits.
  double seconds();

 private:
  double timed(const std::function<void()>& issue) const;

  cudaStream_t stream_;
  cudaEvent_t start_ = nullptr, stop_ = nullptr;
  cudaGraphExec_t calls_ = nullptr;
  int count_ = 1;
  double first_seconds_ = 0.0;
};

}  // namespace lockstep
