// What a step's parts took.
#include "lockstep/train/step_log.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "lockstep/kernels/backend.h"

namespace lockstep {
namespace {

TEST(StepLog, WhatTheNextSamplesTakeIsNoPartOfTheUpdate) {
  RunSettings settings;
  settings.micro_batch_size = 4;
  settings.epochs = 1;
  const RunPlan plan = plan_run(settings, 8, false, "adam");
  StepLog log(cpu_backend(), plan, 1, 0);
  StepLog::Step& step = log.begin(1, 4, 0.0);
  step.swept->set();
  step.exchanged->set();
  constexpr double kSupply = 1000.0;  // more than any machine takes here
  step.supply_seconds = kSupply;
  step.done->set();
  log.issued(0.0);
  const std::optional<StepMetrics> metrics = log.end({}, 0.0, 1);
  ASSERT_TRUE(metrics.has_value());
  EXPECT_LT(metrics->times.optimizer, -0.9 * kSupply) << "taken off";
  // Whatever else the machine does, the next step begins with none of it.
  StepLog::Step& next = log.begin(2, 4, 0.0);
  EXPECT_EQ(next.supply_seconds, 0.0);
  next.swept->set();
  next.exchanged->set();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  next.done->set();
  log.issued(0.0);
  EXPECT_GE(log.end({}, 0.0, 2)->times.optimizer, 0.02) << "what nobody has told of is the update's";
}

}  // namespace
}  // namespace lockstep
