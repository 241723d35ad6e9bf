// Runs launches: threads of a block as fibers, in an order drawn from the seed.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <string>

namespace cuda_on_cpu {

inline constexpr size_t kSharedBytes = 48 << 10;        // what every launch may have, static and dynamic
inline constexpr size_t kSharedBytesOptIn = 227 << 10;  // what cudaFuncSetAttribute can grant
inline constexpr unsigned kMaxThreads = 1024;

// Ends the process with a line that names the kernel when a device would refuse the launch.
void check_launch(const Launch& description);

// Runs a launch to its end. The caller holds the device's lock.
void run_launch(const Launch& description);

// What cudaFuncSetAttribute grants a kernel.
void allow_dynamic_shared(const void* function, size_t bytes);

// "kernel NAME, block (x,y,z), thread (x,y,z)" while a launch runs, else "".
std::string position();

}  // namespace cuda_on_cpu
