// A run as its directory shows it, to commands that look at runs from outside: what it has written, whether
// it still lives.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "lockstep/train/metrics_history.h"

namespace lockstep {

// Every file of the directory may be absent, cut or nonsense: what cannot be read is left out.
struct RunView {
  std::string directory;
  nlohmann::json status = nlohmann::json::object();  // status.json
  MetricsHistory metrics;
  std::vector<int64_t> checkpoints;  // their steps, newest first
  std::string configuration;         // configuration.toml

  // Error (kUsage) when there is no such directory, or nothing of a run in it.
  static RunView open(const std::string& directory);
  // Reads what is new. Error (kCheckpoint) when the directory has gone.
  void update();

  std::string name() const;                             // run.name; where it is not known, the directory's
  std::optional<double> number(const char* key) const;  // of status.json
  std::string text(const char* key) const;              // the same; "" where there is none
  // "training", "saving", "evaluating", "ended", "died" (its process is no more on this host), or "" where
  // there is no status.json.
  std::string state() const;
};

// "exit code 5, diverged".
std::string describe_exit(int code);

}  // namespace lockstep
