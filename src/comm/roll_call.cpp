// Calls, answers and withdrawals as messages.
#include "lockstep/comm/roll_call.h"

#include <algorithm>
#include <cstring>

namespace lockstep {

RollCall::RollCall(MPI_Comm communicator, int tag) : communicator_(communicator), tag_(tag) {
  MPI_Comm_rank(communicator, &rank_);
  MPI_Comm_size(communicator, &size_);
  others_.resize(static_cast<size_t>(size_));
}

// MPI's own failures are passed over: they are those of workers that are then absent.
void RollCall::listen(const Place& place) {
  while (true) {
    int found = 0;
    MPI_Status status;
    if (MPI_Iprobe(MPI_ANY_SOURCE, tag_, communicator_, &found, &status) != MPI_SUCCESS || found == 0) break;
    Message message;
    if (MPI_Recv(&message, sizeof message, MPI_BYTE, status.MPI_SOURCE, tag_, communicator_,
                 MPI_STATUS_IGNORE) != MPI_SUCCESS)
      break;
    Other& other = others_[static_cast<size_t>(status.MPI_SOURCE)];
    if (message.kind != Message::kWithdrawal) other.place = {message.place, message.device};
    switch (message.kind) {
      case Message::kCall:
        other.calls = other.present = true;
        send(status.MPI_SOURCE, Message::kAnswer, message.call, place);
        break;
      case Message::kAnswer:
        if (message.call == calls_) other.present = true;
        break;
      case Message::kWithdrawal:
        other.calls = false;
        break;
    }
  }
}

void RollCall::call(const Place& place) {
  calling_ = true;
  ++calls_;
  // Who calls by itself is there already.
  for (Other& other : others_) other.present = other.calls;
  Other& self = others_[static_cast<size_t>(rank_)];
  self.present = true;
  self.place = place;
  send_all(Message::kCall, place);
}

void RollCall::withdraw() {
  calling_ = false;
  send_all(Message::kWithdrawal, {});
}

bool RollCall::called() const {
  return std::ranges::any_of(others_, &Other::calls);
}

std::vector<int> RollCall::absent() const {
  std::vector<int> ranks;
  for (int rank = 0; rank < size_; ++rank) {
    if (!others_[static_cast<size_t>(rank)].present) ranks.push_back(rank);
  }
  return ranks;
}

std::vector<int> RollCall::behind() const {
  uint64_t least = UINT64_MAX, most = 0;
  for (const Other& other : others_) {
    if (!other.present || other.place.device == 0) continue;
    least = std::min(least, other.place.device);
    most = std::max(most, other.place.device);
  }
  std::vector<int> ranks;
  for (int rank = 0; rank < size_ && least < most; ++rank) {
    const Other& other = others_[static_cast<size_t>(rank)];
    if (other.present && other.place.device == least) ranks.push_back(rank);
  }
  return ranks;
}

int RollCall::lowest_caller() const {
  int rank = 0;
  while (rank < size_ && !calls(rank)) ++rank;
  return rank;
}

void RollCall::send(int rank, Message::Kind kind, uint32_t call, const Place& place) {
  std::erase_if(sent_, [](Sent& sent) {
    int done = 0;
    return MPI_Test(&sent.request, &done, MPI_STATUS_IGNORE) == MPI_SUCCESS && done != 0;
  });
  Sent& sent = sent_.emplace_back();
  sent.message.kind = kind;
  sent.message.call = call;
  sent.message.device = place.device;
  std::memcpy(sent.message.place, place.wait.data(),
              std::min(place.wait.size(), sizeof sent.message.place - 1));
  MPI_Isend(&sent.message, sizeof sent.message, MPI_BYTE, rank, tag_, communicator_, &sent.request);
}  // NOLINT: a later call tests the request

void RollCall::send_all(Message::Kind kind, const Place& place) {
  for (int rank = 0; rank < size_; ++rank) {
    if (rank != rank_) send(rank, kind, calls_, place);
  }
}

}  // namespace lockstep
