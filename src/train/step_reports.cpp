// Reports of steps become lines of the metrics.
#include "lockstep/train/step_reports.h"

#include <fmt/format.h>

#include "lockstep/core/log.h"
#include "lockstep/train/run_ending.h"

namespace lockstep {

StepReports::StepReports(PreparedRun& run, StragglerWatch& stragglers)
    : run_(run),
      stragglers_(stragglers),
      log_(run.backend(), run.plan, run.settings.log_every, run.end->ahead(), run.operations),
      progress_(run.done, run.plan.total_steps, run.leader() && run.options.progress) {}

void StepReports::read(size_t left) {
  while (log_.under_way() > left) {
    StepReport report;
    fail_of_divergence(run_, [&] { report = run_.end->report(log_.oldest()); });
    if (report.minimizer && report.minimizer->outcome == "failed") warn_of_failure(log_.oldest());
    std::optional<StepMetrics> metrics = log_.end(report, run_.pass->take_exposed_seconds(), stopping_at_);
    if (!metrics) continue;
    metrics->skipped_steps = run_.end->skipped_steps();
    metrics->peak_bytes = run_.pass->peak_bytes();
    metrics->cached_bytes = allocator_statistics().cached_bytes;
    metrics->activation_bytes = run_.pass->activation_bytes();
    if (const auto slowest = stragglers_.take()) {
      metrics->slowest_rank = slowest->rank;
      metrics->slowest_factor = slowest->factor;
    }
    if (run_.keeper) run_.keeper->log(*metrics);
    progress_.show(*metrics, metrics->step == run_.plan.total_steps || metrics->step == stopping_at_);
    run_.callbacks.step(*metrics);
  }
}

void StepReports::warn_of_failure(int64_t step) {
  if (!run_.leader() || told_failure_ || !run_.end->ended().empty()) return;
  told_failure_ = true;
  finish_line();
  log_warning(
      fmt::format("step {}: {} found nothing better on the step's batch; parameters stay as they are, here "
                  "and wherever metrics.jsonl says \"failed\"",
                  step, run_.replica->optimizer->type()));
}

}  // namespace lockstep
