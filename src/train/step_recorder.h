// Steps as recordings of the device's queue (CUDA graphs): issued once, replayed from then on.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "lockstep/comm/communicator.h"
#include "lockstep/kernels/backend.h"
#include "lockstep/tensor/storage.h"
#include "lockstep/train/input_queue.h"

namespace lockstep {

class StepRecorder {
 public:
  // Both must outlive the object. limits: of tensors by name, [0, limit) for what their indices or labels
  // must be for the ops that read them; 0 or left out: not known.
  StepRecorder(Backend& backend, Communicator& communicator, const std::map<std::string, int64_t>& limits);

  // Has the device do what issue_step issues, for the step with number `step`, counted from 1, that the
  // inputs have turned to. Returns whether it was a replay. A step of a kind that is seen for the first time
  // runs as it is: libraries make their plans then, and the allocator learns what is needed. The next one is
  // recorded, and from then on all of its kind are that recording.
  bool issue(const InputQueue& inputs, int64_t step, const std::function<void()>& issue_step);

 private:
  struct RecordedStep {
    bool seen = false;
    std::unique_ptr<Recording> recording;
  };

  // Remembers the range of the step's indices and labels, which is about to pass the ops' checks. Returns
  // whether it lies within the limits, or where none is known within that of steps that passed.
  bool remember_indices(const InputQueue& inputs);
  std::unique_ptr<Recording> record(const std::function<void()>& issue_step);

  Backend& backend_;
  Communicator& communicator_;
  RecordedMemory memory_;  // of all recordings: they run one after the other
  // Steps are of a kind when their samples lie at the same place and as many of them count.
  std::map<std::pair<int, int64_t>, RecordedStep> steps_;
  std::map<std::string, std::optional<IndexRange>> ranges_;  // of tensors by name: what passes
};

}  // namespace lockstep
