// The NCCL stand-in: messages between processes as files, operations as work of the runtime stand-in's
// streams.
#include <nccl.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "memory.h"
#include "streams.h"

namespace cuda_on_cpu {

namespace {

size_t size_of(ncclDataType_t datatype) {
  return datatype == ncclUint8 ? 1 : datatype == ncclFloat32 ? 4 : 8;
}

// One rank that goes wrong, by LOCKSTEP_NCCL_ON_CPU; connect=SECONDS: what it takes every rank to issue its
// first message to another one.
struct Fault {
  int rank = -1;
  int64_t operation = -1;
  std::string kind;
  bool hangs_at_end = false, stays_at_end = false;
  std::chrono::duration<double> connecting{0};

  static const Fault& planned() {
    static const Fault fault = [] {
      Fault found;
      const char* value = std::getenv("LOCKSTEP_NCCL_ON_CPU");
      std::istringstream items(value != nullptr ? value : "");
      for (std::string item; std::getline(items, item, ',');) {
        const std::string key = item.substr(0, item.find('='));
        const std::string text = item.substr(item.find('=') + 1);
        if (key == "rank") {
          found.rank = std::stoi(text);
        } else if (key == "operation") {
          found.operation = std::stoll(text);
        } else if (key == "fault" && (text == "error" || text == "hang")) {
          found.kind = text;
        } else if (key == "connect") {
          found.connecting = std::chrono::duration<double>(std::stod(text));
        } else if (item == "abort=hang" || item == "abort=stay") {
          (text == "hang" ? found.hangs_at_end : found.stays_at_end) = true;
        } else {
          stop("LOCKSTEP_NCCL_ON_CPU: no such setting: %s", item.c_str());
        }
      }
      return found;
    }();
    return fault;
  }
};

// Bytes for another rank, read when the operation begins.
struct Outgoing {
  int to;
  const void* data;
  size_t bytes;
};

// Bytes from another rank, into `data`, or into a buffer of the operation's own where `data` is null.
struct Incoming {
  int from;
  void* data;
  size_t bytes;
  std::vector<unsigned char> buffer = {};
  std::string file = {};
  bool here = false;
};

// What is done with the buffers of `incoming` once all are there: their sum or maximum, last rank first.
struct Reduction {
  void* result;
  size_t count;
  ncclDataType_t datatype;
  ncclRedOp_t operation;
  size_t first, end;  // incoming[first, end), by rank
};

template <class T>
void reduce(const Reduction& reduction, const std::vector<Incoming>& incoming) {
  std::vector<T> total(reduction.count), term(reduction.count);
  for (size_t i = reduction.end; i-- > reduction.first;) {
    std::memcpy(term.data(), incoming[i].buffer.data(), reduction.count * sizeof(T));
    if (i + 1 == reduction.end) {
      total = term;
      continue;
    }
    for (size_t at = 0; at < total.size(); ++at) {
      if (reduction.operation == ncclSum) {
        total[at] = static_cast<T>(total[at] + term[at]);
      } else if (total[at] < term[at]) {
        total[at] = term[at];
      }
    }
  }
  std::memcpy(reduction.result, total.data(), reduction.count * sizeof(T));
}

// A group, or an operation by itself.
struct Operation {
  Stream* stream = nullptr;
  std::vector<Outgoing> outgoing;
  std::vector<Incoming> incoming;
  std::vector<Reduction> reductions;
  int64_t number = 0;
  bool begun = false;
};

std::string message_name(int from, int to, uint64_t number) {
  return std::to_string(from) + "-" + std::to_string(to) + "-" + std::to_string(number);
}

}  // namespace

// What operations in streams share with the communicator, and keep alive.
struct NcclState {
  std::string directory;
  int rank = 0, ranks = 0;
  std::mutex mutex;       // of what follows; attempts run on whatever thread drives the streams
  bool complete = false;  // everyone has come
  bool aborted = false;
  ncclResult_t error = ncclSuccess;
  std::string message;
  std::vector<uint64_t> sent, received;  // messages so far, by rank
  // Graphs that hold operations hold it too.
  std::shared_ptr<const char> recordings = std::make_shared<const char>();

  std::string file(const std::string& name) const { return directory + "/" + name; }
  std::string rank_file(int of) const { return file("rank-" + std::to_string(of)); }

  void fail(ncclResult_t result, const std::string& why) {
    if (error != ncclSuccess) return;
    error = result;
    message = why;
  }

  bool everyone_has_come() {
    for (int other = 0; !complete && other < ranks; ++other) {
      if (::access(rank_file(other).c_str(), F_OK) != 0) return false;
    }
    return complete = true;
  }

  // Under a name that readers look for only once it is whole.
  void post(const std::string& path, const void* data, size_t bytes) {
    const std::string draft = path + ".draft";
    open_to_system_calls(data);
    std::FILE* stream = std::fopen(draft.c_str(), "wb");
    const bool written = stream != nullptr && std::fwrite(data, 1, bytes, stream) == bytes;
    const bool closed = stream != nullptr && std::fclose(stream) == 0;
    if (!written || !closed || std::rename(draft.c_str(), path.c_str()) != 0) {
      fail(ncclSystemError, path + ": " + std::strerror(errno));
    }
  }

  // True when the message was there; it is gone then.
  bool take(Incoming& incoming) {
    std::FILE* stream = std::fopen(incoming.file.c_str(), "rb");
    if (stream == nullptr) return false;
    if (incoming.data == nullptr) incoming.buffer.resize(incoming.bytes);
    void* to = incoming.data == nullptr ? incoming.buffer.data() : incoming.data;
    open_to_system_calls(to);
    const size_t count = std::fread(to, 1, incoming.bytes, stream);
    const bool all = count == incoming.bytes && std::fgetc(stream) == EOF;
    std::fclose(stream);
    ::unlink(incoming.file.c_str());
    if (!all)
      fail(ncclInvalidUsage,
           "message of another size than awaited from rank " + std::to_string(incoming.from));
    return true;
  }

  Progress attempt(Operation& operation) {
    const std::lock_guard lock(mutex);
    if (aborted) return Progress::kDone;
    const Fault& fault = Fault::planned();
    if (fault.rank == rank && fault.operation == operation.number) {
      if (fault.kind == "error") fail(ncclRemoteError, "injected");
      return Progress::kWaiting;
    }
    // Messages are counted when they go, not when they are issued: what a graph holds goes again and again.
    if (!operation.begun) {
      for (const Outgoing& block : operation.outgoing) {
        post(file(message_name(rank, block.to, sent[static_cast<size_t>(block.to)]++)), block.data,
             block.bytes);
      }
      for (Incoming& block : operation.incoming) {
        block.file = file(message_name(block.from, rank, received[static_cast<size_t>(block.from)]++));
        block.here = false;
      }
      operation.begun = true;
    }
    for (Incoming& incoming : operation.incoming) {
      if (!incoming.here) incoming.here = take(incoming);
      if (error != ncclSuccess || !incoming.here) {
        ::sched_yield();
        return Progress::kWaiting;
      }
    }
    for (const Reduction& reduction : operation.reductions) {
      if (reduction.datatype == ncclFloat32) reduce<float>(reduction, operation.incoming);
      if (reduction.datatype == ncclFloat64) reduce<double>(reduction, operation.incoming);
      if (reduction.datatype == ncclInt64) reduce<int64_t>(reduction, operation.incoming);
    }
    operation.begun = false;
    return Progress::kDone;
  }
};

struct NcclCommunicator {
  std::shared_ptr<NcclState> state;
  int64_t operations = 0;
  std::optional<Operation> issued;  // not yet in its stream
  int asked = 0;                    // for its outcome
  bool outcome_known = true;
  std::set<int> connected;  // ranks
  std::optional<std::chrono::steady_clock::time_point> connecting;

  // Whether ranks that what is issued goes to are not reached yet.
  bool connects() {
    const auto reached = [this](const Outgoing& block) { return connected.contains(block.to); };
    if (std::ranges::all_of(issued->outgoing, reached)) return false;
    const auto now = std::chrono::steady_clock::now();
    if (!connecting) connecting = now;
    if (now - *connecting < Fault::planned().connecting) return true;
    for (const Outgoing& block : issued->outgoing) connected.insert(block.to);
    connecting.reset();
    return false;
  }
};

namespace {

// The group under way on this thread.
struct Group {
  int depth = 0;
  NcclCommunicator* communicator = nullptr;
  Operation operation;
  ncclResult_t error = ncclSuccess;
};
thread_local Group group;

ncclResult_t refuse(NcclCommunicator* communicator, ncclResult_t result, const std::string& why) {
  const std::lock_guard lock(communicator->state->mutex);
  communicator->state->message = why;
  group.error = result;
  return result;
}

// Adds to the group what `add(operation)` says, as a group of its own where there is none.
template <class Add>
ncclResult_t join_group(NcclCommunicator* communicator, Stream* stream, const Add& add) {
  ncclGroupStart();
  if (group.communicator == nullptr) {
    group.communicator = communicator;
    group.operation.stream = stream;
  }
  if (group.communicator != communicator || group.operation.stream != stream) {
    refuse(communicator, ncclInvalidUsage, "a group of this stand-in has one communicator and one stream");
  } else {
    const size_t outgoing = group.operation.outgoing.size(), incoming = group.operation.incoming.size();
    add(group.operation);
    const NcclState& state = *communicator->state;
    for (size_t i = outgoing; i < group.operation.outgoing.size(); ++i) {
      const Outgoing& block = group.operation.outgoing[i];
      if (block.to < 0 || block.to >= state.ranks) {
        refuse(communicator, ncclInvalidArgument, "no rank " + std::to_string(block.to));
      } else if (!is_device_memory(block.data, block.bytes)) {
        refuse(communicator, ncclInvalidArgument, "what is sent is not in device memory");
      }
    }
    for (size_t i = incoming; i < group.operation.incoming.size(); ++i) {
      const Incoming& block = group.operation.incoming[i];
      if (block.from < 0 || block.from >= state.ranks) {
        refuse(communicator, ncclInvalidArgument, "no rank " + std::to_string(block.from));
      } else if (block.data != nullptr && !is_device_memory(block.data, block.bytes)) {
        refuse(communicator, ncclInvalidArgument, "what is received is not for device memory");
      }
    }
  }
  return ncclGroupEnd();
}

void* at(void* data, size_t bytes) {
  return static_cast<unsigned char*>(data) + bytes;
}

}  // namespace

}  // namespace cuda_on_cpu

using cuda_on_cpu::group;
using cuda_on_cpu::NcclState;
using cuda_on_cpu::Operation;

const char* ncclGetErrorString(ncclResult_t result) {
  switch (result) {
    case ncclSuccess:
      return "no error";
    case ncclUnhandledCudaError:
      return "unhandled cuda error";
    case ncclSystemError:
      return "system error";
    case ncclInternalError:
      return "internal error";
    case ncclInvalidArgument:
      return "invalid argument";
    case ncclInvalidUsage:
      return "invalid usage";
    case ncclRemoteError:
      return "remote error";
    case ncclInProgress:
      return "in progress";
  }
  return "unknown";
}

const char* ncclGetLastError(ncclComm_t communicator) {
  thread_local std::string text;
  const std::lock_guard lock(communicator->state->mutex);
  text = communicator->state->message;
  return text.c_str();
}

ncclResult_t ncclGetVersion(int* version) {
  *version = 22800;
  return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  const char* folder = std::getenv("TMPDIR");
  const std::string path = std::string(folder != nullptr ? folder : "/dev/shm") + "/nccl-on-cpu-XXXXXX";
  if (path.size() >= sizeof id->internal) return ncclSystemError;
  std::memset(id, 0, sizeof *id);
  std::memcpy(id->internal, path.data(), path.size());
  return ::mkdtemp(id->internal) != nullptr ? ncclSuccess : ncclSystemError;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* communicator, int ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t* config) {
  auto state = std::make_shared<NcclState>();
  state->directory = id.internal;
  state->rank = rank;
  state->ranks = ranks;
  state->sent.resize(static_cast<size_t>(std::max(ranks, 0)));
  state->received.resize(static_cast<size_t>(std::max(ranks, 0)));
  if (rank < 0 || rank >= ranks) return ncclInvalidArgument;
  if (config->blocking != 0) return ncclInvalidUsage;
  if (::access(state->rank_file(rank).c_str(), F_OK) == 0) return ncclInvalidUsage;
  state->post(state->rank_file(rank), "", 0);
  if (state->error != ncclSuccess) return state->error;
  *communicator = new cuda_on_cpu::NcclCommunicator;
  (*communicator)->state = state;
  return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t communicator, ncclResult_t* state) {
  const std::shared_ptr<NcclState> held = communicator->state;
  auto operation = std::make_shared<Operation>();
  {
    const std::lock_guard lock(held->mutex);
    *state = held->error;
    if (*state != ncclSuccess) return ncclSuccess;
    if (!held->everyone_has_come() || !communicator->outcome_known) *state = ncclInProgress;
    if (!communicator->issued || ++communicator->asked < 2 || communicator->connects()) return ncclSuccess;
    *operation = *std::exchange(communicator->issued, std::nullopt);
  }
  // Not under the lock: streams call attempts, which take it, under a lock of their own.
  std::shared_ptr<const char> recording;
  {
    const cuda_on_cpu::DeviceLock lock;
    if (cuda_on_cpu::is_capturing(operation->stream)) recording = held->recordings;
  }
  const int failure = cuda_on_cpu::enqueue(
      operation->stream, "nccl", [held, operation, recording] { return held->attempt(*operation); });
  recording.reset();
  const std::lock_guard lock(held->mutex);
  if (failure != 0) held->fail(ncclUnhandledCudaError, cudaGetErrorString(static_cast<cudaError_t>(failure)));
  communicator->outcome_known = true;
  return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t communicator) {
  const cuda_on_cpu::Fault& fault = cuda_on_cpu::Fault::planned();
  const bool faulty = fault.rank == communicator->state->rank;
  while (faulty && fault.hangs_at_end) std::this_thread::sleep_for(std::chrono::seconds(1));
  {
    const std::lock_guard lock(communicator->state->mutex);
    NcclState& state = *communicator->state;
    state.aborted = true;
    ::unlink(state.rank_file(state.rank).c_str());
    ::rmdir(state.directory.c_str());  // fails until the last has left
  }
  while ((faulty && fault.stays_at_end) || communicator->state->recordings.use_count() > 1)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  delete communicator;
  return ncclSuccess;
}

ncclResult_t ncclGroupStart() {
  ++group.depth;
  return ncclSuccess;
}

ncclResult_t ncclGroupEnd() {
  if (group.depth == 0) return ncclInvalidUsage;
  if (--group.depth > 0) return group.error;
  const cuda_on_cpu::Group done = std::exchange(group, {});
  cuda_on_cpu::NcclCommunicator* const communicator = done.communicator;
  if (done.error != ncclSuccess || communicator == nullptr) return done.error;
  const std::lock_guard lock(communicator->state->mutex);
  if (communicator->state->error != ncclSuccess) return communicator->state->error;
  if (!communicator->outcome_known || !communicator->state->everyone_has_come()) {
    communicator->state->fail(ncclInvalidUsage, "issued before the outcome of the last call was known");
    return ncclInvalidUsage;
  }
  communicator->issued = done.operation;
  communicator->issued->number = communicator->operations++;
  communicator->asked = 0;
  communicator->outcome_known = false;
  return ncclInProgress;
}

ncclResult_t ncclSend(const void* data, size_t count, ncclDataType_t datatype, int peer,
                      ncclComm_t communicator, cudaStream_t stream) {
  return cuda_on_cpu::join_group(communicator, stream, [&](Operation& operation) {
    operation.outgoing.push_back({peer, data, count * cuda_on_cpu::size_of(datatype)});
  });
}

ncclResult_t ncclRecv(void* received, size_t count, ncclDataType_t datatype, int peer,
                      ncclComm_t communicator, cudaStream_t stream) {
  return cuda_on_cpu::join_group(communicator, stream, [&](Operation& operation) {
    operation.incoming.push_back({peer, received, count * cuda_on_cpu::size_of(datatype)});
  });
}

ncclResult_t ncclAllReduce(const void* data, void* received, size_t count, ncclDataType_t datatype,
                           ncclRedOp_t operation, ncclComm_t communicator, cudaStream_t stream) {
  return cuda_on_cpu::join_group(communicator, stream, [&](Operation& joined) {
    const size_t bytes = count * cuda_on_cpu::size_of(datatype), first = joined.incoming.size();
    for (int rank = 0; rank < communicator->state->ranks; ++rank) {
      joined.outgoing.push_back({rank, data, bytes});
      joined.incoming.push_back({rank, nullptr, bytes});
    }
    joined.reductions.push_back({received, count, datatype, operation, first, joined.incoming.size()});
  });
}

ncclResult_t ncclAllGather(const void* data, void* received, size_t count, ncclDataType_t datatype,
                           ncclComm_t communicator, cudaStream_t stream) {
  return cuda_on_cpu::join_group(communicator, stream, [&](Operation& operation) {
    const size_t bytes = count * cuda_on_cpu::size_of(datatype);
    for (int rank = 0; rank < communicator->state->ranks; ++rank) {
      operation.outgoing.push_back({rank, data, bytes});
      operation.incoming.push_back(
          {rank, cuda_on_cpu::at(received, static_cast<size_t>(rank) * bytes), bytes});
    }
  });
}

ncclResult_t ncclBroadcast(const void* data, void* received, size_t count, ncclDataType_t datatype, int root,
                           ncclComm_t communicator, cudaStream_t stream) {
  return cuda_on_cpu::join_group(communicator, stream, [&](Operation& operation) {
    const size_t bytes = count * cuda_on_cpu::size_of(datatype);
    for (int rank = 0; communicator->state->rank == root && rank < communicator->state->ranks; ++rank) {
      operation.outgoing.push_back({rank, data, bytes});
    }
    operation.incoming.push_back({root, received, bytes});
  });
}
