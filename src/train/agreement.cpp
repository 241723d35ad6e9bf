// Exchanging verdicts.
#include "lockstep/train/agreement.h"

#include <fmt/format.h>

#include <exception>
#include <new>
#include <optional>
#include <vector>

namespace lockstep {

void run_agreed(Communicator& communicator, const std::function<void()>& part, const std::string& label,
                double timeout_seconds) {
  std::optional<TimeoutScope> patience;
  if (timeout_seconds > 0.0) patience.emplace(communicator, timeout_seconds);
  std::optional<Error> mine;
  try {
    part();
  } catch (const Error& error) {
    mine = error;
  } catch (const std::bad_alloc&) {
    mine.emplace(ErrorKind::kInternal, "out of memory");
  } catch (const std::exception& exception) {  // of a part of the program's own
    mine.emplace(ErrorKind::kInternal, exception.what());
  }
  const int64_t verdict = mine ? static_cast<int64_t>(mine->kind()) + 1 : 0;
  std::vector<int64_t> verdicts(static_cast<size_t>(communicator.world_size()));
  communicator.all_gather(&verdict, sizeof verdict, verdicts.data(), label)->wait();
  for (int rank = 0; rank < communicator.world_size(); ++rank) {
    const int64_t theirs = verdicts[static_cast<size_t>(rank)];
    if (theirs == 0) continue;
    const bool speaks = rank == communicator.rank();
    // Rank 0 keeps it in status.json.
    std::string reason = speaks ? mine->what() : "";
    broadcast_text(communicator, reason, label, rank);
    throw AgreedFailure(static_cast<ErrorKind>(theirs - 1),
                        speaks ? reason : fmt::format("rank {}: {}", rank, reason), speaks);
  }
}

void fail_together(const Communicator& communicator, ErrorKind kind, const std::string& message) {
  throw AgreedFailure(kind, message, communicator.rank() == 0);
}

void broadcast_text(Communicator& communicator, std::string& text, const std::string& label, int root) {
  int64_t size = static_cast<int64_t>(text.size());
  communicator.broadcast(&size, sizeof size, root, label)->wait();
  text.resize(static_cast<size_t>(size));
  if (size > 0) communicator.broadcast(text.data(), text.size(), root, label)->wait();
}

}  // namespace lockstep
