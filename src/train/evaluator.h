// Evaluation during training, of the weights that the run is after: averaged ones where it has them.
#pragma once

#include <optional>

#include "lockstep/comm/communicator.h"
#include "lockstep/train/evaluation.h"
#include "lockstep/train/metrics_log.h"
#include "lockstep/train/objective.h"
#include "lockstep/train/overflow_check.h"
#include "lockstep/train/replica.h"
#include "lockstep/train/run_data.h"

namespace lockstep {

// Puts averaged weights, with statistics that fit them, in the place of the trained ones for as long as it
// lives (the replica's state stays the trained ones); does nothing where there are none. Collective, and not
// within an AutocastScope: parameters change.
class WeightsInForce {
 public:
  WeightsInForce(Replica& replica, const DataSource& training, const RunSettings& settings,
                 Communicator& communicator);
  ~WeightsInForce() { put_back(); }
  WeightsInForce(const WeightsInForce&) = delete;
  WeightsInForce& operator=(const WeightsInForce&) = delete;

 private:
  void put_back() noexcept;

  Replica& replica_;
};

class Evaluator {
 public:
  // Everything must outlive the object.
  Evaluator(Replica& replica, const Objective& objective, const RunData& data, const RunSettings& settings,
            Communicator& communicator)
      : replica_(replica),
        objective_(objective),
        data_(data),
        settings_(settings),
        communicator_(communicator) {
    if (data.validation) overflow_.emplace(*data.validation, settings.compute);
  }

  // On the validation data, which there must be. Every worker gets the result. Collective.
  EvaluationResult evaluate();
  // Its line of the metrics.
  EvaluationMetrics metrics(int64_t step, const EvaluationResult& result) const;

 private:
  Replica& replica_;
  const Objective& objective_;
  const RunData& data_;
  const RunSettings& settings_;
  Communicator& communicator_;
  std::optional<OverflowCheck> overflow_;
};

}  // namespace lockstep
