// What differs between the configuration in a checkpoint and that of the run which reads it.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "lockstep/train/settings.h"

namespace lockstep {

// A resolved configuration as "section.key" -> value; elements of lists by their number, in their parents:
// "model.layers[2].layers[0].type".
std::map<std::string, std::string> settings_of(const std::string& resolved);

struct SettingChange {
  std::string key;   // "optimizer.learning_rate", "model.layers[2].units"
  std::string text;  // "KEY = NEW, it was OLD", "KEY = NEW, it was not set" or "KEY is not set, it was OLD"
  // It was not set, and is at its default now: the same thing where it came with a newer version.
  bool by_default = false;
};

// Settings that two resolved configurations (Configuration::resolved()) do not share: of another value, or
// in one of them only. In order of their keys. run.output is none: where a run lies is no part of it.
// at_default: the settings of `now` that hold their defaults, Configuration::at_default().
std::vector<SettingChange> configuration_changes(const std::string& before, const std::string& now,
                                                 const std::set<std::string>& at_default);

// Those of `settings` that a run must keep (defines_run()), as a resolved configuration has them: what the
// checkpoints of a job know of itself that has no description.
std::string defining_settings(const RunSettings& settings);

// Whether the setting is part of the model, layers without parameters included: tensors that fit do not tell,
// a model that has gained an activation has the same ones.
bool defines_model(const std::string& key);
// Whether a run that goes on from a checkpoint must keep the setting: model, objective, precision, averages.
bool defines_run(const std::string& key);

}  // namespace lockstep
