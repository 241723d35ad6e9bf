// The CPU backend as an object: its single instance and its description.
#include "kernels/cpu/cpu_backend.h"

#include <dnnl.h>
#include <fmt/format.h>

namespace lockstep {

namespace {

// The widest vectors these kernels were compiled for.
constexpr const char* instruction_set() {
#if defined(__AVX512F__)
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
  const dnnl_version_t* version = dnnl_version();
  return fmt::format("cpu: {}, oneDNN {}.{}.{}", instruction_set(), version->major, version->minor,
                     version->patch);
}

Backend& cpu_backend() {
  static CpuBackend backend;
  return backend;
}

}  // namespace lockstep
