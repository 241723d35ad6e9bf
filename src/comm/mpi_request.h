// A collective under way over MPI: the messages or library collectives that it consists of, and how they are
// waited for.
//
// Blocks travel as nonblocking point-to-point messages whose tag is the sequence number of the collective, so
// workers that disagree about the order of collectives wait for each other until the timeout instead of
// mixing up data.
#pragma once

#define OMPI_SKIP_MPICXX 1  // the C interface only
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "lockstep/comm/communicator.h"
#include "lockstep/comm/end_notice.h"
#include "lockstep/comm/flight_recorder.h"
#include "lockstep/comm/quota_delay.h"
#include "lockstep/comm/roll_call.h"
#include "lockstep/comm/spin.h"

namespace lockstep {

// MPI counts are ints: longer blocks travel as several messages of this size.
inline constexpr size_t kLargestMessageBytes = size_t{1} << 30;

[[noreturn]] void fail_mpi(const std::string& where, int code);

// What the communicator and its requests share: who the workers are, and whether messages may be left behind.
struct MpiWorld {
  struct Worker {
    char host[64] = {};
    int process = 0, flight = -1;  // descriptor of its flight recorder there
  };

  MPI_Comm communicator = MPI_COMM_NULL;
  int rank = 0, size = 0;
  int tag_limit = 0;  // tags below are those of collectives
  double timeout_seconds = 0.0;
  Spin spin;
  QuotaDelay quota_delay;
  uint64_t sequence = 0;
  int under_way = 0;  // requests whose messages MPI has to move
  std::atomic<bool> failed{false};
  std::string phase;            // what this worker is at: "step 12"; empty: not said
  std::vector<Worker> workers;  // by rank; empty until they know of each other
  std::optional<RollCall> roll_call;
  std::optional<FlightRecorder> recorder;
  std::function<uint64_t()> device_progress;  // Communicator::use_device_progress
  std::string flight_directory;  // where recorders are written to when the job fails; empty: nowhere

  // Communicator::at_end(), and its end where `act` is empty: which waits for an act under way.
  void at_end(std::function<void()> act);
  // Communicator::act_at_end(). absent: who does not come, where that is known. What goes wrong there is no
  // business of who waits.
  void act_at_end(bool if_noticed, const std::vector<int>& absent = {});
  // Of that act: whether a worker of this host is there to do it.
  bool may_act(int number) const;

  // A look of a worker that has waited in `place` for so long: answers the calls of others, calls when it is
  // time to. called: when it began to call, or last heard no call. Whether it is to say that nobody came.
  bool look_around(const std::string& place, double seconds, std::chrono::steady_clock::time_point now,
                   std::chrono::steady_clock::time_point& called);
  [[noreturn]] void fail_timeout(const std::string& place);

  // Leaves this worker's last collectives in the directory, and as the first of its host that calls also
  // those of absent ones. Once.
  void leave_flight(const std::vector<int>& absent);

 private:
  std::string named(const char* what, const std::vector<int>& ranks) const;

  bool left_flight_ = false;
  std::mutex end_;  // of what follows
  std::optional<EndNotice> notice_;
  std::function<void()> last_act_;
  std::vector<int> absent_;
};

class MpiRequest final : public Request {
 public:
  MpiRequest(MpiWorld& world, const char* collective, std::string label);

  uint64_t sequence() const { return sequence_; }
  void reserve(size_t messages);
  void send(const SendBlock& block);
  void receive(const ReceiveBlock& block);
  // Is not done before `came` says so.
  void until(std::function<bool()> came) { came_ = std::move(came); }
  // Where the next library collective puts its handle.
  MPI_Request* add_collective() { return add(-1, -1); }
  void check_start(int code) {
    if (code != MPI_SUCCESS) fail_here(code);
  }

  bool test() override;
  void wait() override;

 private:
  using Clock = std::chrono::steady_clock;

  // One message or library collective: the rank at the other end (-1: all) and the bytes to come (-1: none
  // come).
  struct Awaited {
    int rank, bytes;
  };
  // A wait that takes long: since when, without the time in which this worker was stopped itself, when it
  // looked for calls last, and when it began to call, or last heard no call.
  struct LongWait {
    Clock::time_point since, looked, called;
  };

  int tag() const { return static_cast<int>(sequence_ % static_cast<uint64_t>(world_.tag_limit)); }
  MPI_Request* add(int rank, int bytes);
  void progress();
  std::string place() const;  // "exchange 7 (step 2, bucket 0)"
  std::string name() const;
  void check_sizes();
  // Gives up when nobody came.
  void look_around(LongWait& wait, Clock::time_point now);
  [[noreturn]] void fail_here(int code);

  MpiWorld& world_;
  const char* collective_;
  std::string label_;
  uint64_t sequence_;
  bool done_ = false;
  std::function<bool()> came_;
  std::vector<MPI_Request> pending_;
  std::vector<Awaited> awaited_;
  std::vector<MPI_Status> statuses_;
};

}  // namespace lockstep
