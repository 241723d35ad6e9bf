// Comparing what workers hold.
#include "lockstep/train/replica_agreement.h"

#include <fmt/format.h>

#include <map>
#include <sstream>
#include <vector>

#include "lockstep/core/error.h"
#include "lockstep/train/agreement.h"

namespace lockstep {

bool ReplicaAgreement::any(bool mine, const std::string& label) {
  int64_t most = mine ? 1 : 0;
  communicator_.all_reduce_max(&most, 1, label)->wait();
  return most > 0;
}

void ReplicaAgreement::compare(const std::string& digest, const std::string& when) {
  std::vector<char> all(digest.size() * static_cast<size_t>(communicator_.world_size()));
  communicator_.all_gather(digest.data(), digest.size(), all.data(), "digest")->wait();
  // The digest that most workers have counts as right, rank 0's when there is no majority.
  std::vector<std::string> digests;
  std::map<std::string, int> votes;
  for (int rank = 0; rank < communicator_.world_size(); ++rank) {
    digests.emplace_back(all.data() + static_cast<size_t>(rank) * digest.size(), digest.size());
    ++votes[digests.back()];
  }
  std::string right = digests.front();
  for (const auto& [candidate, count] : votes) {
    if (2 * count > communicator_.world_size()) right = candidate;
  }
  std::string drifted;
  for (size_t rank = 0; rank < digests.size(); ++rank) {
    if (digests[rank] != right) drifted += fmt::format(", rank {} has {}", rank, digests[rank]);
  }
  if (!drifted.empty()) {
    fail_together(communicator_, ErrorKind::kNumeric,
                  fmt::format("{}: replicas differ: {} of {} workers have {}{}", when, votes[right],
                              digests.size(), right, drifted));
  }
}

std::string ReplicaAgreement::compare(const RunState& state, int64_t step) {
  const std::string replicated = state.replicated_digest(step);
  compare(replicated, fmt::format("step {}", step));
  return replica_.shards->workers() > 1 ? state.whole_digest(step) : replicated;
}

void ReplicaAgreement::compare_copies(int64_t step) {
  if (!replica_.lowered) return;
  replica_.current_copies();
  if (!any(!replica_.lowered->exact(), "copies")) return;
  fail_together(
      communicator_, ErrorKind::kNumeric,
      fmt::format("step {}: the {} copy that products compute with does not have the parameters' values",
                  step, name_of(replica_.lowered->values().dtype())));
}

namespace {

bool all_finite(const Tensor& values) {
  return values.backend().all_finite(values.dtype(), values.elements(), values.data());
}

}  // namespace

bool ReplicaAgreement::statistics_finite() const {
  return all_finite(replica_.store.statistic_values());
}

bool ReplicaAgreement::values_finite() const {
  bool all = all_finite(replica_.store.values());
  for (const OptimizerSlot& slot : replica_.optimizer->slots()) all = all && all_finite(slot.values);
  return all;
}

void ReplicaAgreement::require_finite(int64_t step) {
  const bool statistics = statistics_finite(), all = statistics && values_finite();
  // On any worker: one that computes wrongly must not leave alone.
  if (!any(!all, "finite")) return;
  fail_together(communicator_, ErrorKind::kNumeric,
                fmt::format("step {}: training diverged: the update left {} that are not finite; nothing was "
                            "saved over",
                            step, statistics ? "parameters or optimizer state" : "running statistics"));
}

void compare_workers(Communicator& communicator, const std::string& configuration, const RunData& data) {
  std::string leaders = configuration;
  broadcast_text(communicator, leaders, "configuration");
  std::string leaders_data = data.digest;
  broadcast_text(communicator, leaders_data, "data");
  if (leaders_data != data.digest) {
    fail(ErrorKind::kData,
         fmt::format("the data differ between workers: rank 0 read {}, rank {} read {} from {}", leaders_data,
                     communicator.rank(), data.digest, data.train->description().source));
  }
  if (leaders == configuration) return;
  std::istringstream theirs(leaders), mine(configuration);
  std::string their_line, my_line;
  do {
    std::getline(theirs, their_line);
    std::getline(mine, my_line);
  } while (their_line == my_line && (theirs || mine));
  fail(ErrorKind::kUsage,
       fmt::format("the configuration differs between workers: rank 0 has \"{}\", rank {} has \"{}\"",
                   their_line, communicator.rank(), my_line));
}

}  // namespace lockstep
