// What a run says first.
#include "lockstep/train/introduction.h"

#include <fmt/format.h>

#include <algorithm>

#include "lockstep/core/log.h"
#include "lockstep/optim/layer_curvature.h"
#include "lockstep/train/data_checks.h"

namespace lockstep {

namespace {

double mebibytes(size_t bytes) {
  return static_cast<double>(bytes) / 1048576.0;
}

}  // namespace

void introduce(const Introduction& run) {
  log_info(fmt::format("{} | {} thread{} a worker", run.device.description(), run.settings.threads,
                       run.settings.threads == 1 ? "" : "s"));
  int64_t frozen = 0;
  size_t frozen_bytes = 0;
  for (size_t place = 0; place < run.replica.store.frozen().size(); ++place) {
    frozen += run.replica.store.frozen()[place].shape.elements();
    frozen_bytes += run.replica.store.frozen_values(place).bytes();
  }
  log_info(fmt::format(
      "{} parameters{}, {} optimizer, {} samples for training{}", run.replica.store.parameter_count(),
      frozen == 0 ? "" : fmt::format(" beside {} that are frozen", frozen), run.replica.optimizer->type(),
      run.data.train->size(),
      run.data.validation ? fmt::format(", {} for validation", run.data.validation->size()) : ""));
  if (LayerCurvature* const layers = run.replica.optimizer->layer_curvature(); layers != nullptr)
    log_info(layers->describe());
  log_info(describe_task(run.data.train->description(), run.loss));
  for (const std::string& hint : run.data.hints) log_warning(hint);
  log_info(fmt::format("{} steps of {} x {} samples, {} steps an epoch, output in {}", run.plan.total_steps,
                       run.plan.micro_batches, run.plan.micro_batch_size, run.plan.steps_per_epoch,
                       run.settings.output));
  if (run.plan.tokens_of_sample > 0) {
    log_info(fmt::format(
        "{} tokens a step, {} in all{}", run.plan.sampler.global_batch * run.plan.tokens_of_sample,
        run.plan.samples_seen(run.plan.total_steps) * run.plan.tokens_of_sample,
        run.operations.peak() == 0.0
            ? ""
            : fmt::format("; MFU is the share of {:g} TFLOP/s a worker that {:.4g} operations a "
                          "token take: {}",
                          run.operations.device_peak * 1e-12, run.operations.of_token,
                          run.operations.formula)));
  }
  const size_t statistics = run.replica.store.statistic_values().bytes();
  const size_t copy = run.replica.lowered ? run.replica.lowered->values().bytes() : 0;
  std::string averages;
  if (run.replica.average) {
    averages = fmt::format(", averages {:.1f}", mebibytes(run.replica.average->values().bytes()));
  }
  log_info(fmt::format(
      "memory of this worker, MiB: parameters {:.1f}, gradients {:.1f}, optimizer state {:.1f}{}{}",
      mebibytes(run.replica.store.values().bytes() + copy + statistics + frozen_bytes),
      mebibytes(run.pass.bytes()), mebibytes(run.replica.optimizer_bytes), averages,
      run.settings.shard_optimizer ? fmt::format(" (its share of {} workers)", run.workers) : ""));
  if (run.replica.optimizer->minimization() != nullptr && !run.plan.same_batch) {
    log_warning(fmt::format(
        "{} sees {} of {} samples in a step: each step is taken for another objective, begins anew with a "
        "gradient, and none tells when the run has converged{}",
        run.replica.optimizer->type(), std::min(run.plan.sampler.global_batch, run.data.train->size()),
        run.data.train->size(),
        run.plan.sampler.overlap > 0 ? "" : "; without train.micro_batches all see all, and are one"));
  }
  if (run.schedule.warmup() > run.plan.total_steps) {
    log_warning(
        fmt::format("schedule.warmup: {} steps, the run has {}: the full learning rate is never reached",
                    run.schedule.warmup(), run.plan.total_steps));
  }
}

}  // namespace lockstep
