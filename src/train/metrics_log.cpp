// Writing metrics.jsonl.
#include "lockstep/train/metrics_log.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "lockstep/core/error.h"
#include "lockstep/core/log.h"

namespace lockstep {

MetricsLog::MetricsLog(std::string path, std::string history)
    : path_(std::move(path)),
      history_(std::move(history)),
      file_(path_, ErrorKind::kUsage),
      last_flush_(std::chrono::steady_clock::now()) {
  if (::ftruncate(file_.descriptor(), 0) != 0)
    fail(ErrorKind::kUsage, path_ + ": cannot be written: " + std::strerror(errno));
  flush();
}

MetricsLog::~MetricsLog() {
  flush();
}

void MetricsLog::append(const std::string& line) {
  history_ += line;
  history_ += '\n';
  // A system call for every line would show in steps of 20 microseconds.
  const auto now = std::chrono::steady_clock::now();
  if (now - last_flush_ > std::chrono::milliseconds(500)) {
    last_flush_ = now;
    flush();
  }
}

// The history is the buffer: whole lines reach the file, whenever the process is killed.
void MetricsLog::flush() {
  written_ += file_.append(history_.data() + written_, history_.size() - written_);
  if (written_ == history_.size() || warned_) return;
  warned_ = true;
  log_warning(fmt::format("{}: cannot be written: {}; the run goes on, and its checkpoints keep the lines",
                          path_, std::strerror(errno)));
}

void MetricsLog::step(const StepMetrics& m) {
  nlohmann::ordered_json line;
  line["step"] = m.step;
  line["epoch"] = m.epoch;
  line["loss"] = m.loss;
  if (m.minimizer) {
    line["loss_after"] = m.minimizer->loss_after;
    line["step_length"] = m.minimizer->length;
    line["outcome"] = m.minimizer->outcome;
    line["values"] = m.minimizer->values;
    line["gradients"] = m.minimizer->gradients;
    line["products"] = m.minimizer->products;
  } else {
    line["learning_rate"] = m.learning_rate;
  }
  line["gradient_norm"] = m.gradient_norm;
  line["loss_scale"] = m.loss_scale;
  line["skipped_steps"] = m.skipped_steps;
  line["samples_per_second"] = m.samples_per_second;
  if (m.tokens > 0) {
    line["tokens"] = m.tokens;
    line["tokens_per_second"] = m.tokens_per_second;
    if (m.mfu > 0.0) line["mfu"] = m.mfu;
  }
  line["data_seconds"] = m.times.data;
  line["compute_seconds"] = m.times.compute;
  line["exposed_communication_seconds"] = m.times.exposed_communication;
  line["optimizer_seconds"] = m.times.optimizer;
  line["host_seconds"] = m.times.host;
  if (m.slowest_rank >= 0) {
    line["slowest_rank"] = m.slowest_rank;
    line["slowest_factor"] = m.slowest_factor;
  }
  line["peak_bytes"] = m.peak_bytes;
  line["cached_bytes"] = m.cached_bytes;
  line["activation_bytes"] = m.activation_bytes;
  append(line.dump());
}

void MetricsLog::evaluation(int64_t step, double loss, const double* accuracy, int64_t samples,
                            const std::string& weights, const TextLoss* text) {
  nlohmann::ordered_json line;
  line["step"] = step;
  line["validation_loss"] = loss;
  if (accuracy != nullptr) line["validation_accuracy"] = *accuracy;
  if (text != nullptr) line["validation_perplexity"] = text->perplexity;
  if (text != nullptr && text->bits_per_byte > 0.0) line["validation_bits_per_byte"] = text->bits_per_byte;
  line["validation_samples"] = samples;
  if (!weights.empty()) line["weights"] = weights;
  append(line.dump());
}

void MetricsLog::digest(int64_t step, const std::string& digest) {
  nlohmann::ordered_json line;
  line["step"] = step;
  line["digest"] = digest;
  append(line.dump());
}

}  // namespace lockstep
