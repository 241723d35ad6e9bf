// metrics.jsonl: whole JSON lines, a history that survives a resume, and failures that are told.
#include "lockstep/train/metrics_log.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
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
  MetricsLog log(scratch.file("m"));
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
  MetricsLog log(scratch.file("m"));
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
  MetricsLog log(scratch.file("m"));
  StepMetrics metrics;
  metrics.tokens = 4096;
  metrics.tokens_per_second = 1.5;
  log.step(metrics);
  metrics.mfu = 0.25;
  log.step(metrics);
  TextLoss text{8.0, 0.0};
  log.evaluation({.step = 1, .loss = 2.0, .accuracy = {}, .samples = 5, .weights = {}, .text = text});
  text.bits_per_byte = 0.75;
  log.evaluation({.step = 1, .loss = 2.0, .accuracy = {}, .samples = 5, .weights = {}, .text = text});
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
  MetricsLog log(scratch.file("m"));
  log.evaluation({.step = 1, .loss = 0.1 + 0.2, .accuracy = {}, .samples = 5, .weights = {}, .text = {}});
  const double accuracy = 1.0 / 3.0;
  log.evaluation({.step = 2, .loss = NAN, .accuracy = accuracy, .samples = 5, .weights = {}, .text = {}});
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

TEST(MetricsLog, TheLinesOfAnOlderCheckpointReplaceWhatTheFileHeld) {
  const testing::ScratchDirectory scratch;
  testing::overwrite(scratch.file("m"), "lines after the checkpoint\nand half a li");
  {
    MetricsLog log(scratch.file("m"), {"{\"step\":1}\n", ""}, 1);
    EXPECT_EQ(bytes_of(scratch.file("m")), "{\"step\":1}\n") << "at once";
    log.digest(2, "aa");
  }
  EXPECT_EQ(bytes_of(scratch.file("m")), "{\"step\":1}\n{\"step\":2,\"digest\":\"aa\"}\n")
      << "nothing is lost at the end";
}

// What a run says while a log is opened for step 3 behind three lines; `prepare` changes the file before.
std::string resumed(const std::string& path, const std::function<void(std::string& text)>& prepare) {
  MetricsRecord record;
  {
    MetricsLog log(path);
    for (int64_t step = 1; step <= 3; ++step) log.digest(step, "aa");
    record = log.record();
    EXPECT_EQ(record.lines, "");
    log.digest(4, "after the checkpoint");
  }
  std::string text = bytes_of(path);
  prepare(text);
  testing::overwrite(path, text);
  log_to_stderr(0, 1, false);
  ::testing::internal::CaptureStderr();
  { MetricsLog(path, record, 3).digest(4, "bb"); }
  return ::testing::internal::GetCapturedStderr();
}

TEST(MetricsLog, AResumedRunCutsTheFileWhereItsCheckpointWas) {
  const testing::ScratchDirectory scratch;
  const std::string path = scratch.file("m");
  const std::string good =
      "{\"step\":1,\"digest\":\"aa\"}\n{\"step\":2,\"digest\":\"aa\"}\n{\"step\":3,\"digest\":\"aa\"}\n";
  const std::string next = "{\"step\":4,\"digest\":\"bb\"}\n";
  EXPECT_EQ(resumed(path, [](std::string& text) { text += "{\"step\":5,\"dig"; }), "");
  EXPECT_EQ(bytes_of(path), good + next);
  // Another file: what of it can be the run's stays, with a warning.
  const std::string differs = "warning: " + path +
                              ": is not the file that the checkpoint knows of; the run "
                              "goes on behind its lines up to step 3\n";
  EXPECT_EQ(resumed(path, [](std::string& text) { text[text.find('a')] = 'b'; }), differs);
  EXPECT_EQ(bytes_of(path).size(), (good + next).size());
  EXPECT_EQ(bytes_of(path).substr(good.size()), next);
  EXPECT_EQ(resumed(path, [](std::string& text) { text.resize(text.find("\"step\":3")); }), differs);
  EXPECT_EQ(bytes_of(path), good.substr(0, good.find("{\"step\":3")) + next) << "whole lines";
  for (const char* other : {"", "no lines of ours\n", "{\"step\":9}\n"}) {
    EXPECT_EQ(resumed(path, [&](std::string& text) { text = other; }),
              "warning: " + path +
                  ": does not hold the lines that the checkpoint knows of; the run goes on with "
                  "new ones\n");
    EXPECT_EQ(bytes_of(path), next);
  }
  for (const char* record : {"x", "-1 aa", "99999999999999999999 aa", "1", " "}) {
    ::testing::internal::CaptureStderr();
    { MetricsLog log(path, {"", record}, 4); }
    EXPECT_NE(::testing::internal::GetCapturedStderr(), "") << record;
    EXPECT_EQ(bytes_of(path), next);
  }
  // What is told behind another file is known again.
  MetricsRecord known;
  {
    MetricsLog log(path, {"", "7 aa"}, 4);
    log.digest(5, "cc");
    known = log.record();
  }
  ::testing::internal::CaptureStderr();
  { MetricsLog log(path, known, 5); }
  EXPECT_EQ(::testing::internal::GetCapturedStderr().find(path), std::string::npos);
}

TEST(MetricsLog, TheFileHoldsWholeLinesAtAnyTime) {
  const testing::ScratchDirectory scratch;
  MetricsLog log(scratch.file("m"));
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
      MetricsLog log(path);
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
  std::optional<testing::FileSizeLimit> limit;
  log_to_stderr(0, 1, false);
  ::testing::internal::CaptureStderr();
  limit.emplace(4000);  // room for what is said
  const std::string lines = std::string(5000, 'x') + "\n";
  MetricsLog log(scratch.file("m"), {lines, ""});
  log.digest(1, "aa");
  const MetricsRecord record = log.record();
  limit.reset();
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(said.rfind("warning: " + scratch.file("m") + ": cannot be written: File too large", 0), 0u)
      << said;
  EXPECT_EQ(std::ranges::count(said, '\n'), 1) << said;
  EXPECT_EQ(bytes_of(scratch.file("m")).size(), 4000u);
  log.flush();
  EXPECT_EQ(bytes_of(scratch.file("m")), lines + "{\"step\":1,\"digest\":\"aa\"}\n");
  // A checkpoint of before has what the file has not.
  testing::overwrite(scratch.file("again"), bytes_of(scratch.file("m")).substr(0, 4000));
  { const MetricsLog resumed(scratch.file("again"), record, 1); }
  EXPECT_EQ(bytes_of(scratch.file("again")), bytes_of(scratch.file("m")));
}

TEST(MetricsLog, LinesWithoutRoomTakeBoundedMemory) {
  const testing::ScratchDirectory scratch;
  std::optional<testing::FileSizeLimit> limit;
  MetricsLog log(scratch.file("m"));
  log_to_stderr(0, 1, false);
  ::testing::internal::CaptureStderr();
  limit.emplace(4010);  // the end of a line's half
  const std::string text(4000, 'd');
  for (int64_t step = 1; step <= 3000; ++step) {
    log.digest(step, text);
    log.flush();
    if (step % 250 == 0) {
      ASSERT_LE(log.record().lines.size(), MetricsLog::kMostWaiting);
    }
  }
  limit.reset();
  ::testing::internal::GetCapturedStderr();
  log.flush();
  std::istringstream lines(bytes_of(scratch.file("m")));
  int64_t last = 0, count = 0;
  for (std::string line; std::getline(lines, line); ++count) {
    const nlohmann::json object = nlohmann::json::parse(line);  // all whole
    EXPECT_GT(object["step"].get<int64_t>(), last);
    last = object["step"].get<int64_t>();
  }
  EXPECT_EQ(last, 3000) << "the newest stay";
  EXPECT_LT(count, 2900);
}

}  // namespace
}  // namespace lockstep
