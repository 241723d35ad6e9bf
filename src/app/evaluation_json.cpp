// Keys in the order of their weight.
#include "lockstep/app/evaluation_json.h"

#include <cstddef>
#include <cstdint>
#include <vector>

namespace lockstep {

nlohmann::ordered_json describe_evaluation(const CheckpointEvaluation& evaluation,
                                           const std::string& checkpoint, const std::string& weights,
                                           const EvaluationWants& wants) {
  const EvaluationResult& result = evaluation.result;
  nlohmann::ordered_json line;
  line["checkpoint"] = checkpoint;
  line["weights"] = weights;
  line["data"] = evaluation.on_validation ? "validation" : "training";
  line["samples"] = result.samples;
  line["loss"] = result.loss;
  if (result.text) {
    line["perplexity"] = result.text->perplexity;
    if (result.text->bits_per_byte > 0.0) line["bits_per_byte"] = result.text->bits_per_byte;
  }
  if (evaluation.classes > 0) line["accuracy"] = result.accuracy;
  if (evaluation.classes > Objective::kTop) line["top5_accuracy"] = result.top5_accuracy;
  if (wants.by_position) line["position_losses"] = result.position_losses;
  if (wants.confusion) {
    const auto classes = static_cast<size_t>(evaluation.classes);
    if (!evaluation.class_names.empty()) line["classes"] = evaluation.class_names;
    for (size_t label = 0; label < classes; ++label) {
      const auto row = result.confusion.begin() + static_cast<std::ptrdiff_t>(label * classes);
      line["confusion"].push_back(std::vector<int64_t>(row, row + static_cast<std::ptrdiff_t>(classes)));
    }
  }
  return line;
}

}  // namespace lockstep
