// Queues of work, and the lock under which everything on the device happens.
#pragma once

#include <cuda_runtime.h>

#include <chrono>
#include <functional>
#include <mutex>

namespace cuda_on_cpu {

// Held during every call of the runtime and all work of the device.
class DeviceLock : public std::unique_lock<std::recursive_mutex> {
 public:
  DeviceLock();
  ~DeviceLock();
};

// The rest expects the lock to be held; what waits lets others have it meanwhile.

// Work that is done when it answers kDone; null is the default stream.
cudaError_t submit(Stream* stream, std::function<Progress()> attempt, DeviceLock& lock);

// Whether work submitted now would run before submit() returns.
bool runs_at_once(const Stream* stream);
bool is_capturing(const Stream* stream);

cudaError_t finish(Stream* stream, DeviceLock& lock);
void finish_everything(DeviceLock& lock);

// What a call that must not be made while a thread captures answers: success when none does.
cudaError_t refuse_while_capturing();

// Puts the clock of events forward: what runs next seems to begin later by so much.
void spend_device_time(std::chrono::nanoseconds time);

// The error, which cudaGetLastError() then answers on this thread.
cudaError_t remember(cudaError_t error);

}  // namespace cuda_on_cpu
