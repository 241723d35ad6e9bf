// cuBLASLt's functions under their own names, looked up in the library when the first of them is called: the
// library takes most of a GiB of address space, which a process that uses no GPU does without, and machines
// that have none of it run everything else.
//
// The names are hidden, so that nobody else's calls come here.
#include <cublasLt.h>
#include <dlfcn.h>

#include <string>

#include "lockstep/core/error.h"

namespace lockstep {

namespace {

#define LOCKSTEP_TEXT_OF(number) #number
#define LOCKSTEP_TEXT(number) LOCKSTEP_TEXT_OF(number)
constexpr char kFile[] = "libcublasLt.so." LOCKSTEP_TEXT(CUBLAS_VER_MAJOR);

// Never closed: work on the GPU may depend on it to the end of the process. Error (kUsage) where it cannot be
// loaded.
void* library() {
  static void* const handle = [] {
    void* const opened = dlopen(kFile, RTLD_NOW | RTLD_LOCAL);
    if (opened == nullptr) {
      const char* const reason = dlerror();
      fail(ErrorKind::kUsage, std::string("cuda: cuBLASLt cannot be loaded: ") +
                                  (reason == nullptr ? kFile : reason) +
                                  "; name its folder in LD_LIBRARY_PATH, or use --device cpu");
    }
    return opened;
  }();
  return handle;
}

// The library's function of this name, of the type of ours. Error (kUsage) where it has none.
template <class Function>
Function* find(const char* name, Function&) {
  auto* const function = reinterpret_cast<Function*>(dlsym(library(), name));
  if (function == nullptr) fail(ErrorKind::kUsage, std::string("cuda: ") + kFile + " has no " + name);
  return function;
}

}  // namespace

}  // namespace lockstep

// Calls the library's function of the same name.
#define LOCKSTEP_FORWARD(name, ...)                          \
  static auto* const function = lockstep::find(#name, name); \
  return function(__VA_ARGS__)

#pragma GCC visibility push(hidden)
extern "C" {

size_t cublasLtGetVersion() {
  LOCKSTEP_FORWARD(cublasLtGetVersion);
}

const char* cublasLtGetStatusString(cublasStatus_t status) {
  LOCKSTEP_FORWARD(cublasLtGetStatusString, status);
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  LOCKSTEP_FORWARD(cublasLtCreate, handle);
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  LOCKSTEP_FORWARD(cublasLtDestroy, handle);
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t description, const void* alpha,
                              const void* a, cublasLtMatrixLayout_t a_layout, const void* b,
                              cublasLtMatrixLayout_t b_layout, const void* beta, const void* c,
                              cublasLtMatrixLayout_t c_layout, void* d, cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t* algorithm, void* workspace, size_t workspace_bytes,
                              cudaStream_t stream) {
  LOCKSTEP_FORWARD(cublasLtMatmul, handle, description, alpha, a, a_layout, b, b_layout, beta, c, c_layout, d,
                   d_layout, algorithm, workspace, workspace_bytes, stream);
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* description, cublasComputeType_t compute,
                                        cudaDataType_t scale) {
  LOCKSTEP_FORWARD(cublasLtMatmulDescCreate, description, compute, scale);
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t description) {
  LOCKSTEP_FORWARD(cublasLtMatmulDescDestroy, description);
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t description,
                                              cublasLtMatmulDescAttributes_t attribute, const void* value,
                                              size_t bytes) {
  LOCKSTEP_FORWARD(cublasLtMatmulDescSetAttribute, description, attribute, value, bytes);
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type, uint64_t rows,
                                          uint64_t columns, int64_t leading) {
  LOCKSTEP_FORWARD(cublasLtMatrixLayoutCreate, layout, type, rows, columns, leading);
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  LOCKSTEP_FORWARD(cublasLtMatrixLayoutDestroy, layout);
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t attribute, const void* value,
                                                size_t bytes) {
  LOCKSTEP_FORWARD(cublasLtMatrixLayoutSetAttribute, layout, attribute, value, bytes);
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  LOCKSTEP_FORWARD(cublasLtMatmulPreferenceCreate, preference);
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  LOCKSTEP_FORWARD(cublasLtMatmulPreferenceDestroy, preference);
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void* value, size_t bytes) {
  LOCKSTEP_FORWARD(cublasLtMatmulPreferenceSetAttribute, preference, attribute, value, bytes);
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t description,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int requested,
                                              cublasLtMatmulHeuristicResult_t* results, int* returned) {
  LOCKSTEP_FORWARD(cublasLtMatmulAlgoGetHeuristic, handle, description, a, b, c, d, preference, requested,
                   results, returned);
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t handle, cublasLtMatmulDesc_t description,
                                       cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                       cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t* algorithm,
                                       cublasLtMatmulHeuristicResult_t* result) {
  LOCKSTEP_FORWARD(cublasLtMatmulAlgoCheck, handle, description, a, b, c, d, algorithm, result);
}

cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t* algorithm,
                                                    cublasLtMatmulAlgoConfigAttributes_t attribute,
                                                    void* value, size_t bytes, size_t* written) {
  LOCKSTEP_FORWARD(cublasLtMatmulAlgoConfigGetAttribute, algorithm, attribute, value, bytes, written);
}

}  // extern "C"
#pragma GCC visibility pop
