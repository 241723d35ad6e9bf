// Collectives between workers. Every call is nonblocking: it returns a Request that makes progress when
// tested.
//
// All workers must issue the same collectives in the same order. Each collective has a label ("bucket 3") and
// a sequence number; a wait that exceeds the timeout throws Error (kCommunication) naming rank, collective,
// sequence number and label, and those workers, with their hosts, that do not wait as well: on the lowest
// rank that waits. The others leave it some seconds to end the job. Buffers must stay valid and untouched
// until the request is done. Only one thread of a worker may use a communicator.
//
// A communicator moves either host memory or the memory of the workers' device, never both; device() leads
// from the former to the latter. On a device, collectives run in the order of its communication lane
// (kernels/backend.h): they see what was issued there before, and a request that is done means that what is
// issued there from now on sees the result.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "lockstep/core/dtype.h"

namespace lockstep {

class Request {
 public:
  virtual ~Request() = default;  // never communicates
  // Makes progress; true when done. Does not block.
  virtual bool test() = 0;
  // Blocks until done (yielding the processor), or throws on timeout.
  virtual void wait() = 0;
};

// One block of bytes to or from one rank.
struct SendBlock {
  int rank;
  const void* data;
  size_t bytes;
};
struct ReceiveBlock {
  int rank;
  void* data;
  size_t bytes;
};

// A worker's number among the workers of its host, and how many those are.
struct HostPlace {
  int rank = 0, workers = 1;
};

class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int world_size() const = 0;
  virtual HostPlace host_place() const = 0;
  virtual std::string description() const = 0;  // "mpi: 4 workers, Open MPI 4.1.4"
  // The name of a worker's host.
  virtual std::string host_of(int rank) const;
  // What this worker is at from now on ("step 12"), for messages about collectives.
  virtual void enter(std::string phase) { (void)phase; }
  // Where each worker leaves its last collectives (flight-RANK.tsv) when the job ends because of
  // communication. A directory that is not there, or that cannot be written to, does no harm.
  virtual void leave_flight_in(std::string directory) { (void)directory; }

  // What this worker does, once, when it finds within a wait for others that the job is about to be ended, or
  // that some do not come: the last moment in which it can. It must not communicate, and has a second or two.
  // Where the worker waits for its device, which waits for others, another thread does it.
  virtual void at_end(std::function<void()> act) { (void)act; }
  // Does that now, if it has not been done; if_noticed: only where the launcher has said that it ends the
  // job.
  virtual void act_at_end(bool if_noticed) { (void)if_noticed; }
  // Whether no worker of this host with a lower rank is alive, as far as can be seen.
  virtual bool first_alive_of_host() const { return host_place().rank == 0; }

  // Sends the blocks and receives the blocks: the primitive under the lockstep exchange. Blocks between two
  // ranks match in order; a block to oneself is copied. Sizes must agree on both sides. Empty blocks are
  // skipped on both sides.
  virtual std::unique_ptr<Request> exchange(std::vector<SendBlock> sends, std::vector<ReceiveBlock> receives,
                                            std::string label) = 0;
  // Element-wise sum over workers in the library's own order, into every worker's data. kF32 and kF64.
  virtual std::unique_ptr<Request> all_reduce_sum(void* data, int64_t count, DType dtype,
                                                  std::string label) = 0;
  // Maximum over workers of each int64.
  virtual std::unique_ptr<Request> all_reduce_max(int64_t* data, int64_t count, std::string label) = 0;
  // Worker r's `bytes` bytes land at received + r * bytes on every worker.
  virtual std::unique_ptr<Request> all_gather(const void* data, size_t bytes, void* received,
                                              std::string label) = 0;
  virtual std::unique_ptr<Request> broadcast(void* data, size_t bytes, int root, std::string label) = 0;
  virtual void barrier(std::string label) = 0;
  // Now and then, of a worker that waits for its device, which waits for the others' devices: answers those
  // that ask who is there, and where the device has waited for longer than the timeout finds out for whom,
  // and throws as a wait does. place: in what ("exchange 7 (bucket 0)").
  virtual void look_around(const std::string& place, double seconds) {
    (void)place;
    (void)seconds;
  }
  // How far the device has come, for others that ask: the larger the further, and the same on all workers
  // that have come as far; 0 where nothing is under way.
  virtual void use_device_progress(std::function<uint64_t()> progress) { (void)progress; }
  // Done when `came` says so, of what workers tell each other by other ways than messages. As a collective it
  // is issued by all in the same order, and watched. This one, of whoever has no clock, waits as long as it
  // takes.
  virtual std::unique_ptr<Request> until(std::function<bool()> came, std::string label);
  // Lets `issue` give the device's queue recorded work with collectives in it once more. What watches over
  // collectives watches over that as over one.
  virtual void reissue(void* queue, const std::function<void()>& issue, std::string label) {
    (void)queue;
    (void)label;
    issue();
  }
  // Whether collectives may be recorded (Backend::begin_recording): they must not need the host.
  virtual bool recordable() const { return false; }

  // Seconds since the last call by which this worker has come out of waits later than it could have, since a
  // quota of processor time has kept it from running.
  virtual double take_quota_delay() { return 0.0; }

  // Ends every worker of the job with this exit code. Does not return. This call, failed() and act_at_end()
  // are the only ones that another thread may make.
  [[noreturn]] virtual void abort(int exit_code) = 0;
  // Whether a collective has failed, so that its thread is about to end the job.
  virtual bool failed() const { return false; }

  // Leaves the job in order, together with the others; no call may follow. What this worker had to do is
  // done: where some do not come within timeout_seconds, it ends the job with exit_code, so what others may
  // still have to do must not take that long. 0: waits as long as it takes.
  virtual void leave(int exit_code, double timeout_seconds) {
    (void)exit_code;
    (void)timeout_seconds;
  }

  // Replaces the timeout of waits from now on, in seconds; returns the one before.
  virtual double set_timeout(double seconds) { return seconds; }

  // The same workers' communicator for arrays in the memory of their device: this one where that is host
  // memory.
  Communicator& device() { return device_ != nullptr ? *device_ : *this; }
  // Gives it, or with null takes it away.
  void use_device(std::unique_ptr<Communicator> device) { device_ = std::move(device); }

 private:
  std::unique_ptr<Communicator> device_;
};

struct CommunicatorOptions {
  double timeout_seconds = 600.0;  // of waits
  // Of each phase of MPI's own start, to which workers come at different times. MPI cannot be told to give
  // up: where it takes longer, the process says so (log_error) and ends with exit code 6. 0: as long as it
  // takes.
  double start_timeout_seconds = 0.0;
};

// Another timeout until the end of a scope, for a part of the run in which one worker may keep the others
// waiting for long.
class TimeoutScope {
 public:
  TimeoutScope(Communicator& communicator, double seconds)
      : communicator_(communicator), before_(communicator.set_timeout(seconds)) {}
  ~TimeoutScope() { communicator_.set_timeout(before_); }
  TimeoutScope(const TimeoutScope&) = delete;
  TimeoutScope& operator=(const TimeoutScope&) = delete;

 private:
  Communicator& communicator_;
  double before_;
};

// One worker, no library behind it; copies where the others would communicate.
std::unique_ptr<Communicator> make_self_communicator();
// True when a launcher (mpirun, srun) started this process as part of a job; decided from the environment,
// without MPI.
bool launched_by_mpi();
// Takes part in the program's MPI where that has been initialized, and leaves it as it is: the program
// finalizes it, after the communicator has gone. It must allow calls beside other threads: Error (kUsage)
// below MPI_THREAD_FUNNELED, or when it is that and this is not the main thread. Else initializes MPI, once
// in a process, and finalizes it when left or destroyed.
std::unique_ptr<Communicator> make_mpi_communicator(const CommunicatorOptions& options);
// What workers talk through: "Open MPI v4.1.4", or "none: one worker only" in a build without MPI. Needs no
// initialization.
std::string communication_library();
// mpi when a launcher started this process, else self. Error (kUsage) when launched by mpirun and built
// without MPI, and for one of several tasks that srun has started without PMI.
std::unique_ptr<Communicator> make_communicator(const CommunicatorOptions& options);

}  // namespace lockstep
