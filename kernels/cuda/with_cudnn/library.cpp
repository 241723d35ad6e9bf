// Loads cuDNN with dlopen.
#include "kernels/cuda/with_cudnn/library.h"

#include <dlfcn.h>

namespace lockstep {

namespace {

template <class Function>
bool find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  return function != nullptr;
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
