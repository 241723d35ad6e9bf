// The command eval: its options, and what it prints.
#pragma once

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
#include <string>

#include "lockstep/comm/communicator.h"
#include "lockstep/core/configuration.h"
#include "lockstep/text/tokenizer.h"
#include "lockstep/train/evaluation.h"

namespace lockstep {

struct EvaluateArguments {
  std::string checkpoint, weights, base;
  EvaluationWants wants;
  std::string choices;  // "": the data of the configuration
  TokenizerOptions tokenizer;
};

// Which trained model: of every command that opens one.
CLI::Option* add_checkpoint_options(CLI::App& command, std::string& checkpoint, std::string& weights);

// Where the rest of its weights is: of those that read it from train.initial_weights otherwise.
CLI::Option* add_base_option(CLI::App& command, std::string& base);

// Beside those of the configuration.
void add_evaluate_options(CLI::App& command, EvaluateArguments& arguments);

// One object, the same on any number of workers; what is no number is null. Collective.
nlohmann::ordered_json evaluate_command(const EvaluateArguments& arguments, Configuration& configuration,
                                        Communicator& communicator);

}  // namespace lockstep
