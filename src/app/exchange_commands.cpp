// export: its options, and from which part of a checkpoint it takes what.
#include "lockstep/app/exchange_commands.h"

#include <fmt/format.h>

#include <memory>
#include <string>

#include "lockstep/app/evaluate_command.h"
#include "lockstep/checkpoint/checkpoint.h"
#include "lockstep/core/error.h"
#include "lockstep/core/log.h"
#include "lockstep/data/token_windows.h"
#include "lockstep/exchange/export_model.h"
#include "lockstep/exchange/weights_source.h"
#include "lockstep/text/tokenizer.h"
#include "lockstep/train/data_outline.h"
#include "lockstep/train/initial_weights.h"
#include "lockstep/train/run_state.h"

namespace lockstep {

namespace {

struct ExportArguments {
  std::string checkpoint, weights, precision = "fp32", base;
  bool adapter = false;
  ExportOptions options;
};

DType type_of(const std::string& precision) {
  return precision == "bf16" ? DType::kBF16 : precision == "fp16" ? DType::kF16 : DType::kF32;
}

// Weights of other programs: an adapter of PEFT is merged.
int export_weights(ExportArguments& arguments) {
  const std::string& path = arguments.checkpoint;
  if (arguments.adapter || !arguments.weights.empty())
    fail(ErrorKind::kUsage, fmt::format("--adapter, --weights: are of checkpoints, not of {}", path));
  const auto source = open_weights(path, arguments.base);
  arguments.options.begin = source->begin();
  arguments.options.ends = source->ends();
  export_hugging_face(parameters_of(*source, path, source->vocabulary(), source->options().context), path,
                      source->options(), source->vocabulary(), arguments.options);
  log_info(fmt::format("{}: weights of {}{} in {}", arguments.options.directory, path,
                       source->base_directory().empty() ? "" : ", merged into " + source->base_directory(),
                       arguments.precision));
  return 0;
}

int run_export(ExportArguments& arguments) {
  const std::string& path = arguments.checkpoint;
  arguments.options.dtype = type_of(arguments.precision);
  if (holds_weights(path)) return export_weights(arguments);
  const State state = read_checkpoint(path);
  const DataOutline outline = state.data.empty() ? DataOutline{} : DataOutline::parse(state.data, path);
  const auto options = gpt_of_configuration(state.configuration, path, outline.shape.sample.last());
  if (!options) {
    fail(ErrorKind::kUsage,
         fmt::format("{}: holds another model than model.type = \"gpt\", and transformers has none that it "
                     "could be exported as",
                     path));
  }
  const bool averaged = arguments.weights.empty() ? has_average(state) : arguments.weights == "averaged";
  if (averaged && !has_average(state))
    fail(ErrorKind::kUsage, path + ": --weights averaged: it has no averaged weights");
  if (const std::string& named = arguments.options.tokenizer; !named.empty() && !outline.vocabulary.empty()) {
    if (!made_by(outline.vocabulary, open_tokenizer({.path = named, .pattern = {}})->digest())) {
      fail(ErrorKind::kUsage,
           fmt::format("--tokenizer {}: is not the one that {} was trained with", named, path));
    }
  }
  const DocumentTokens trained = document_tokens(outline.vocabulary);
  arguments.options.begin = trained.begin;
  if (trained.end) arguments.options.ends = {*trained.end};
  if (arguments.adapter) {
    const LoraOptions lora = lora_of(state, path);
    if (lora.rank == 0)
      fail(ErrorKind::kUsage, fmt::format("--adapter: {} was not trained with [lora]", path));
    if (!arguments.options.tokenizer.empty())
      fail(ErrorKind::kUsage, "--adapter: is written without a tokenizer: the base model has one");
    const std::string base = arguments.base.empty() ? initial_weights_of(state, path) : arguments.base;
    export_adapter(weights_of(state, averaged), path, *options, outline.shape.classes, {lora, base},
                   arguments.options);
    log_info(fmt::format("{}: adapters of {} in {}, for {}", arguments.options.directory, path,
                         arguments.precision, base));
    return 0;
  }
  export_hugging_face(whole_weights(state, averaged, path, arguments.base), path, *options,
                      outline.shape.classes, arguments.options);
  log_info(fmt::format("{}: {} weights of {} in {}{}", arguments.options.directory,
                       averaged ? "averaged" : "trained", path, arguments.precision,
                       arguments.options.tokenizer.empty() ? "; without a tokenizer (--tokenizer)" : ""));
  return 0;
}

}  // namespace

std::function<std::optional<int>()> add_exchange_commands(CLI::App& app) {
  const auto arguments = std::make_shared<ExportArguments>();
  CLI::App* command =
      app.add_subcommand("export", "write a checkpoint's gpt as a directory that transformers loads");
  command
      ->add_option("checkpoint", arguments->checkpoint,
                   "checkpoint file; or what generate --weights takes, of which an adapter of PEFT is merged")
      ->required();
  command->add_option("directory", arguments->options.directory, "directory to make")->required();
  command
      ->add_option("--weights", arguments->weights,
                   "trained or averaged; by default averaged where the checkpoint has them ([average])")
      ->check(CLI::IsMember({"trained", "averaged"}));
  command->add_option("--precision", arguments->precision, "of the weights that are written")
      ->check(CLI::IsMember({"fp32", "bf16", "fp16"}))
      ->capture_default_str();
  command->add_option(
      "--tokenizer", arguments->options.tokenizer,
      "tokenizer.json, or a directory with it, to go with the weights; rows of tokens that it "
      "does not have are left out");
  command->add_flag("--adapter", arguments->adapter,
                    "of a run with [lora]: what was trained alone, as PEFT reads it; otherwise its weights "
                    "are merged");
  add_base_option(*command, arguments->base);
  command->footer(
      "Example:\n  lockstep export runs/gpt/step-000001000.h5 gpt-exported --tokenizer tokenizer.json");
  return [arguments, command]() -> std::optional<int> {
    if (command->parsed()) return run_export(*arguments);
    return std::nullopt;
  };
}

}  // namespace lockstep
