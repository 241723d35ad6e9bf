// Issuing, testing and waiting; naming those who do not come.
#include "lockstep/comm/mpi_request.h"

#include <fmt/format.h>

#include <algorithm>
#include <thread>
#include <utility>

#include "lockstep/comm/neighbours.h"
#include "lockstep/core/error.h"

namespace lockstep {

namespace {

using Seconds = std::chrono::duration<double>;

// How often a worker that waits looks for calls: seldom enough not to be felt.
constexpr std::chrono::milliseconds kLookEvery{20};
// Between two looks of a worker that was not stopped, or nearly so, meanwhile.
constexpr std::chrono::seconds kAsleep{1};
// How much longer a worker waits for the lowest of those present to say what is wrong, and to end the job.
constexpr double kPatienceSeconds = 10.0;

// How long answers may take: of workers that share their cores with others.
double answer_seconds(double timeout) {
  return std::clamp(timeout / 10.0, 1.0, 5.0);
}

}  // namespace

void fail_mpi(const std::string& where, int code) {
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  MPI_Error_string(code, text, &length);
  fail(ErrorKind::kCommunication,
       fmt::format("{}: MPI failed: {}", where, std::string(text, static_cast<size_t>(length))));
}

void MpiWorld::leave_flight(const std::vector<int>& absent) {
  if (std::exchange(left_flight_, true) || flight_directory.empty() || !recorder) return;
  const auto host_of = [this](int number) { return std::string(workers[static_cast<size_t>(number)].host); };
  const auto write = [&](int number, const std::string& text) {
    if (text.empty()) return;
    const std::string host = workers.empty() ? "" : " on host " + host_of(number);
    write_flight(fmt::format("{}/flight-{}.tsv", flight_directory, number),
                 fmt::format("# rank {}{}\n{}", number, host, text));
  };
  write(rank, recorder->text());
  if (workers.empty()) return;
  for (int lower = 0; lower < rank; ++lower) {
    if (roll_call->calls(lower) && host_of(lower) == host_of(rank)) return;  // that one does
  }
  for (const int number : absent) {
    const Worker& other = workers[static_cast<size_t>(number)];
    if (host_of(number) != host_of(rank)) continue;
    write(number, FlightRecorder::text_of(other.process, other.flight, number));
  }
}

void MpiWorld::at_end(std::function<void()> act) {
  const std::lock_guard lock(end_);
  if (act && !notice_) notice_.emplace();
  if (!act) notice_.reset();
  last_act_ = std::move(act);
}

void MpiWorld::act_at_end(bool if_noticed, const std::vector<int>& absent) {
  const std::lock_guard lock(end_);
  if (!last_act_ || (if_noticed && !notice_->given())) return;
  absent_ = absent;
  std::exchange(last_act_, {})();
}

bool MpiWorld::may_act(int number) const {
  return process_runs(workers[static_cast<size_t>(number)].process) &&
         std::ranges::find(absent_, number) == absent_.end();
}

bool MpiWorld::look_around(const std::string& place, double seconds,
                           std::chrono::steady_clock::time_point now,
                           std::chrono::steady_clock::time_point& called) {
  const RollCall::Place here{place, device_progress ? device_progress() : 0};
  roll_call->listen(here);
  act_at_end(true);
  // One that has only just begun to wait, or was stopped until now, answers, and leaves the rest to the
  // others.
  if (seconds / timeout_seconds <= (roll_call->called() ? 0.5 : 1.0)) {
    if (roll_call->calling()) roll_call->withdraw();
    if (!roll_call->called()) called = now;
    if (Seconds(now - called).count() > answer_seconds(timeout_seconds)) leave_flight({});
    return false;
  }
  if (!roll_call->calling()) {
    roll_call->call(here);
    called = now;
  }
  const double over = Seconds(now - called).count() - answer_seconds(timeout_seconds);
  if (over < 0.0) return false;
  const std::vector<int> absent = roll_call->absent();
  leave_flight(absent);
  act_at_end(false, absent);
  return roll_call->lowest_caller() == rank || over > kPatienceSeconds;
}

std::string MpiWorld::named(const char* what, const std::vector<int>& ranks) const {
  constexpr size_t kNamed = 8;
  std::string who;
  for (size_t i = 0; i < std::min(ranks.size(), kNamed); ++i) {
    const auto one = static_cast<size_t>(ranks[i]);
    const std::string host = one < workers.size() ? fmt::format(" on host {}", workers[one].host) : "";
    who += fmt::format("{}rank {}{}", i == 0 ? what : ", ", one, host);
  }
  if (ranks.size() > kNamed) who += fmt::format(" and {} more", ranks.size() - kNamed);
  return who;
}

void MpiWorld::fail_timeout(const std::string& place) {
  failed = true;
  const std::vector<int> absent = roll_call->absent(), behind = roll_call->behind();
  std::this_thread::sleep_for(kForTheOthers);
  std::string who;
  if (!absent.empty()) {
    who = named("waiting for ", absent);
  } else if (!behind.empty()) {
    who = named("waiting for the device of ", behind);
  } else {
    constexpr int kNamed = 8;
    who = "nobody is missing, they wait for each other";
    for (int other = 0; other < std::min(size, kNamed); ++other) {
      if (other != rank) who += fmt::format(", rank {} in {}", other, roll_call->place_of(other));
    }
  }
  fail(ErrorKind::kCommunication,
       fmt::format("{} on rank {}: not finished after {} s: {}", place, rank, timeout_seconds, who));
}

MpiRequest::MpiRequest(MpiWorld& world, const char* collective, std::string label)
    : world_(world), collective_(collective), label_(std::move(label)), sequence_(world.sequence++) {
  world_.recorder->begin(sequence_, collective_, world_.phase, label_);
}

void MpiRequest::reserve(size_t messages) {
  pending_.reserve(messages);
  awaited_.reserve(messages);
}

void MpiRequest::send(const SendBlock& block) {
  const auto* data = static_cast<const std::byte*>(block.data);
  for (size_t begin = 0; begin < block.bytes; begin += kLargestMessageBytes) {
    const int bytes = static_cast<int>(std::min(kLargestMessageBytes, block.bytes - begin));
    check_start(MPI_Isend(data + begin, bytes, MPI_BYTE, block.rank, tag(), world_.communicator,
                          add(block.rank, -1)));
  }
  world_.recorder->add_bytes(sequence_, static_cast<int64_t>(block.bytes));
}

void MpiRequest::receive(const ReceiveBlock& block) {
  auto* data = static_cast<std::byte*>(block.data);
  for (size_t begin = 0; begin < block.bytes; begin += kLargestMessageBytes) {
    const int bytes = static_cast<int>(std::min(kLargestMessageBytes, block.bytes - begin));
    check_start(MPI_Irecv(data + begin, bytes, MPI_BYTE, block.rank, tag(), world_.communicator,
                          add(block.rank, bytes)));
  }
}

bool MpiRequest::test() {
  if (done_) return true;
  if (came_ && !came_()) {
    if (world_.under_way > 0) progress();
    return false;
  }
  if (!pending_.empty()) {
    int done = 0;
    statuses_.resize(pending_.size());
    const int code = MPI_Testall(static_cast<int>(pending_.size()), pending_.data(), &done, statuses_.data());
    if (code != MPI_SUCCESS) fail_here(code);
    if (done == 0) return false;
    check_sizes();
    --world_.under_way;
  }
  done_ = true;
  world_.recorder->end(sequence_);
  return true;
}

void MpiRequest::wait() {
  if (test()) return;
  const Clock::time_point start = Clock::now();
  const bool lets_others = !came_;  // MPI does, where workers share cores
  QuotaDelay& delay = world_.quota_delay;
  delay.begin(start);
  const auto looks = [&] {
    delay.look(Clock::now());
    return test();
  };
  if (world_.spin.until(looks, start, lets_others)) return delay.end(Clock::now());
  for (LongWait wait{start, start, start}; !looks();) {
    const Clock::time_point now = Clock::now();
    if (now - wait.looked > kLookEvery) look_around(wait, now);
    std::this_thread::yield();
  }
  delay.end(Clock::now());
  if (world_.roll_call->calling()) world_.roll_call->withdraw();
}

void MpiRequest::look_around(LongWait& wait, Clock::time_point now) {
  // The time in which this worker was stopped is not the others' fault.
  if (const Clock::duration gap = now - std::exchange(wait.looked, now); gap > kAsleep) wait.since += gap;
  if (world_.look_around(place(), Seconds(now - wait.since).count(), now, wait.called))
    world_.fail_timeout(place());
}

// Messages of other requests move while MPI is called.
void MpiRequest::progress() {
  int found = 0;
  const int code =
      MPI_Iprobe(MPI_ANY_SOURCE, world_.tag_limit, world_.communicator, &found, MPI_STATUS_IGNORE);
  if (code != MPI_SUCCESS) fail_here(code);
}

MPI_Request* MpiRequest::add(int rank, int bytes) {
  if (pending_.empty()) ++world_.under_way;
  awaited_.push_back({rank, bytes});
  return &pending_.emplace_back(MPI_REQUEST_NULL);
}

std::string MpiRequest::place() const {
  const bool says_more = !world_.phase.empty() && world_.phase != label_;
  return fmt::format("{} {} ({}{}{})", collective_, sequence_, says_more ? world_.phase : "",
                     says_more ? ", " : "", label_);
}

std::string MpiRequest::name() const {
  return fmt::format("{} on rank {}", place(), world_.rank);
}

void MpiRequest::check_sizes() {
  for (size_t i = 0; i < awaited_.size(); ++i) {
    if (awaited_[i].bytes < 0) continue;
    int bytes = 0;
    MPI_Get_count(&statuses_[i], MPI_BYTE, &bytes);
    if (bytes == awaited_[i].bytes) continue;
    world_.failed = true;
    fail(ErrorKind::kCommunication,
         fmt::format("{}: workers disagree about a size: rank {} sent {} bytes, {} awaited", name(),
                     awaited_[i].rank, bytes, awaited_[i].bytes));
  }
}

void MpiRequest::fail_here(int code) {
  world_.failed = true;
  world_.leave_flight({});
  world_.act_at_end(false);
  if (code == MPI_ERR_IN_STATUS) {
    for (const MPI_Status& status : statuses_) {
      if (status.MPI_ERROR != MPI_SUCCESS && status.MPI_ERROR != MPI_ERR_PENDING)
        fail_mpi(name(), status.MPI_ERROR);
    }
  }
  fail_mpi(name(), code);
}

}  // namespace lockstep
