// Batches, epochs and shares of a run.
#include "lockstep/train/run_plan.h"

#include <gtest/gtest.h>

#include "lockstep/core/error.h"

namespace lockstep {
namespace {

RunSettings settings_of(int64_t micro_batches, int64_t size, int64_t epochs, int64_t steps = 0) {
  RunSettings settings;
  settings.micro_batches = micro_batches;
  settings.micro_batch_size = size;
  settings.epochs = epochs;
  settings.steps = steps;
  return settings;
}

std::string error_of(const RunSettings& settings, int64_t samples, bool full_batch = false) {
  try {
    plan_run(settings, samples, full_batch, "gradient_descent");
  } catch (const Error& error) {
    return error.kind() == ErrorKind::kUsage ? error.what() : std::string("wrong kind: ") + error.what();
  }
  return "no error";
}

TEST(RunPlan, CountsStepsByEpochsOrAsGiven) {
  const RunPlan epochs = plan_run(settings_of(4, 8, 3), 100, false, "adam");
  EXPECT_EQ(epochs.micro_batches, 4);
  EXPECT_EQ(epochs.sampler.global_batch, 32);
  EXPECT_EQ(epochs.steps_per_epoch, 3);  // the last four samples make no batch
  EXPECT_EQ(epochs.total_steps, 9);
  EXPECT_EQ(epochs.epochs(6), 2.0);
  EXPECT_EQ(plan_run(settings_of(4, 8, 0, 17), 100, false, "adam").total_steps, 17);
  RunSettings padded = settings_of(4, 8, 3);
  padded.last_batch = LastBatch::kPad;
  EXPECT_EQ(plan_run(padded, 100, false, "adam").total_steps, 12);
}

TEST(RunPlan, TakesOneMicroBatchWhereNoneAreAskedFor) {
  EXPECT_EQ(plan_run(settings_of(0, 8, 1), 100, false, "adam").micro_batches, 1);
}

TEST(RunPlan, AFullBatchIsTheWholeDataSetPadded) {
  const RunPlan plan = plan_run(settings_of(0, 8, 5), 100, true, "gradient_descent");
  EXPECT_EQ(plan.micro_batches, 13);
  EXPECT_EQ(plan.steps_per_epoch, 1);
  EXPECT_EQ(plan.sampler.last_batch, LastBatch::kPad);
  EXPECT_EQ(error_of(settings_of(12, 8, 5), 100, true),
            "train.micro_batches: gradient_descent takes the whole training set in each step: 100 samples in "
            "micro-batches of 8 are 13, got 12 (leave it out)");
}

TEST(RunPlan, RefusesRunsThatCountersCannotHold) {
  EXPECT_EQ(error_of(settings_of(1, 1, 4000000000), 100),
            "train.epochs: 4000000000 epochs of 100 steps are more than 4294967295 steps");
}

TEST(RunPlan, SharesMicroBatchesOutAndRefusesMoreWorkers) {
  const RunPlan plan = plan_run(settings_of(5, 8, 1), 100, false, "adam");
  EXPECT_EQ(plan.owned(0, 2).end, 2);
  EXPECT_EQ(plan.owned(1, 2).begin, 2);
  EXPECT_EQ(plan.owned(1, 2).end, 5);
  try {
    plan.owned(0, 6);
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(),
                 "train.micro_batches: 6 workers cannot share 5 micro-batches; use at most 5 workers or "
                 "raise it");
  }
}

TEST(RunPlan, SaysWhereARunStandsAndWhatItMustKeep) {
  RunSettings settings = settings_of(4, 8, 3);
  settings.seed = 9;
  State state;
  plan_run(settings, 100, false, "adam").describe(7, state);
  EXPECT_EQ(state.scalars.at("/train/step"), Scalar(int64_t{7}));
  EXPECT_EQ(state.scalars.at("/data/epoch"), Scalar(int64_t{2}));
  EXPECT_EQ(state.scalars.at("/data/position"), Scalar(int64_t{1}));
  EXPECT_EQ(state.scalars.at("/rng/seed"), Scalar(int64_t{9}));
  EXPECT_EQ(state.scalars.at("/data/samples"), Scalar(int64_t{100}));
}

}  // namespace
}  // namespace lockstep
