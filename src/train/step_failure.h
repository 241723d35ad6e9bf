// What parts of the program's own throw within a step: a model in its sweeps, which must not cost what has
// been trained, nor leave the other workers waiting; an optimizer half-way, which leaves nothing to save.
#pragma once

#include <cstdint>
#include <exception>
#include <functional>
#include <optional>

#include "lockstep/comm/communicator.h"
#include "lockstep/train/agreement.h"

namespace lockstep {

class StepFailure {
 public:
  // The communicator must outlive the object.
  explicit StepFailure(Communicator& communicator) : communicator_(communicator) {}

  // What this worker's sweeps have thrown, for GradientPass::issue().
  std::exception_ptr* mine() { return &mine_; }
  bool is_mine() const { return mine_ != nullptr; }
  // Keeps a failure that all know of and that `part` leaves no trace of. Returns whether there was none.
  // step: its number.
  bool none_of(int64_t step, const std::function<void()>& part);
  // Where a worker has said that its own have: what all throw. Collective.
  void agree(int64_t step);
  const std::optional<AgreedFailure>& agreed() const { return agreed_; }

  // Runs what changes the state of a run bit by bit.
  void change(const std::function<void()>& part);
  // Error (kUsage) where that has thrown on its way. done: steps.
  void require_whole(int64_t done) const;

 private:
  Communicator& communicator_;
  std::exception_ptr mine_;
  std::optional<AgreedFailure> agreed_;
  bool is_whole_ = true;  // whether the state is that behind a step
};

}  // namespace lockstep
