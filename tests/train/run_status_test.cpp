// status.json: replaced as a whole, and nothing that a run depends on.
#include "lockstep/train/run_status.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>

#include "hdf5/scratch_directory.h"
#include "lockstep/core/log.h"

namespace lockstep {
namespace {

nlohmann::json status_in(const testing::ScratchDirectory& scratch) {
  const auto found = nlohmann::json::parse(testing::bytes_of(scratch.file("status.json")), nullptr, false);
  return found.is_object() ? found : nlohmann::json::object();
}

TEST(RunStatus, SaysWhereTheRunIsAndHowItEnded) {
  const testing::ScratchDirectory scratch;
  {
    RunStatus status(scratch.file("."), {"a \"run\"", 10, 100, 4, {"a", "b"}});
    StepMetrics metrics;
    metrics.loss = std::nan("");
    status.metrics(metrics);
    status.step(11);
    status.activity("evaluating");
    status.evaluation(0.5);
    status.saved("runs/x/step-000000011.h5");
    // At most once a second: what was noted since the first time comes with the second.
    const auto start = std::chrono::steady_clock::now();
    while (!status_in(scratch).contains("checkpoint")) {
      ASSERT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    const nlohmann::json now = status_in(scratch);
    EXPECT_EQ(now["state"], "evaluating");
    EXPECT_EQ(now["name"], "a \"run\"");
    EXPECT_EQ(now["total_steps"], 100);
    EXPECT_TRUE(now["loss"].is_null());
    EXPECT_EQ(now["validation_loss"], 0.5);
    EXPECT_EQ(now["checkpoint"], "step-000000011.h5");
    EXPECT_EQ(now["workers"], 4);
    EXPECT_EQ(now["hosts"], (nlohmann::json{"a", "b"}));
    EXPECT_GE(now["eta_seconds"], 0.0);
    EXPECT_FALSE(now.contains("exit_code"));
    status.ended(5, "step 11: training diverged");
  }
  const nlohmann::json last = status_in(scratch);
  EXPECT_EQ(last["state"], "ended");
  EXPECT_EQ(last["exit_code"], 5);
  EXPECT_EQ(last["message"], "step 11: training diverged");
  EXPECT_FALSE(std::filesystem::exists(scratch.file(".status.json.next")));
}

TEST(RunStatus, FollowsNoLinkAndWarnsOnceOfWhatCannotBeWritten) {
  const testing::ScratchDirectory scratch;
  testing::overwrite(scratch.file("precious"), "precious");
  for (const char* name : {"status.json", ".status.json.next"})
    std::filesystem::create_symlink(scratch.file("precious"), scratch.file(name));
  { const RunStatus status(scratch.file("."), {}); }
  EXPECT_EQ(testing::bytes_of(scratch.file("precious")), "precious");
  EXPECT_EQ(status_in(scratch)["state"], "ended");

  std::filesystem::remove(scratch.file("status.json"));
  std::filesystem::create_directory(scratch.file("status.json"));
  log_to_stderr(0, 1, false);
  ::testing::internal::CaptureStderr();
  { const RunStatus status(scratch.file("."), {}); }  // writes twice
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(said.find("warning: " + scratch.file("./status.json") + ": cannot be written: "), 0u) << said;
  EXPECT_EQ(said.find('\n'), said.size() - 1) << said;
}

}  // namespace
}  // namespace lockstep
