// Keeping a run's directory.
#include "lockstep/train/run_keeper.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <new>
#include <sstream>
#include <system_error>
#include <utility>
#include <vector>

#include "lockstep/comm/deadline.h"
#include "lockstep/core/available_memory.h"
#include "lockstep/core/error.h"
#include "lockstep/core/log.h"
#include "lockstep/core/output_file.h"
#include "lockstep/tensor/storage.h"
#include "lockstep/train/loss_plot.h"

namespace lockstep {

namespace {

// Before the directory would be made.
const std::string& checked(const std::string& directory, bool resume) {
  std::error_code error;
  if (!resume || std::filesystem::is_directory(directory, error)) return directory;
  const bool absent =
      !error || error == std::errc::no_such_file_or_directory || error == std::errc::not_a_directory;
  fail(ErrorKind::kCheckpoint,
       absent ? fmt::format("{}: --resume: there is no such directory on host {}", directory, host_name())
              : fmt::format("{}: --resume: cannot look for the directory on host {}: {}", directory,
                            host_name(), error.message()));
}

// Of an earlier run in the directory: its last collectives say nothing of this one.
void remove_flights(const std::string& directory) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(directory, error)) {
    const std::string name = entry.path().filename();
    std::error_code ignored;  // it stays
    if (name.starts_with("flight-") && name.ends_with(".tsv")) std::filesystem::remove(entry.path(), ignored);
  }
}

}  // namespace

RunKeeper::RunKeeper(const RunSettings& settings, bool resume)
    : name_(settings.name),
      directory_(checked(settings.output, resume && settings.replicas == 0 && !settings.recovery_point)),
      lock_(directory_),
      after_save_(settings.after_save, settings.save_timeout_seconds),
      store_({.directory = directory_,
              .keep = settings.keep,
              .keep_every = settings.keep_every,
              .alone = lock_.locked(),
              .beside = kBesideCheckpoints,
              .writes = [this] { lock_.require_held(); },
              .written =
                  [this](const std::string& path) {
                    if (status_) status_->saved(path);
                    after_save_.saved(path);
                    if (offer_) offer_();
                  }}),
      wants_tensorboard_(settings.tensorboard) {}

std::pair<std::string, State> RunKeeper::newest() const {
  std::vector<std::string> skipped;
  auto found = store_.load_newest(skipped);
  for (const std::string& reason : skipped) log_warning("skipped checkpoint " + reason);
  if (!found) {
    fail(ErrorKind::kCheckpoint,
         fmt::format("{}: --resume: there is no checkpoint in this directory on host {}", directory_,
                     host_name()));
  }
  return std::move(*found);
}

void RunKeeper::start(const MetricsRecord& metrics, const RunStatus::Run& run,
                      const std::string& configuration, std::string begun, int64_t replaced) {
  if (begun.empty()) {
    remove_flights(directory_);
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    const int64_t milliseconds = std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
    begun = std::to_string(std::max(milliseconds, replaced + 1));
  }
  begun_ = std::move(begun);
  metrics_.emplace(metrics_path(directory_), metrics, run.step);
  status_.emplace(directory_, run);
  if (wants_tensorboard_) {
    try {
      tensorboard_.emplace(directory_, run.step);
    } catch (const Error& error) {
      log_warning(fmt::format("metrics.tensorboard: {}; the run goes on without it", error.what()));
    }
  }
  replace_record(directory_ + "/configuration.toml", configuration);
}

void RunKeeper::log(const StepMetrics& m) {
  metrics_->step(m);
  status_->metrics(m);
  if (!tensorboard_) return;
  std::vector<std::pair<const char*, double>> scalars = {
      {"train/loss", m.loss},
      {"train/gradient_norm", m.gradient_norm},
      {"train/learning_rate", m.learning_rate},
      {"train/epoch", m.epoch},
      {"train/loss_scale", m.loss_scale},
      {"train/skipped_steps", static_cast<double>(m.skipped_steps)},
      {"speed/samples_per_second", m.samples_per_second},
      {"time/data_seconds", m.times.data},
      {"time/compute_seconds", m.times.compute},
      {"time/exposed_communication_seconds", m.times.exposed_communication},
      {"time/optimizer_seconds", m.times.optimizer},
      {"memory/peak_bytes", static_cast<double>(m.peak_bytes)}};
  if (m.tokens > 0) {
    scalars.emplace_back("train/tokens", static_cast<double>(m.tokens));
    scalars.emplace_back("speed/tokens_per_second", m.tokens_per_second);
  }
  if (m.mfu > 0.0) scalars.emplace_back("speed/mfu", m.mfu);
  tensorboard_->add(m.step, scalars);
}

void RunKeeper::log(const EvaluationMetrics& m) {
  metrics_->evaluation(m);
  status_->evaluation(m.loss);
  if (!tensorboard_) return;
  std::vector<std::pair<const char*, double>> scalars = {{"validation/loss", m.loss}};
  if (m.accuracy) scalars.emplace_back("validation/accuracy", *m.accuracy);
  if (m.text) scalars.emplace_back("validation/perplexity", m.text->perplexity);
  if (m.text && m.text->bits_per_byte > 0.0)
    scalars.emplace_back("validation/bits_per_byte", m.text->bits_per_byte);
  tensorboard_->add(m.step, scalars);
}

void RunKeeper::flush_metrics() {
  metrics_->flush();
  if (tensorboard_) tensorboard_->flush();
}

bool RunKeeper::has_room(int64_t bytes) {
  // Where addresses are limited, the thread that writes takes its stack and an arena of malloc beside the
  // copy.
  constexpr int64_t kThread = 96 << 20, kSmall = 1 << 20;
  if (bytes < kSmall || fits_memory(bytes + kThread)) return true;
  release_cached_memory();
  if (fits_memory(bytes + kThread)) return true;
  if (!std::exchange(warned_of_room_, true)) {
    log_warning(fmt::format(
        "{}: a copy of the state takes {} bytes of memory, {} are available: training waits while "
        "checkpoints are written",
        directory_, bytes, AvailableMemory().bytes()));
  }
  return false;
}

void RunKeeper::save(int64_t step, const BestCheckpoint& best, const std::function<State()>& snapshot,
                     bool waits) {
  store_.finish();
  State state;
  try {
    state = snapshot();
  } catch (const std::bad_alloc&) {
    fail(ErrorKind::kCheckpoint, fmt::format("{}: no memory for a copy of the state: {} bytes are available",
                                             checkpoint_path(directory_, step), AvailableMemory().bytes()));
  }
  complete(state, best);
  offer_ = [this, step, marked = best.step(), lines = metrics_->bytes()] {
    if (copies_ != nullptr) copies_->offer(step, marked, lines);
  };
  store_.save(step, std::move(state), best.step(), waits);
}

void RunKeeper::poll() {
  store_.poll();
  const auto now = std::chrono::steady_clock::now();
  if (now - looked_ < std::chrono::seconds(1)) return;
  looked_ = now;
  lock_.require_held();
}

void RunKeeper::complete(State& state, const BestCheckpoint& best) {
  MetricsRecord record = metrics_->record();
  state.metrics = std::move(record.lines);
  state.metrics_file = std::move(record.file);
  state.best = best.text();
  state.begun = begun_;
}

void RunKeeper::offer(int64_t step, const BestCheckpoint& best) {
  if (copies_ != nullptr) copies_->offer(step, best.step(), metrics_->bytes());
}

void RunKeeper::finish(bool chart, const std::function<bool()>& gives_up) {
  status_->activity("saving");
  store_.finish();
  flush_metrics();
  MetricsHistory history;
  history.read(metrics_->path());
  const LossCurves curves = loss_curves(history);
  plotted_ = replace_record(directory_ + "/loss.svg", loss_svg(curves, name_ + ": loss"));
  const std::string characters = chart ? loss_chart(curves, 60, 10) : "";
  std::istringstream lines(characters.empty() ? "" : "\n" + characters);
  for (std::string line; std::getline(lines, line);) log_info(line);
  after_save_.finish(gives_up);
}

void RunKeeper::tell_files(const std::string& checkpoint) const {
  log_info("checkpoint  " + checkpoint);
  if (metrics_->whole()) log_info(fmt::format("metrics     {}/metrics.jsonl", directory_));
  if (plotted_) log_info(fmt::format("loss plot   {}/loss.svg", directory_));
}

}  // namespace lockstep
