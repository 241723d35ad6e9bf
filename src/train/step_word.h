// What workers tell each other with every step: whether one wants to stop or to save, or may have no samples
// for the next one, and how long their own parts took. It travels beside the last messages of the gradient
// exchange, so that nobody waits for it.
#pragma once

#include <memory>
#include <vector>

#include "lockstep/comm/communicator.h"
#include "lockstep/train/checkpoint_copies.h"

namespace lockstep {

class StepWord {
 public:
  struct Word {
    int64_t stops = 0, saves = 0;  // whether this worker wants it
    int64_t doubts = 0;            // whether it may have no samples for the next step
    int64_t finds = 0;             // whether its samples hold what nobody was told of (OverflowCheck)
    int64_t fails = 0;             // whether its model has thrown in this step
    double seconds = 0.0;          // of its own work since the word before; 0: not known
    double throttled = 0.0;        // in which a quota has kept it from running, of the last second or so
    CopyWord copy = {};            // about copies of checkpoints
  };

  // The communicator must outlive the object.
  explicit StepWord(Communicator& communicator)
      : communicator_(communicator), words_(static_cast<size_t>(communicator.world_size())) {}

  // To everyone. Collective; take() follows before the next one.
  void post(const Word& mine) {
    mine_ = mine;
    request_ = communicator_.all_gather(&mine_, sizeof mine_, words_.data(), "stop");
  }
  // Waits for everyone's word. Returns what any of them says in its flags.
  Word take() {
    request_->wait();
    request_.reset();
    Word any;
    for (const Word& theirs : words_) {
      any.stops |= theirs.stops;
      any.saves |= theirs.saves;
      any.doubts |= theirs.doubts;
      any.finds |= theirs.finds;
      any.fails |= theirs.fails;
    }
    return any;
  }
  // What was taken, by rank.
  const std::vector<Word>& words() const { return words_; }

 private:
  Communicator& communicator_;
  Word mine_;
  std::vector<Word> words_;
  std::unique_ptr<Request> request_;
};

}  // namespace lockstep
