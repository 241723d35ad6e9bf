// generate: where the model, its tokenizer and the prompts come from, and how texts are shown.
#include "lockstep/app/generate_command.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "lockstep/app/evaluate_command.h"
#include "lockstep/app/results.h"
#include "lockstep/checkpoint/checkpoint.h"
#include "lockstep/core/error.h"
#include "lockstep/core/log.h"
#include "lockstep/core/strict_json.h"
#include "lockstep/core/thread_pool.h"
#include "lockstep/data/token_windows.h"
#include "lockstep/exchange/export_model.h"
#include "lockstep/exchange/model_difference.h"
#include "lockstep/exchange/weights_source.h"
#include "lockstep/generate/generate.h"
#include "lockstep/train/data_outline.h"
#include "lockstep/train/initial_weights.h"
#include "lockstep/train/run_state.h"

namespace lockstep {

namespace fs = std::filesystem;

namespace {

struct GenerateArguments {
  std::string configuration, checkpoint, base, weights, tokenizer, pattern, precision = "fp32";
  std::vector<std::string> prompts, prompt_files;
  GenerationOptions options;
  int threads = 0;
  bool as_json = false;
};

// A model, wherever it comes from.
struct Model {
  std::string path, tokenizer;  // where it comes from, and where one may lie beside it
  GptOptions options;
  int64_t vocabulary = 0;
  std::vector<int32_t> ends;
  std::string trained_with;  // DataDescription::vocabulary; empty: not known
  std::function<std::vector<float>(const ParameterEntry&)> values;
};

Model from_checkpoint(const std::string& path, const std::string& base) {
  const State state = read_checkpoint(path);
  Model model;
  model.path = model.tokenizer = path;
  const DataOutline outline = state.data.empty() ? DataOutline{} : DataOutline::parse(state.data, path);
  const auto options = gpt_of_configuration(state.configuration, path, outline.shape.sample.last());
  if (!options) fail(ErrorKind::kUsage, path + ": holds another model than model.type = \"gpt\"");
  model.options = *options;
  model.vocabulary = outline.shape.classes;
  model.trained_with = outline.vocabulary;
  auto arrays = std::make_shared<std::map<std::string, StateArray>>();
  State weights = whole_weights(state, has_average(state), path, base);
  for (StateArray& array : weights.arrays) {
    const std::string name = array.path;
    (*arrays)[name] = std::move(array);
  }
  model.values = [arrays, path](const ParameterEntry& parameter) {
    const auto found = arrays->find("/parameters/" + parameter.name);
    const bool wide = found != arrays->end() && found->second.dtype == DType::kF64;
    if (found == arrays->end() || !(wide || found->second.dtype == DType::kF32) ||
        !(found->second.shape == parameter.shape)) {
      fail(ErrorKind::kCheckpoint, fmt::format("{}: {}: must be there, {} in fp32 or fp64", path,
                                               parameter.name, parameter.shape.to_string()));
    }
    std::vector<float> values = in_fp32(found->second);
    arrays->erase(found);
    return values;
  };
  return model;
}

Model from_weights(const std::string& path, const std::string& base,
                   const std::optional<GptOptions>& configured) {
  const std::shared_ptr<WeightsSource> source = open_weights(path, base);
  if (configured) source->leave_out_zero_biases(*configured);
  return {path,
          tokenizer_directory(path, base),
          source->options(),
          source->vocabulary(),
          source->ends(),
          "",
          [source](const ParameterEntry& parameter) { return source->values(parameter); }};
}

// What CONFIG, if there is one, says of the model.
std::optional<GptOptions> configured_model(const std::string& path) {
  if (path.empty()) return std::nullopt;
  constexpr size_t kMostBytes = size_t{1} << 24;
  const std::string text = read_small_file(path, kMostBytes, ErrorKind::kUsage);
  const auto options = gpt_of_configuration(text, path, 1);
  if (!options) fail(ErrorKind::kUsage, path + ": has no model.type = \"gpt\"");
  Configuration configuration = Configuration::parse(text, path, {});
  Section model = configuration.section("model");
  model.text("type", std::nullopt, {}, "");
  read_gpt(model);
  configuration.reject_unknown("model");
  return options;
}

// What --tokenizer names, what lies beside the weights, or bytes, where the data say that these were tokens.
std::unique_ptr<Tokenizer> tokenizer_of(const GenerateArguments& arguments, const Model& model) {
  std::error_code error;
  std::unique_ptr<Tokenizer> tokenizer;
  if (!arguments.tokenizer.empty()) {
    tokenizer = open_tokenizer({.path = arguments.tokenizer, .pattern = arguments.pattern});
    const std::string beside = tokenizer_beside(model.tokenizer);
    if (!beside.empty() && beside != tokenizer->digest())
      log_warning(
          fmt::format("--tokenizer {}: is another one than that of {}", arguments.tokenizer, model.path));
  } else if (fs::is_directory(model.tokenizer, error)) {
    tokenizer = open_tokenizer({.path = model.tokenizer, .pattern = arguments.pattern});
  } else if (tokenizer = make_byte_tokenizer(); !made_by(model.trained_with, tokenizer->digest())) {
    fail(ErrorKind::kUsage, fmt::format("{}: name the tokenizer of its data (--tokenizer)", model.path));
  }
  if (!model.trained_with.empty() && !made_by(model.trained_with, tokenizer->digest())) {
    fail(ErrorKind::kUsage, fmt::format("--tokenizer {}: is not the one that {} was trained with",
                                        arguments.tokenizer, model.path));
  }
  if (tokenizer->vocabulary_size() > model.vocabulary) {
    log_warning(fmt::format("the tokenizer has {} tokens, {} {}: it may be that of another model",
                            tokenizer->vocabulary_size(), model.path, model.vocabulary));
  }
  return tokenizer;
}

// As the texts that the model was trained on begin, where that is known; else as the tokenizer has it.
std::vector<int32_t> tokens_of(const Tokenizer& tokenizer, const Model& model, const std::string& prompt) {
  std::vector<int32_t> tokens;
  const std::vector<int32_t> text = tokenizer.encode(prompt);
  const DocumentTokens trained = document_tokens(model.trained_with);
  const auto begin = model.trained_with.empty() ? tokenizer.begin_of_text() : trained.begin;
  // Templates of chats spell the token that begins a text.
  if (begin && (text.empty() || text.front() != *begin)) tokens.push_back(*begin);
  tokens.insert(tokens.end(), text.begin(), text.end());
  // A text that begins with nothing begins behind the end of another one.
  const auto end = trained.end ? trained.end : tokenizer.end_of_text();
  if (tokens.empty() && end) tokens.push_back(*end);
  if (tokens.empty())
    fail(ErrorKind::kUsage, "--prompt: is empty, and the tokenizer has no token that begins a text");
  return tokens;
}

void show(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  flush_results();
}

int run_generate(GenerateArguments& arguments) {
  constexpr size_t kMostPromptBytes = size_t{1} << 26;
  if (arguments.checkpoint.empty() == arguments.weights.empty())
    fail(ErrorKind::kUsage, "generate: name one of --checkpoint and --weights");
  for (const std::string& stop : arguments.options.stops) {
    if (stop.empty()) fail(ErrorKind::kUsage, "--stop: must not be empty");
  }
  require_sampling(arguments.options.sampling);
  std::vector<std::string> prompts = arguments.prompts;
  for (const std::string& file : arguments.prompt_files)
    prompts.push_back(
        read_small_file(file == "-" ? "/dev/stdin" : file, kMostPromptBytes, ErrorKind::kUsage));
  if (prompts.empty()) prompts.emplace_back();
  set_threads(arguments.threads > 0 ? arguments.threads : usable_cores());
  const auto configured = configured_model(arguments.configuration);
  const Model model = arguments.weights.empty() ? from_checkpoint(arguments.checkpoint, arguments.base)
                                                : from_weights(arguments.weights, arguments.base, configured);
  if (configured)
    require_none(model_differences(*configured, model.options), model.path,
                 "that of " + arguments.configuration);
  const auto tokenizer = tokenizer_of(arguments, model);
  std::vector<std::vector<int32_t>> tokens;
  for (size_t i = 0; i < prompts.size(); ++i) {
    tokens.push_back(tokens_of(*tokenizer, model, prompts[i]));
    if (std::ssize(tokens[i]) > model.options.context) {
      fail(ErrorKind::kUsage, fmt::format("prompt {}: has {} tokens, the model positions for {}", i + 1,
                                          tokens[i].size(), model.options.context));
    }
    if (const int32_t largest = *std::ranges::max_element(tokens[i]); largest >= model.vocabulary) {
      fail(ErrorKind::kUsage, fmt::format("prompt {}: has token {}, the model {} tokens: is the tokenizer of "
                                          "another model",
                                          i + 1, largest, model.vocabulary));
    }
  }
  arguments.options.ends = model.ends;
  for (const auto& end : {tokenizer->end_of_text(), document_tokens(model.trained_with).end})
    if (end) arguments.options.ends.push_back(*end);
  Decoder decoder(model.options, model.vocabulary, arguments.precision == "bf16" ? DType::kBF16 : DType::kF32,
                  std::ssize(prompts), model.values);
  const bool stream = prompts.size() == 1 && !arguments.as_json;
  if (stream) {
    show(prompts.front());
    arguments.options.show = [](size_t, std::string_view text) { show(std::string(text)); };
  }
  const std::vector<Generated> texts = generate(decoder, *tokenizer, tokens, arguments.options);
  if (stream) show("\n");
  if (stream && texts.front().ended == std::string_view("context"))
    log_info(fmt::format("the {} tokens that the model has positions for are full", model.options.context));
  for (size_t i = 0; i < texts.size() && !stream; ++i) {
    const nlohmann::ordered_json line = {{"prompt", prompts[i]},
                                         {"text", texts[i].text},
                                         {"tokens", texts[i].tokens},
                                         {"ended", texts[i].ended}};
    show(line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
  }
  return 0;
}

}  // namespace

std::function<std::optional<int>()> add_generate_command(CLI::App& app) {
  const auto arguments = std::make_shared<GenerateArguments>();
  SamplingOptions& sampling = arguments->options.sampling;
  CLI::App* command = app.add_subcommand("generate", "go on with texts, on the CPU");
  command->add_option(
      "config", arguments->configuration,
      "TOML file whose [model] the weights must be of; checkpoints and directories say it themselves");
  command->add_option("--checkpoint", arguments->checkpoint,
                      "checkpoint file of a gpt; its averaged weights where it has them");
  add_base_option(*command, arguments->base);
  command->add_option("--weights", arguments->weights,
                      "directory of Hugging Face (GPT-2, Llama, Mistral, Qwen2, Qwen3), one with an adapter "
                      "of PEFT for such a model, "
                      "or a model file of llm.c");
  command->add_option(
      "--tokenizer", arguments->tokenizer,
      "as of the command tokenize; by default what lies in the directory, or bytes, where the "
      "checkpoint's data say so");
  command->add_option("--pattern", arguments->pattern, "of the tokenizer: as that of tokenize");
  command->add_option("--prompt", arguments->prompts, "text to go on with; given again: another one")
      ->take_all()
      ->allow_extra_args(false);
  command
      ->add_option("--prompt-file", arguments->prompt_files,
                   "file or pipe with such a text, - for standard input; likewise")
      ->take_all()
      ->allow_extra_args(false);
  command->add_option("--tokens", arguments->options.tokens, "at most so many more")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 31))
      ->capture_default_str();
  command->add_option("--temperature", sampling.temperature, "divides logits; 0: always the likeliest token")
      ->capture_default_str();
  command->add_option("--top-k", sampling.top_k, "draw from the likeliest k; 0: from all")
      ->capture_default_str();
  command
      ->add_option("--top-p", sampling.top_p, "draw from the fewest that have this much of the probability")
      ->capture_default_str();
  command
      ->add_option("--repetition-penalty", sampling.repetition_penalty,
                   "makes tokens that were there less likely; 1: does not")
      ->capture_default_str();
  command->add_option("--stop", arguments->options.stops, "text that ends a text; given again: another one")
      ->take_all()
      ->allow_extra_args(false);
  command->add_option("--seed", sampling.seed, "of the draws: the same text on any number of threads")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 53))  // as run.seed
      ->capture_default_str();
  command->add_option("--precision", arguments->precision, "of products")
      ->check(CLI::IsMember({"fp32", "bf16"}))
      ->capture_default_str();
  command->add_option("--threads", arguments->threads, "0: one a core")->check(CLI::Range(0, 4096));
  command->add_flag("--json", arguments->as_json,
                    "a line of JSON a prompt, when all are done; several prompts are shown so anyway");
  command->footer(
      "Example:\n  lockstep generate --checkpoint runs/gpt/step-000001000.h5 --prompt \"In the beginning\" "
      "--top-k 40");
  return [arguments, command]() -> std::optional<int> {
    if (command->parsed()) return run_generate(*arguments);
    return std::nullopt;
  };
}

}  // namespace lockstep
