// Batches, epochs and shares of a run.
#include "lockstep/train/run_plan.h"

#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "lockstep/core/error.h"
#include "lockstep/optim/gradient_descent.h"
#include "lockstep/optim/minimizing.h"

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

TEST(RunPlan, AnOverlapThatDoesNotFitNamesTheSizeOfTheBatchAsItWasGiven) {
  RunSettings settings = settings_of(0, 4, 1);
  const auto refused = [&](int64_t tokens, int64_t overlap, const std::string& rule) {
    settings.batch_tokens = tokens;
    try {
      plan_run(settings, 40, false, "lbfgs", 96, overlap);
      ADD_FAILURE() << rule;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUsage);
      EXPECT_NE(std::string(error.what()).find(rule), std::string::npos) << error.what();
    }
  };
  refused(1920, 3, "2 of the 5 of train.batch_tokens, got 3");
  for (const int64_t tokens : {3840, 4224})  // ten micro-batches are all there are
    refused(tokens, 1, "give train.batch_tokens for fewer micro-batches than 10");
}

TEST(RunPlan, ValuesThatAProgramFillsInHaveTheRangesOfTheKeys) {
  const auto refused = [](const std::function<void(RunSettings&)>& change, const std::string& rule) {
    RunSettings settings = settings_of(2, 4, 1);
    change(settings);
    EXPECT_EQ(error_of(settings, 100).substr(0, rule.size()), rule);
  };
  using Type = AverageSettings::Type;
  refused([](RunSettings& s) { s.steps = -5; }, "train.steps: must be");
  refused([](RunSettings& s) { s.epochs = 0, s.steps = int64_t{1} << 33; }, "train.steps: must be");
  refused([](RunSettings& s) { s.epochs = -1, s.steps = 5; }, "train.epochs: must be");
  for (const double value : {-1.0, std::numeric_limits<double>::quiet_NaN()}) {
    refused([=](RunSettings& s) { s.clip.global_norm = value; }, "clip.global_norm: must be");
    refused([=](RunSettings& s) { s.clip.value = value; }, "clip.value: must be");
    refused([=](RunSettings& s) { s.clip.adaptive = value; }, "clip.adaptive: must be");
    refused([=](RunSettings& s) { s.average = {.type = Type::kEma, .decay = value}; },
            "average.decay: must be");
  }
  refused([](RunSettings& s) { s.clip.value = 1e-40; }, "clip.value: must be");
  refused([](RunSettings& s) { s.average = {.type = Type::kEma, .decay = 3.0}; }, "average.decay: must be");
  refused([](RunSettings& s) { s.average = {.type = Type::kSwa, .every = 0}; }, "average.every: must be");
  refused([](RunSettings& s) { s.average = {.type = Type::kSwa, .start = 0}; }, "average.start: must be");
  refused([](RunSettings& s) { s.average = {.type = Type::kEma, .decay = 1.0}; }, "average.decay: must be");
  refused([](RunSettings& s) { s.average.every = 0; }, "no error");  // none is taken
  for (const double value : {-1.0, std::numeric_limits<double>::quiet_NaN()}) {
    refused([=](RunSettings& s) { s.learning_rate = value; }, "optimizer.learning_rate: must be");
    refused([=](RunSettings& s) { s.l2 = value; }, "train.l2: must be");
    refused([=](RunSettings& s) { s.validation_fraction = value; }, "data.validation_fraction: must be");
    refused([=](RunSettings& s) { s.guard.loss_z = value; }, "guard.loss_z_score: must be");
    refused([=](RunSettings& s) { s.timeout_seconds = value; }, "parallel.timeout: must be");
    refused([=](RunSettings& s) { s.checkpoint_every_minutes = value; }, "checkpoint.every_minutes: must be");
    refused([=](RunSettings& s) { s.groups = {{.pattern = "*", .learning_rate_factor = value}}; },
            "optimizer.groups.learning_rate_factor: must be");
    refused([=](RunSettings& s) { s.loss_scale = {.mode = LossScaling::kStatic, .initial = value}; },
            "precision.initial_scale: must be");
  }
  refused([](RunSettings& s) { s.micro_batches = -3; }, "train.micro_batches: must be");
  refused([](RunSettings& s) { s.log_every = 0; }, "train.log_every: must be");
  refused([](RunSettings& s) { s.prefetch = 0; }, "data.prefetch: must be");
  refused([](RunSettings& s) { s.bucket_bytes = 0; }, "parallel.bucket_mb: must be");
  refused([](RunSettings& s) { s.bucket_bytes = 1; }, "no error");
  refused([](RunSettings& s) { s.digest_every = -1; }, "parallel.digest_every: must be");
  refused([](RunSettings& s) { s.keep = -1; }, "checkpoint.keep: must be");  // would delete them all
  refused([](RunSettings& s) { s.checkpoint_every = -1; }, "checkpoint.every: must be");
  refused([](RunSettings& s) { s.recompute_every = -1; }, "train.recompute_every: must be");
  refused([](RunSettings& s) { s.recompute = "all"; },
          "train.recompute: must be one of none, cheap, block, got all");
  refused([](RunSettings& s) { s.compute = DType::kI32; }, "precision.compute: must be");
  refused([](RunSettings& s) { s.device = "tpu"; }, "device.type: must be one of auto, cpu, cuda, got tpu");
  refused([](RunSettings& s) { s.gpu_transport = "post"; }, "parallel.gpu_transport: must be");
  refused([](RunSettings& s) { s.keep_best = "loss"; }, "checkpoint.keep_best: must be");
}

TEST(RunPlan, CombinationsThatAProgramFillsInAreRefusedAsThoseOfAConfiguration) {
  const auto refused = [](const std::function<void(RunSettings&)>& change, const std::string& rule) {
    RunSettings settings = settings_of(2, 4, 1);
    change(settings);
    EXPECT_EQ(error_of(settings, 100), rule);
  };
  refused([](RunSettings& s) { s.keep_best = "validation_loss"; },
          "checkpoint.keep_best: needs data.validation or data.validation_fraction");
  refused([](RunSettings& s) { s.keep_best = "validation_loss", s.validation_fraction = 0.1; }, "no error");
  refused([](RunSettings& s) { s.recompute = "cheap", s.recompute_every = 2; },
          "train.recompute: \"cheap\" does not go with recompute_every, which computes all of a run again");
  refused([](RunSettings& s) { s.recompute = "block", s.recompute_every = 2; }, "no error");
  refused([](RunSettings& s) { s.validation_data.path = "v.h5", s.validation_fraction = 0.1; },
          "data.validation_fraction: must be 0 when data.validation names a file");
  refused([](RunSettings& s) { s.initial_weights_without = {"output.*"}; },
          "train.initial_weights_without: goes with train.initial_weights");
  refused([](RunSettings& s) { s.initial_adapter = "adapter"; },
          "train.initial_adapter: goes with lora.rank, which is 0: off");
  refused([](RunSettings& s) { s.lora.rank = 4; },
          "lora.rank: needs weights that stay as they are: train.initial_weights");
  refused([](RunSettings& s) { s.recovery_point = s.shard_optimizer = true; }, "no error");
  refused([](RunSettings& s) { s.after_save = "copy"; },
          "checkpoint.after_save: must have {} where the path of the checkpoint stands");
}

TEST(RunPlan, ABatchMayBeGivenInTokens) {
  RunSettings settings = settings_of(0, 4, 1);
  settings.batch_tokens = 1920;
  const RunPlan plan = plan_run(settings, 100, false, "adam", 96);
  EXPECT_EQ(plan.micro_batches, 5);
  EXPECT_EQ(plan.sampler.global_batch, 20);
  EXPECT_EQ(plan.tokens_of_sample, 96);
  const auto refused = [&](int64_t tokens, int64_t of_sample, const std::string& rule) {
    settings.batch_tokens = tokens;
    try {
      plan_run(settings, 100, false, "adam", of_sample);
      ADD_FAILURE() << rule;
    } catch (const Error& error) {
      EXPECT_EQ(error.what(), "train.batch_tokens: " + rule);
    }
  };
  refused(2000, 96,
          "must be a multiple of 384 tokens, a micro-batch of 4 windows of 96: 1920 or 2304, got 2000");
  refused(100, 96, "must be a multiple of 384 tokens, a micro-batch of 4 windows of 96: 384, got 100");
  refused(1920, 0, "the samples are no text (data.format = \"tokens\")");
  settings.micro_batches = 5;
  refused(1920, 96,
          "gives the number of micro-batches: leave train.micro_batches out, and optimizers of full batches");
}

TEST(RunPlan, SharesAreWhatWorkersOwn) {
  const RunPlan plan = plan_run(settings_of(7, 4, 3), 100, false, "adam");
  EXPECT_EQ(plan.shares(1), std::vector<int64_t>{7});
  const std::vector<int64_t> shares = plan.shares(3);
  ASSERT_EQ(shares.size(), 3u);
  for (int rank = 0; rank < 3; ++rank)
    EXPECT_EQ(shares[static_cast<size_t>(rank)], plan.owned(rank, 3).size());
  EXPECT_EQ(shares[0] + shares[1] + shares[2], 7);
}

TEST(RunPlan, CountsTheSamplesThatWereSeen) {
  RunSettings settings = settings_of(2, 4, 3);
  const RunPlan dropped = plan_run(settings, 20, false, "adam");  // two steps of 8 an epoch
  for (const auto& [step, seen] : {std::pair<int64_t, int64_t>{0, 0}, {1, 8}, {2, 16}, {3, 24}, {6, 48}})
    EXPECT_EQ(dropped.samples_seen(step), seen) << step;
  settings.last_batch = LastBatch::kPad;
  const RunPlan padded = plan_run(settings, 20, false, "adam");  // 8, 8 and 4
  for (const auto& [step, seen] : {std::pair<int64_t, int64_t>{2, 16}, {3, 20}, {4, 28}, {9, 60}})
    EXPECT_EQ(padded.samples_seen(step), seen) << step;
}

TEST(RunPlan, AFullBatchIsTheWholeDataSetPadded) {
  const RunPlan plan = plan_run(settings_of(0, 8, 5), 100, true, "gradient_descent");
  EXPECT_EQ(plan.micro_batches, 13);
  EXPECT_EQ(plan.steps_per_epoch, 1);
  EXPECT_EQ(plan.sampler.last_batch, LastBatch::kPad);
  EXPECT_EQ(error_of(settings_of(12, 8, 5), 100, true),
            "train.micro_batches: gradient_descent takes the whole training set in each step: 100 samples in "
            "micro-batches of 8 are 13, got 12 (leave it out: --set '~train.micro_batches')");
}

TEST(RunPlan, AMinimizerSeesEverythingInOrderUnlessAskedForLess) {
  const std::unique_ptr<Optimizer> lbfgs = optimizer_of(make_lbfgs());
  for (const int64_t micro_batches : {0, 13}) {
    const RunPlan plan = plan_run(settings_of(micro_batches, 8, 5), 100, *lbfgs, 0);
    EXPECT_EQ(plan.micro_batches, 13);
    EXPECT_TRUE(plan.same_batch);
    EXPECT_FALSE(plan.sampler.shuffle);
    EXPECT_EQ(plan.sampler.last_batch, LastBatch::kPad);
  }
  const RunPlan part = plan_run(settings_of(3, 8, 5), 100, *lbfgs, 0);
  EXPECT_EQ(part.steps_per_epoch, 4);
  EXPECT_FALSE(part.same_batch);
  EXPECT_TRUE(part.sampler.shuffle);
  EXPECT_FALSE(plan_run(settings_of(12, 8, 5), 100, *make_sgd(), 0).same_batch);
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
