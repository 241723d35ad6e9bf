// Workers that see each other's memory: the nearer of the two levels on which gradients are added.
//
// They are found by trying: those whose hosts have the same name, and whose ranks follow each other, map each
// other's memory, and stay apart where one of them cannot.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "lockstep/comm/communicator.h"
#include "lockstep/comm/shared_memory.h"

namespace lockstep {

// Ranks [begin, end).
struct RankRange {
  int begin = 0, end = 0;
  int size() const { return end - begin; }
  bool contains(int rank) const { return begin <= rank && rank < end; }
  bool operator==(const RankRange&) const = default;
};
// All workers in groups, ascending.
using RankGroups = std::vector<RankRange>;

RankGroups each_alone(int world_size);
// Runs of ranks on hosts of the same name.
RankGroups groups_by_host(const Communicator& communicator);
// The number of the group that the rank belongs to.
size_t group_of(const RankGroups& groups, int rank);
// Of `group`, the one that acts there for `worker`: itself where it belongs to it.
int delegate_of(const RankGroups& groups, size_t group, int worker);

class HostGroup {
 public:
  // Collective. mine: this worker's memory, null where it got none, for the reason why_not; the groups are
  // those of `candidates` whose workers see each other's. Where some do not, one worker of all says so
  // (log_warning). The communicator must outlive the object.
  HostGroup(Communicator& communicator, const RankGroups& candidates, std::shared_ptr<SharedMemory> mine,
            std::string why_not);

  // The same on every worker.
  const RankGroups& groups() const { return groups_; }
  // Of this worker's group.
  std::byte* memory(int rank) const { return members_[static_cast<size_t>(rank - own_.begin)]->data(); }

  // Says that this worker has come so far. Whoever sees it sees what the worker has written before.
  void post();
  // Done when all of the group have posted as often as this worker has. To be asked for by all workers in the
  // same order, as collectives are.
  std::unique_ptr<Request> all_posted(std::string label);

 private:
  Communicator& communicator_;
  RankGroups groups_;
  RankRange own_;
  std::vector<std::shared_ptr<SharedMemory>> members_;
  uint64_t posted_ = 0;
};

}  // namespace lockstep
