// The CPU's kernels, handed out where the processor can run them.
#include "lockstep/core/error.h"
#include "lockstep/kernels/backend.h"
#include "lockstep/kernels/instructions.h"

namespace lockstep {

Backend& cpu_kernels();  // kernels/cpu/cpu_backend.h, which includes what is compiled for one processor

Backend& cpu_backend() {
  static Backend& backend = []() -> Backend& {
    const std::string missing = missing_instructions(kKernelInstructions, processor_instructions());
    if (!missing.empty()) fail(ErrorKind::kUsage, missing);
    return cpu_kernels();
  }();
  return backend;
}

}  // namespace lockstep
