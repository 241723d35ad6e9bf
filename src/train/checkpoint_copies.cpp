// Who is ready for which message, and what becomes of it.
#include "lockstep/train/checkpoint_copies.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <thread>
#include <utility>

#include "lockstep/core/error.h"
#include "lockstep/core/log.h"

namespace lockstep {

namespace {

// That a message waits for hosts whose disks are busy before it goes to the others alone.
constexpr std::chrono::seconds kPatience{60};
constexpr int32_t kGivesUp = 2;  // CopyWord::hurries

template <class T>
bool is_ready(const std::future<T>& future) {
  return future.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
}

}  // namespace

CheckpointCopies::CheckpointCopies(const RunSettings& settings, HostDirectories& directories,
                                   Communicator& communicator)
    : directories_(directories), communicator_(communicator), takers_(directories.owners()) {
  takers_.resize(std::min(takers_.size(), static_cast<size_t>(settings.replicas)));
  if (!leader() || settings.replicas == 0) return;
  std::vector<std::string> hosts;
  for (const int rank : takers_) hosts.push_back(communicator.host_of(rank));
  if (active()) log_info(fmt::format("copies of each checkpoint on {}", fmt::join(hosts, ", ")));
  if (directories.all_share() || std::ssize(takers_) == settings.replicas) return;
  log_warning(fmt::format("checkpoint.replicas: {} asked for, there {} beside {}", settings.replicas,
                          takers_.empty()       ? "is no other host"
                          : takers_.size() == 1 ? "is one host"
                                                : fmt::format("are {} hosts", takers_.size()),
                          communicator.host_of(0)));
}

CheckpointCopies::~CheckpointCopies() {
  // Of a run that fails: the library may still look at the bytes.
  if (request_ && !message_.empty()) static_cast<void>(new std::vector<std::byte>(std::move(message_)));
}

bool CheckpointCopies::takes() const {
  return std::ranges::binary_search(takers_, communicator_.rank());
}

void CheckpointCopies::warn(const std::string& reason) const {
  log_warning(fmt::format("checkpoint.replicas: no copy on host {}: {}",
                          communicator_.host_of(communicator_.rank()), reason));
}

void CheckpointCopies::offer(int64_t step, int64_t best, int64_t metrics) {
  if (!active()) return;
  const std::lock_guard lock(mutex_);
  offered_ = {step, best, metrics};
}

CopyWord CheckpointCopies::word() {
  if (!active()) return {};
  if (leader()) return word_of_leader();
  if (takes()) return word_of_taker();
  if (request_ && request_->test()) request_.reset();
  return {};
}

CopyWord CheckpointCopies::word_of_leader() {
  CopyWord word;
  word.under_way = 1;
  if (request_ && !request_->test()) return word;
  request_.reset();
  if (reading_.valid()) {
    if (!is_ready(reading_)) return word;
    try {
      next_ = reading_.get();
    } catch (const Error& error) {
      log_warning(fmt::format("checkpoint.replicas: {}", error.what()));
      unwanted_ = true;
    }
  }
  if (outgoing_ && (unwanted_ || (!next_ && outgoing_->next_bytes() == 0))) {
    outgoing_.reset();
    next_.reset();
  }
  if (!outgoing_) begin_sending();
  if (!outgoing_) {
    word.under_way = 0;
    return word;
  }
  word.begins = outline_sent_ ? 0 : 1;
  if (!outline_sent_) {
    word.bytes = sizeof(TransferOutline);
  } else if (next_) {
    word.bytes = std::ssize(*next_);
  }
  word.hurries = Clock::now() - ready_since_ > kPatience ? 1 : 0;
  return word;
}

void CheckpointCopies::begin_sending() {
  std::optional<Offer> offer;
  {
    const std::lock_guard lock(mutex_);
    offer = std::exchange(offered_, std::nullopt);
  }
  if (!offer) return;
  try {
    outgoing_ = std::make_unique<OutgoingCheckpoint>(directories_.store()->path_of(offer->step), offer->step,
                                                     offer->best, metrics_path(directories_.directory()),
                                                     common_metrics_, offer->metrics);
  } catch (const Error& error) {
    log_warning(fmt::format("checkpoint.replicas: {}", error.what()));
    return;
  }
  outline_sent_ = unwanted_ = false;
  ready_since_ = Clock::now();
  read_ahead();
}

void CheckpointCopies::read_ahead() {
  if (outgoing_->next_bytes() == 0) return;
  reading_ = std::async(std::launch::async, [outgoing = outgoing_.get()] { return outgoing->next(); });
}

CopyWord CheckpointCopies::word_of_taker() {
  CopyWord word;
  word.bytes = metrics_;
  word.under_way = 1;
  if (request_) {
    if (!request_->test()) return word;
    request_.reset();
    if (!message_.empty()) take_message();  // else it was for others
  }
  if (!look_at_disk()) return word;
  word.bytes = metrics_;
  word.taking = incoming_ ? CopyWord::kReady : CopyWord::kDeclines;
  word.under_way = 0;
  return word;
}

// Nothing that may have to wait for the disk is done by this thread.
void CheckpointCopies::take_message() {
  if (!message_begins_) {
    disk_ = std::async(std::launch::async,
                       [incoming = incoming_, part = std::move(message_)] { incoming->add(part); });
    message_.clear();
    return;
  }
  TransferOutline outline;
  std::memcpy(&outline, message_.data(), sizeof outline);
  message_.clear();
  disk_ = std::async(std::launch::async, [this, outline] {
    const std::string path = directories_.store()->path_of(outline.step);
    incoming_.reset();  // one that never became whole
    if (is_file_of(outline, path)) return;
    incoming_ = std::make_shared<IncomingCheckpoint>(outline, path, metrics_path(directories_.directory()));
  });
}

bool CheckpointCopies::look_at_disk() {
  if (disk_.valid()) {
    if (!is_ready(disk_)) return false;
    try {
      disk_.get();
    } catch (const Error& error) {
      warn(error.what());
      incoming_.reset();
    }
    if (std::exchange(left_out_, false) && incoming_ && incoming_->next_bytes() > 0) incoming_.reset();
    if (incoming_ && incoming_->next_bytes() == 0) {
      const TransferOutline outline = incoming_->outline();
      placing_ = true;
      directories_.store()->adopt(
          outline.step,
          [incoming = std::move(incoming_), metrics = placed_metrics_](const std::string&) {
            *metrics = 0;
            *metrics = incoming->place();
          },
          outline.best);
    }
  }
  if (!placing_) return true;
  if (directories_.store()->writing()) return false;
  placing_ = false;
  try {
    directories_.store()->poll();
  } catch (const Error& error) {
    warn(error.what());
  }
  metrics_ = *placed_metrics_;
  return true;
}

void CheckpointCopies::hear(const std::function<CopyWord(int)>& of) {
  if (!active()) return;
  const CopyWord sender = of(0);
  common_metrics_ = of(takers_.front()).bytes;
  for (const int rank : takers_) common_metrics_ = std::min(common_metrics_, of(rank).bytes);
  if (sender.bytes == 0) return;
  std::vector<int> ready;
  for (const int rank : takers_) {
    const int32_t taking = of(rank).taking;
    if (taking == CopyWord::kBusy && sender.hurries == 0) return;
    if (taking == CopyWord::kReady || (taking == CopyWord::kDeclines && sender.begins != 0))
      ready.push_back(rank);
  }
  const bool mine = std::ranges::binary_search(ready, communicator_.rank());
  if (takes() && !mine && of(communicator_.rank()).taking == CopyWord::kBusy) {
    warn("its disk is too slow");
    left_out_ = disk_.valid();
  }
  if (ready.empty()) {
    unwanted_ = true;
    return;
  }
  std::vector<SendBlock> sends;
  std::vector<ReceiveBlock> receives;
  if (leader()) {
    if (sender.begins != 0) {
      message_.resize(sizeof(TransferOutline));
      std::memcpy(message_.data(), &outgoing_->outline(), sizeof(TransferOutline));
      outline_sent_ = true;
    } else {
      message_ = std::move(*next_);
      next_.reset();
      read_ahead();
    }
    ready_since_ = Clock::now();
    for (const int rank : ready) sends.push_back({rank, message_.data(), message_.size()});
  } else if (mine) {
    message_begins_ = sender.begins != 0;
    message_.resize(static_cast<size_t>(sender.bytes));
    receives.push_back({0, message_.data(), message_.size()});
  }
  request_ = communicator_.exchange(std::move(sends), std::move(receives), "copy of a checkpoint");
}

void CheckpointCopies::finish(double seconds) {
  if (!active()) return;
  const Clock::time_point begin = Clock::now();
  std::vector<CopyWord> words(static_cast<size_t>(communicator_.world_size()));
  while (true) {
    if (request_) request_->wait();
    CopyWord mine = word();
    if (leader() && Clock::now() - begin > std::chrono::duration<double>(seconds)) mine.hurries = kGivesUp;
    communicator_.all_gather(&mine, sizeof mine, words.data(), "copies of checkpoints")->wait();
    if (words[0].hurries == kGivesUp) {
      if (leader())
        log_warning(fmt::format(
            "checkpoint.replicas: copies are not finished after {} s (checkpoint.timeout)", seconds));
      return;
    }
    const bool idle = std::ranges::all_of(words, [](const CopyWord& word) { return word.under_way == 0; });
    if (idle) return;
    hear([&](int rank) { return words[static_cast<size_t>(rank)]; });
    if (!request_) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

}  // namespace lockstep
