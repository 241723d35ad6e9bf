// Writing status.json.
#include "lockstep/train/run_status.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "lockstep/comm/deadline.h"
#include "lockstep/core/error.h"
#include "lockstep/core/log.h"
#include "lockstep/core/output_file.h"
#include "lockstep/train/worker_texts.h"

namespace lockstep {

namespace {

// Since 1970, to the millisecond.
double now_seconds() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return static_cast<double>(std::chrono::duration_cast<std::chrono::milliseconds>(now).count()) / 1000.0;
}

}  // namespace

RunStatus::RunStatus(const std::string& directory, Run run)
    : path_(directory + "/status.json"),
      directory_(directory),
      run_(std::move(run)),
      started_(now_seconds()),
      step_(run_.step),
      step_time_(started_),
      writer_([this] { this->run(); }) {}

RunStatus::~RunStatus() {
  {
    const std::scoped_lock lock(mutex_);
    ending_ = true;
  }
  ends_.notify_one();
  writer_.join();
}

void RunStatus::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    const bool last = ending_;
    const std::string now = text(last ? "ended" : state_);
    lock.unlock();
    write(now);
    if (last) return;
    lock.lock();
    ends_.wait_for(lock, std::chrono::seconds(1), [this] { return ending_; });
  }
}

std::string RunStatus::text(const char* state) const {
  const double seconds = std::chrono::duration<double>(Clock::now() - begun_).count();
  const int64_t here = step_ - run_.step;  // of this process
  nlohmann::ordered_json status;
  status["name"] = run_.name;
  status["state"] = state;
  status["time"] = now_seconds();
  status["step"] = step_;
  status["total_steps"] = run_.total_steps;
  status["step_time"] = step_time_;
  status["started"] = started_;
  if (metrics_) {
    status["loss"] = metrics_->loss;
    status["learning_rate"] = metrics_->learning_rate;
    status["samples_per_second"] = metrics_->samples_per_second;
    if (metrics_->tokens > 0) status["tokens_per_second"] = metrics_->tokens_per_second;
    if (metrics_->mfu > 0.0) status["mfu"] = metrics_->mfu;
    status["skipped_steps"] = metrics_->skipped_steps;
  }
  if (validation_loss_) status["validation_loss"] = *validation_loss_;
  if (here > 0) {
    status["eta_seconds"] = std::round(seconds / static_cast<double>(here) *
                                       static_cast<double>(run_.total_steps - step_) * 10.0) /
                            10.0;
  }
  if (!checkpoint_.empty()) status["checkpoint"] = checkpoint_;
  status["workers"] = run_.workers;
  status["hosts"] = run_.hosts;
  status["host"] = host_name();
  status["pid"] = ::getpid();
  if (exit_code_) status["exit_code"] = *exit_code_;
  if (!message_.empty()) status["message"] = message_;
  return status.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

// One temporary name: the directory is the run's alone, and a killed run leaves no heap of them.
void RunStatus::write(const std::string& text) {
  const std::string next = directory_ + "/.status.json.next";
  std::string reason;
  try {
    ::unlink(next.c_str());
    const OutputFile file(next, ErrorKind::kUsage);
    if (file.append(text.data(), text.size()) != text.size() || ::rename(next.c_str(), path_.c_str()) != 0) {
      reason = fmt::format("{}: cannot be written: {}", path_, std::strerror(errno));
      ::unlink(next.c_str());
    }
  } catch (const Error& error) {
    reason = error.what();
  }
  if (reason.empty()) written_ = true;
  if (reason.empty() || warned_) return;
  warned_ = true;
  if (!written_) ::unlink(path_.c_str());  // what an earlier start has left is not true of this one
  log_warning(reason + "; the run goes on without it");
}

void RunStatus::step(int64_t done) {
  const std::scoped_lock lock(mutex_);
  step_ = done;
  step_time_ = now_seconds();
}

void RunStatus::metrics(const StepMetrics& metrics) {
  const std::scoped_lock lock(mutex_);
  metrics_ = metrics;
}

void RunStatus::evaluation(double loss) {
  const std::scoped_lock lock(mutex_);
  validation_loss_ = loss;
}

void RunStatus::activity(const char* state) {
  const std::scoped_lock lock(mutex_);
  state_ = state;
}

void RunStatus::saved(const std::string& path) {
  const std::scoped_lock lock(mutex_);
  checkpoint_ = std::filesystem::path(path).filename().string();
}

void RunStatus::ended(int exit_code, const std::string& message) {
  const std::scoped_lock lock(mutex_);
  exit_code_ = exit_code;
  message_ = message;
}

}  // namespace lockstep
