// The output directory as the hosts of a run have it: one that all share, or one each, in which copies of
// checkpoints lie (checkpoint.replicas).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "lockstep/checkpoint/store.h"
#include "lockstep/comm/communicator.h"
#include "lockstep/train/settings.h"

namespace lockstep {

// Files of a run that are set aside with its checkpoints.
extern const std::vector<std::string> kBesideCheckpoints;
std::string metrics_path(const std::string& directory);

class HostDirectories {
 public:
  // Where settings ask for neither replicas nor recovery points, rank 0's directory alone counts, and nothing
  // here communicates. Else the
  // first worker of each other host whose directory is not rank 0's takes it, as rank 0 has taken its own.
  // leader: rank 0's store, null elsewhere; must outlive the object. Error (kUsage) as DirectoryLock's and
  // CheckpointStore's, or as workers_that_see's, together. Collective.
  HostDirectories(const RunSettings& settings, CheckpointStore* leader, Communicator& communicator);

  // The workers beside rank 0 that have a directory, ascending.
  const std::vector<int>& owners() const { return owners_; }
  // This worker's; null where it has none.
  CheckpointStore* store() const { return store_; }
  const std::string& directory() const { return directory_; }
  bool holds_checkpoint() const { return store_ != nullptr && store_->newest_step().has_value(); }
  // Whether there are other hosts, and rank 0's directory is that of all.
  bool all_share() const { return all_share_; }

  // Looks for the newest checkpoint that verifies, on all hosts, and brings it into rank 0's directory, with
  // the metrics beside it, where another host has it. Older ones stay where they are; those of a run that
  // began earlier, of hosts that were away when it was begun anew, make place for it
  // (CheckpointStore::set_aside). Rank 0 says where it was. Error (kCheckpoint), together, when no host has
  // one, or one that is newer cannot be read. Collective.
  void bring_newest();
  // When the latest run began of which there is a checkpoint in any of the directories (State::begun, of the
  // newest that verifies); 0: none. Collective.
  int64_t latest_begun() const;

 private:
  // What a worker has: steps, or -1.
  struct Found {
    int64_t intact = -1;
    int64_t begun = 0;        // the run of that one (State::begun)
    int64_t unreadable = -1;  // not damaged: the disk, permissions, memory
  };
  Found look(std::string& trouble) const;
  void send_to_leader(int64_t step, int from);

  std::string directory_;
  Communicator& communicator_;
  std::vector<int> owners_;
  bool all_share_ = false;
  std::optional<DirectoryLock> lock_;
  std::unique_ptr<CheckpointStore> own_;
  CheckpointStore* store_ = nullptr;
};

}  // namespace lockstep
