// The CPU backend as an object: its single instance and its description.
#include "lockstep/kernels/cpu/cpu_backend.h"

#include <string>

#include "lockstep/kernels/cpu/vector.h"

namespace lockstep {

namespace {

// The widest vectors these kernels were compiled for.
constexpr const char* instruction_set() {
#if defined(__AVX512BF16__)
  return "AVX-512 with bf16";
#elif defined(__AVX512F__)
  return "AVX-512";
#elif defined(__AVX2__)
  return "AVX2";
#elif defined(__SSE2__)
  return "SSE2";
#else
  return "generic";
#endif
}

}  // namespace

std::string CpuBackend::description() const {
  return std::string("cpu: own kernels, ") + instruction_set();
}

std::string CpuBackend::native_precisions() const {
  return kMultipliesBFloat16 ? "fp64, fp32, bf16 native; fp16 stored in 16 bits, computed in fp32"
                             : "fp64, fp32 native; bf16, fp16 stored in 16 bits, computed in fp32";
}

Backend& cpu_kernels() {
  static CpuBackend backend;
  return backend;
}

}  // namespace lockstep
