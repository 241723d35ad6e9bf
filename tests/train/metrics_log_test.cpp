// metrics.jsonl: whole JSON lines, a history that survives a resume, and failures that are told.
#include "lockstep/train/metrics_log.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

#include "hdf5/scratch_directory.h"
#include "lockstep/core/error.h"
#include "lockstep/core/log.h"

namespace lockstep {
namespace {

using testing::bytes_of;

TEST(MetricsLog, AStepIsOneJsonObjectWithEveryFieldOfTheDocumentation) {
  const testing::ScratchDirectory scratch;
  MetricsLog log(scratch.file("m"), "");
  StepMetrics metrics;
  metrics.step = 7;
  metrics.epoch = 0.5;
  metrics.loss = 0.1;
  metrics.learning_rate = 1e-3;
  metrics.gradient_norm = 2.0;
  metrics.loss_scale = 1024.0;
  metrics.skipped_steps = 3;
  metrics.samples_per_second = 1000.0;
  metrics.times = {0.25, 0.5, 0.125, 0.0625, 0.375};
  metrics.slowest_rank = 2;
  metrics.slowest_factor = 1.5;
  metrics.peak_bytes = 4096;
  metrics.cached_bytes = 2048;
  metrics.activation_bytes = 1024;
  log.step(metrics);
  log.flush();
  const std::string text = bytes_of(scratch.file("m"));
  EXPECT_EQ(text, log.history());
  EXPECT_EQ(text.find('\n'), text.size() - 1);
  EXPECT_EQ(nlohmann::json::parse(text),
            nlohmann::json::parse(
                R"({"step": 7, "epoch": 0.5, "loss": 0.1, "learning_rate": 0.001, "gradient_norm": 2.0,
                                      "loss_scale": 1024.0, "skipped_steps": 3, "samples_per_second": 1000.0, "data_seconds": 0.25,
                                      "compute_seconds": 0.5,
                                      "exposed_communication_seconds": 0.125, "optimizer_seconds": 0.0625, "host_seconds": 0.375,
                                      "slowest_rank": 2, "slowest_factor": 1.5,
                                      "peak_bytes": 4096, "cached_bytes": 2048, "activation_bytes": 1024})"));
}

TEST(MetricsLog, AStepOfAMinimizerSaysWhatItTookInPlaceOfARate) {
  const testing::ScratchDirectory scratch;
  MetricsLog log(scratch.file("m"), "");
  StepMetrics metrics;
  metrics.minimizer = MinimizerStep{1, 2, 3, 0.5, 0.25, "wolfe"};
  log.step(metrics);
  log.flush();
  const nlohmann::json line = nlohmann::json::parse(bytes_of(scratch.file("m")));
  EXPECT_FALSE(line.contains("learning_rate"));
  const nlohmann::json expected = {{"values", 1},        {"gradients", 2},     {"products", 3},
                                   {"step_length", 0.5}, {"loss_after", 0.25}, {"outcome", "wolfe"}};
  for (const auto& [key, value] : expected.items()) EXPECT_EQ(line.at(key), value) << key;
}

TEST(MetricsLog, TextHasMeasuresOfItsOwn) {
  const testing::ScratchDirectory scratch;
  MetricsLog log(scratch.file("m"), "");
  StepMetrics metrics;
  metrics.tokens = 4096;
  metrics.tokens_per_second = 1.5;
  log.step(metrics);
  metrics.mfu = 0.25;
  log.step(metrics);
  TextLoss text{8.0, 0.0};
  log.evaluation(1, 2.0, nullptr, 5, "", &text);
  text.bits_per_byte = 0.75;
  log.evaluation(1, 2.0, nullptr, 5, "", &text);
  log.flush();
  std::istringstream lines(bytes_of(scratch.file("m")));
  std::vector<nlohmann::json> found;
  for (std::string line; std::getline(lines, line);) found.push_back(nlohmann::json::parse(line));
  ASSERT_EQ(found.size(), 4u);
  EXPECT_EQ(found[0]["tokens"], 4096);
  EXPECT_EQ(found[0]["tokens_per_second"], 1.5);
  EXPECT_FALSE(found[0].contains("mfu"));  // where the peak is not known
  EXPECT_EQ(found[1]["mfu"], 0.25);
  EXPECT_EQ(found[2]["validation_perplexity"], 8.0);
  EXPECT_FALSE(found[2].contains("validation_bits_per_byte"));
  EXPECT_EQ(found[3]["validation_bits_per_byte"], 0.75);
}

TEST(MetricsLog, NumbersComeBackToTheBitAndWhatIsNoNumberIsStillJson) {
  const testing::ScratchDirectory scratch;
  MetricsLog log(scratch.file("m"), "");
  log.evaluation(1, 0.1 + 0.2, nullptr, 5);
  const double accuracy = 1.0 / 3.0;
  log.evaluation(2, NAN, &accuracy, 5);
  log.digest(3, "00ff");
  log.flush();
  std::istringstream lines(bytes_of(scratch.file("m")));
  std::string line;
  std::getline(lines, line);
  EXPECT_EQ(nlohmann::json::parse(line)["validation_loss"].get<double>(), 0.1 + 0.2);
  EXPECT_FALSE(nlohmann::json::parse(line).contains("validation_accuracy"));
  std::getline(lines, line);
  EXPECT_TRUE(nlohmann::json::parse(line)["validation_loss"].is_null());
  EXPECT_EQ(nlohmann::json::parse(line)["validation_accuracy"].get<double>(), accuracy);
  std::getline(lines, line);
  EXPECT_EQ(line, R"({"step":3,"digest":"00ff"})");
}

TEST(MetricsLog, TheHistoryOfACheckpointReplacesWhatTheFileHeld) {
  const testing::ScratchDirectory scratch;
  testing::overwrite(scratch.file("m"), "lines after the checkpoint\nand half a li");
  {
    MetricsLog log(scratch.file("m"), "{\"step\":1}\n");
    EXPECT_EQ(bytes_of(scratch.file("m")), "{\"step\":1}\n") << "at once";
    log.digest(2, "aa");
    EXPECT_EQ(log.history(), "{\"step\":1}\n{\"step\":2,\"digest\":\"aa\"}\n");
  }
  EXPECT_EQ(bytes_of(scratch.file("m")), "{\"step\":1}\n{\"step\":2,\"digest\":\"aa\"}\n")
      << "nothing is lost at the end";
}

TEST(MetricsLog, TheFileHoldsWholeLinesAtAnyTime) {
  const testing::ScratchDirectory scratch;
  MetricsLog log(scratch.file("m"), "");
  const auto start = std::chrono::steady_clock::now();
  for (int64_t step = 1; std::chrono::steady_clock::now() - start < std::chrono::milliseconds(700); ++step) {
    log.digest(step, "0123456789abcdef0123456789abcdef");
    if (step % 64 != 0) continue;
    const std::string text = bytes_of(scratch.file("m"));
    ASSERT_TRUE(text.empty() || text.back() == '\n') << text.substr(text.size() - 80);
  }
  EXPECT_GT(bytes_of(scratch.file("m")).size(), 0u) << "lines reach the file while the run goes on";
}

TEST(MetricsLog, AFileThatCannotBeOpenedOrIsNoneIsBadUsage) {
  const testing::ScratchDirectory scratch;
  testing::overwrite(scratch.file("precious"), "precious");
  std::filesystem::create_symlink(scratch.file("precious"), scratch.file("link"));
  for (const std::string& path :
       {std::string("/proc/absent/m"), std::string("/dev/full"), scratch.file("link")}) {
    try {
      MetricsLog log(path, "");
      ADD_FAILURE() << path;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUsage);
      EXPECT_EQ(std::string(error.what()).rfind(path + ": cannot be written: ", 0), 0u) << error.what();
    }
  }
  EXPECT_EQ(bytes_of(scratch.file("precious")), "precious");
}

TEST(MetricsLog, WhatFindsNoRoomIsSaidOnceKeptAndWrittenLater) {
  const testing::ScratchDirectory scratch;
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit small{4000, before.rlim_max};  // room for what is said
  log_to_stderr(0, 1, false);
  ::testing::internal::CaptureStderr();
  setrlimit(RLIMIT_FSIZE, &small);
  MetricsLog log(scratch.file("m"), std::string(5000, 'x') + "\n");
  log.digest(1, "aa");
  log.flush();
  setrlimit(RLIMIT_FSIZE, &before);
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(said.rfind("warning: " + scratch.file("m") + ": cannot be written: File too large", 0), 0u)
      << said;
  EXPECT_EQ(std::ranges::count(said, '\n'), 1) << said;
  EXPECT_EQ(bytes_of(scratch.file("m")).size(), 4000u);
  log.flush();
  EXPECT_EQ(bytes_of(scratch.file("m")), log.history());
}

}  // namespace
}  // namespace lockstep
