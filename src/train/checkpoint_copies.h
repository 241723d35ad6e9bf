// Copies of each checkpoint in the directories of other hosts, sent part by part beside the training steps.
//
// A worker that has to do with disks does so in threads of their own; what is sent is one message a step at
// most, begun when everybody has said, in the word of a step, that it is ready for it: nobody ever waits, and
// all workers issue the same collectives in the same order. Rank 0 sends the newest checkpoint there is; one
// that is in place before the one before it has been sent takes the place of those that wait.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "lockstep/checkpoint/transfer.h"
#include "lockstep/train/host_directories.h"

namespace lockstep {

// What a worker says about copies with every step.
struct CopyWord {
  enum Taking : int32_t { kBusy, kReady, kDeclines };
  // Of rank 0: of the message that it has; 0: none. Of one that takes copies: of metrics.jsonl, that it has.
  int64_t bytes = 0;
  int32_t begins = 0;      // the message is the outline of another file
  int32_t hurries = 0;     // it goes to those that are ready, whoever is not
  int32_t taking = kBusy;  // the next message; kDeclines: nothing more of this file
  int32_t under_way = 0;   // anything, on this worker
};

class CheckpointCopies {
 public:
  // `directories` must outlive the object. Rank 0 says to which hosts copies go.
  CheckpointCopies(const RunSettings& settings, HostDirectories& directories, Communicator& communicator);
  ~CheckpointCopies();
  CheckpointCopies(const CheckpointCopies&) = delete;
  CheckpointCopies& operator=(const CheckpointCopies&) = delete;

  // Whether there are hosts that get copies; else nothing below does anything.
  bool active() const { return !takers_.empty(); }
  // On rank 0, from any thread: the file of this step is in place. metrics: bytes of metrics.jsonl that its
  // run had then.
  void offer(int64_t step, int64_t best, int64_t metrics);
  // What this worker has to say now; hear() follows, with the words of all. Collective together.
  CopyWord word();
  void hear(const std::function<CopyWord(int rank)>& of);
  // Sends what was offered last, to its end, but for no longer than `seconds`; then that is warned of.
  // Collective.
  void finish(double seconds);

 private:
  using Clock = std::chrono::steady_clock;
  struct Offer {
    int64_t step, best, metrics;
  };

  bool leader() const { return communicator_.rank() == 0; }
  bool takes() const;
  CopyWord word_of_leader();
  CopyWord word_of_taker();
  // Turns to the newest checkpoint that was offered, if any.
  void begin_sending();
  void read_ahead();
  // Of a worker that takes copies: has what has come seen to. False: the disk is still busy.
  void take_message();
  bool look_at_disk();
  void warn(const std::string& reason) const;

  HostDirectories& directories_;
  Communicator& communicator_;
  std::vector<int> takers_;
  std::unique_ptr<Request> request_;  // the message under way
  std::vector<std::byte> message_;    // its bytes
  bool message_begins_ = false;

  // On rank 0.
  std::mutex mutex_;
  std::optional<Offer> offered_;
  std::unique_ptr<OutgoingCheckpoint> outgoing_;
  bool outline_sent_ = false, unwanted_ = false;
  std::optional<std::vector<std::byte>> next_;  // the part that has been read
  std::future<std::vector<std::byte>> reading_;
  Clock::time_point ready_since_;
  int64_t common_metrics_ = 0;  // that all takers have

  // On workers that take copies.
  std::shared_ptr<IncomingCheckpoint> incoming_;  // null: the rest of the file under way is not wanted
  std::future<void> disk_;                        // begins a file, or writes a part
  bool left_out_ = false;                         // of what has been sent while the disk was busy
  bool placing_ = false;
  std::shared_ptr<int64_t> placed_metrics_ = std::make_shared<int64_t>(0);
  int64_t metrics_ = 0;
};

}  // namespace lockstep
