// config: which keys it describes, and how.
#include "lockstep/app/config_command.h"

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "lockstep/app/description.h"
#include "lockstep/app/results.h"
#include "lockstep/train/settings.h"

namespace lockstep {

namespace {

struct ConfigArguments {
  std::string part;  // of the configuration, to be described
  bool as_json = false;
};

int run_config(const ConfigArguments& arguments) {
  const std::vector<KeyDescription> keys = keys_of_part(described_keys(), arguments.part);
  std::fputs((arguments.as_json ? describe_as_json(keys) : describe_as_text(keys)).c_str(), stdout);
  flush_results();
  return 0;
}

}  // namespace

std::function<std::optional<int>()> add_config_command(CLI::App& app) {
  const auto arguments = std::make_shared<ConfigArguments>();
  CLI::App* command = app.add_subcommand("config", "describe the configuration");
  CLI::Option* describe =
      command
          ->add_option("--describe", arguments->part,
                       "print every key with default, meaning and what it takes; of a PART alone: optimizer, "
                       "optimizer.adamw, model.layers.linear, train.steps")
          ->expected(0, 1)
          ->type_name("[PART]")
          ->required();
  command->add_flag("--json", arguments->as_json, "as JSON, for other programs")->needs(describe);
  command->footer(
      "Examples:\n  lockstep config --describe\n  lockstep config --describe optimizer.adamw --json");
  return [arguments, command]() -> std::optional<int> {
    if (command->parsed()) return run_config(*arguments);
    return std::nullopt;
  };
}

}  // namespace lockstep
