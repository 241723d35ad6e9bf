// Keeping a run's directory.
#include "lockstep/train/run_keeper.h"

#include <fmt/format.h>

#include <filesystem>
#include <vector>

#include "lockstep/core/error.h"
#include "lockstep/core/log.h"
#include "lockstep/core/output_file.h"
#include "lockstep/train/loss_plot.h"

namespace lockstep {

namespace {

// Before the directory would be made.
const std::string& checked(const std::string& directory, bool resume) {
  if (resume && !std::filesystem::is_directory(directory)) {
    fail(ErrorKind::kCheckpoint, directory + ": --resume: there is no such directory");
  }
  return directory;
}

}  // namespace

RunKeeper::RunKeeper(const RunSettings& settings, bool resume)
    : name_(settings.name),
      directory_(checked(settings.output, resume)),
      lock_(directory_),
      after_save_(settings.after_save, settings.save_timeout_seconds),
      store_({.directory = directory_,
              .keep = settings.keep,
              .keep_every = settings.keep_every,
              .written = [this](const std::string& path) { after_save_.saved(path); }}) {}

std::pair<std::string, State> RunKeeper::newest() const {
  std::vector<std::string> skipped;
  auto found = store_.load_newest(skipped);
  for (const std::string& reason : skipped) log_warning("skipped checkpoint " + reason);
  if (!found) {
    fail(ErrorKind::kCheckpoint, directory_ + ": --resume: there is no checkpoint in this directory");
  }
  return std::move(*found);
}

void RunKeeper::require_fresh() const {
  const std::optional<int64_t> step = store_.newest_step();
  if (!step) return;
  fail(ErrorKind::kUsage,
       fmt::format("{}: already holds {}; continue it with --resume, delete it with --overwrite, "
                   "or choose another --output",
                   directory_, std::filesystem::path(store_.path_of(*step)).filename().string()));
}

void RunKeeper::start(const std::string& history, const std::string& configuration) {
  metrics_.emplace(directory_ + "/metrics.jsonl", history);
  replace_record(directory_ + "/configuration.toml", configuration);
}

void RunKeeper::save(int64_t step, const std::function<State(std::string metrics)>& snapshot) {
  store_.finish();
  metrics_->flush();
  store_.save(step, snapshot(metrics_->history()));
}

void RunKeeper::finish(bool chart, const std::function<bool()>& gives_up) {
  store_.finish();
  metrics_->flush();
  const LossCurves curves = loss_curves(metrics_->history());
  replace_record(directory_ + "/loss.svg", loss_svg(curves, name_ + ": loss"));
  const std::string characters = chart ? loss_chart(curves, 60, 10) : "";
  if (!characters.empty()) log_info("\n" + characters);
  after_save_.finish(gives_up);
}

}  // namespace lockstep
