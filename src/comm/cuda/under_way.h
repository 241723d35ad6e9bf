// Collectives between an event before and one behind them, on their way through a stream: how far the device
// has come.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "lockstep/core/error.h"

namespace lockstep {

inline void check_device(cudaError_t code, const char* where) {
  if (code != cudaSuccess)
    fail(ErrorKind::kCommunication, std::string(where) + ": CUDA failed: " + cudaGetErrorString(code));
}

struct UnderWay {
  uint64_t number;  // the same on all workers
  std::string name;
  cudaEvent_t begin, end;
  std::optional<double> begun;  // when that was seen, in the time of who looks
};

// One thread issues, another one looks.
class CollectivesUnderWay {
 public:
  CollectivesUnderWay() = default;
  CollectivesUnderWay(const CollectivesUnderWay&) = delete;
  CollectivesUnderWay& operator=(const CollectivesUnderWay&) = delete;
  ~CollectivesUnderWay() {
    for (const UnderWay& one : under_way_) free_.insert(free_.end(), {one.begin, one.end});
    for (cudaEvent_t event : free_) cudaEventDestroy(event);
  }

  // With events that have yet to be recorded, in this order with what is between them.
  UnderWay announce(uint64_t number, std::string name) {
    return {number, std::move(name), take(), take(), std::nullopt};
  }
  void add(UnderWay issued) {
    const std::lock_guard lock(mutex_);
    under_way_.push_back(std::move(issued));
  }
  // Of what is not issued after all.
  void give_back(const UnderWay& announced) {
    const std::lock_guard lock(mutex_);
    free_.insert(free_.end(), {announced.begin, announced.end});
  }

  // The oldest that is not done, or null; forgets those that are. It stays where it is until it is done:
  // elements of a deque do while others are added behind them.
  UnderWay* oldest(double now) {
    const std::lock_guard lock(mutex_);
    while (!under_way_.empty()) {
      UnderWay& first = under_way_.front();
      if (!first.begun && cudaEventQuery(first.begin) == cudaSuccess) first.begun = now;
      if (!first.begun || cudaEventQuery(first.end) != cudaSuccess) return &first;
      free_.insert(free_.end(), {first.begin, first.end});
      under_way_.pop_front();
    }
    return nullptr;
  }

  // For the thread that issues: the oldest that has not been forgotten.
  struct Oldest {
    uint64_t number;
    std::string name;
    bool begun;
  };
  std::optional<Oldest> look() {
    const std::lock_guard lock(mutex_);
    if (under_way_.empty()) return std::nullopt;
    const UnderWay& first = under_way_.front();
    const cudaError_t code = first.begun ? cudaSuccess : cudaEventQuery(first.begin);
    if (code == cudaErrorNotReady)
      cudaGetLastError();  // the runtime would report it again at the next launch
    return Oldest{first.number, first.name, code == cudaSuccess};
  }

 private:
  cudaEvent_t take() {
    {
      const std::lock_guard lock(mutex_);
      if (!free_.empty()) {
        cudaEvent_t event = free_.back();
        free_.pop_back();
        return event;
      }
    }
    cudaEvent_t event = nullptr;
    check_device(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "nccl");
    return event;
  }

  std::mutex mutex_;
  std::deque<UnderWay> under_way_;
  std::vector<cudaEvent_t> free_;
};

}  // namespace lockstep
