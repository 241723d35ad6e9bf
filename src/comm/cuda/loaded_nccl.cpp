// NCCL's functions under their own names, looked up in the library when the first of them is called: one
// program serves machines with the library and without, and processes that use no GPU do not map it. Where
// there is none every call fails with ncclSystemError.
//
// The names are hidden, so that nobody else's calls come here.
#include <cuda_runtime.h>
#include <dlfcn.h>
#include <nccl.h>

namespace lockstep {

namespace {

#define LOCKSTEP_TEXT_OF(number) #number
#define LOCKSTEP_TEXT(number) LOCKSTEP_TEXT_OF(number)
constexpr char kFile[] = "libnccl.so." LOCKSTEP_TEXT(NCCL_MAJOR);

// The library's function of this name, of the type of ours; null where there is none.
template <class Function>
Function* find(const char* name, Function&) {
  static void* const library = dlopen(kFile, RTLD_NOW | RTLD_LOCAL);  // never closed: it has threads
  return library == nullptr ? nullptr : reinterpret_cast<Function*>(dlsym(library, name));
}

}  // namespace

}  // namespace lockstep

// Calls the library's function of the same name.
#define LOCKSTEP_FORWARD(missing, name, ...)                 \
  static auto* const function = lockstep::find(#name, name); \
  return function == nullptr ? missing : function(__VA_ARGS__)

#pragma GCC visibility push(hidden)
extern "C" {

ncclResult_t ncclGetVersion(int* version) {
  LOCKSTEP_FORWARD(ncclSystemError, ncclGetVersion, version);
}

const char* ncclGetErrorString(ncclResult_t result) {
  LOCKSTEP_FORWARD("NCCL cannot be loaded", ncclGetErrorString, result);
}

const char* ncclGetLastError(ncclComm_t communicator) {
  LOCKSTEP_FORWARD("", ncclGetLastError, communicator);
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  LOCKSTEP_FORWARD(ncclSystemError, ncclGetUniqueId, id);
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* communicator, int ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t* config) {
  LOCKSTEP_FORWARD(ncclSystemError, ncclCommInitRankConfig, communicator, ranks, id, rank, config);
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t communicator, ncclResult_t* state) {
  LOCKSTEP_FORWARD(ncclSystemError, ncclCommGetAsyncError, communicator, state);
}

ncclResult_t ncclCommAbort(ncclComm_t communicator) {
  LOCKSTEP_FORWARD(ncclSystemError, ncclCommAbort, communicator);
}

ncclResult_t ncclGroupStart() {
  LOCKSTEP_FORWARD(ncclSystemError, ncclGroupStart);
}

ncclResult_t ncclGroupEnd() {
  LOCKSTEP_FORWARD(ncclSystemError, ncclGroupEnd);
}

ncclResult_t ncclSend(const void* data, size_t count, ncclDataType_t datatype, int peer,
                      ncclComm_t communicator, cudaStream_t stream) {
  LOCKSTEP_FORWARD(ncclSystemError, ncclSend, data, count, datatype, peer, communicator, stream);
}

ncclResult_t ncclRecv(void* received, size_t count, ncclDataType_t datatype, int peer,
                      ncclComm_t communicator, cudaStream_t stream) {
  LOCKSTEP_FORWARD(ncclSystemError, ncclRecv, received, count, datatype, peer, communicator, stream);
}

ncclResult_t ncclAllReduce(const void* data, void* received, size_t count, ncclDataType_t datatype,
                           ncclRedOp_t operation, ncclComm_t communicator, cudaStream_t stream) {
  LOCKSTEP_FORWARD(ncclSystemError, ncclAllReduce, data, received, count, datatype, operation, communicator,
                   stream);
}

ncclResult_t ncclReduceScatter(const void* data, void* received, size_t count, ncclDataType_t datatype,
                               ncclRedOp_t operation, ncclComm_t communicator, cudaStream_t stream) {
  LOCKSTEP_FORWARD(ncclSystemError, ncclReduceScatter, data, received, count, datatype, operation,
                   communicator, stream);
}

ncclResult_t ncclAllGather(const void* data, void* received, size_t count, ncclDataType_t datatype,
                           ncclComm_t communicator, cudaStream_t stream) {
  LOCKSTEP_FORWARD(ncclSystemError, ncclAllGather, data, received, count, datatype, communicator, stream);
}

ncclResult_t ncclBroadcast(const void* data, void* received, size_t count, ncclDataType_t datatype, int root,
                           ncclComm_t communicator, cudaStream_t stream) {
  LOCKSTEP_FORWARD(ncclSystemError, ncclBroadcast, data, received, count, datatype, root, communicator,
                   stream);
}

}  // extern "C"
#pragma GCC visibility pop
