// The checkpoints of one run directory: naming, retention, fallback, and writing in the background.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "lockstep/checkpoint/checkpoint.h"
#include "lockstep/checkpoint/directory_lock.h"

namespace lockstep {

// DIRECTORY/step-000001000.h5
std::string checkpoint_path(const std::string& directory, int64_t step);

// Steps of the checkpoint files in a directory, by name, newest first. Error (kCheckpoint) when it cannot be
// listed.
std::vector<int64_t> checkpoint_steps(const std::string& directory);

struct StoreOptions {
  std::string directory;                 // files are DIRECTORY/step-000001000.h5
  int64_t keep = 3;                      // newest files kept; 0 keeps all
  int64_t keep_every = 0;                // steps that are multiples are kept for good; 0 = none
  double say_every = 10.0;               // seconds between lines about a write that is waited for
  bool alone = false;                    // no other process writes there: a lock is held
  std::vector<std::string> beside = {};  // names of files that are set aside with the checkpoints
  // In the background, before a file is written and before others go for it: may throw to keep them.
  std::function<void()> writes = {};
  // In the background, when a file is in place and before older ones go.
  std::function<void(const std::string& path)> written = {};
};

// A checkpoint is a file with the name of one; a directory with such a name is none, and makes way when a
// checkpoint of that name is written.
class CheckpointStore {
 public:
  // Creates the directory and removes the temporary files that others left there: all where it is alone, else
  // those of dead processes of this host. Error (kUsage) when it cannot be written to. Checkpoints that an
  // earlier run set aside come back when that run has left no checkpoint of its own; else they go.
  explicit CheckpointStore(const StoreOptions& options);
  // Waits for the write in progress; a failure that nobody has asked for is logged.
  ~CheckpointStore();
  CheckpointStore(const CheckpointStore&) = delete;
  CheckpointStore& operator=(const CheckpointStore&) = delete;

  std::string path_of(int64_t step) const;
  // Queues a snapshot; returns at once unless the previous write is still running, then waits for it first. A
  // failed background write is rethrown by the next save, by finish, or by poll.
  //
  // When the file is in place, older ones go: the newest `keep` of the steps up to this one stay, multiples
  // of `keep_every`, and the one of step `best`. The file just written, which has been verified, is never
  // removed, nor are those of later steps.
  //
  // waits: writes before it returns, on this thread, what is not a copy.
  void save(int64_t step, State snapshot, int64_t best = -1, bool waits = false);
  // The same of a file that comes in another way: `place` brings it to `path`, whole and verified.
  void adopt(int64_t step, std::function<void(const std::string& path)> place, int64_t best = -1,
             bool waits = false);
  // Whether a write is under way.
  bool writing() const;
  // Rethrows a failed background write, if any; never blocks.
  void poll();
  // Waits until everything queued is on disk, saying so every StoreOptions::say_every seconds.
  void finish();

  // The step of the newest checkpoint file by name, whether usable or not; nullopt when there is none.
  std::optional<int64_t> newest_step() const;
  // Error (kUsage) when there are checkpoint files, of an earlier run.
  void require_fresh() const;
  // Makes place for another run: moves every checkpoint file into DIRECTORY/.overwritten, where nobody looks
  // for one. They are deleted when the first checkpoint of the new run is in place, and come back when the
  // store is destroyed, or opened again, before that. Error (kUsage) when they cannot be moved.
  void set_aside();
  // Newest file that verifies and reads; `skipped` receives "FILE: reason" for newer ones whose seal does not
  // hold. nullopt: no checkpoint files at all. Error (kCheckpoint) when there are files but none is usable,
  // with what is wrong with each; and when one cannot be read for any other reason (the disk, permissions,
  // memory, another step in it than in its name), since the run must not go back behind it unasked.
  std::optional<std::pair<std::string, State>> load_newest(std::vector<std::string>& skipped) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lockstep
