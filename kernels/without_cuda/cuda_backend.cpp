// What stands for the CUDA backend in a build without CUDA.
#include "lockstep/core/error.h"
#include "lockstep/kernels/backend.h"

namespace lockstep {

Backend& cuda_backend(int) {
  fail(ErrorKind::kUsage,
       "cuda: this build has no CUDA: configure with -DLOCKSTEP_CUDA=ON on a machine with the CUDA toolkit");
}

int cuda_device_count() {
  return 0;
}

std::string cuda_device_identity(int) {
  return {};
}

std::string cuda_build() {
  return "none";
}

}  // namespace lockstep
