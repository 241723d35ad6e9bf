// Who of the workers waits, and who does not: asked by a worker whose wait has taken too long, so that those
// are named for whom everybody waits.
//
// Whoever waits looks for calls now and then, and answers. One that computes, sleeps in a system call, is
// stopped or gone does not: it is the one that has not joined. Answers are small messages, which MPI delivers
// without the receiver's help, between the waits of whatever collective: no thread has to listen.
#pragma once

#define OMPI_SKIP_MPICXX 1  // the C interface only
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>

#include <cstdint>
#include <list>
#include <string>
#include <vector>

namespace lockstep {

class RollCall {
 public:
  // tag: of no other message of the communicator.
  RollCall(MPI_Comm communicator, int tag);

  // Where a worker waits ("barrier 7 (step 12)"), and how far its device has come
  // (Communicator::use_device_progress).
  struct Place {
    std::string wait;
    uint64_t device = 0;
  };

  // Reads what others have said since the last time, and answers those that call.
  void listen(const Place& place);
  // Asks all others. Those that answer from now on are present.
  void call(const Place& place);
  // The call is over: what was waited for has come.
  void withdraw();

  bool calling() const { return calling_; }
  // Whether others call, and have not withdrawn.
  bool called() const;
  // Of this worker's call, ascending. The caller itself is present.
  std::vector<int> absent() const;
  bool calls(int rank) const { return rank == rank_ ? calling_ : others_[static_cast<size_t>(rank)].calls; }
  // Of those that call: who is to say what is wrong.
  int lowest_caller() const;
  // Of those that are present, this worker included, whose devices have not come as far as another one's,
  // those that are furthest behind; ascending.
  std::vector<int> behind() const;
  // Where a worker that is present waits.
  const std::string& place_of(int rank) const { return others_[static_cast<size_t>(rank)].place.wait; }

 private:
  struct Message {
    enum Kind : int32_t { kCall, kAnswer, kWithdrawal } kind = kCall;
    uint32_t call = 0;  // the caller's count of its calls
    uint64_t device = 0;
    char place[120] = {};
  };
  struct Other {
    bool calls = false, present = false;
    Place place;
  };
  struct Sent {
    Message message;
    MPI_Request request = MPI_REQUEST_NULL;
  };

  void send(int rank, Message::Kind kind, uint32_t call, const Place& place);
  void send_all(Message::Kind kind, const Place& place);

  MPI_Comm communicator_;
  int tag_, rank_ = 0, size_ = 0;
  bool calling_ = false;
  uint32_t calls_ = 0;
  std::vector<Other> others_;  // by rank, this worker included
  std::list<Sent> sent_;       // not yet taken over by MPI, which reads them where they are
};

}  // namespace lockstep
