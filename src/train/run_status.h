// status.json: where a run is, for whoever looks at its directory. A thread of its own writes it, so that a
// file system that takes its time keeps nothing waiting; a failure is a warning, once.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "lockstep/train/metrics_log.h"

namespace lockstep {

class RunStatus {
 public:
  struct Run {
    std::string name;
    int64_t step = 0, total_steps = 0;  // done, and of the whole run
    int64_t workers = 1;
    std::vector<std::string> hosts;  // each once
  };
  // Writes the file from now on, once a second. What stood there is replaced, as a whole; links are not
  // followed.
  RunStatus(const std::string& directory, Run run);
  // Writes it for the last time: "ended", with an exit code when somebody has said it.
  ~RunStatus();
  RunStatus(const RunStatus&) = delete;
  RunStatus& operator=(const RunStatus&) = delete;

  // All of these only note something; from any thread.
  void step(int64_t done);
  void metrics(const StepMetrics& metrics);
  void evaluation(double loss);
  void activity(const char* state);  // "training", "saving", "evaluating"
  void saved(const std::string& path);
  // message: what went wrong.
  void ended(int exit_code, const std::string& message = "");

 private:
  using Clock = std::chrono::steady_clock;
  std::string text(const char* state) const;  // of what is noted
  void write(const std::string& text);
  void run();

  const std::string path_, directory_;
  const Run run_;
  const Clock::time_point begun_ = Clock::now();
  const double started_;  // seconds since 1970
  mutable std::mutex mutex_;
  std::condition_variable ends_;
  bool ending_ = false, warned_ = false, written_ = false;
  // Noted.
  int64_t step_;
  double step_time_;  // when the newest step was done
  std::optional<StepMetrics> metrics_;
  std::optional<double> validation_loss_;
  const char* state_ = "training";
  std::string checkpoint_, message_;
  std::optional<int> exit_code_;

  std::thread writer_;
};

}  // namespace lockstep
