// Comparing resolved configurations, which hold a setting a line.
#include "lockstep/train/configuration_changes.h"

#include <fmt/format.h>

#include <sstream>

#include "lockstep/core/toml_text.h"

namespace lockstep {

std::map<std::string, std::string> settings_of(const std::string& resolved) {
  std::map<std::string, std::string> settings;
  std::map<std::string, int> elements;           // of a list so far
  std::map<std::string, std::string> innermost;  // name of a list -> path of its newest element
  // TOML leaves out which element of an outer list a table belongs to: the newest one.
  const auto path_of = [&](const std::string& name) {
    for (size_t dot = name.rfind('.'); dot != std::string::npos && dot > 0; dot = name.rfind('.', dot - 1)) {
      const auto outer = innermost.find(name.substr(0, dot));
      if (outer != innermost.end()) return outer->second + name.substr(dot);
    }
    return name;
  };
  std::string section;
  std::istringstream lines(resolved);
  for (std::string line; std::getline(lines, line);) {
    const size_t equals = line.find(" = ");
    if (line.starts_with("[[")) {
      const std::string name = line.substr(2, line.find("]]") - 2), list = path_of(name);
      section = innermost[name] = fmt::format("{}[{}]", list, elements[list]++);
    } else if (line.starts_with('[')) {
      section = path_of(line.substr(1, line.find(']') - 1));
    } else if (equals != std::string::npos) {
      settings[section + "." + line.substr(0, equals)] = line.substr(equals + 3);
    }
  }
  return settings;
}

std::vector<SettingChange> configuration_changes(const std::string& before, const std::string& now,
                                                 const std::set<std::string>& at_default) {
  const std::map<std::string, std::string> old_settings = settings_of(before),
                                           new_settings = settings_of(now);
  std::set<std::string> keys;
  for (const auto* settings : {&old_settings, &new_settings}) {
    for (const auto& [key, value] : *settings) keys.insert(key);
  }
  keys.erase("run.output");
  std::vector<SettingChange> changes;
  for (const std::string& key : keys) {
    const auto was = old_settings.find(key), is = new_settings.find(key);
    if (was == old_settings.end()) {
      changes.push_back(
          {key, fmt::format("{} = {}, it was not set", key, is->second), at_default.contains(key)});
    } else if (is == new_settings.end()) {
      changes.push_back({key, fmt::format("{} is not set, it was {}", key, was->second), false});
    } else if (was->second != is->second) {
      changes.push_back({key, fmt::format("{} = {}, it was {}", key, is->second, was->second), false});
    }
  }
  return changes;
}

std::string defining_settings(const RunSettings& settings) {
  std::string text;
  const auto line = [&text](const char* key, const auto& value) {
    text += fmt::format("{} = {}\n", key, to_toml(value));
  };
  text += "[data]\n";
  line("normalize", std::string(settings.normalize ? "standard" : "none"));
  if (settings.train_data.ignore_label) line("ignore_label", int64_t{*settings.train_data.ignore_label});
  text += "\n[train]\n";
  line("loss", settings.loss);
  line("label_smoothing", settings.objective.label_smoothing);
  line("class_weights", settings.objective.class_weights);
  text += "\n[lora]\n";
  line("rank", settings.lora.rank);
  if (settings.lora.rank > 0) {
    line("alpha", settings.lora.alpha);
    line("targets", settings.lora.targets);
    line("dropout", settings.lora.dropout);
  }
  const AverageSettings& average = settings.average;
  text += "\n[average]\n";
  line("type", name_of(average.type));
  if (average.type == AverageSettings::Type::kEma) {
    line("decay", average.decay);
    line("warmup", average.warmup);
  }
  if (average.type != AverageSettings::Type::kNone) {
    line("start", average.start);
    line("every", average.every);
  }
  text += "\n[precision]\n";
  line("compute", std::string(name_of(settings.compute)));
  return text;
}

bool defines_model(const std::string& key) {
  return key.starts_with("model.") || key.starts_with("lora.") || key == "data.normalize";
}

bool defines_run(const std::string& key) {
  return defines_model(key) || key.starts_with("average.") || key == "optimizer.type" ||
         key == "data.ignore_label" || key == "data.documents" || key == "train.loss" ||
         key == "train.label_smoothing" || key.starts_with("train.class_weights") ||
         key == "precision.compute";
}

}  // namespace lockstep
