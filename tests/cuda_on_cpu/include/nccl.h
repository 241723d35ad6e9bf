// Stand-in for NCCL: the calls that Lockstep makes, carried out between processes of one machine.
//
// Operations are queued on the runtime stand-in's streams and read device memory when their stream gets
// there. Messages are files in a directory that rank 0 makes where TMPDIR says, or else in shared memory.
// Sums go from the last rank to the first: an order that is nobody else's. Communicators do not block, and
// are as slow as NCCL allows: what a group issues reaches its stream only while ncclCommGetAsyncError is
// asked for the outcome.
//
// The variable LOCKSTEP_NCCL_ON_CPU makes one rank go wrong, e.g. "rank=1,operation=4,fault=error",
// operations counted from 0:
//   fault=error  reports ncclRemoteError from then on, and the operation does not end
//   fault=hang   the operation does not begin, nor do those behind it
//   abort=hang   ncclCommAbort ends nothing, and does not return; abort=stay: ends what is under way only
// And connect=SECONDS makes every rank take that long to issue its first message to another one.
#pragma once

#include <cstddef>

#include "cuda_runtime.h"

enum ncclResult_t {
  ncclSuccess = 0,
  ncclUnhandledCudaError = 1,
  ncclSystemError = 2,
  ncclInternalError = 3,
  ncclInvalidArgument = 4,
  ncclInvalidUsage = 5,
  ncclRemoteError = 6,
  ncclInProgress = 7
};
const char* ncclGetErrorString(ncclResult_t result);

namespace cuda_on_cpu {
struct NcclCommunicator;
}
using ncclComm_t = cuda_on_cpu::NcclCommunicator*;

// What went wrong with the communicator last; empty when nothing has.
const char* ncclGetLastError(ncclComm_t communicator);
ncclResult_t ncclGetVersion(int* version);

// Holds the name of the directory.
struct ncclUniqueId {
  char internal[128];
};
ncclResult_t ncclGetUniqueId(ncclUniqueId* id);

struct ncclConfig_t {
  int blocking;  // must be 0
};
#define NCCL_CONFIG_INITIALIZER \
  { 1 }
ncclResult_t ncclCommInitRankConfig(ncclComm_t* communicator, int ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t* config);
// ncclInProgress while initialization or the operations issued last are under way, else what went wrong.
ncclResult_t ncclCommGetAsyncError(ncclComm_t communicator, ncclResult_t* state);
// Ends what is under way and frees the communicator: once every graph that holds operations of it has been
// destroyed, and what was launched of them is done. Until then it does not return.
ncclResult_t ncclCommAbort(ncclComm_t communicator);

enum ncclDataType_t { ncclUint8 = 1, ncclInt64 = 4, ncclFloat32 = 7, ncclFloat64 = 8 };
enum ncclRedOp_t { ncclSum = 0, ncclMax = 2 };

// Operations between the two are one: they begin together and depend on no order among them. Of one
// communicator and one stream.
ncclResult_t ncclGroupStart();
ncclResult_t ncclGroupEnd();

ncclResult_t ncclSend(const void* data, size_t count, ncclDataType_t datatype, int peer,
                      ncclComm_t communicator, cudaStream_t stream);
ncclResult_t ncclRecv(void* received, size_t count, ncclDataType_t datatype, int peer,
                      ncclComm_t communicator, cudaStream_t stream);
ncclResult_t ncclAllReduce(const void* data, void* received, size_t count, ncclDataType_t datatype,
                           ncclRedOp_t operation, ncclComm_t communicator, cudaStream_t stream);
ncclResult_t ncclAllGather(const void* data, void* received, size_t count, ncclDataType_t datatype,
                           ncclComm_t communicator, cudaStream_t stream);
ncclResult_t ncclBroadcast(const void* data, void* received, size_t count, ncclDataType_t datatype, int root,
                           ncclComm_t communicator, cudaStream_t stream);
