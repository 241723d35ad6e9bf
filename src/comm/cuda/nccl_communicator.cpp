// The communicator between GPUs over NCCL.
//
// Collectives are issued to the lane's stream and are then the device's business; a thread watches over them,
// because what waits for a device waits without limit.
#include <cuda_runtime.h>
#include <fmt/format.h>
#include <nccl.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <functional>
#include <future>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "lockstep/comm/awake_time.h"
#include "lockstep/comm/cuda/under_way.h"
#include "lockstep/comm/deadline.h"
#include "lockstep/comm/device_communicator.h"
#include "lockstep/comm/end_notice.h"
#include "lockstep/core/device_wait.h"
#include "lockstep/core/error.h"
#include "lockstep/core/log.h"

namespace lockstep {

namespace {

using Clock = std::chrono::steady_clock;

// How often the watch looks: far below any timeout, too seldom to be felt.
constexpr std::chrono::milliseconds kWatchInterval{50};
// How long a thread of the host that waits for the same workers has to find out who is missing, before the
// watch ends the job without knowing: of the lowest worker first, so that one line says so.
double patience_of_watch(int rank) {
  constexpr double kForTheHost = 7.0, kForALowerWorker = 3.0;
  return kForTheHost + kForALowerWorker * std::min(rank, 4);
}

ncclDataType_t datatype_of(DType dtype) {
  if (dtype == DType::kF32) return ncclFloat32;
  if (dtype == DType::kF64) return ncclFloat64;
  fail(ErrorKind::kInternal, fmt::format("communicator: sums are of fp32 or fp64, not {}", name_of(dtype)));
}

// The first failure among the calls of a group.
class GroupResult {
 public:
  void operator+=(ncclResult_t result) {
    if (value_ == ncclSuccess && result != ncclInProgress) value_ = result;
  }
  ncclResult_t value() const { return value_; }

 private:
  ncclResult_t value_ = ncclSuccess;
};

class IssuedRequest final : public Request {
 public:
  bool test() override { return true; }
  void wait() override {}
};

class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(Communicator& host, cudaStream_t stream, const CommunicatorOptions& options)
      : host_(host),
        stream_(stream),
        timeout_seconds_(options.start_timeout_seconds > 0.0 ? options.start_timeout_seconds
                                                             : options.timeout_seconds) {
    check_device(cudaGetDevice(&device_), "nccl");
    ncclUniqueId id{};
    if (rank() == 0) {
      const ncclResult_t result = ncclGetUniqueId(&id);
      if (result != ncclSuccess) fail_nccl("initialization on rank 0", result);
    }
    host_.broadcast(&id, sizeof id, 0, "nccl id")->wait();
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    try {
      settle(ncclCommInitRankConfig(&communicator_, world_size(), id, rank(), &config),
             here("initialization"));
      meet();
    } catch (const Error&) {
      if (communicator_ != nullptr) ncclCommAbort(communicator_);
      throw;
    }
    timeout_seconds_ = options.timeout_seconds;
    std::promise<void> gone;
    gone_ = gone.get_future();
    watch_ = std::thread([this, end = std::move(gone)]() mutable {
      const ncclComm_t communicator = watch();
      // From here on by itself. Not by the other thread: NCCL ends what is under way, and answers when the
      // last recording of its collectives has gone, which that thread destroys once nothing is under way.
      ncclCommAbort(communicator);
      end.set_value();
    });
    host_.use_device_progress([this]() -> uint64_t {
      const auto oldest = under_way_.look();
      return oldest ? 2 * (oldest->number + 1) + (oldest->begun ? 1 : 0) : 0;
    });
    set_device_wait([this](bool over) { meanwhile(over); });
  }

  // Everyone has finished its collectives by then (the run's last agreement sees to that), or the job is
  // failing: nothing is left that would need the others, and aborting does not ask them.
  ~NcclCommunicator() override {
    set_device_wait({});
    host_.use_device_progress({});
    const bool fails = ended_ || host_.failed() || std::uncaught_exceptions() > 0;
    {
      std::unique_lock lock(mutex_);
      leaving_ = true;
      wake_.notify_all();
      wake_.wait(lock, [this] { return parted_; });
    }
    // In a job that fails NCCL may never be through with the others, and who is on the way out has something
    // to say.
    constexpr std::chrono::seconds kPatience{1};
    if (fails && gone_.wait_for(kPatience) == std::future_status::timeout) {
      watch_.detach();
    } else {
      watch_.join();
    }
    deadline_.reset();
  }

  int rank() const override { return host_.rank(); }
  int world_size() const override { return host_.world_size(); }
  HostPlace host_place() const override { return host_.host_place(); }
  std::string host_of(int worker) const override { return host_.host_of(worker); }
  std::string description() const override { return "arrays through " + nccl_library(); }

  std::unique_ptr<Request> exchange(std::vector<SendBlock> sends, std::vector<ReceiveBlock> receives,
                                    std::string label) override {
    return issue("exchange", label, [&](GroupResult& result) {
      for (const SendBlock& block : sends) result += send(block.data, block.bytes, block.rank);
      for (const ReceiveBlock& block : receives) result += receive(block.data, block.bytes, block.rank);
    });
  }

  std::unique_ptr<Request> all_reduce_sum(void* data, int64_t count, DType dtype,
                                          std::string label) override {
    return all_reduce(data, count, datatype_of(dtype), ncclSum, label);
  }

  std::unique_ptr<Request> all_reduce_max(int64_t* data, int64_t count, std::string label) override {
    return all_reduce(data, count, ncclInt64, ncclMax, label);
  }

  std::unique_ptr<Request> all_gather(const void* data, size_t bytes, void* received,
                                      std::string label) override {
    return issue("all_gather", label, [&](GroupResult& result) {
      if (bytes > 0) result += ncclAllGather(data, received, bytes, ncclUint8, communicator_, stream_);
    });
  }

  std::unique_ptr<Request> broadcast(void* data, size_t bytes, int root, std::string label) override {
    return issue("broadcast", label, [&](GroupResult& result) {
      if (bytes > 0) result += ncclBroadcast(data, data, bytes, ncclUint8, root, communicator_, stream_);
    });
  }

  void barrier(std::string label) override { host_.barrier(std::move(label)); }

  void reissue(void* queue, const std::function<void()>& issue, std::string label) override {
    const auto stream = static_cast<cudaStream_t>(queue);
    UnderWay issued = announce("recorded collectives", label);
    check_device(cudaEventRecord(issued.begin, stream), "nccl");
    issue();
    check_device(cudaEventRecord(issued.end, stream), "nccl");
    under_way_.add(std::move(issued));
  }
  bool recordable() const override { return true; }

  [[noreturn]] void abort(int exit_code) override {
    host_.abort(exit_code);
    std::_Exit(exit_code);  // not reached, but compilers forget what virtual functions promise
  }

 private:
  // NCCL connects workers when they first have something to say to each other, by the ways that this takes: a
  // part of its start, which may last as long.
  void meet() {
    const auto workers = static_cast<size_t>(world_size());
    void* memory = nullptr;
    check_device(cudaMalloc(&memory, 1 + workers), "nccl");
    auto* const received = static_cast<std::byte*>(memory) + 1;
    check_device(cudaMemsetAsync(memory, 0, 1 + workers, stream_), "nccl");
    std::vector<SendBlock> sends;
    std::vector<ReceiveBlock> receives;
    for (int other = 0; other < world_size(); ++other) {
      if (other == rank()) continue;
      sends.push_back({other, memory, 1});
      receives.push_back({other, received + other, 1});
    }
    exchange(std::move(sends), std::move(receives), "start");
    all_gather(memory, 1, received, "start");
    settle(ncclInProgress, here("first messages"), [this] {
      const cudaError_t code = cudaStreamQuery(stream_);
      if (code == cudaErrorNotReady)
        cudaGetLastError();  // the runtime would report it again at the next launch
      if (code != cudaErrorNotReady) check_device(code, "nccl");
      const ncclResult_t found = state();
      return found == ncclSuccess && code == cudaErrorNotReady ? ncclInProgress : found;
    });
    check_device(cudaFree(memory), "nccl");
  }

  ncclResult_t send(const void* data, size_t bytes, int to) {
    return bytes == 0 ? ncclSuccess : ncclSend(data, bytes, ncclUint8, to, communicator_, stream_);
  }
  ncclResult_t receive(void* data, size_t bytes, int from) {
    return bytes == 0 ? ncclSuccess : ncclRecv(data, bytes, ncclUint8, from, communicator_, stream_);
  }

  std::unique_ptr<Request> all_reduce(void* data, int64_t count, ncclDataType_t datatype,
                                      ncclRedOp_t operation, const std::string& label) {
    return issue("all_reduce", label, [&](GroupResult& result) {
      if (count == 0) return;
      result +=
          ncclAllReduce(data, data, static_cast<size_t>(count), datatype, operation, communicator_, stream_);
    });
  }

  // Issues what `calls` calls as one group; it has no more than one meaning on the stream then, whatever its
  // order.
  template <class Calls>
  std::unique_ptr<Request> issue(const char* collective, const std::string& label, const Calls& calls) {
    // What is recorded does not run now: reissue() watches over it when it does.
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    check_device(cudaStreamIsCapturing(stream_, &capture), "nccl");
    const bool runs = capture == cudaStreamCaptureStatusNone;
    UnderWay issued = announce(collective, label);
    if (runs) check_device(cudaEventRecord(issued.begin, stream_), "nccl");
    GroupResult result;
    ncclResult_t group = ncclInvalidUsage;
    {
      const std::lock_guard lock(life_);
      if (ended_)
        fail(ErrorKind::kCommunication,
             fmt::format("nccl: {}: the communicator has ended", here(issued.name)));
      result += ncclGroupStart();
      calls(result);
      group = ncclGroupEnd();
    }
    settle(result.value() != ncclSuccess ? result.value() : group, here(issued.name));
    if (runs) {
      check_device(cudaEventRecord(issued.end, stream_), "nccl");
      under_way_.add(std::move(issued));
    } else {
      under_way_.give_back(issued);
    }
    return std::make_unique<IssuedRequest>();
  }

  UnderWay announce(const char* collective, const std::string& label) {
    const uint64_t number = sequence_++;
    return under_way_.announce(number, fmt::format("{} {} ({})", collective, number, label));
  }
  std::string here(const std::string& name) const { return fmt::format("{} on rank {}", name, rank()); }

  // What this thread does while it waits for the device.
  void meanwhile(bool over) {
    if (ended_ || host_.failed()) return;  // it is on its way out
    const auto oldest = over ? std::nullopt : under_way_.look();
    const double now = waiting_.seconds();
    const uint64_t in = oldest && oldest->begun ? oldest->number + 1 : 0;
    if (in == 0 || std::exchange(waits_in_, in) != in) waits_since_ = now;
    waits_in_ = in;
    host_.look_around("nccl: " + (oldest ? oldest->name : "the device"), now - waits_since_);
  }

  // Waits until NCCL has taken note of a call: only then may more be issued to the stream.
  void settle(ncclResult_t result, const std::string& name) {
    settle(result, name, [this] { return state(); });
  }
  // Until `ask` has another answer than ncclInProgress.
  void settle(ncclResult_t result, const std::string& name, const std::function<ncclResult_t()>& ask) {
    AwakeTime time;
    while (result == ncclInProgress) {
      result = ask();
      if (result == ncclInProgress && time.seconds() > timeout_seconds_) {
        host_.act_at_end(false);
        end_communicator();
        fail(ErrorKind::kCommunication,
             fmt::format("nccl: {}: not finished after {} s: some worker did not join", name,
                         timeout_seconds_));
      }
      std::this_thread::yield();
    }
    if (result != ncclSuccess) fail_nccl(name, result);
  }

  [[noreturn]] void fail_nccl(const std::string& name, ncclResult_t result) {
    const std::string why = reason(result);
    host_.act_at_end(false);
    end_communicator();
    fail(ErrorKind::kCommunication, fmt::format("nccl: {}: {}", name, why));
  }

  // Of the communicator: what it is about, or what went wrong.
  ncclResult_t state() {
    const std::lock_guard lock(life_);
    ncclResult_t state = ncclSuccess;
    const ncclResult_t asked = ended_ ? ncclInvalidUsage : ncclCommGetAsyncError(communicator_, &state);
    return asked != ncclSuccess ? asked : state;
  }

  std::string reason(ncclResult_t result) {
    const std::lock_guard lock(life_);
    const char* detail = communicator_ == nullptr || ended_ ? nullptr : ncclGetLastError(communicator_);
    const bool more = detail != nullptr && *detail != '\0';
    return fmt::format("NCCL failed: {}{}{}", ncclGetErrorString(result), more ? ": " : "",
                       more ? detail : "");
  }

  // No call of NCCL's follows, and what is under way on this device ends without asking other workers: the
  // watch sees to that.
  void end_communicator() {
    {
      const std::lock_guard lock(life_);
      ended_ = true;
    }
    wake_.notify_all();
  }

  // ---- the watch

  // Until the communicator is to end; gives what is left of it. Touches nothing here any more then.
  ncclComm_t watch() {
    cudaSetDevice(device_);
    std::unique_lock lock(mutex_);
    while (!wake_.wait_for(lock, kWatchInterval, [this] { return leaving_ || ended_; })) {
      lock.unlock();
      // The other thread knows who is missing. On its way out it must not wait for a device that waits for
      // them.
      if (host_.failed()) end_communicator();
      // It may wait for its device, where nobody hears what the launcher says.
      host_.act_at_end(true);
      const std::string trouble = ended_ ? std::string() : look();
      if (!trouble.empty()) {
        // NCCL is not told to give up: the other thread, which waits for the device, would go on with what
        // never came.
        host_.act_at_end(false);
        std::this_thread::sleep_for(kForTheOthers);
        log_error("nccl: " + trouble);
        host_.abort(exit_code(ErrorKind::kCommunication));
      }
      lock.lock();
    }
    lock.unlock();
    if (ended_ || host_.failed()) {
      // The other thread is on its way out, and waits for the device at most so long.
      constexpr double kSecondsToEnd = 10.0;
      deadline_.emplace(
          kSecondsToEnd, exit_code(ErrorKind::kCommunication), "",
          Deadline::saying(fmt::format("nccl: the communicator of rank {} has not ended after {} s", rank(),
                                       kSecondsToEnd)),
          [this](int code) { host_.abort(code); });
    }
    end_communicator();
    const ncclComm_t communicator = communicator_;
    lock.lock();
    parted_ = true;
    wake_.notify_all();
    return communicator;
  }

  // What is wrong with the collectives under way; forgets those that are done.
  std::string look() {
    const double now = time_.seconds();
    const UnderWay* const oldest = under_way_.oldest(now);
    const std::string name = oldest == nullptr ? fmt::format("rank {}", rank()) : here(oldest->name);
    const ncclResult_t found = state();
    if (ended_) return {};  // by the other thread, which says why
    if (found != ncclSuccess && found != ncclInProgress) return fmt::format("{}: {}", name, reason(found));
    if (oldest == nullptr) return {};
    for (const cudaEvent_t event : {oldest->begin, oldest->end}) {
      const cudaError_t code = cudaEventQuery(event);
      if (code == cudaSuccess || code == cudaErrorNotReady) continue;
      // The other thread finds the same, and knows at what, unless it waits for others.
      if (!broken_) broken_ = now;
      if (now - *broken_ <= patience_of_watch(rank())) return {};
      return fmt::format("{}: CUDA failed: {}", name, cudaGetErrorString(code));
    }
    if (!oldest->begun || now - *oldest->begun <= timeout_seconds_ + patience_of_watch(rank())) return {};
    return fmt::format("{}: not finished after {} s: some worker did not join", name, timeout_seconds_);
  }

  Communicator& host_;
  cudaStream_t stream_;
  double timeout_seconds_;  // the start's, until that is done
  int device_ = 0;
  ncclComm_t communicator_ = nullptr;
  std::mutex life_;                 // held while communicator_ is used, which it is not when it has ended
  std::atomic<bool> ended_{false};  // written under life_
  uint64_t sequence_ = 0;
  CollectivesUnderWay under_way_;
  // Of the thread that communicates, while it waits for the device: its time, in which collective (its number
  // and one; 0: in none) and since when.
  AwakeTime waiting_;
  uint64_t waits_in_ = 0;
  double waits_since_ = 0.0;

  std::mutex mutex_;  // of what follows
  std::condition_variable wake_;
  bool leaving_ = false, parted_ = false;  // the other thread; the watch
  AwakeTime time_;                         // the watch's
  std::optional<Deadline> deadline_;       // of the other thread's way out
  std::optional<double> broken_;           // since when it finds that the device is
  std::future<void> gone_;                 // set when NCCL has ended
  std::thread watch_;
};

}  // namespace

std::unique_ptr<Communicator> make_nccl_communicator(Communicator& host, void* queue,
                                                     const CommunicatorOptions& options) {
  return std::make_unique<NcclCommunicator>(host, static_cast<cudaStream_t>(queue), options);
}

std::string nccl_library() {
  int version = 0;
  if (ncclGetVersion(&version) != ncclSuccess) return "none";
  return fmt::format("NCCL {}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

}  // namespace lockstep
