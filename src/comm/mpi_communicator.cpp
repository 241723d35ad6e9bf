// The communicator between processes started by mpirun, over host memory.
//
// Blocks travel as nonblocking point-to-point messages whose tag is the sequence number of the collective, so
// workers that disagree about the order of collectives wait for each other until the timeout instead of
// mixing up data.
#include <fmt/format.h>

#define OMPI_SKIP_MPICXX 1  // the C interface only
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <optional>
#include <set>
#include <thread>
#include <utility>

#include "comm/communicator.h"
#include "comm/deadline.h"
#include "core/error.h"

namespace lockstep {

namespace {

// MPI counts are ints: longer blocks travel as several messages of this size.
constexpr size_t kLargestMessageBytes = size_t{1} << 30;

// How long a wait keeps the processor before it yields between tests. A worker with a core of its own gains
// nothing from yielding and may lose milliseconds to other processes; with more workers than cores every
// further test delays the worker that is waited for.
constexpr std::chrono::microseconds kSpinOnOwnCore{10000};
constexpr std::chrono::microseconds kSpinOnSharedCore{20};

[[noreturn]] void fail_mpi(const std::string& where, int code) {
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  MPI_Error_string(code, text, &length);
  fail(ErrorKind::kCommunication,
       fmt::format("{}: MPI failed: {}", where, std::string(text, static_cast<size_t>(length))));
}

void check(int code, const char* where) {
  if (code != MPI_SUCCESS) fail_mpi(where, code);
}

MPI_Datatype datatype_of(DType dtype) {
  if (dtype == DType::kF32) return MPI_FLOAT;
  if (dtype == DType::kF64) return MPI_DOUBLE;
  fail(ErrorKind::kInternal, fmt::format("communicator: sums are of fp32 or fp64, not {}", name_of(dtype)));
}

// What the communicator and its requests share: who this is, and whether messages may be left behind.
struct World {
  MPI_Comm communicator = MPI_COMM_NULL;
  int rank = 0, size = 0;
  int tag_limit = 0;
  double timeout_seconds = 0.0;
  std::chrono::microseconds spin{0};
  uint64_t sequence = 0;
  bool failed = false;
};

// One collective under way: the messages or library collectives that it consists of.
class MpiRequest final : public Request {
 public:
  MpiRequest(World& world, const char* collective, std::string label)
      : world_(world), collective_(collective), label_(std::move(label)), sequence_(world.sequence++) {}

  void reserve(size_t messages) {
    pending_.reserve(messages);
    awaited_.reserve(messages);
  }

  int tag() const { return static_cast<int>(sequence_ % static_cast<uint64_t>(world_.tag_limit)); }

  void send(const SendBlock& block) {
    const auto* data = static_cast<const std::byte*>(block.data);
    for (size_t begin = 0; begin < block.bytes; begin += kLargestMessageBytes) {
      const int bytes = static_cast<int>(std::min(kLargestMessageBytes, block.bytes - begin));
      check_start(MPI_Isend(data + begin, bytes, MPI_BYTE, block.rank, tag(), world_.communicator,
                            add(block.rank, -1)));
    }
  }

  void receive(const ReceiveBlock& block) {
    auto* data = static_cast<std::byte*>(block.data);
    for (size_t begin = 0; begin < block.bytes; begin += kLargestMessageBytes) {
      const int bytes = static_cast<int>(std::min(kLargestMessageBytes, block.bytes - begin));
      check_start(MPI_Irecv(data + begin, bytes, MPI_BYTE, block.rank, tag(), world_.communicator,
                            add(block.rank, bytes)));
    }
  }

  // Where the next library collective puts its handle.
  MPI_Request* add_collective() { return add(-1, -1); }

  void check_start(int code) {
    if (code != MPI_SUCCESS) fail_here(code);
  }

  bool test() override {
    if (pending_.empty()) return true;
    int done = 0;
    statuses_.resize(pending_.size());
    const int code = MPI_Testall(static_cast<int>(pending_.size()), pending_.data(), &done, statuses_.data());
    if (code != MPI_SUCCESS) fail_here(code);
    if (done == 0) return false;
    check_sizes();
    pending_.clear();
    return true;
  }

  void wait() override {
    if (test()) return;
    using Clock = std::chrono::steady_clock;
    const Clock::time_point start = Clock::now();
    while (!test()) {
      const Clock::duration waited = Clock::now() - start;
      if (waited < world_.spin) continue;
      if (std::chrono::duration<double>(waited).count() > world_.timeout_seconds) fail_timeout();
      std::this_thread::yield();
    }
  }

 private:
  // One message or library collective: the rank at the other end (-1: all) and the bytes to come (-1: none
  // come).
  struct Awaited {
    int rank, bytes;
  };

  MPI_Request* add(int rank, int bytes) {
    awaited_.push_back({rank, bytes});
    return &pending_.emplace_back(MPI_REQUEST_NULL);
  }

  std::string name() const {
    return fmt::format("{} {} ({}) on rank {}", collective_, sequence_, label_, world_.rank);
  }

  void check_sizes() {
    for (size_t i = 0; i < awaited_.size(); ++i) {
      if (awaited_[i].bytes < 0) continue;
      int bytes = 0;
      MPI_Get_count(&statuses_[i], MPI_BYTE, &bytes);
      if (bytes == awaited_[i].bytes) continue;
      world_.failed = true;
      fail(ErrorKind::kCommunication,
           fmt::format("{}: workers disagree about a size: rank {} sent {} bytes, {} awaited", name(),
                       awaited_[i].rank, bytes, awaited_[i].bytes));
    }
  }

  [[noreturn]] void fail_here(int code) {
    world_.failed = true;
    if (code == MPI_ERR_IN_STATUS) {
      for (const MPI_Status& status : statuses_) {
        if (status.MPI_ERROR != MPI_SUCCESS && status.MPI_ERROR != MPI_ERR_PENDING)
          fail_mpi(name(), status.MPI_ERROR);
      }
    }
    fail_mpi(name(), code);
  }

  [[noreturn]] void fail_timeout() {
    world_.failed = true;
    std::set<int> ranks;
    for (size_t i = 0; i < pending_.size(); ++i) {
      int done = 1;
      MPI_Request_get_status(pending_[i], &done, MPI_STATUS_IGNORE);
      if (done == 0 && awaited_[i].rank >= 0) ranks.insert(awaited_[i].rank);
    }
    std::string who;
    for (const int rank : ranks) who += (who.empty() ? "waiting for rank " : ", ") + std::to_string(rank);
    if (who.empty()) who = "some worker did not join";
    fail(ErrorKind::kCommunication,
         fmt::format("{}: not finished after {} s: {}", name(), world_.timeout_seconds, who));
  }

  World& world_;
  const char* collective_;
  std::string label_;
  uint64_t sequence_;
  std::vector<MPI_Request> pending_;
  std::vector<Awaited> awaited_;
  std::vector<MPI_Status> statuses_;
};

class MpiCommunicator final : public Communicator {
 public:
  explicit MpiCommunicator(const CommunicatorOptions& options) {
    static bool initialized_here = false;
    int initialized = 0, finalized = 0;
    MPI_Initialized(&initialized);
    MPI_Finalized(&finalized);
    if (initialized_here || finalized != 0)
      fail(ErrorKind::kUsage, "communicator: MPI can be initialized only once in a process");
    world_.timeout_seconds = options.timeout_seconds;
    start_seconds_ = options.start_timeout_seconds;
    finalizes_ = initialized == 0;
    if (finalizes_) {
      initialize();
      initialized_here = true;
    } else {
      require_threads();
    }
    // A communicator of our own, so that a program's other MPI traffic cannot be mistaken for ours, nor its
    // handling of errors.
    start("MPI_Comm_dup", [&] { return MPI_Comm_dup(MPI_COMM_WORLD, &world_.communicator); });
    MPI_Comm_set_errhandler(world_.communicator, MPI_ERRORS_RETURN);
    MPI_Comm_rank(world_.communicator, &world_.rank);
    MPI_Comm_size(world_.communicator, &world_.size);
    void* limit = nullptr;
    int found = 0;
    MPI_Comm_get_attr(world_.communicator, MPI_TAG_UB, &limit, &found);
    world_.tag_limit =
        found != 0 ? *static_cast<int*>(limit) : 32767;  // 32767: the least that the standard grants
    find_host_place();
    world_.spin = host_place_.workers <= sysconf(_SC_NPROCESSORS_ONLN) ? kSpinOnOwnCore : kSpinOnSharedCore;
  }

  // Finalizing waits for all workers, so it happens on orderly shutdown only. A process that leaves without
  // it, or through abort, makes the launcher end the others.
  ~MpiCommunicator() override {
    if (world_.failed || std::uncaught_exceptions() > 0) return;
    leave(exit_code(ErrorKind::kCommunication), start_seconds_);
  }

  void leave(int exit_code, double timeout_seconds) override {
    if (std::exchange(left_, true)) return;
    // Of a process that ends without MPI's consent, mpirun would make exit code 1 out of 0.
    std::optional<Deadline> deadline;
    if (timeout_seconds > 0.0) {
      deadline.emplace(timeout_seconds, exit_code,
                       fmt::format("{}: MPI_Finalize: not finished after {} s: some worker did not come; "
                                   "leaving with exit code {}",
                                   who_waits(), timeout_seconds, exit_code),
                       [this](int code) { abort(code); });
    }
    MPI_Comm_free(&world_.communicator);
    if (finalizes_) MPI_Finalize();
  }

  double set_timeout(double seconds) override { return std::exchange(world_.timeout_seconds, seconds); }

  int rank() const override { return world_.rank; }
  int world_size() const override { return world_.size; }
  HostPlace host_place() const override { return host_place_; }

  std::string description() const override {
    return fmt::format("mpi: {} workers, {}", world_.size, communication_library());
  }

  std::unique_ptr<Request> exchange(std::vector<SendBlock> sends, std::vector<ReceiveBlock> receives,
                                    std::string label) override {
    auto request = std::make_unique<MpiRequest>(world_, "exchange", std::move(label));
    request->reserve(sends.size() + receives.size());
    for (const ReceiveBlock& block : receives) request->receive(block);
    for (const SendBlock& block : sends) request->send(block);
    return request;
  }

  std::unique_ptr<Request> all_reduce_sum(void* data, int64_t count, DType dtype,
                                          std::string label) override {
    return all_reduce(data, count, datatype_of(dtype), size_of(dtype), MPI_SUM, std::move(label));
  }

  std::unique_ptr<Request> all_reduce_max(int64_t* data, int64_t count, std::string label) override {
    return all_reduce(data, count, MPI_INT64_T, sizeof(int64_t), MPI_MAX, std::move(label));
  }

  std::unique_ptr<Request> all_gather(const void* data, size_t bytes, void* received,
                                      std::string label) override {
    // Every worker starts with its right neighbour, so that no worker is everyone's first target.
    auto request = std::make_unique<MpiRequest>(world_, "all_gather", std::move(label));
    request->reserve(2 * static_cast<size_t>(world_.size));
    for (int i = 0; i < world_.size; ++i) {
      const int source = (world_.rank - i + world_.size) % world_.size;
      request->receive(
          {source, static_cast<std::byte*>(received) + static_cast<size_t>(source) * bytes, bytes});
    }
    for (int i = 0; i < world_.size; ++i) request->send({(world_.rank + i) % world_.size, data, bytes});
    return request;
  }

  std::unique_ptr<Request> broadcast(void* data, size_t bytes, int root, std::string label) override {
    auto request = std::make_unique<MpiRequest>(world_, "broadcast", std::move(label));
    for (size_t begin = 0; begin < bytes; begin += kLargestMessageBytes) {
      const int count = static_cast<int>(std::min(kLargestMessageBytes, bytes - begin));
      request->check_start(MPI_Ibcast(static_cast<std::byte*>(data) + begin, count, MPI_BYTE, root,
                                      world_.communicator, request->add_collective()));
    }
    return request;
  }

  void barrier(std::string label) override {
    MpiRequest request(world_, "barrier", std::move(label));
    request.check_start(MPI_Ibarrier(world_.communicator, request.add_collective()));
    request.wait();
  }

  [[noreturn]] void abort(int exit_code) override {
    constexpr double kSecondsToAbort = 30.0;
    const Deadline deadline(
        kSecondsToAbort, exit_code,
        fmt::format("{}: MPI_Abort: not finished after {} s", who_waits(), kSecondsToAbort));
    std::fflush(nullptr);
    MPI_Abort(MPI_COMM_WORLD, exit_code);
    std::_Exit(exit_code);
  }

 private:
  void initialize() {
    // Any one thread may communicate, not only the one that initialized; Open MPI takes locks from
    // MPI_THREAD_MULTIPLE on.
    int provided = MPI_THREAD_SINGLE;
    start("MPI_Init", [&] { return MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided); });
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    if (provided < MPI_THREAD_SERIALIZED) {
      fail(ErrorKind::kCommunication, "communicator: this MPI does not support MPI_THREAD_SERIALIZED");
    }
  }

  // Of a program's MPI: gathering, kernels and checkpoints have threads of their own, which do not
  // communicate.
  static void require_threads() {
    int provided = MPI_THREAD_SINGLE, main = 0;
    MPI_Query_thread(&provided);
    MPI_Is_thread_main(&main);
    if (provided >= MPI_THREAD_SERIALIZED || (provided == MPI_THREAD_FUNNELED && main != 0)) return;
    fail(
        ErrorKind::kUsage,
        provided == MPI_THREAD_FUNNELED
            ? "communicator: MPI was initialized with MPI_THREAD_FUNNELED by another thread: it allows calls "
              "of that one only"
            : "communicator: MPI was initialized for a single thread: MPI_Init_thread with "
              "MPI_THREAD_FUNNELED at least");
  }

  // A call that waits for all workers before there is a communicator whose waits have timeouts.
  template <class Call>
  void start(const char* phase, const Call& call) {
    std::optional<Deadline> deadline;
    if (start_seconds_ > 0.0) {
      deadline.emplace(
          start_seconds_, exit_code(ErrorKind::kCommunication),
          fmt::format(
              "{}: {}: not finished after {} s (parallel.start_timeout): some worker did not come, or "
              "messages between the workers do not get through; on hosts with several interfaces name "
              "the right one: mpirun --mca btl_tcp_if_include eth0",
              who_waits(), phase, start_seconds_));
    }
    check(call(), phase);
  }

  void find_host_place() {
    MPI_Comm host = MPI_COMM_NULL;
    start("MPI_Comm_split", [&] {
      return MPI_Comm_split_type(world_.communicator, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host);
    });
    MPI_Comm_rank(host, &host_place_.rank);
    MPI_Comm_size(host, &host_place_.workers);
    MPI_Comm_free(&host);
  }

  std::unique_ptr<Request> all_reduce(void* data, int64_t count, MPI_Datatype datatype, size_t element_size,
                                      MPI_Op operation, std::string label) {
    auto request = std::make_unique<MpiRequest>(world_, "all_reduce", std::move(label));
    const auto step = static_cast<int64_t>(kLargestMessageBytes / element_size);
    for (int64_t begin = 0; begin < count; begin += step) {
      request->check_start(MPI_Iallreduce(MPI_IN_PLACE, static_cast<std::byte*>(data) + begin * element_size,
                                          static_cast<int>(std::min(step, count - begin)), datatype,
                                          operation, world_.communicator, request->add_collective()));
    }
    return request;
  }

  World world_;
  HostPlace host_place_;
  double start_seconds_ = 0.0;
  bool finalizes_ = false;  // MPI is this object's, not the program's
  bool left_ = false;
};

}  // namespace

std::unique_ptr<Communicator> make_mpi_communicator(const CommunicatorOptions& options) {
  return std::make_unique<MpiCommunicator>(options);
}

std::string communication_library() {
  char version[MPI_MAX_LIBRARY_VERSION_STRING] = {};
  int length = 0;
  MPI_Get_library_version(version, &length);
  const std::string text(version, static_cast<size_t>(length));
  return text.substr(0, text.find_first_of(",\n"));
}

}  // namespace lockstep
