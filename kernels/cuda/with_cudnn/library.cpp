// Loads cuDNN with dlopen.
#include "lockstep/kernels/cuda/with_cudnn/library.h"

#include <dlfcn.h>

#include <string>

namespace lockstep {

namespace {

template <class Function>
bool find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  return function != nullptr;
}

// Looks where cuDNN's engines will.
std::string runtime_compiler() {
  for (const char* const file : {"libnvrtc.so.13", "libnvrtc.so.12"}) {
    void* const library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    int (*version)(int*, int*) = nullptr;
    int major = 0, minor = 0;
    if (library != nullptr && find(library, "nvrtcVersion", version) && version(&major, &minor) == 0)
      return "NVRTC " + std::to_string(major) + "." + std::to_string(minor);
  }
  return "no NVRTC";
}

const CudnnLibrary* load() {
  // The graph interface alone, or the library that forwards to it. Never closed: a library that GPU work of
  // this process depends on cannot be.
  for (const char* const file : {"libcudnn_graph.so.9", "libcudnn.so.9"}) {
    void* const library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) continue;
    static CudnnLibrary functions;
    CudnnLibrary& f = functions;
    if (find(library, "cudnnGetVersion", f.version) && find(library, "cudnnGetErrorString", f.error_string) &&
        find(library, "cudnnGetLastErrorString", f.last_error_string) &&
        find(library, "cudnnCreate", f.create) && find(library, "cudnnDestroy", f.destroy) &&
        find(library, "cudnnSetStream", f.set_stream) &&
        find(library, "cudnnBackendCreateDescriptor", f.create_descriptor) &&
        find(library, "cudnnBackendDestroyDescriptor", f.destroy_descriptor) &&
        find(library, "cudnnBackendSetAttribute", f.set_attribute) &&
        find(library, "cudnnBackendGetAttribute", f.get_attribute) &&
        find(library, "cudnnBackendFinalize", f.finalize) &&
        find(library, "cudnnBackendExecute", f.execute)) {
      f.compiler = runtime_compiler();
      return &functions;
    }
  }
  return nullptr;
}

}  // namespace

const CudnnLibrary* cudnn_library() {
  static const CudnnLibrary* const library = load();
  return library;
}

}  // namespace lockstep
