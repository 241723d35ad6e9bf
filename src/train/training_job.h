// Everything that a training run is made of, as values and functions of C++: what the command reads from a
// TOML file, and what a program fills in by itself.
#pragma once

#include <functional>
#include <memory>
#include <set>
#include <string>

#include "lockstep/core/configuration.h"
#include "lockstep/nn/module.h"
#include "lockstep/optim/optimizer.h"
#include "lockstep/optim/schedule.h"
#include "lockstep/train/settings.h"

namespace lockstep {

struct TrainingJob {
  RunSettings settings;
  // Builds the model over its parameter store; called once a worker.
  std::function<std::unique_ptr<Module>(const DataShape& data, const ModuleBuilder& builder)> model;
  std::function<std::unique_ptr<Optimizer>()> optimizer;
  // Empty: the constant rate settings.learning_rate.
  std::function<std::unique_ptr<Schedule>(const RunLength& run)> schedule = {};

  // The job as TOML text, which checkpoints keep and which workers and resumed runs compare; called when all
  // of the above have been. at_default: the settings that hold their defaults. Empty: the settings that a
  // run must keep, without model, optimizer and schedule.
  struct Description {
    std::string text;
    std::set<std::string> at_default;
  };
  std::function<Description()> describe = {};
};

// The job that a configuration describes, which must outlive it. Its functions read their sections when they
// are called, and describe() refuses keys that nobody has read: Errors (kUsage).
TrainingJob read_training_job(Configuration& configuration);
// The same with settings that come from elsewhere.
TrainingJob read_training_job(Configuration& configuration, const RunSettings& settings);

}  // namespace lockstep
