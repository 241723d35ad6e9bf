// Writing metrics.jsonl.
#include "lockstep/train/metrics_log.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <nlohmann/json.hpp>
#include <span>
#include <string_view>
#include <vector>

#include "lockstep/core/error.h"
#include "lockstep/core/log.h"

namespace lockstep {

namespace {

// The next bytes of the file from `offset` on; fewer at its end, none where it cannot be read.
size_t read_at(const OutputFile& file, int64_t offset, std::span<char> buffer) {
  for (;;) {
    const ssize_t count = ::pread(file.descriptor(), buffer.data(), buffer.size(), offset);
    if (count >= 0) return static_cast<size_t>(count);
    if (errno != EINTR) return 0;
  }
}

constexpr size_t kChunk = size_t{1} << 16;

// The step of a line; -1 of anything else.
int64_t step_of(std::string_view line) {
  const nlohmann::json object = nlohmann::json::parse(line, nullptr, false);
  const auto step = object.is_object() ? object.find("step") : object.end();
  return step != object.end() && step->is_number_integer() ? step->get<int64_t>() : -1;
}

}  // namespace

std::string in_words(const EvaluationMetrics& m) {
  std::string measures;
  if (m.text) measures += fmt::format(", perplexity {:.4g}", m.text->perplexity);
  if (m.text && m.text->bits_per_byte > 0.0)
    measures += fmt::format(", {:.4f} bits a byte", m.text->bits_per_byte);
  if (m.accuracy) measures += fmt::format(", accuracy {:.2f}%", 100.0 * *m.accuracy);
  return fmt::format("step {}: validation loss {:.4f}{} on {} {}{}", m.step, m.loss, measures, m.samples,
                     m.text ? "tokens" : "samples", m.weights.empty() ? "" : ", averaged weights");
}

MetricsLog::MetricsLog(std::string path, const MetricsRecord& record, int64_t step)
    : path_(std::move(path)), file_(path_, ErrorKind::kUsage), last_flush_(std::chrono::steady_clock::now()) {
  if (record.file.empty()) {
    waiting_ = record.lines;
  } else if (const int64_t bytes = matching_bytes(record.file); bytes >= 0) {
    written_ = bytes;
    waiting_ = record.lines;
  } else {
    written_ = bytes_until(step);
    log_warning(path_ +
                (written_ == 0
                     ? ": does not hold the lines that the checkpoint knows of; the run goes on with new ones"
                     : fmt::format(": is not the file that the checkpoint knows of; the run goes on behind "
                                   "its lines up to step {}",
                                   step)));
    digest_ = {};
    std::vector<char> buffer(kChunk);
    for (int64_t done = 0; done < written_;) {
      const size_t wanted = std::min<size_t>(buffer.size(), static_cast<size_t>(written_ - done));
      const size_t count = read_at(file_, done, std::span(buffer).first(wanted));
      if (count == 0) break;
      digest_.add(buffer.data(), count);
      done += static_cast<int64_t>(count);
    }
  }
  if (::ftruncate(file_.descriptor(), written_) != 0)
    fail(ErrorKind::kUsage, path_ + ": cannot be written: " + std::strerror(errno));
  flush();
}

MetricsLog::~MetricsLog() {
  flush();
}

int64_t MetricsLog::matching_bytes(const std::string& record) {
  const size_t space = record.find(' ');
  int64_t bytes = 0;
  const auto [end, error] =
      std::from_chars(record.data(), record.data() + std::min(space, record.size()), bytes);
  if (space == std::string::npos || error != std::errc() || end != record.data() + space || bytes < 0)
    return -1;
  std::vector<char> buffer(kChunk);
  for (int64_t done = 0; done < bytes;) {
    const size_t wanted = std::min<size_t>(buffer.size(), static_cast<size_t>(bytes - done));
    const size_t count = read_at(file_, done, std::span(buffer).first(wanted));
    if (count == 0) return -1;
    digest_.add(buffer.data(), count);
    done += static_cast<int64_t>(count);
  }
  return digest_.hex() == record.substr(space + 1) ? bytes : -1;
}

int64_t MetricsLog::bytes_until(int64_t step) const {
  constexpr size_t kLongestLine = size_t{1} << 20;
  std::vector<char> buffer(kChunk);
  std::string line;
  int64_t good = 0, last = 0;
  for (int64_t done = 0;;) {
    const size_t count = read_at(file_, done, buffer);
    if (count == 0) return good;
    done += static_cast<int64_t>(count);
    for (const char c : std::span(buffer).first(count)) {
      if (c != '\n') {
        line += c;
        if (line.size() > kLongestLine) return good;
        continue;
      }
      const int64_t found = step_of(line);
      if (found < last || found > step) return good;
      last = found;
      good += static_cast<int64_t>(line.size()) + 1;
      line.clear();
    }
  }
}

void MetricsLog::append(const std::string& line) {
  waiting_ += line;
  waiting_ += '\n';
  // A system call for every line would show in steps of 20 microseconds.
  const auto now = std::chrono::steady_clock::now();
  if (now - last_flush_ > std::chrono::milliseconds(500)) {
    last_flush_ = now;
    flush();
  }
}

// Whole lines reach the file, whenever the process is killed.
void MetricsLog::flush() {
  const size_t count = file_.append(waiting_.data(), waiting_.size());
  const int error = errno;
  digest_.add(waiting_.data(), count);
  written_ += static_cast<int64_t>(count);
  waiting_.erase(0, count);
  if (waiting_.empty()) return;
  if (!warned_) {
    log_warning(
        fmt::format("{}: cannot be written: {}; the run goes on, and its checkpoints keep the newest lines",
                    path_, std::strerror(error)));
  }
  warned_ = true;
  if (waiting_.size() <= kMostWaiting) return;
  // The line that the file may hold half of stays.
  const size_t first = waiting_.find('\n') + 1;
  waiting_.erase(first, waiting_.find('\n', first + waiting_.size() / 2) + 1 - first);
}

MetricsRecord MetricsLog::record() {
  flush();
  return {waiting_, fmt::format("{} {}", written_, digest_.hex())};
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

void MetricsLog::evaluation(const EvaluationMetrics& m) {
  nlohmann::ordered_json line;
  line["step"] = m.step;
  line["validation_loss"] = m.loss;
  if (m.accuracy) line["validation_accuracy"] = *m.accuracy;
  if (m.text) line["validation_perplexity"] = m.text->perplexity;
  if (m.text && m.text->bits_per_byte > 0.0) line["validation_bits_per_byte"] = m.text->bits_per_byte;
  line["validation_samples"] = m.samples;
  if (!m.weights.empty()) line["weights"] = m.weights;
  append(line.dump());
  flush();  // the next line of a step may be long in coming
}

void MetricsLog::digest(int64_t step, const std::string& digest) {
  nlohmann::ordered_json line;
  line["step"] = step;
  line["digest"] = digest;
  append(line.dump());
}

}  // namespace lockstep
