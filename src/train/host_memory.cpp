// Adding up what the workers of a host ask for.
#include "lockstep/train/host_memory.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <map>
#include <utility>
#include <vector>

#include "lockstep/core/available_memory.h"
#include "lockstep/train/agreement.h"

namespace lockstep {

std::string lack_of_memory(Communicator& communicator, int64_t bytes) {
  struct Wish {
    int64_t bytes, fits, available;
    int64_t of_machine, of_groups;
    uint64_t groups;
  };
  const AvailableMemory memory;
  const Wish mine{bytes,
                  fits_memory(bytes) ? 1 : 0,
                  memory.bytes(),
                  memory.machine(),
                  memory.control_groups(),
                  std::hash<std::string>()(memory.groups())};
  std::vector<Wish> wishes(static_cast<size_t>(communicator.world_size()));
  communicator.all_gather(&mine, sizeof mine, wishes.data(), "memory")->wait();
  for (const Wish& wish : wishes) {
    if (wish.fits == 0)
      return fmt::format("takes {} bytes of memory: {} are available", wish.bytes, wish.available);
  }
  struct Shared {
    int64_t workers = 0, wanted = 0, available = 0;
    void add(int64_t bytes, int64_t left) {
      ++workers;
      wanted += bytes;
      available = std::max(available, left);  // one that looked later may see what another has begun to take
    }
  };
  std::map<std::string, Shared> by_host;
  std::map<std::pair<std::string, uint64_t>, Shared> by_groups;
  for (int rank = 0; rank < communicator.world_size(); ++rank) {
    const Wish& wish = wishes[static_cast<size_t>(rank)];
    const std::string host = communicator.host_of(rank);
    by_host[host].add(wish.bytes, wish.of_machine);
    by_groups[{host, wish.groups}].add(wish.bytes, wish.of_groups);
  }
  for (const auto& [key, group] : by_groups) {
    for (const Shared& shared : {by_host[key.first], group}) {
      if (shared.workers > 1 && shared.wanted > shared.available)
        return fmt::format("takes {} bytes of memory on {} workers of host {}: {} are available",
                           shared.wanted, shared.workers, key.first, shared.available);
    }
  }
  return "";
}

void require_memory_on_hosts(Communicator& communicator, const std::string& what, int64_t bytes,
                             ErrorKind kind) {
  const std::string lack = lack_of_memory(communicator, bytes);
  if (!lack.empty()) fail_together(communicator, kind, what + ": " + lack);
}

}  // namespace lockstep
