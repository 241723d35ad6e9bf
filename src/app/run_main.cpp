// The lockstep command line.
#include "lockstep/app/run_main.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "lockstep/app/commands.h"
#include "lockstep/app/curvature_command.h"
#include "lockstep/app/evaluate_command.h"
#include "lockstep/app/landscape_command.h"
#include "lockstep/app/profile_command.h"
#include "lockstep/app/results.h"
#include "lockstep/app/version.h"
#include "lockstep/comm/communicator.h"
#include "lockstep/core/error.h"
#include "lockstep/core/log.h"
#include "lockstep/core/process.h"
#include "lockstep/core/suggestions.h"
#include "lockstep/core/toml_text.h"
#include "lockstep/core/unfinished_file.h"
#include "lockstep/data/data_source.h"
#include "lockstep/kernels/kernel_set.h"
#include "lockstep/train/agreement.h"
#include "lockstep/train/checkpoint_evaluation.h"
#include "lockstep/train/objective.h"
#include "lockstep/train/prediction.h"
#include "lockstep/train/settings.h"
#include "lockstep/train/trained_model.h"
#include "lockstep/train/trainer.h"

namespace lockstep {

namespace {

struct Arguments {
  std::string configuration;
  std::vector<std::string> overrides;
  std::string device;
  TrainOptions train;
  std::string resume;  // "true" or "auto"
  std::string checkpoint, weights, base;
  EvaluateArguments evaluate;
  CurvatureArguments curvature;
  LandscapeCommand landscape;
  ProfileArguments profile;
  DatasetOptions dataset;
  std::string output;
  bool verbose = false;
};

// Stays until the process ends: one that is done must not be killed by a signal that reached it late.
const StopSignal& stop_signal() {
  static const StopSignal* const installed = new StopSignal;
  return *installed;
}

int print_result(const nlohmann::ordered_json& line, const Communicator& communicator) {
  if (communicator.rank() > 0) return 0;
  std::puts(line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
  flush_results();
  return 0;
}

int run_predict(const Arguments& arguments, Configuration& configuration, Communicator& communicator) {
  std::string weights = arguments.weights;
  const int64_t samples = predict(configuration, arguments.checkpoint, arguments.dataset, arguments.output,
                                  communicator, weights, arguments.base);
  log_info(fmt::format("{}: predictions for {} samples of {}, {} weights of {}", arguments.output, samples,
                       arguments.dataset.path, weights, arguments.checkpoint));
  return 0;
}

// CLI11 takes an empty text for 0, or for an option that was not given.
void refuse_empty_numbers(CLI::App& app) {
  for (CLI::Option* option : app.get_options()) {
    const std::string type = option->get_type_name();
    const bool real = type.starts_with("FLOAT");
    if (!real && !type.starts_with("INT") && !type.starts_with("UINT")) continue;
    option->check([real](const std::string& text) {
      return !text.empty() ? "" : real ? "must be a number" : "must be an integer";
    });
  }
  for (CLI::App* command : app.get_subcommands({})) refuse_empty_numbers(*command);
}

// The arguments behind the program's name, with a --set of its own for each override: several may follow one
// --set. An argument that has not the form of an override ends them, so that none of them is taken for
// CONFIG, nor CONFIG for one.
std::vector<std::string> separate_overrides(int argc, char** argv) {
  std::vector<std::string> arguments;
  bool after_override = false;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--set" && i + 1 < argc) {
      arguments.insert(arguments.end(), {argument, argv[++i]});
      after_override = true;
    } else if (after_override && Configuration::is_override(argument)) {
      arguments.insert(arguments.end(), {"--set", argument});
    } else {
      arguments.push_back(argument);
      after_override = argument.starts_with("--set=");
    }
  }
  return arguments;
}

// What the first argument that the chosen command does not know may have meant.
std::string nearest_to_extras(const CLI::App& app) {
  const CLI::App* command = &app;
  while (!command->get_subcommands().empty()) command = command->get_subcommands().front();
  std::vector<std::string> options, commands;
  for (const CLI::Option* option : command->get_options()) {
    for (const std::string& name : option->get_lnames()) options.push_back("--" + name);
  }
  for (const CLI::App* below : command->get_subcommands({})) commands.push_back(below->get_name());
  const std::vector<std::string> extras = command->remaining();
  if (extras.empty()) return "";
  const std::string name = extras.front().substr(0, extras.front().find('='));
  return did_you_mean(nearest_names(name, name.starts_with("--") ? options : commands));
}

}  // namespace

int run_main(int argc, char** argv, const TrainOptions& train) {
  // Before anything else, --version and --help included: what follows need not run here.
  try {
    kernel_set();
  } catch (const Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return exit_code(error.kind());
  }
  prepare_process();
  outlive_bus_errors();
  if (argc > 1 && std::strcmp(argv[1], "train") == 0) stop_signal();
  CLI::App app{"Lockstep trains neural networks data-parallel, bitwise the same on any number of workers."};
  app.name("lockstep");
  app.set_version_flag("--version", version_text());
  app.require_subcommand(1);
  app.footer(
      "Examples:\n"
      "  lockstep train configs/digits_mlp.toml\n"
      "  mpirun -np 4 lockstep train configs/digits_cnn.toml --output runs/cnn\n"
      "  lockstep train configs/digits_cnn.toml --output runs/cnn --resume\n"
      "  lockstep eval configs/digits_cnn.toml --checkpoint runs/cnn/step-000000440.h5\n"
      "  lockstep diff runs/a/step-000000100.h5 runs/b/step-000000100.h5\n\n"
      "Exit codes: 0 done, 1 states differ (diff) or internal, 2 usage, 3 data, 4 checkpoint, 5 diverged,\n"
      "6 communication, 75 stopped by a signal after saving (requeue).");
  Arguments arguments;
  arguments.train = train;
  arguments.train.progress = true;

  // Returns them, CONFIG first.
  const auto add_configuration = [&](CLI::App* command) -> std::vector<CLI::Option*> {
    CLI::Option* const config =
        command->add_option("config", arguments.configuration, "TOML file")->required();
    CLI::Option* const overrides =
        command
            ->add_option(
                "--set", arguments.overrides,
                "change settings: --set optimizer.learning_rate=3e-4 train.epochs=5 '~schedule', the "
                "last of which leaves that out")
            ->take_all()
            ->allow_extra_args(false);
    CLI::Option* const device =
        command->add_option("--device", arguments.device, "what to compute on, instead of device.type")
            ->check(CLI::IsMember({"auto", "cpu", "cuda"}));
    return {config, overrides, device, command->add_flag("--verbose", arguments.verbose, "log more")};
  };
  CLI::App* train_command =
      app.add_subcommand("train", "train a configuration (under mpirun: on several workers)");
  add_configuration(train_command);
  train_command->add_option("--output", arguments.train.output, "output directory, instead of run.output")
      ->check([](const std::string& path) { return path.empty() ? "must not be empty" : ""; }, "DIR");
  train_command
      ->add_flag("--resume", arguments.resume,
                 "continue from the newest checkpoint of the output directory; --resume=auto: where there is "
                 "one, else begin")
      ->check(CLI::IsMember({"true", "auto"}));
  train_command
      ->add_flag("--overwrite", arguments.train.overwrite,
                 "delete the checkpoints that the output directory holds")
      ->excludes("--resume");
  train_command->footer(
      "Examples:\n  lockstep train configs/digits_mlp.toml --set train.epochs=5\n"
      "  mpirun -np 2 lockstep train configs/digits_cnn.toml --output runs/cnn --resume");

  CLI::App* eval_command = app.add_subcommand("eval", "evaluate a checkpoint; prints one JSON line");
  add_configuration(eval_command);
  add_evaluate_options(*eval_command, arguments.evaluate);

  CLI::App* curvature =
      app.add_subcommand("curvature", "the spectrum of the loss's second derivatives at a checkpoint");
  add_configuration(curvature);
  add_curvature_options(*curvature, arguments.curvature);

  CLI::App* landscape = app.add_subcommand(
      "landscape",
      "draw the loss around a checkpoint, or the paths of methods over a function of two variables");
  const std::vector<CLI::Option*> of_landscape = add_configuration(landscape);
  of_landscape.front()->required(false);
  add_landscape_options(*landscape, arguments.landscape, of_landscape);

  CLI::App* profile = app.add_subcommand(
      "profile", "time the kernels of a few training steps, beside what they take at least");
  add_configuration(profile);
  add_profile_options(*profile, arguments.profile);

  CLI::App* predict_command =
      app.add_subcommand("predict", "write what a checkpoint's model makes of samples, as HDF5");
  add_configuration(predict_command);
  add_checkpoint_options(*predict_command, arguments.checkpoint, arguments.weights);
  add_base_option(*predict_command, arguments.base);
  predict_command
      ->add_option("--data", arguments.dataset.path,
                   "samples, which need no targets, in any format that is read")
      ->required();
  predict_command->add_option("--output", arguments.output, "HDF5 file to write: logits or values, class")
      ->required();
  predict_command->footer(
      "Example:\n  lockstep predict configs/digits_mlp.toml --checkpoint runs/digits_mlp/step-000000660.h5 "
      "\\\n"
      "      --data configs/data/digits.h5 --output predictions.h5");

  const std::vector<RunCommand> others = add_other_commands(app);

  refuse_empty_numbers(app);
  log_to_stderr(0, 1, false);
  std::optional<Error> refused;  // bad usage: every worker finds it, one should say it
  try {
    // Before CLI11 takes a misspelt command for a missing one.
    std::vector<std::string> commands;
    for (const CLI::App* command : app.get_subcommands({})) commands.push_back(command->get_name());
    if (argc > 1 && argv[1][0] != '-' && std::ranges::find(commands, argv[1]) == commands.end()) {
      const std::string nearest = did_you_mean(nearest_names(argv[1], commands));
      throw CLI::ExtrasError(
          fmt::format("\"{}\": no such command: {}", argv[1],
                      nearest.empty() ? fmt::format("choose one of {}", fmt::join(commands, ", ")) : nearest),
          CLI::ExitCodes::ExtrasError);
    }
    std::vector<std::string> words = separate_overrides(argc, argv);
    std::ranges::reverse(words);  // as CLI11 wants them
    app.parse(std::move(words));
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    const std::string nearest = nearest_to_extras(app);
    refused.emplace(ErrorKind::kUsage, fmt::format("{}{} (see lockstep --help)", error.what(),
                                                   nearest.empty() ? "" : ": " + nearest));
  }

  std::unique_ptr<Communicator> communicator;
  RunSettings settings;
  int code = 1;
  const bool slices = landscape->parsed() && !arguments.configuration.empty();
  try {
    if (refused || train_command->parsed() || eval_command->parsed() || predict_command->parsed() ||
        curvature->parsed() || slices || profile->parsed()) {
      std::optional<Configuration> configuration;
      bool stopped = false;  // before there was a configuration: there is nothing to save
      CommunicatorOptions options;
      options.start_timeout_seconds = settings.start_timeout_seconds;
      try {
        if (!refused) {
          if (!arguments.device.empty()) arguments.overrides.push_back("device.type=" + arguments.device);
          // That is where they are: a file need not name them, where the run had them from its command line.
          for (const std::string& base : {arguments.evaluate.base, arguments.base, arguments.curvature.base,
                                          arguments.landscape.base}) {
            if (!base.empty()) arguments.overrides.push_back("train.initial_weights=" + to_toml(base));
          }
          configuration = Configuration::load(arguments.configuration, arguments.overrides, [&] {
            return stopped = train_command->parsed() && stop_signal().raised();
          });
          settings = read_settings(*configuration);
          options.timeout_seconds = settings.timeout_seconds;
          options.start_timeout_seconds = settings.start_timeout_seconds;
          // Before MPI has threads. What is not going to be read need not be tried, which takes as long as
          // reading it.
          std::vector<DatasetOptions> tried = {settings.train_data};
          if (!settings.validation_data.path.empty()) tried.push_back(settings.validation_data);
          std::erase_if(tried, [](const DatasetOptions& data) { return !needs_trial(data); });
          if (!tried.empty() && predict_command->parsed() &&
              !needs_run_data(arguments.checkpoint, arguments.weights))
            tried.clear();
          // That takes long, and there is nothing to save yet.
          const DatasetTrial trial{
              .gives_up = [&] { return train_command->parsed() && stop_signal().raised(); }};
          for (const DatasetOptions& data : tried) {
            if (try_dataset(data, trial)) continue;
            log_info(fmt::format("stopped by {} before the start", stop_signal().name()));
            return kExitStopped;
          }
          if (predict_command->parsed()) {
            arguments.dataset.unlabelled = true;
            arguments.dataset.follow = settings.train_data.follow;
            arguments.dataset.open = settings.train_data.open;  // as predict() will open it
            try_dataset(arguments.dataset);
          }
        }
      } catch (const Error& error) {
        refused = error;
      }
      if (stopped) {
        log_info(fmt::format("{} ({})", refused->what(), stop_signal().name()));
        return kExitStopped;
      }
      if (predict_command->parsed() || curvature->parsed() || slices) remove_unfinished_on_signals();
      communicator = make_communicator(options);
      communicator->set_timeout(settings.set_up_timeout_seconds);
      log_to_stderr(communicator->rank(), communicator->world_size(), arguments.verbose);
      run_agreed(
          *communicator,
          [&] {
            if (refused) throw *refused;
          },
          "configuration");
      if (eval_command->parsed()) {
        code =
            print_result(evaluate_command(arguments.evaluate, *configuration, *communicator), *communicator);
      } else if (curvature->parsed()) {
        code = print_result(curvature_command(arguments.curvature, *configuration, *communicator),
                            *communicator);
      } else if (slices) {
        code = print_result(landscape_command(arguments.landscape, *configuration, *communicator),
                            *communicator);
      } else if (profile->parsed()) {
        profile_command(arguments.profile, *configuration, *communicator);
        code = 0;
      } else if (predict_command->parsed()) {
        code = run_predict(arguments, *configuration, *communicator);
      } else {
        arguments.train.resume = arguments.resume == "true";
        arguments.train.resume_if_any = arguments.resume == "auto";
        const TrainOutcome outcome =
            lockstep::train(*configuration, arguments.train, stop_signal(), *communicator);
        code = outcome == TrainOutcome::kStopped ? kExitStopped : 0;
      }
      communicator->leave(code, settings.start_timeout_seconds);
      return code;
    }
    remove_unfinished_on_signals();
    if (landscape->parsed()) return run_landscape(arguments.landscape.function);
    for (const RunCommand& run_other : others) {
      if (const std::optional<int> done = run_other()) return *done;
    }
    fail(ErrorKind::kInternal, "a command without a function");
  } catch (const AgreedFailure& failure) {
    // Everyone knows and leaves in order; rank 0 may still have had a checkpoint to bring to disk.
    if (failure.speaks()) log_error(failure.what());
    code = exit_code(failure.kind());
    communicator->leave(code, settings.save_timeout_seconds);
    return code;
  } catch (const Error& error) {
    log_error(error.what());
    code = exit_code(error.kind());
  } catch (const std::bad_alloc&) {
    log_error("out of memory");
  } catch (const std::exception& error) {
    log_error(fmt::format("internal: {}", error.what()));
  }
  // The other workers do not know: end them too.
  if (communicator != nullptr && communicator->world_size() > 1) communicator->abort(code);
  return code;
}

}  // namespace lockstep
