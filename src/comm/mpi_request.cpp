// Issuing, testing and waiting; naming those who do not come.
#include "lockstep/comm/mpi_request.h"

#include <fmt/format.h>

#include <algorithm>
#include <thread>
#include <utility>

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

void MpiWorld::act_at_end(bool if_noticed) {
  const std::lock_guard lock(end_);
  if (last_act_ && (!if_noticed || notice_->given())) std::exchange(last_act_, {})();
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
  if (world_.spin.until([this] { return test(); }, start, lets_others)) return;
  for (LongWait wait{start, start, start}; !test();) {
    const Clock::time_point now = Clock::now();
    if (now - wait.looked > kLookEvery) look_around(wait, now);
    std::this_thread::yield();
  }
  if (world_.roll_call->calling()) world_.roll_call->withdraw();
}

void MpiRequest::look_around(LongWait& wait, Clock::time_point now) {
  // The time in which this worker was stopped is not the others' fault.
  if (const Clock::duration gap = now - std::exchange(wait.looked, now); gap > kAsleep) wait.since += gap;
  RollCall& roll_call = *world_.roll_call;
  roll_call.listen(place());
  world_.act_at_end(true);
  // One that has only just begun to wait, or was stopped until now, answers, and leaves the rest to the
  // others.
  const double waited = Seconds(now - wait.since).count() / world_.timeout_seconds;
  if (waited <= (roll_call.called() ? 0.5 : 1.0)) {
    if (roll_call.calling()) roll_call.withdraw();
    if (!roll_call.called()) wait.called = now;
    if (Seconds(now - wait.called).count() > answer_seconds(world_.timeout_seconds)) world_.leave_flight({});
    return;
  }
  if (!roll_call.calling()) {
    roll_call.call(place());
    wait.called = now;
  }
  const double over = Seconds(now - wait.called).count() - answer_seconds(world_.timeout_seconds);
  if (over < 0.0) return;
  world_.leave_flight(roll_call.absent());
  world_.act_at_end();
  if (roll_call.lowest_caller() == world_.rank || over > kPatienceSeconds) fail_timeout();
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
  world_.act_at_end();
  if (code == MPI_ERR_IN_STATUS) {
    for (const MPI_Status& status : statuses_) {
      if (status.MPI_ERROR != MPI_SUCCESS && status.MPI_ERROR != MPI_ERR_PENDING)
        fail_mpi(name(), status.MPI_ERROR);
    }
  }
  fail_mpi(name(), code);
}

void MpiRequest::fail_timeout() {
  constexpr size_t kNamed = 8;
  world_.failed = true;
  const std::vector<int> absent = world_.roll_call->absent();
  std::this_thread::sleep_for(kForTheOthers);
  std::string who;
  for (size_t i = 0; i < std::min(absent.size(), kNamed); ++i) {
    const auto rank = static_cast<size_t>(absent[i]);
    const std::string host =
        rank < world_.workers.size() ? fmt::format(" on host {}", world_.workers[rank].host) : "";
    who += fmt::format("{}rank {}{}", i == 0 ? "waiting for " : ", ", rank, host);
  }
  if (absent.size() > kNamed) who += fmt::format(" and {} more", absent.size() - kNamed);
  if (absent.empty()) {
    who = "nobody is missing, they wait for each other";
    for (int rank = 0; rank < std::min(world_.size, static_cast<int>(kNamed)); ++rank) {
      if (rank != world_.rank) who += fmt::format(", rank {} in {}", rank, world_.roll_call->place_of(rank));
    }
  }
  fail(ErrorKind::kCommunication,
       fmt::format("{}: not finished after {} s: {}", name(), world_.timeout_seconds, who));
}

}  // namespace lockstep
