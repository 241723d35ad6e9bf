// Waits of the host for the device, in which other things may be done meanwhile (core/device_wait.h).
#pragma once

#include <cuda_runtime.h>

namespace lockstep {

// Whether the device has come past what was recorded last. Error as check_cuda's.
bool has_passed(cudaEvent_t event, const char* where);
// Blocks until it has.
void wait_for(cudaEvent_t event, const char* where);

}  // namespace lockstep
