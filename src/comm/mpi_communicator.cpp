// The communicator between processes started by mpirun, over host memory.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <optional>
#include <utility>

#include "lockstep/comm/communicator.h"
#include "lockstep/comm/deadline.h"
#include "lockstep/comm/fatal_start.h"
#include "lockstep/comm/mpi_request.h"
#include "lockstep/comm/neighbours.h"
#include "lockstep/core/error.h"
#include "lockstep/core/log.h"

namespace lockstep {

namespace {

void check(int code, const char* where) {
  if (code != MPI_SUCCESS) fail_mpi(where, code);
}

MPI_Datatype datatype_of(DType dtype) {
  if (dtype == DType::kF32) return MPI_FLOAT;
  if (dtype == DType::kF64) return MPI_DOUBLE;
  fail(ErrorKind::kInternal, fmt::format("communicator: sums are of fp32 or fp64, not {}", name_of(dtype)));
}

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
    world_.roll_call.emplace(world_.communicator, world_.tag_limit);
    world_.recorder.emplace(world_.rank);
    find_host_place();
    find_workers();
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
    const auto end = [this](int code) { abort(code); };
    std::optional<Deadline> deadline;
    if (timeout_seconds > 0.0) {
      come_together(exit_code, timeout_seconds);
      deadline.emplace(
          timeout_seconds, exit_code, "MPI_Finalize",
          [=](bool last) {
            return overdue("MPI_Finalize", last, timeout_seconds, "", "some worker did not come",
                           leaving_with(exit_code));
          },
          end);
    }
    MPI_Comm_free(&world_.communicator);
    if (finalizes_) MPI_Finalize();
  }

  double take_quota_delay() override { return world_.quota_delay.take(); }
  double set_timeout(double seconds) override { return std::exchange(world_.timeout_seconds, seconds); }

  int rank() const override { return world_.rank; }
  int world_size() const override { return world_.size; }
  HostPlace host_place() const override { return host_place_; }
  std::string host_of(int rank) const override { return world_.workers.at(static_cast<size_t>(rank)).host; }
  bool failed() const override { return world_.failed; }
  void enter(std::string phase) override { world_.phase = std::move(phase); }
  void leave_flight_in(std::string directory) override { world_.flight_directory = std::move(directory); }

  void at_end(std::function<void()> act) override { world_.at_end(std::move(act)); }
  void act_at_end(bool if_noticed) override { world_.act_at_end(if_noticed); }
  bool first_alive_of_host() const override {
    for (int lower = 0; lower < world_.rank; ++lower) {
      if (host_of(lower) == host_of(world_.rank) && world_.may_act(lower)) return false;
    }
    return true;
  }

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
    const auto part = [&](int rank) {
      return static_cast<std::byte*>(received) + static_cast<size_t>(rank) * bytes;
    };
    for (int i = 1; i < world_.size; ++i) {
      const int source = (world_.rank - i + world_.size) % world_.size;
      request->receive({source, part(source), bytes});
    }
    if (bytes > 0 && part(world_.rank) != data) std::memcpy(part(world_.rank), data, bytes);
    for (int i = 1; i < world_.size; ++i) request->send({(world_.rank + i) % world_.size, data, bytes});
    return request;
  }

  std::unique_ptr<Request> broadcast(void* data, size_t bytes, int root, std::string label) override {
    auto request = std::make_unique<MpiRequest>(world_, "broadcast", std::move(label));
    for (size_t begin = 0; begin < bytes; begin += kLargestMessageBytes) {
      const int count = static_cast<int>(std::min(kLargestMessageBytes, bytes - begin));
      world_.recorder->add_bytes(request->sequence(), count);
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

  void look_around(const std::string& place, double seconds) override {
    // After a while without, this is another wait.
    constexpr std::chrono::seconds kElsewhere{1};
    const auto now = std::chrono::steady_clock::now();
    if (now - std::exchange(looked_, now) > kElsewhere) called_ = now;
    world_.recorder->wait(place);
    if (world_.look_around(place, seconds, now, called_)) world_.fail_timeout(place);
  }
  void use_device_progress(std::function<uint64_t()> progress) override {
    world_.device_progress = std::move(progress);
  }

  std::unique_ptr<Request> until(std::function<bool()> came, std::string label) override {
    auto request = std::make_unique<MpiRequest>(world_, "exchange", std::move(label));
    request->until(std::move(came));
    return request;
  }

  [[noreturn]] void abort(int exit_code) override {
    constexpr double kSecondsToAbort = 30.0;
    const Deadline deadline(kSecondsToAbort, exit_code, "MPI_Abort",
                            Deadline::saying(fmt::format("{}: MPI_Abort: not finished after {} s",
                                                         who_waits(), kSecondsToAbort)));
    if (exit_code == lockstep::exit_code(ErrorKind::kCommunication)) world_.leave_flight({});
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
      deadline.emplace(start_seconds_, exit_code(ErrorKind::kCommunication), phase,
                       [seconds = start_seconds_, phase](bool last) {
                         return overdue(
                             phase, last, seconds, " (parallel.start_timeout)",
                             "some worker did not come, or messages between the workers do not get "
                             "through; on hosts with several interfaces name the right one: mpirun --mca "
                             "btl_tcp_if_include eth0",
                             "");
                       });
    }
    const FatalStart watched(phase);
    check(call(), phase);
  }

  // What the watch over MPI's own phases says; nothing where another worker of this host does.
  static std::string overdue(const char* phase, bool last, double seconds, const char* setting,
                             const std::string& unknown, const std::string& consequence) {
    const PhaseReport report = look_at_neighbours(phase);
    if (!report.speaks && !last) return "";
    return fmt::format(
        "{}: {}: not finished after {} s{}: {}{}", who_waits(), phase, seconds, setting,
        report.missing.empty() ? unknown : "waiting for " + report.missing + " on host " + host_name(),
        consequence);
  }
  static std::string leaving_with(int code) { return fmt::format("; leaving with exit code {}", code); }

  // Before the end, while those that do not come can be named.
  void come_together(int exit_code, double timeout_seconds) {
    set_timeout(timeout_seconds);
    world_.phase.clear();
    try {
      barrier("leave");
    } catch (const Error& error) {
      const std::string text = error.what() + leaving_with(exit_code);
      if (exit_code == 0 || exit_code == kExitStopped) {
        log_warning(text);
      } else {
        log_error(text);
      }
      abort(exit_code);
    }
  }

  void find_host_place() {
    MPI_Comm host = MPI_COMM_NULL;
    start("MPI_Comm_split", [&] {
      return MPI_Comm_split_type(world_.communicator, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host);
    });
    MPI_Comm_rank(host, &host_place_.rank);
    MPI_Comm_size(host, &host_place_.workers);
    // Workers that are bound to a core each have as many between them as they are.
    CoreSet cores = usable_core_set(), all{};
    start("MPI_Allreduce", [&] {
      return MPI_Allreduce(cores.data(), all.data(), static_cast<int>(cores.size()), MPI_UINT64_T, MPI_BOR,
                           host);
    });
    MPI_Comm_free(&host);
    world_.spin = Spin(host_place_.workers, all);
  }

  void find_workers() {
    const TimeoutScope patience(*this, start_seconds_ > 0.0 ? start_seconds_ : world_.timeout_seconds);
    MpiWorld::Worker mine{{}, ::getpid(), world_.recorder->descriptor()};
    host_name().copy(mine.host, sizeof mine.host - 1);
    std::vector<MpiWorld::Worker> all(static_cast<size_t>(world_.size));
    all_gather(&mine, sizeof mine, all.data(), "hosts")->wait();
    world_.workers = std::move(all);
  }

  std::unique_ptr<Request> all_reduce(void* data, int64_t count, MPI_Datatype datatype, size_t element_size,
                                      MPI_Op operation, std::string label) {
    auto request = std::make_unique<MpiRequest>(world_, "all_reduce", std::move(label));
    const auto step = static_cast<int64_t>(kLargestMessageBytes / element_size);
    for (int64_t begin = 0; begin < count; begin += step) {
      world_.recorder->add_bytes(request->sequence(),
                                 std::min(step, count - begin) * static_cast<int64_t>(element_size));
      request->check_start(MPI_Iallreduce(MPI_IN_PLACE, static_cast<std::byte*>(data) + begin * element_size,
                                          static_cast<int>(std::min(step, count - begin)), datatype,
                                          operation, world_.communicator, request->add_collective()));
    }
    return request;
  }

  MpiWorld world_;
  HostPlace host_place_;
  double start_seconds_ = 0.0;
  std::chrono::steady_clock::time_point looked_, called_;  // look_around()
  bool finalizes_ = false;                                 // MPI is this object's, not the program's
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
