// cuDNN's functions, looked up when the program runs: one binary serves machines with the library and
// without.
#pragma once

#include <cudnn_graph.h>

#include <string>

namespace lockstep {

struct CudnnLibrary {
  decltype(&cudnnGetVersion) version = nullptr;
  decltype(&cudnnGetErrorString) error_string = nullptr;
  decltype(&cudnnGetLastErrorString) last_error_string = nullptr;
  decltype(&cudnnCreate) create = nullptr;
  decltype(&cudnnDestroy) destroy = nullptr;
  decltype(&cudnnSetStream) set_stream = nullptr;
  decltype(&cudnnBackendCreateDescriptor) create_descriptor = nullptr;
  decltype(&cudnnBackendDestroyDescriptor) destroy_descriptor = nullptr;
  decltype(&cudnnBackendSetAttribute) set_attribute = nullptr;
  decltype(&cudnnBackendGetAttribute) get_attribute = nullptr;
  decltype(&cudnnBackendFinalize) finalize = nullptr;
  decltype(&cudnnBackendExecute) execute = nullptr;

  // What many engines need to be compiled when they are planned: "NVRTC 13.0", or "no NVRTC". Which engines
  // there are, and with them the bits, depend on it.
  std::string compiler;

  std::string name() const;  // "cuDNN 9.19.0, NVRTC 13.0"
  // What went wrong last on this thread: "CUDNN_STATUS_BAD_PARAM: ..."; one line.
  std::string explain(cudnnStatus_t status) const;
};

// Null where no cuDNN 9 can be loaded; the same answer for the life of the process.
const CudnnLibrary* cudnn_library();

}  // namespace lockstep
