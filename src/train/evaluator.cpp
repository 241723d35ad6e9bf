// Evaluating the weights in force.
#include "lockstep/train/evaluator.h"

#include "lockstep/autodiff/autocast.h"
#include "lockstep/core/error.h"

namespace lockstep {

WeightsInForce::WeightsInForce(Replica& replica, const DataSource& training, const RunSettings& settings,
                               Communicator& communicator)
    : replica_(replica) {
  if (!replica.average) return;
  Tensor values = replica.store.values(), statistics = replica.store.statistic_values();
  replica.trained = values.clone();
  replica.running = statistics.clone();
  try {
    replica.average->write(values);
    replica.shards->gather(values, "average");
    if (replica.average->has_statistics()) {
      statistics.assign(replica.average->statistics());
    } else {
      const AutocastScope autocast(settings.compute);
      statistics.assign(mean_statistics(replica, training, settings, communicator));
    }
  } catch (...) {
    put_back();
    throw;
  }
}

void WeightsInForce::put_back() noexcept {
  if (!replica_.trained.defined()) return;
  try {
    Tensor values = replica_.store.values(), statistics = replica_.store.statistic_values();
    values.assign(replica_.trained);
    statistics.assign(replica_.running);
  } catch (const Error&) {  // the device has failed: the run is ending with the reason
  }
  replica_.trained = replica_.running = {};
}

EvaluationResult Evaluator::evaluate() {
  const WeightsInForce weights(replica_, *data_.train, settings_, communicator_);
  const AutocastScope autocast(settings_.compute);
  return lockstep::evaluate(replica_, objective_, *data_.validation, settings_.micro_batch_size,
                            communicator_, {.overflow = &*overflow_});
}

EvaluationMetrics Evaluator::metrics(int64_t step, const EvaluationResult& result) const {
  EvaluationMetrics metrics;
  metrics.step = step;
  metrics.loss = result.loss;
  if (objective_.classification() && result.samples > 0) metrics.accuracy = result.accuracy;
  metrics.samples = result.samples;
  metrics.weights = replica_.average ? "averaged" : "";
  metrics.text = result.text;
  return metrics;
}

}  // namespace lockstep
