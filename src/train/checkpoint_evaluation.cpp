// Evaluating a trained model.
#include "lockstep/train/checkpoint_evaluation.h"

#include <fmt/format.h>

#include "lockstep/autodiff/autocast.h"
#include "lockstep/core/error.h"
#include "lockstep/train/overflow_check.h"
#include "lockstep/train/trained_model.h"

namespace lockstep {

CheckpointEvaluation evaluate_checkpoint(Configuration& configuration, const std::string& checkpoint,
                                         Communicator& communicator, std::string& weights,
                                         const EvaluationWants& wants, const std::string& base) {
  const TrainedModel model(configuration, checkpoint, communicator, weights, TrainedModel::Data::kRead, false,
                           base);
  weights = model.weights();
  const AutocastScope autocast(model.settings().compute);
  const RunData& data = model.data();
  CheckpointEvaluation evaluation;
  evaluation.on_validation = data.validation != nullptr;
  const DataSource& source = data.validation ? *data.validation : *data.train;
  evaluation.classes = source.description().classes;
  evaluation.class_names = source.description().class_names;
  // A number a pair of classes.
  constexpr int64_t kMostClasses = 1000;
  if (wants.by_position && source.description().positions.rank() == 0)
    fail(ErrorKind::kUsage, "--by-position: samples have one target each (text has one a position)");
  if (wants.confusion && (evaluation.classes == 0 || evaluation.classes > kMostClasses)) {
    fail(ErrorKind::kUsage, fmt::format("--confusion: a table of {} classes; it takes 1 to {}",
                                        evaluation.classes, kMostClasses));
  }
  OverflowCheck overflow(source, model.settings().compute);
  EvaluationWants all = wants;
  all.overflow = &overflow;
  evaluation.result = evaluate(model.replica(), model.objective(), source, model.settings().micro_batch_size,
                               communicator, all);
  return evaluation;
}

}  // namespace lockstep
