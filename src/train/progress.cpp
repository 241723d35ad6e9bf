// Progress lines.
#include "lockstep/train/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "lockstep/core/log.h"

namespace lockstep {

std::string format_duration(double seconds) {
  const auto total = static_cast<int64_t>(std::llround(std::clamp(seconds, 0.0, 1e12)));
  if (total >= 3600) return fmt::format("{}h{:02}m", total / 3600, total / 60 % 60);
  if (total >= 60) return fmt::format("{}m{:02}s", total / 60, total % 60);
  return fmt::format("{}s", total);
}

bool shown_on_terminal() {
  return isatty(STDERR_FILENO) == 1 || std::getenv("LOCKSTEP_ON_TERMINAL") != nullptr;
}

Progress::Progress(int64_t first_step, int64_t total_steps, bool enabled)
    : first_step_(first_step),
      total_steps_(total_steps),
      enabled_(enabled),
      terminal_(isatty(STDERR_FILENO) == 1),
      start_(std::chrono::steady_clock::now()),
      shown_(start_ - std::chrono::hours(1)) {}

void Progress::show(const StepMetrics& m, bool last) {
  if (!enabled_) return;
  const auto now = std::chrono::steady_clock::now();
  const auto interval = terminal_ ? std::chrono::milliseconds(100) : std::chrono::milliseconds(1000);
  if (!last && now - shown_ < interval) return;
  shown_ = now;
  const double elapsed = std::chrono::duration<double>(now - start_).count();
  const auto done = static_cast<double>(m.step - first_step_);
  const double remaining = done > 0 ? elapsed / done * static_cast<double>(total_steps_ - m.step) : 0.0;
  const std::string loss = std::isnan(m.loss) ? "none" : fmt::format("{:.4f}", m.loss);
  const std::string speed = m.tokens > 0 ? fmt::format("{:.0f} tokens/s", m.tokens_per_second)
                                         : fmt::format("{:.0f} samples/s", m.samples_per_second);
  std::string how = fmt::format("lr {:.3g}", m.learning_rate);
  if (m.minimizer) {
    how = fmt::format("{} |p| {:.3g}, {} evaluations", m.minimizer->outcome, m.minimizer->length,
                      m.minimizer->values + m.minimizer->gradients);
    if (m.minimizer->products > 0) how += fmt::format(", {} products", m.minimizer->products);
  }
  std::string line = fmt::format("step {:>{}}/{}  epoch {:.2f}  loss {}  {}  {}  |g| {:.3g}  ETA {}", m.step,
                                 std::to_string(total_steps_).size(), total_steps_, m.epoch, loss, speed, how,
                                 std::abs(m.gradient_norm), format_duration(remaining));
  if (m.tokens > 0) line += fmt::format("  {:.3g}M tokens", static_cast<double>(m.tokens) * 1e-6);
  if (m.mfu > 0.0) line += fmt::format("  MFU {:.1f}%", 100.0 * m.mfu);
  if (m.loss_scale != 1.0) line += fmt::format("  scale {:.4g}", m.loss_scale);
  if (m.skipped_steps > 0) line += fmt::format("  skipped {}", m.skipped_steps);
  if (terminal_) {
    std::fprintf(stderr, "\r\033[K%s", line.c_str());
    std::fflush(stderr);
    open_line_ = true;
  } else {
    log_info(line);
  }
}

ProgressBar::ProgressBar(std::string what, int64_t all, Unit unit)
    : what_(std::move(what)),
      all_(all),
      unit_(unit),
      terminal_(isatty(STDERR_FILENO) == 1),
      start_(std::chrono::steady_clock::now()),
      last_(start_) {}

void ProgressBar::show(int64_t done) {
  constexpr int kWidth = 40;
  const auto now = std::chrono::steady_clock::now();
  if (!terminal_ || now - last_ < std::chrono::milliseconds(100)) return;
  last_ = now;
  shown_ = true;
  const double share = static_cast<double>(done) / static_cast<double>(std::max<int64_t>(all_, 1));
  const double seconds = std::chrono::duration<double>(now - start_).count();
  const int filled = static_cast<int>(share * kWidth);
  std::fprintf(stderr, "\r\033[K%s",
               fmt::format("{} [{:#<{}}{:<{}}] {:.0f}%  {}  ETA {}", what_, "", filled, "", kWidth - filled,
                           100.0 * share,
                           unit_ == Unit::kBytes
                               ? fmt::format("{:.2f} GB/s", static_cast<double>(done) / seconds * 1e-9)
                               : fmt::format("{} of {}", done, all_),
                           format_duration(seconds / share * (1.0 - share)))
                   .c_str());
  std::fflush(stderr);
}

void ProgressBar::clear() {
  if (shown_) std::fputs("\r\033[K", stderr);
  shown_ = false;
}

void Progress::finish_line() {
  if (open_line_) std::fputc('\n', stderr);
  open_line_ = false;
}

}  // namespace lockstep
