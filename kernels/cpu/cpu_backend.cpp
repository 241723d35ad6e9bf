// The CPU backend as an object: its single instance and its description.
#include "kernels/cpu/cpu_backend.h"

#include <string>

#include "core/error.h"
#include "kernels/cpu/vector.h"

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

// A binary that was built on another machine may use instructions that this processor has not.
void require_instructions() {
#if defined(__AVX512BF16__)
  const bool present = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                       __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bf16");
#elif defined(__AVX512F__)
  const bool present = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw");
#elif defined(__AVX2__)
  const bool present = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  const bool present = true;
#endif
  if (!present) {
    fail(ErrorKind::kUsage, std::string("cpu: this build needs ") + instruction_set() +
                                ", which this processor has not; rebuild with -DLOCKSTEP_CPU_ARCH=native");
  }
}

}  // namespace

std::string CpuBackend::description() const {
  return std::string("cpu: own kernels, ") + instruction_set();
}

std::string CpuBackend::native_precisions() const {
  return kMultipliesBFloat16 ? "fp64, fp32, bf16 native; fp16 stored in 16 bits, computed in fp32"
                             : "fp64, fp32 native; bf16, fp16 stored in 16 bits, computed in fp32";
}

Backend& cpu_backend() {
  static CpuBackend backend;
  [[maybe_unused]] static const bool usable = (require_instructions(), true);
  return backend;
}

}  // namespace lockstep
