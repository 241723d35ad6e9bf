// Taking the directories, and looking through them.
#include "lockstep/train/host_directories.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <set>
#include <tuple>

#include "lockstep/checkpoint/checkpoint.h"
#include "lockstep/checkpoint/transfer.h"
#include "lockstep/core/error.h"
#include "lockstep/core/log.h"
#include "lockstep/hdf5/sealed_file.h"
#include "lockstep/train/agreement.h"
#include "lockstep/train/shared_directory.h"

namespace lockstep {

const std::vector<std::string> kBesideCheckpoints = {"metrics.jsonl", "configuration.toml", "loss.svg"};

std::string metrics_path(const std::string& directory) {
  return directory + "/metrics.jsonl";
}

namespace {

// State::begun of a checkpoint; 0 where it does not say.
int64_t begun_of(const std::string& checkpoint) {
  const std::string text = read_begun(checkpoint);
  int64_t begun = 0;
  std::from_chars(text.data(), text.data() + text.size(), begun);
  return begun;
}

}  // namespace

HostDirectories::HostDirectories(const RunSettings& settings, CheckpointStore* leader,
                                 Communicator& communicator)
    : directory_(settings.output), communicator_(communicator), store_(leader) {
  if (settings.replicas == 0 && !settings.recovery_point) return;
  const std::vector<bool> sees = workers_that_see(directory_, communicator);
  std::set<std::string> hosts = {communicator.host_of(0)};
  std::vector<std::string> sharing;
  for (int rank = 1; rank < communicator.world_size(); ++rank) {
    const std::string host = communicator.host_of(rank);
    if (!hosts.insert(host).second) continue;
    if (sees[static_cast<size_t>(rank)]) {
      sharing.push_back(host);
    } else {
      owners_.push_back(rank);
    }
  }
  all_share_ = owners_.empty() && !sharing.empty();
  if (leader != nullptr && settings.replicas > 0 && !sharing.empty()) {
    log_info(
        fmt::format("checkpoint.replicas: {} on host{} {} is the directory that rank 0 writes to: "
                    "nothing is copied there",
                    directory_, sharing.size() == 1 ? "" : "s", fmt::join(sharing, ", ")));
  }
  run_agreed(
      communicator,
      [&] {
        if (!std::ranges::binary_search(owners_, communicator.rank())) return;
        lock_.emplace(directory_);
        own_ = std::make_unique<CheckpointStore>(StoreOptions{.directory = directory_,
                                                              .keep = settings.keep,
                                                              .keep_every = settings.keep_every,
                                                              .alone = lock_->locked(),
                                                              .beside = kBesideCheckpoints});
        store_ = own_.get();
      },
      "directories");
}

HostDirectories::Found HostDirectories::look(std::string& trouble) const {
  Found found;
  if (store_ == nullptr) return found;
  for (const int64_t step : checkpoint_steps(directory_)) {
    try {
      found.begun = begun_of(store_->path_of(step));
      found.intact = step;
      return found;
    } catch (const DamagedFile& error) {
      // Of its own ones rank 0 says so when it reads them.
      if (communicator_.rank() > 0)
        log_warning(fmt::format("skipped checkpoint {}, on host {}", error.what(),
                                communicator_.host_of(communicator_.rank())));
    } catch (const Error& error) {
      if (found.unreadable >= 0) continue;
      found.unreadable = step;
      trouble = error.what();
    }
  }
  return found;
}

void HostDirectories::bring_newest() {
  if (owners_.empty()) return;
  std::string trouble;
  const Found mine = look(trouble);
  std::vector<Found> all(static_cast<size_t>(communicator_.world_size()));
  communicator_.all_gather(&mine, sizeof mine, all.data(), "newest checkpoint")->wait();
  int best = 0, unreadable = 0;
  const auto of = [&](int rank) { return all[static_cast<size_t>(rank)]; };
  std::vector<std::string> looked;
  const auto note = [&](int rank) {
    if (std::tuple(of(rank).begun, of(rank).intact) > std::tuple(of(best).begun, of(best).intact))
      best = rank;
    if (of(rank).unreadable > of(unreadable).unreadable) unreadable = rank;
    looked.push_back(
        fmt::format("{} ({})", communicator_.host_of(rank),
                    of(rank).intact < 0 ? std::string("none") : fmt::format("step {}", of(rank).intact)));
  };
  note(0);
  for (const int rank : owners_) note(rank);
  if (of(unreadable).unreadable > of(best).intact) {
    run_agreed(
        communicator_,
        [&] {
          if (communicator_.rank() == unreadable)
            fail(ErrorKind::kCheckpoint,
                 fmt::format("{}, on host {}", trouble, communicator_.host_of(unreadable)));
        },
        "newest checkpoint");
  }
  if (of(best).intact < 0) {
    fail_together(communicator_, ErrorKind::kCheckpoint,
                  fmt::format("{}: --resume: there is no checkpoint that can be used in this directory; "
                              "looked on hosts {}",
                              directory_, fmt::join(looked, ", ")));
  }
  if (communicator_.rank() == 0) {
    log_info(fmt::format("looked for checkpoints on hosts {}: taking that of {}", fmt::join(looked, ", "),
                         communicator_.host_of(best)));
  }
  run_agreed(
      communicator_,
      [&] {
        if (mine.intact < 0 || mine.begun == of(best).begun) return;
        log_warning(fmt::format("{} on host {}: its checkpoints are of an earlier run, and make place",
                                directory_, communicator_.host_of(communicator_.rank())));
        store_->set_aside();
      },
      "newest checkpoint");
  if (best > 0) send_to_leader(of(best).intact, best);
}

int64_t HostDirectories::latest_begun() const {
  int64_t mine = 0;
  run_agreed(
      communicator_,
      [&] {
        if (store_ == nullptr) return;
        for (const int64_t step : checkpoint_steps(directory_)) {
          try {
            mine = begun_of(store_->path_of(step));
            return;
          } catch (const Error&) {
            // It makes way all the same.
          }
        }
      },
      "earlier run");
  std::vector<int64_t> all(static_cast<size_t>(communicator_.world_size()));
  communicator_.all_gather(&mine, sizeof mine, all.data(), "earlier run")->wait();
  return std::ranges::max(all);
}

void HostDirectories::send_to_leader(int64_t step, int from) {
  const bool sends = communicator_.rank() == from, receives = communicator_.rank() == 0;
  const std::string label = "checkpoint";
  std::optional<OutgoingCheckpoint> outgoing;
  std::optional<IncomingCheckpoint> incoming;
  TransferOutline outline;
  run_agreed(
      communicator_,
      [&] {
        if (!sends) return;
        std::error_code none;
        const auto lines = std::filesystem::file_size(metrics_path(directory_), none);
        outgoing.emplace(store_->path_of(step), step, -1, metrics_path(directory_), 0,
                         none ? 0 : static_cast<int64_t>(lines));
        outline = outgoing->outline();
      },
      label);
  communicator_.broadcast(&outline, sizeof outline, from, label)->wait();
  std::optional<Error> fault;
  const auto noting = [&](const auto& part) {
    try {
      if (!fault) part();
    } catch (const Error& error) {
      fault = error;
    }
  };
  if (receives) noting([&] { incoming.emplace(outline, store_->path_of(step), metrics_path(directory_)); });
  std::vector<std::byte> part;
  for (int64_t done = 0; done < outline.total(); done += std::min(outline.part(), outline.total() - done)) {
    part.resize(static_cast<size_t>(std::min(outline.part(), outline.total() - done)));
    std::vector<SendBlock> out;
    std::vector<ReceiveBlock> in;
    if (sends) {
      noting([&] { part = outgoing->next(); });
      out.push_back({0, part.data(), part.size()});
    }
    if (receives) in.push_back({from, part.data(), part.size()});
    communicator_.exchange(std::move(out), std::move(in), label)->wait();
    if (receives) noting([&] { incoming->add(part); });
  }
  run_agreed(
      communicator_,
      [&] {
        if (fault) throw Error(*fault);
        if (receives) incoming->place();
      },
      label);
}

}  // namespace lockstep
