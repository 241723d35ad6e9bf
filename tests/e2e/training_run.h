// Training runs for tests: configurations over small data, and what a run leaves in its output directory.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iomanip>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "device.h"
#include "e2e/job.h"

namespace lockstep::testing {

inline void write_file(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

inline std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

// `rows` points of three coordinates around one centre a class; the same for each call.
inline std::string points_csv(int rows, int classes) {
  std::mt19937 bits(17);
  std::string csv = "a,b,c,kind\n";
  for (int row = 0; row < rows; ++row) {
    const int kind = row % classes;
    for (int axis = 0; axis < 3; ++axis) {
      const double noise = static_cast<double>(bits() % 2000) / 1000.0 - 1.0;
      csv += std::to_string((axis == kind ? 1.5 : 0.0) + noise) + ',';
    }
    csv += std::to_string(kind) + '\n';
  }
  return csv;
}

// Where the environment says that GPUs are, are shared (LOCKSTEP_TEST_SHARE_GPU=1), or are not.
inline bool on_gpu() {
  return test_device() == "cuda";
}
inline bool sharing_gpu() {
  const char* value = std::getenv("LOCKSTEP_TEST_SHARE_GPU");
  return value != nullptr && std::string(value) == "1";
}

// All of them; the first `few` over the stand-ins for GPUs, where a run takes fifty times as long and threads
// are not what computes.
template <class T>
std::vector<T> all_or_first(size_t few, std::initializer_list<T> all) {
  std::vector<T> runs(all);
  if (std::getenv("LOCKSTEP_CUDA_ON_CPU") != nullptr) runs.resize(few);
  return runs;
}

// On the device under test. Every step logged with its digest; a number of micro-batches that few numbers of
// workers divide; buckets that hold a part of the model only; epochs that do not end with a global batch.
inline std::string configuration(const std::string& data, const std::string& model,
                                 const std::string& optimizer) {
  return "[run]\nseed = 11\n[data]\nlast_batch = \"pad\"\n" + data +
         "[train]\nsteps = 12\nmicro_batches = 5\nmicro_batch_size = 4\nlog_every = 1\n" +
         "[device]\ntype = \"" + test_device() +
         "\"\n[parallel]\nshare_gpu = " + (sharing_gpu() ? "true" : "false") +
         "\ndigest_every = 1\nbucket_mb = 0.002\n[model]\n" + model + "[optimizer]\n" + optimizer;
}

inline std::string digits() {
  return "train = \"" LOCKSTEP_ROOT "/configs/data/digits.h5\"\nvalidation_fraction = 0.9\n";
}

inline const std::string kMlp = "type = \"mlp\"\nhidden = [32, 16]\ndropout = 0.25\n";
inline const std::string kCnn =
    "type = \"cnn\"\nchannels = [4, 8]\nstrides = [1, 2]\nbatch_norm = true\ndropout = 0.25\n";
inline const std::string kAdam = "type = \"adam\"\nlearning_rate = 0.01\n";

// The lines of metrics.jsonl; one that is whole and not a JSON object fails the test.
inline std::vector<nlohmann::json> metrics_of(const std::string& output) {
  std::vector<nlohmann::json> lines;
  std::istringstream text(bytes_of(output + "/metrics.jsonl"));
  for (std::string line; std::getline(text, line);) {
    nlohmann::json object = nlohmann::json::parse(line, nullptr, false);
    if (object.is_object()) {
      lines.push_back(std::move(object));
    } else if (text.eof()) {
      break;  // without its end: it is being written
    } else {
      ADD_FAILURE() << output << "/metrics.jsonl: not a JSON object: " << line;
    }
  }
  return lines;
}

// What no number of workers or threads may change: every line of metrics.jsonl without times and memory.
inline std::vector<std::string> course_of(const std::string& output) {
  std::vector<std::string> course;
  for (nlohmann::json line : metrics_of(output)) {
    for (const char* measured :
         {"samples_per_second", "tokens_per_second", "mfu", "data_seconds", "compute_seconds",
          "exposed_communication_seconds", "optimizer_seconds", "host_seconds", "peak_bytes", "cached_bytes",
          "activation_bytes", "slowest_rank", "slowest_factor"}) {
      line.erase(measured);
    }
    course.push_back(line.dump());
  }
  return course;
}

inline std::vector<double> losses_of(const std::string& output) {
  std::vector<double> losses;
  for (const nlohmann::json& line : metrics_of(output)) {
    if (line.contains("loss")) losses.push_back(line["loss"].is_number() ? line["loss"].get<double>() : NAN);
  }
  return losses;
}

inline std::string checkpoint_of(const std::string& output, int64_t step) {
  std::ostringstream name;
  name << output << "/step-" << std::setw(9) << std::setfill('0') << step << ".h5";
  return name.str();
}

// Steps of the checkpoints in the directory, ascending.
inline std::vector<int64_t> checkpoints_in(const std::string& output) {
  std::vector<int64_t> steps;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(output, ignored)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("step-") && name.ends_with(".h5")) steps.push_back(std::stoll(name.substr(5)));
  }
  std::ranges::sort(steps);
  return steps;
}

inline int64_t newest_checkpoint(const std::string& output) {
  const std::vector<int64_t> steps = checkpoints_in(output);
  return steps.empty() ? 0 : steps.back();
}

inline std::string digest_of(const std::string& checkpoint) {
  const Outcome outcome = run(kNoLauncher, {"inspect", "--digest", checkpoint});
  EXPECT_EQ(outcome.exit_code, 0) << checkpoint << ": " << outcome.err;
  return outcome.out;
}

// Trains to the end; the test fails when that fails.
inline void train(int workers, const std::vector<std::string>& arguments) {
  std::vector<std::string> all = {"train"};
  all.insert(all.end(), arguments.begin(), arguments.end());
  const Outcome outcome = run(workers, all);
  std::string line;
  for (const std::string& argument : all) line += argument + ' ';
  ASSERT_EQ(outcome.exit_code, 0) << workers << " workers: " << line << "\n" << outcome.err;
}

// Chance for tests that interrupt runs: another one each time, and repeatable, since the seed is part of what
// they print.
class Chance {
 public:
  Chance() {
    const char* given = std::getenv("LOCKSTEP_TEST_SEED");
    seed_ = given != nullptr ? static_cast<uint32_t>(std::stoul(given)) : std::random_device()();
    bits_.seed(seed_);
  }
  int64_t between(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(bits_);
  }
  std::string description() const { return "LOCKSTEP_TEST_SEED=" + std::to_string(seed_); }

 private:
  uint32_t seed_ = 0;
  std::mt19937 bits_;
};

}  // namespace lockstep::testing
