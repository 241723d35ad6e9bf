// What a worker wants of the run: asking, and reading the clock.
#include "lockstep/train/worker_wishes.h"

#include <fmt/format.h>

namespace lockstep {

bool WorkerWishes::has_passed(double minutes, Clock::time_point since) const {
  return minutes > 0.0 && run_.leader() &&
         std::chrono::duration<double>(Clock::now() - since).count() >= 60.0 * minutes;
}

const std::string& WorkerWishes::reason() {
  if (reason_.empty()) reason_ = run_.callbacks.wants_end();
  return reason_;
}

bool WorkerWishes::end() {
  if (reason().empty() && has_passed(run_.settings.most_minutes, started_))
    reason_ = fmt::format("run.most_minutes = {}", run_.settings.most_minutes);
  return !reason_.empty();
}

bool WorkerWishes::save() const {
  return has_passed(run_.settings.checkpoint_every_minutes, saved_at_);
}

}  // namespace lockstep
