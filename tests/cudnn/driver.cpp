// Stands for the CUDA driver while plans are made: takes compiled kernels, and refuses all else.
//
// The library looks functions up by name, in the file or through cuGetProcAddress. Those that it calls to
// finalize a plan are here; what is left out of the file answers, as the toolkit's own stub does, that there
// is no driver.
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace {

constexpr int kSuccess = 0, kNotFound = 500, kStub = 34;

int refuse() {
  return kStub;
}

// Any address will do: nothing behind it is touched.
void* const kHandle = reinterpret_cast<void*>(uintptr_t{0x1000});

}  // namespace

extern "C" {

int cuInit(unsigned) {
  return kStub;
}
int cuDriverGetVersion(int* version) {
  *version = 13000;
  return kSuccess;
}
int cuGetErrorString(int, const char** text) {
  *text = "no driver";
  return kSuccess;
}
int cuGetErrorName(int, const char** text) {
  *text = "no driver";
  return kSuccess;
}
int cuLibraryLoadData(void** library, ...) {
  *library = kHandle;
  return kSuccess;
}
int cuLibraryUnload(void*) {
  return kSuccess;
}
int cuLibraryGetKernel(void** kernel, ...) {
  *kernel = kHandle;
  return kSuccess;
}
int cuKernelSetAttribute(...) {
  return kSuccess;
}
int cuKernelGetAttribute(int* value, ...) {
  *value = 0;
  return kSuccess;
}

// What the library wants to see in the file, whether or not it calls it.
#define LOCKSTEP_REFUSED(name) \
  int name() {                 \
    return kStub;              \
  }
LOCKSTEP_REFUSED(cuCtxGetCurrent)
LOCKSTEP_REFUSED(cuCtxGetLimit)
LOCKSTEP_REFUSED(cuCtxPopCurrent_v2)
LOCKSTEP_REFUSED(cuCtxPopCurrent)
LOCKSTEP_REFUSED(cuCtxPushCurrent_v2)
LOCKSTEP_REFUSED(cuCtxPushCurrent)
LOCKSTEP_REFUSED(cuStreamGetCtx)
LOCKSTEP_REFUSED(cuLinkCreate)
LOCKSTEP_REFUSED(cuLinkAddData)
LOCKSTEP_REFUSED(cuLinkComplete)
LOCKSTEP_REFUSED(cuLinkDestroy)
LOCKSTEP_REFUSED(cuLaunchKernel)
LOCKSTEP_REFUSED(cuLaunchKernelEx)
LOCKSTEP_REFUSED(cuLaunchCooperativeKernel)
LOCKSTEP_REFUSED(cuDeviceGetCount)
LOCKSTEP_REFUSED(cuDeviceGet)
LOCKSTEP_REFUSED(cuLibraryLoadFromFile)
LOCKSTEP_REFUSED(cuOccupancyMaxPotentialClusterSize)
#undef LOCKSTEP_REFUSED

int cuGetProcAddress_v2(const char* name, void** function, int, uint64_t, int* found) {
  struct Entry {
    const char* name;
    void* function;
  };
#define LOCKSTEP_ENTRY(name) \
  { #name, reinterpret_cast < void*>(&name) }
  const Entry entries[] = {LOCKSTEP_ENTRY(cuInit),
                           LOCKSTEP_ENTRY(cuDriverGetVersion),
                           LOCKSTEP_ENTRY(cuGetErrorString),
                           LOCKSTEP_ENTRY(cuGetErrorName),
                           LOCKSTEP_ENTRY(cuLibraryLoadData),
                           LOCKSTEP_ENTRY(cuLibraryUnload),
                           LOCKSTEP_ENTRY(cuLibraryGetKernel),
                           LOCKSTEP_ENTRY(cuKernelSetAttribute),
                           LOCKSTEP_ENTRY(cuKernelGetAttribute)};
#undef LOCKSTEP_ENTRY
  *function = reinterpret_cast<void*>(&refuse);
  for (const Entry& entry : entries) {
    if (std::strcmp(entry.name, name) == 0) *function = entry.function;
  }
  if (found != nullptr) *found = 0;
  return name == nullptr ? kNotFound : kSuccess;
}
int cuGetProcAddress(const char* name, void** function, int version, uint64_t flags) {
  return cuGetProcAddress_v2(name, function, version, flags, nullptr);
}

}  // extern "C"
