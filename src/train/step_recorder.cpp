// Recording and replaying steps.
#include "lockstep/train/step_recorder.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "lockstep/core/error.h"

namespace lockstep {

StepRecorder::StepRecorder(Backend& backend, Communicator& communicator,
                           const std::map<std::string, int64_t>& limits)
    : backend_(backend), communicator_(communicator) {
  for (const auto& [name, limit] : limits) {
    constexpr int64_t kLargest = std::numeric_limits<int32_t>::max();
    if (limit > 0) ranges_[name] = IndexRange{0, static_cast<int32_t>(std::min(limit - 1, kLargest))};
  }
}

bool StepRecorder::issue(const InputQueue& inputs, int64_t step, const std::function<void()>& issue_step) {
  RecordedStep& recorded = steps_[{inputs.place(), inputs.valid()}];
  // Ops look at the range of indices when they are issued, which a replay leaves out.
  const bool known = remember_indices(inputs);
  if (!recorded.seen || !known) {
    recorded.seen = true;
    issue_step();
    return false;
  }
  if (recorded.recording == nullptr) recorded.recording = record(issue_step);
  communicator_.device().reissue(
      backend_.native_queue(), [&] { recorded.recording->replay(); }, fmt::format("step {}", step));
  return true;
}

std::unique_ptr<Recording> StepRecorder::record(const std::function<void()>& issue_step) {
  memory_.begin();
  backend_.begin_recording();
  try {
    issue_step();
  } catch (...) {
    // What was told so far is forgotten, so that the queue can be used while the run ends.
    try {
      backend_.end_recording();
    } catch (const Error&) {
    }
    throw;
  }
  std::unique_ptr<Recording> recording = backend_.end_recording();
  memory_.end();
  return recording;
}

bool StepRecorder::remember_indices(const InputQueue& inputs) {
  bool known = true;
  const auto look = [&](const Tensor& tensor, std::optional<IndexRange>& range) {
    const std::optional<IndexRange>& now = tensor.index_range();
    if (!now) return;
    known = known && range && range->least <= now->least && now->largest <= range->largest;
    range =
        range ? IndexRange{std::min(range->least, now->least), std::max(range->largest, now->largest)} : *now;
  };
  for (const Batch& batch : inputs.batches()) {
    for (const auto& [name, tensor] : batch.tensors.all()) look(tensor, ranges_[name]);
  }
  return known;
}

}  // namespace lockstep
