// Keys in the order of their weight.
#include "lockstep/app/evaluate_command.h"

#include <cstddef>
#include <cstdint>
#include <vector>

#include "lockstep/train/checkpoint_evaluation.h"
#include "lockstep/train/choice_evaluation.h"

namespace lockstep {

CLI::Option* add_checkpoint_options(CLI::App& command, std::string& checkpoint, std::string& weights) {
  CLI::Option* const option = command
                                  .add_option("--checkpoint", checkpoint,
                                              "checkpoint file, or weights as generate --weights takes them")
                                  ->required();
  command
      .add_option("--weights", weights,
                  "trained or averaged; by default averaged where the checkpoint has them ([average])")
      ->check(CLI::IsMember({"trained", "averaged"}));
  return option;
}

CLI::Option* add_base_option(CLI::App& command, std::string& base) {
  return command.add_option("--base", base,
                            "of a checkpoint with [lora]: where its train.initial_weights are now; of an "
                            "adapter of PEFT: where its base is; if elsewhere");
}

void add_evaluate_options(CLI::App& command, EvaluateArguments& arguments) {
  add_checkpoint_options(command, arguments.checkpoint, arguments.weights);
  add_base_option(command, arguments.base);
  CLI::Option* const confusion = command.add_flag("--confusion", arguments.wants.confusion,
                                                  "also count, label by label, which classes were predicted");
  CLI::Option* const by_position =
      command.add_flag("--by-position", arguments.wants.by_position,
                       "of text: also the mean loss of each position of a window");
  CLI::Option* const choices =
      command
          .add_option("--choices", arguments.choices,
                      "of text: questions whose likeliest ending is looked for, instead of the data: llm.c's "
                      "HellaSwag file, or .jsonl with ctx, endings and label")
          ->excludes(confusion)
          ->excludes(by_position);
  CLI::Option* const tokenizer =
      command
          .add_option("--tokenizer", arguments.tokenizer.path, "of --choices in .jsonl: as that of tokenize")
          ->needs(choices);
  command.add_option("--pattern", arguments.tokenizer.pattern, "of --tokenizer: as that of tokenize")
      ->needs(tokenizer);
  command.footer(
      "Examples:\n  lockstep eval configs/digits_mlp.toml --checkpoint runs/digits_mlp/step-000000660.h5\n"
      "  lockstep eval configs/king_james.toml --checkpoint runs/king_james/step-000001600.h5 \\\n"
      "      --choices questions.jsonl --tokenizer bytes");
}

namespace {

nlohmann::ordered_json choices_line(const EvaluateArguments& arguments, Configuration& configuration,
                                    Communicator& communicator) {
  std::string weights = arguments.weights;
  const ChoiceEvaluation evaluation =
      evaluate_choices(configuration, arguments.checkpoint, arguments.choices, arguments.tokenizer,
                       communicator, weights, arguments.base);
  nlohmann::ordered_json line;
  line["checkpoint"] = arguments.checkpoint;
  line["weights"] = weights;
  line["choices"] = arguments.choices;
  line["questions"] = evaluation.questions;
  line["accuracy"] = evaluation.accuracy;
  line["accuracy_normalized"] = evaluation.accuracy_normalized;
  line["shortened"] = evaluation.shortened;
  return line;
}

}  // namespace

nlohmann::ordered_json evaluate_command(const EvaluateArguments& arguments, Configuration& configuration,
                                        Communicator& communicator) {
  if (!arguments.choices.empty()) return choices_line(arguments, configuration, communicator);
  std::string weights = arguments.weights;
  const EvaluationWants& wants = arguments.wants;
  const CheckpointEvaluation evaluation =
      evaluate_checkpoint(configuration, arguments.checkpoint, communicator, weights, wants, arguments.base);
  const EvaluationResult& result = evaluation.result;
  nlohmann::ordered_json line;
  line["checkpoint"] = arguments.checkpoint;
  line["weights"] = weights;
  line["data"] = evaluation.on_validation ? "validation" : "training";
  line["samples"] = result.samples;
  line["loss"] = result.loss;
  if (result.text) {
    line["perplexity"] = result.text->perplexity;
    if (result.text->bits_per_byte > 0.0) line["bits_per_byte"] = result.text->bits_per_byte;
  }
  // None of no samples.
  if (evaluation.classes > 0 && result.samples > 0) line["accuracy"] = result.accuracy;
  if (evaluation.classes > Objective::kTop && result.samples > 0)
    line["top5_accuracy"] = result.top5_accuracy;
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
