// Timing steps.
#include "lockstep/train/step_log.h"

#include <cmath>

namespace lockstep {

StepLog::StepLog(Backend& backend, const RunPlan& plan, int64_t log_every, int64_t ahead,
                 const ModelOperations& operations)
    : plan_(plan), log_every_(log_every), operations_(operations), steps_(static_cast<size_t>(ahead + 1)) {
  for (Step& step : steps_) {
    for (std::unique_ptr<Marker>* marker : {&step.begun, &step.swept, &step.exchanged, &step.done})
      *marker = backend.marker(true);
  }
}

StepLog::Step& StepLog::begin(int64_t number, int64_t samples, double data_seconds) {
  newest_ = number;
  Step& next = step(number);
  next.number = number;
  next.samples = samples;
  next.data_seconds = data_seconds;
  next.supply_seconds = 0.0;
  next.replayed = false;
  next.begun->set();
  return next;
}

void StepLog::issued(double host_seconds) {
  step(newest_).host_seconds = host_seconds;
  issued_ = newest_;
  ++under_way_;
}

void StepLog::drop() {
  --under_way_;
  newest_ = --issued_;
}

int64_t StepLog::oldest() const {
  return issued_ + 1 - static_cast<int64_t>(under_way_);
}

std::optional<StepMetrics> StepLog::end(const StepReport& report, double exposed_seconds, int64_t last) {
  const Step& ended = step(oldest());
  --under_way_;
  ended.done->wait();  // where the host decided, the update may still be running
  times_.data += ended.data_seconds;
  times_.host += ended.host_seconds;
  if (ended.replayed) {
    times_.compute += ended.done->seconds_since(*ended.begun) - ended.supply_seconds;
    times_.exposed_communication = times_.optimizer = std::nan("");
  } else {
    const double swept = ended.swept->seconds_since(*ended.begun);
    own_seconds_ += ended.data_seconds + swept;
    times_.compute += swept;
    times_.exposed_communication += exposed_seconds;
    times_.optimizer += ended.done->seconds_since(*ended.exchanged) - ended.supply_seconds;
  }
  ++interval_steps_;
  interval_samples_ += ended.samples;
  const bool due =
      ended.number % log_every_ == 0 || ended.number == plan_.total_steps || ended.number == last;
  if (!due) return std::nullopt;
  const auto steps = static_cast<double>(interval_steps_);
  const Clock::time_point now = Clock::now();
  StepMetrics metrics;
  metrics.step = ended.number;
  metrics.epoch = plan_.epochs(ended.number);
  metrics.loss = report.loss;
  metrics.learning_rate = report.learning_rate;
  metrics.minimizer = report.minimizer;
  metrics.gradient_norm = report.gradient_norm;
  metrics.loss_scale = report.loss_scale;
  metrics.samples_per_second =
      static_cast<double>(interval_samples_) / std::chrono::duration<double>(now - interval_start_).count();
  if (plan_.tokens_of_sample > 0) {
    metrics.tokens = plan_.samples_seen(ended.number) * plan_.tokens_of_sample;
    metrics.tokens_per_second = metrics.samples_per_second * static_cast<double>(plan_.tokens_of_sample);
    if (operations_.peak() > 0.0)
      metrics.mfu = metrics.tokens_per_second * operations_.of_token / operations_.peak();
  }
  metrics.times = {times_.data / steps, times_.compute / steps, times_.exposed_communication / steps,
                   times_.optimizer / steps, times_.host / steps};
  times_ = {};
  interval_steps_ = interval_samples_ = 0;
  interval_start_ = now;
  return metrics;
}

}  // namespace lockstep
