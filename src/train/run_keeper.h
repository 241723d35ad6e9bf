// Rank 0's side of a run: its output directory with checkpoints, metrics, status, configuration
// and loss plot.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>

#include "lockstep/checkpoint/store.h"
#include "lockstep/train/after_save.h"
#include "lockstep/train/best_checkpoint.h"
#include "lockstep/train/checkpoint_copies.h"
#include "lockstep/train/metrics_log.h"
#include "lockstep/train/run_status.h"
#include "lockstep/train/settings.h"
#include "lockstep/train/tensorboard_log.h"

namespace lockstep {

class RunKeeper {
 public:
  // Takes the directory settings.output, which it makes unless `resume`. Error: kCheckpoint when a run is to
  // be resumed that has no directory, kUsage when another run has it or it cannot be written to.
  RunKeeper(const RunSettings& settings, bool resume);
  CheckpointStore& store() { return store_; }
  // Since start().
  const std::string& begun() const { return begun_; }
  // Where checkpoints that are in place are offered to from now on; null: nowhere.
  void copy_to(CheckpointCopies* copies) { copies_ = copies; }

  // The newest checkpoint that verifies, and its path; newer ones that do not are warned of. Error
  // (kCheckpoint) when there is none.
  std::pair<std::string, State> newest() const;
  // Opens the metrics, which go on behind what the checkpoint of run.step knows of them, begins status.json
  // and writes configuration.toml. begun: State::begun of the checkpoint; empty: now, or where the clock was
  // set back, just after the run that this one replaces (`replaced`, HostDirectories::latest_begun): hosts
  // that were away know by it which of the two is the later one.
  void start(const MetricsRecord& metrics, const RunStatus::Run& run, const std::string& configuration,
             std::string begun = "", int64_t replaced = 0);

  // A line of the metrics, wherever they go.
  void log(const StepMetrics& metrics);
  void log(const EvaluationMetrics& metrics);
  void log_digest(int64_t step, const std::string& digest) { metrics_->digest(step, digest); }
  void flush_metrics();
  RunStatus& status() { return *status_; }

  // Whether there is memory for a copy of the state that takes so many bytes; where there is none, warns
  // once.
  bool has_room(int64_t bytes);
  // Writes what `snapshot` gives and what the metrics are so far, in the background; waits: before it
  // returns, of a snapshot that is no copy. A write that is still under way is waited for first, so that
  // there is one copy of the state at a time. The checkpoint of the best evaluation stays.
  void save(int64_t step, const BestCheckpoint& best, const std::function<State()>& snapshot,
            bool waits = false);
  // Adds what the run's directory knows: metrics so far, the best evaluation, when it began.
  void complete(State& state, const BestCheckpoint& best);
  // Offers a checkpoint that is in place already.
  void offer(int64_t step, const BestCheckpoint& best);
  // Waits for the write that is under way; rethrows what it threw.
  void finish_write() { store_.finish(); }
  // Rethrows what a write in the background threw, without waiting for one. Error (kCheckpoint) within a
  // second or so after somebody has deleted the directory or given it to another run.
  void poll();
  // Everything on disk, the loss plot included. `chart`: also shows it as characters. `gives_up`: the user's
  // commands are not waited for any more.
  void finish(bool chart, const std::function<bool()>& gives_up = {});

  // Logs where everything is that could be written. checkpoint: the newest.
  void tell_files(const std::string& checkpoint) const;

  std::string path_of(int64_t step) const { return store_.path_of(step); }

 private:
  std::string name_, directory_, begun_;
  DirectoryLock lock_;
  std::chrono::steady_clock::time_point looked_{};  // for the lock
  CheckpointCopies* copies_ = nullptr;
  std::function<void()> offer_;  // of the checkpoint under way
  bool warned_of_room_ = false, plotted_ = false;
  std::optional<RunStatus> status_;  // ended when the others are
  AfterSave after_save_;
  CheckpointStore store_;
  std::optional<MetricsLog> metrics_;
  const bool wants_tensorboard_;
  std::optional<TensorBoardLog> tensorboard_;
};

}  // namespace lockstep
