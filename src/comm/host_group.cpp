// Finding out who sees whose memory.
#include "lockstep/comm/host_group.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "lockstep/core/log.h"

namespace lockstep {

RankGroups each_alone(int world_size) {
  RankGroups groups;
  for (int rank = 0; rank < world_size; ++rank) groups.push_back({rank, rank + 1});
  return groups;
}

RankGroups groups_by_host(const Communicator& communicator) {
  RankGroups groups;
  for (int rank = 0; rank < communicator.world_size(); ++rank) {
    if (rank > 0 && communicator.host_of(rank) == communicator.host_of(rank - 1)) {
      ++groups.back().end;
    } else {
      groups.push_back({rank, rank + 1});
    }
  }
  return groups;
}

size_t group_of(const RankGroups& groups, int rank) {
  const auto found =
      std::ranges::find_if(groups, [&](const RankRange& group) { return group.contains(rank); });
  return static_cast<size_t>(found - groups.begin());
}

int delegate_of(const RankGroups& groups, size_t group, int worker) {
  const RankRange& home = groups[group_of(groups, worker)];
  return groups[group].begin + (worker - home.begin) % groups[group].size();
}

HostGroup::HostGroup(Communicator& communicator, const RankGroups& candidates,
                     std::shared_ptr<SharedMemory> mine, std::string why_not)
    : communicator_(communicator) {
  const int rank = communicator.rank();
  const auto workers = static_cast<size_t>(communicator.world_size());
  const RankRange candidate = candidates[group_of(candidates, rank)];

  const SharedMemory::Ticket ticket = mine != nullptr ? mine->ticket() : SharedMemory::Ticket{};
  std::vector<SharedMemory::Ticket> tickets(workers);
  communicator.all_gather(&ticket, sizeof ticket, tickets.data(), "memory")->wait();
  for (int member = candidate.begin; member < candidate.end; ++member) {
    const SharedMemory::Ticket& theirs = tickets[static_cast<size_t>(member)];
    if (member == rank) {
      members_.push_back(mine);
    } else if (theirs.descriptor >= 0 && why_not.empty()) {
      members_.push_back(SharedMemory::open(theirs, why_not));
    }
  }

  // 1 of those that do not see what they should; also keeps every memory open until all have tried.
  std::vector<int64_t> apart(workers, 0);
  apart[static_cast<size_t>(rank)] = candidate.size() > 1 && !why_not.empty() ? 1 : 0;
  communicator.all_reduce_max(apart.data(), static_cast<int64_t>(workers), "memory")->wait();
  const auto first = std::ranges::find(apart, 1);
  if (first != apart.end() && first - apart.begin() == rank) {
    log_warning(
        fmt::format("workers of host {} exchange gradients by messages, since rank {} shares no "
                    "memory with the others: {}",
                    communicator.host_of(rank), rank, why_not));
  }
  for (const RankRange& group : candidates) {
    const bool together = std::none_of(apart.begin() + group.begin, apart.begin() + group.end,
                                       [](int64_t one) { return one != 0; });
    for (int member = group.begin; !together && member < group.end; ++member) {
      groups_.push_back({member, member + 1});
    }
    if (together) groups_.push_back(group);
  }
  own_ = groups_[group_of(groups_, rank)];
  if (own_.size() != candidate.size()) members_.assign(1, mine);
  if (mine != nullptr) mine->close();
}

// A worker alone has no count that others would wait for, and may have no memory.
void HostGroup::post() {
  ++posted_;
  if (own_.size() == 1) return;
  members_[static_cast<size_t>(communicator_.rank() - own_.begin)]->count().store(posted_,
                                                                                  std::memory_order_release);
}

std::unique_ptr<Request> HostGroup::all_posted(std::string label) {
  return communicator_.until(
      [this, target = posted_] {
        return own_.size() == 1 || std::ranges::all_of(members_, [&](const auto& member) {
                 return member->count().load(std::memory_order_acquire) >= target;
               });
      },
      std::move(label));
}

}  // namespace lockstep
