// What a model, a part of the program's own perhaps, throws in a step's sweeps: it must not cost what has
// been trained, nor leave the other workers waiting.
#pragma once

#include <cstdint>
#include <exception>
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
  // A failure that all know of already.
  void keep(const AgreedFailure& failure, int64_t step);
  // Where a worker has said that its own have: what all throw. step: its number. Collective.
  void agree(int64_t step);
  const std::optional<AgreedFailure>& agreed() const { return agreed_; }

 private:
  Communicator& communicator_;
  std::exception_ptr mine_;
  std::optional<AgreedFailure> agreed_;
};

}  // namespace lockstep
