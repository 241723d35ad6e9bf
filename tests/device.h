// The device that a test program runs on: the CPU, or with LOCKSTEP_TEST_DEVICE=cuda the first GPU.
#pragma once

#include <cstdlib>
#include <string>

#include "lockstep/kernels/backend.h"

namespace lockstep {

// "cpu" or "cuda"
inline std::string test_device() {
  const char* value = std::getenv("LOCKSTEP_TEST_DEVICE");
  return value == nullptr || *value == '\0' ? "cpu" : value;
}

// Error (kUsage) when it is a GPU that is not there.
inline Backend& test_backend() {
  return test_device() == "cuda" ? cuda_backend(0) : cpu_backend();
}

}  // namespace lockstep
