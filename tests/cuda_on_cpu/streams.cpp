// Streams, events and graphs.
//
// Work waits in the queue of its stream. streams=eager runs whatever stream order and events allow before the
// call that queued it returns. streams=lazy runs nothing until somebody waits, asks for an event, or too much
// is queued; then the seed decides who goes first: seed mod 3 = 0 runs only what the waiting needs, 1
// everything else before it, 2 any order.
#include "streams.h"

#include <algorithm>
#include <chrono>
#include <deque>
#include <memory>
#include <thread>
#include <vector>

#include "memory.h"
#include "scheduler.h"
#include "settings.h"

namespace cuda_on_cpu {

namespace {

using Clock = std::chrono::steady_clock;

// One recording of an event.
struct Record {
  bool done = false;
  Clock::time_point time;
};

// One of three things: work, the recording of an event, or waiting for one.
struct Item {
  std::function<Progress()> attempt;
  std::shared_ptr<Record> records;
  std::shared_ptr<Record> waits_for;
};

struct Node {
  std::function<Progress()> attempt;
  std::vector<size_t> after;  // indices of earlier nodes
};

struct Capture {
  std::shared_ptr<std::vector<Node>> nodes = std::make_shared<std::vector<Node>>();
  Stream* origin = nullptr;
  cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
  std::thread::id thread;
  bool valid = true;
};

}  // namespace

struct Stream {
  unsigned flags = 0;
  int device = 0;
  std::deque<Item> items;
  bool running = false;  // its first item
  std::shared_ptr<Capture> capture;
  std::vector<size_t> captured_last;  // nodes that the next one comes after
};

struct Event {
  unsigned flags = 0;
  std::shared_ptr<Record> record;
  std::shared_ptr<Capture> capture;  // when it was last recorded by a capturing stream
  std::vector<size_t> captured_last;
};

struct Graph {
  std::shared_ptr<const std::vector<Node>> nodes;
};
struct GraphProgram {
  std::shared_ptr<const std::vector<Node>> nodes;
};

namespace {

constexpr size_t kFullQueue = 1024;

struct Queues {
  std::vector<Stream*> streams;
  std::vector<std::shared_ptr<Capture>> captures;
  size_t queued = 0;  // items of all streams
};

Queues& queues() {
  static auto* const instance = new Queues;
  return *instance;
}

bool broken = false;  // the device, for good

thread_local int current_device = 0;
thread_local int calls = 0;  // of this thread's that hold the lock, or let others go on
thread_local cudaError_t last_error = cudaSuccess;

// What the clock of events is ahead of the host's.
Clock::duration simulated = Clock::duration::zero();

Clock::time_point device_time() {
  return Clock::now() + simulated;
}

// Runs the first item of a stream; false when it has to wait or there is none.
bool run_first(Stream& stream) {
  if (broken || stream.items.empty() || stream.running) return false;
  Item& item = stream.items.front();
  if (item.waits_for != nullptr) {
    if (!item.waits_for->done) return false;
  } else if (item.records != nullptr) {
    item.records->time = device_time();
    item.records->done = true;
  } else {
    stream.running = true;
    const Progress progress = item.attempt();
    stream.running = false;
    if (progress == Progress::kWaiting) return false;
  }
  stream.items.pop_front();
  --queues().queued;
  return true;
}

Stream* stream_that_records(const std::shared_ptr<Record>& record) {
  for (Stream* stream : queues().streams) {
    for (const Item& item : stream->items) {
      if (item.records == record) return stream;
    }
  }
  return nullptr;
}

// Runs the next item that the end of `stream` depends on.
bool run_needed(Stream& stream) {
  if (!stream.items.empty() && stream.items.front().waits_for != nullptr &&
      !stream.items.front().waits_for->done) {
    Stream* const other = stream_that_records(stream.items.front().waits_for);
    return other != nullptr && run_needed(*other);
  }
  return run_first(stream);
}

// Runs one item of any stream but `last`, beginning anywhere.
bool run_any(const Stream* last) {
  const std::vector<Stream*>& streams = queues().streams;
  if (streams.empty()) return false;
  const size_t begin = settings().lazy ? random_number() % streams.size() : 0;
  for (size_t i = 0; i < streams.size(); ++i) {
    Stream* const stream = streams[(begin + i) % streams.size()];
    if (stream != last && run_first(*stream)) return true;
  }
  return false;
}

// Runs one item somewhere, while somebody waits for `wanted` (null: for nothing in particular).
bool advance(Stream* wanted) {
  if (wanted == nullptr || (settings().lazy && settings().seed % 3 == 2)) return run_any(nullptr);
  if (settings().lazy && settings().seed % 3 == 1) return run_any(wanted) || run_needed(*wanted);
  return run_needed(*wanted) || run_any(wanted);
}

// Runs what the settings say must not wait any longer.
void drain() {
  if (!settings().lazy) {
    while (queues().queued > 0 && advance(nullptr)) {
    }
  } else if (queues().queued > kFullQueue) {
    while (queues().queued > kFullQueue / 2 && advance(nullptr)) {
    }
  }
}

// Nothing can go on here: another thread or process has to.
void let_others_go_on(DeviceLock& lock) {
  lock.unlock();
  std::this_thread::sleep_for(std::chrono::microseconds(20));
  lock.lock();
}

void finish_record(const std::shared_ptr<Record>& record, DeviceLock& lock) {
  while (!record->done) {
    if (!advance(stream_that_records(record))) let_others_go_on(lock);
  }
}

// All work that the default stream waits for.
void finish_blocking_streams(DeviceLock& lock) {
  for (size_t i = 0; i < queues().streams.size(); ++i) {
    if ((queues().streams[i]->flags & cudaStreamNonBlocking) == 0) finish(queues().streams[i], lock);
  }
}

void push(Stream& stream, Item item) {
  stream.items.push_back(std::move(item));
  ++queues().queued;
  drain();
}

void merge(std::vector<size_t>& nodes, const std::vector<size_t>& more) {
  nodes.insert(nodes.end(), more.begin(), more.end());
  std::sort(nodes.begin(), nodes.end());
  nodes.erase(std::unique(nodes.begin(), nodes.end()), nodes.end());
}

cudaError_t capture(Stream& stream, std::function<Progress()> attempt) {
  if (!stream.capture->valid) return cudaErrorStreamCaptureInvalidated;
  std::vector<Node>& nodes = *stream.capture->nodes;
  nodes.push_back({std::move(attempt), stream.captured_last});
  stream.captured_last = {nodes.size() - 1};
  return cudaSuccess;
}

// Nodes of a graph as one piece of work; the seed chooses among those that may go next.
std::function<Progress()> replay(std::shared_ptr<const std::vector<Node>> nodes) {
  return [nodes, done = std::vector<bool>(nodes->size()), left = nodes->size()]() mutable {
    bool progressed = true;
    while (left > 0 && progressed) {
      progressed = false;
      const size_t begin = settings().seed == 0 ? 0 : random_number() % nodes->size();
      for (size_t i = 0; i < nodes->size() && !progressed; ++i) {
        const size_t n = (begin + i) % nodes->size();
        const auto& after = (*nodes)[n].after;
        const bool may_run =
            !done[n] && std::all_of(after.begin(), after.end(), [&](size_t m) { return done[m]; });
        if (may_run && (*nodes)[n].attempt() == Progress::kDone) {
          done[n] = progressed = true;
          --left;
        }
      }
    }
    return left == 0 ? Progress::kDone : Progress::kWaiting;
  };
}

bool captures(const std::shared_ptr<Capture>& capture) {
  const auto& active = queues().captures;
  return std::find(active.begin(), active.end(), capture) != active.end();
}

bool is_stream(const Stream* stream) {
  const auto& streams = queues().streams;
  return stream == nullptr || std::find(streams.begin(), streams.end(), stream) != streams.end();
}

std::recursive_mutex& device_mutex() {
  static auto* const instance = new std::recursive_mutex;
  return *instance;
}

}  // namespace

DeviceLock::DeviceLock() : unique_lock(device_mutex()) {
  ++calls;
  watch_faults();
}
DeviceLock::~DeviceLock() {
  if (--calls == 0) close_device_memory();
}

void spend_device_time(std::chrono::nanoseconds time) {
  simulated += time;
}

cudaError_t remember(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

bool is_capturing(const Stream* stream) {
  return stream != nullptr && stream->capture != nullptr;
}

bool runs_at_once(const Stream* stream) {
  return stream == nullptr || (stream->capture == nullptr && !settings().lazy && stream->items.empty());
}

cudaError_t submit(Stream* stream, std::function<Progress()> attempt, DeviceLock& lock) {
  if (broken) return cudaErrorIllegalAddress;
  if (!is_stream(stream)) return cudaErrorInvalidResourceHandle;
  if (stream == nullptr) {
    if (!queues().captures.empty()) return cudaErrorStreamCaptureImplicit;
    finish_blocking_streams(lock);
    while (attempt() == Progress::kWaiting) let_others_go_on(lock);
    return cudaSuccess;
  }
  if (stream->capture != nullptr) return capture(*stream, std::move(attempt));
  push(*stream, {std::move(attempt), nullptr, nullptr});
  return cudaSuccess;
}

cudaError_t finish(Stream* stream, DeviceLock& lock) {
  if (broken) return cudaErrorIllegalAddress;
  if (!is_stream(stream)) return cudaErrorInvalidResourceHandle;
  if (stream == nullptr) {
    if (!queues().captures.empty()) return cudaErrorStreamCaptureImplicit;
    finish_blocking_streams(lock);
    return cudaSuccess;
  }
  if (stream->capture != nullptr) {
    stream->capture->valid = false;
    return cudaErrorStreamCaptureUnsupported;
  }
  // What others queue meanwhile is not waited for.
  const auto end = std::make_shared<Record>();
  push(*stream, {nullptr, end, nullptr});
  finish_record(end, lock);
  return cudaSuccess;
}

void finish_everything(DeviceLock& lock) {
  for (size_t i = 0; i < queues().streams.size(); ++i) {
    if (queues().streams[i]->capture == nullptr) finish(queues().streams[i], lock);
  }
}

cudaError_t refuse_while_capturing() {
  if (broken) return cudaErrorIllegalAddress;
  for (const auto& capture : queues().captures) {
    if (capture->mode == cudaStreamCaptureModeGlobal || (capture->mode == cudaStreamCaptureModeThreadLocal &&
                                                         capture->thread == std::this_thread::get_id())) {
      capture->valid = false;
      return cudaErrorStreamCaptureUnsupported;
    }
  }
  return cudaSuccess;
}

void launch(Launch description, Stream* stream) {
  DeviceLock lock;
  check_launch(description);
  if (settings().foreign) {
    remember(cudaErrorNoKernelImageForDevice);
    return;
  }
  if (stream != nullptr && is_stream(stream) && stream->device != current_device) {
    stop("kernel %s: its stream belongs to device %d, the thread's current device is %d", description.name,
         stream->device, current_device);
  }
  bool stuck = false;
  if (!is_capturing(stream)) {
    const int64_t number = counts().kernels++;  // the N-th may have been one of a library
    broken = broken || (settings().broken >= 0 && number >= settings().broken);
    stuck = settings().stuck >= 0 && number >= settings().stuck;
  }
  const cudaError_t error = submit(
      stream,
      [description = std::move(description), stuck] {
        if (stuck) return Progress::kWaiting;
        const DeviceAccess access(description.name);
        run_launch(description);
        return Progress::kDone;
      },
      lock);
  remember(error);
}

cudaError_t enqueue(Stream* stream, const char* name, std::function<Progress()> attempt) {
  DeviceLock lock;
  if (!is_capturing(stream)) ++counts().kernels;
  return remember(submit(
      stream,
      [name, attempt = std::move(attempt)] {
        const DeviceAccess access(name);
        return attempt();
      },
      lock));
}

}  // namespace cuda_on_cpu

using namespace cuda_on_cpu;

cudaError_t cudaGetLastError() {
  return std::exchange(last_error, cudaSuccess);
}
cudaError_t cudaPeekAtLastError() {
  return last_error;
}

cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= settings().devices) return remember(cudaErrorInvalidDevice);
  if (settings().memory_bytes == 0) return remember(cudaErrorMemoryAllocation);
  if (settings().busy) return remember(cudaErrorDevicesUnavailable);
  current_device = device;
  return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() {
  DeviceLock lock;
  if (!queues().captures.empty()) {
    for (const auto& capture : queues().captures) capture->valid = false;
    return remember(cudaErrorStreamCaptureUnsupported);
  }
  finish_everything(lock);
  return cudaSuccess;
}

// ---- streams
// ---------------------------------------------------------------------------------------------------------

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  DeviceLock lock;
  if (stream == nullptr || flags > cudaStreamNonBlocking) return remember(cudaErrorInvalidValue);
  *stream = new Stream;
  (*stream)->flags = flags;
  (*stream)->device = current_device;
  queues().streams.push_back(*stream);
  return cudaSuccess;
}

// Priorities say which of two streams a busy device prefers; any order of theirs is a correct one.
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int) {
  return cudaStreamCreateWithFlags(stream, flags);
}

cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0;
  *greatest = -5;
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  DeviceLock lock;
  if (stream == nullptr) return remember(cudaErrorInvalidResourceHandle);
  const cudaError_t error = finish(stream, lock);
  if (error != cudaSuccess) return remember(error);
  std::erase(queues().streams, stream);
  delete stream;
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  DeviceLock lock;
  return remember(finish(stream, lock));
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
  DeviceLock lock;
  if (!is_stream(stream)) return remember(cudaErrorInvalidResourceHandle);
  if (stream == nullptr) return cudaSuccess;
  if (stream->capture != nullptr) return remember(finish(stream, lock));
  for (uint64_t i = random_number() % 4 + 1; i > 0 && !stream->items.empty(); --i) advance(stream);
  return stream->items.empty() ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* argument) {
  DeviceLock lock;
  return remember(submit(
      stream,
      [=] {
        function(argument);
        return Progress::kDone;
      },
      lock));
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) {
  DeviceLock lock;
  if (event == nullptr || !is_stream(stream)) return remember(cudaErrorInvalidResourceHandle);
  if (flags != 0) return remember(cudaErrorInvalidValue);
  if (event->capture != nullptr) {
    if (!captures(event->capture)) return remember(cudaErrorCapturedEvent);
    if (stream == nullptr) return remember(cudaErrorStreamCaptureImplicit);
    if (stream->capture != nullptr && stream->capture != event->capture)
      return remember(cudaErrorStreamCaptureIsolation);
    stream->capture = event->capture;
    merge(stream->captured_last, event->captured_last);
    return cudaSuccess;
  }
  if (is_capturing(stream)) {
    if (event->record == nullptr) return cudaSuccess;
    stream->capture->valid = false;
    return remember(cudaErrorStreamCaptureIsolation);
  }
  if (event->record == nullptr || event->record->done) return cudaSuccess;
  if (stream == nullptr) {
    finish_record(event->record, lock);
  } else {
    push(*stream, {nullptr, nullptr, event->record});
  }
  return cudaSuccess;
}

// ---- events
// ----------------------------------------------------------------------------------------------------------

cudaError_t cudaEventCreate(cudaEvent_t* event) {
  return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  if (event == nullptr || (flags & ~(cudaEventBlockingSync | cudaEventDisableTiming)) != 0) {
    return remember(cudaErrorInvalidValue);
  }
  *event = new Event;
  (*event)->flags = flags;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  DeviceLock lock;
  if (event == nullptr || !is_stream(stream)) return remember(cudaErrorInvalidResourceHandle);
  if (is_capturing(stream)) {
    if (!stream->capture->valid) return remember(cudaErrorStreamCaptureInvalidated);
    event->capture = stream->capture;
    event->captured_last = stream->captured_last;
    return cudaSuccess;
  }
  event->capture = nullptr;
  event->record = std::make_shared<Record>();
  if (stream == nullptr) {
    return remember(submit(
        stream,
        [record = event->record] {
          record->time = device_time();
          record->done = true;
          return Progress::kDone;
        },
        lock));
  }
  push(*stream, {nullptr, event->record, nullptr});
  return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  DeviceLock lock;
  if (event == nullptr) return remember(cudaErrorInvalidResourceHandle);
  if (const cudaError_t error = refuse_while_capturing(); error != cudaSuccess) return remember(error);
  if (event->capture != nullptr) return remember(cudaErrorCapturedEvent);
  if (event->record == nullptr) return cudaSuccess;
  for (uint64_t i = random_number() % 4 + 1; i > 0 && !event->record->done; --i) {
    advance(stream_that_records(event->record));
  }
  return event->record->done ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  DeviceLock lock;
  if (event == nullptr) return remember(cudaErrorInvalidResourceHandle);
  if (const cudaError_t error = refuse_while_capturing(); error != cudaSuccess) return remember(error);
  if (event->capture != nullptr) return remember(cudaErrorCapturedEvent);
  if (event->record != nullptr) finish_record(event->record, lock);
  return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t stop) {
  DeviceLock lock;
  if (start == nullptr || stop == nullptr || start->record == nullptr || stop->record == nullptr ||
      ((start->flags | stop->flags) & cudaEventDisableTiming) != 0) {
    return remember(cudaErrorInvalidResourceHandle);
  }
  if (!start->record->done || !stop->record->done) return cudaErrorNotReady;
  *milliseconds = std::chrono::duration<float, std::milli>(stop->record->time - start->record->time).count();
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  DeviceLock lock;
  if (event == nullptr) return remember(cudaErrorInvalidResourceHandle);
  delete event;
  return cudaSuccess;
}

// ---- graphs
// ----------------------------------------------------------------------------------------------------------

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  DeviceLock lock;
  if (!is_stream(stream)) return remember(cudaErrorInvalidResourceHandle);
  if (stream == nullptr) return remember(cudaErrorStreamCaptureUnsupported);
  if (stream->capture != nullptr) return remember(cudaErrorInvalidValue);
  stream->capture = std::make_shared<Capture>();
  stream->capture->origin = stream;
  stream->capture->mode = mode;
  stream->capture->thread = std::this_thread::get_id();
  stream->captured_last.clear();
  queues().captures.push_back(stream->capture);
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  DeviceLock lock;
  if (stream == nullptr || !is_stream(stream) || stream->capture == nullptr || graph == nullptr ||
      stream->capture->origin != stream) {
    return remember(cudaErrorInvalidValue);
  }
  const std::shared_ptr<Capture> ended = stream->capture;
  const std::vector<Node>& nodes = *ended->nodes;
  // Nodes have higher indices than those that they come after.
  std::vector<bool> joined(nodes.size());
  for (size_t n : stream->captured_last) joined[n] = true;
  for (size_t n = nodes.size(); n-- > 0;) {
    if (!joined[n]) continue;
    for (size_t before : nodes[n].after) joined[before] = true;
  }
  for (Stream* other : queues().streams) {
    if (other->capture == ended) {
      other->capture = nullptr;
      other->captured_last.clear();
    }
  }
  std::erase(queues().captures, ended);
  const auto recorded = std::exchange(ended->nodes, nullptr);  // events may know the capture for longer
  *graph = nullptr;
  if (!ended->valid) return remember(cudaErrorStreamCaptureInvalidated);
  if (std::find(joined.begin(), joined.end(), false) != joined.end())
    return remember(cudaErrorStreamCaptureUnjoined);
  *graph = new Graph{recorded};
  return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  DeviceLock lock;
  if (!is_stream(stream)) return remember(cudaErrorInvalidResourceHandle);
  *status = !is_capturing(stream)    ? cudaStreamCaptureStatusNone
            : stream->capture->valid ? cudaStreamCaptureStatusActive
                                     : cudaStreamCaptureStatusInvalidated;
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* program, cudaGraph_t graph, unsigned long long flags) {
  if (program == nullptr || graph == nullptr || flags != 0) return remember(cudaErrorInvalidValue);
  *program = new GraphProgram{graph->nodes};
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t program, cudaStream_t stream) {
  DeviceLock lock;
  if (program == nullptr) return remember(cudaErrorInvalidValue);
  ++counts().graphs;
  return remember(submit(stream, replay(program->nodes), lock));
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t program) {
  delete program;
  return cudaSuccess;
}
