// checkpoint.keep_best: the best stays, over interruptions too.
#include "lockstep/train/best_checkpoint.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "train/small_job.h"

namespace lockstep {
namespace {

EvaluationResult result_of(double loss, double accuracy = 0.0, int64_t samples = 1) {
  EvaluationResult result;
  result.loss = loss;
  result.accuracy = accuracy;
  result.samples = samples;
  return result;
}

TEST(BestCheckpoint, IsThatOfTheBestEvaluationAndTheFirstOfEqualOnes) {
  BestCheckpoint loss("validation_loss"), accuracy("validation_accuracy"), none("");
  EXPECT_FALSE(none.observe(1, result_of(0.5)));
  EXPECT_FALSE(loss.observe(1, result_of(NAN)));
  EXPECT_FALSE(loss.observe(1, result_of(0.1, 0.0, 0)));
  EXPECT_EQ(loss.text(), "");
  EXPECT_TRUE(loss.observe(2, result_of(0.5)));
  EXPECT_FALSE(loss.observe(3, result_of(0.5)));
  EXPECT_TRUE(loss.observe(4, result_of(-0.1)));
  EXPECT_EQ(loss.text(), "validation_loss 4 -0.1");
  EXPECT_TRUE(accuracy.observe(1, result_of(0.5, 0.0)));
  EXPECT_FALSE(accuracy.observe(2, result_of(0.1, 0.0)));
  EXPECT_TRUE(accuracy.observe(3, result_of(9.0, 0.25)));
  EXPECT_EQ(accuracy.step(), 3);
  // What a checkpoint says, or another one.
  accuracy.restore(loss.text());
  EXPECT_EQ(accuracy.step(), -1);
  for (const char* text : {"", "validation_loss", "validation_loss 3", "validation_loss 3 x",
                           "validation_loss -3 1", "validation_loss 3 1 ", "validation_loss 3 nan"}) {
    loss.restore(text);
    EXPECT_EQ(loss.step(), -1) << text;
  }
  loss.restore("validation_loss 440 0.25");
  EXPECT_FALSE(loss.observe(500, result_of(0.25)));
  EXPECT_EQ(loss.step(), 440);
}

using KeepBest = testing::SmallJobTest;

// A step size with which the loss on the validation data falls and rises again.
TEST_F(KeepBest, ItsCheckpointStaysOverAResume) {
  std::vector<std::pair<double, int64_t>> losses;
  const auto begun = [&](const std::string& output) {
    TrainingJob job = this->job(output);
    job.settings.learning_rate = 3.0;
    job.settings.evaluate_every = 2;
    job.settings.checkpoint_every = 3;
    job.settings.keep = 1;
    job.settings.keep_best = "validation_loss";
    return job;
  };
  TrainOptions options;
  options.on_evaluation = [&](int64_t step, const EvaluationResult& result) {
    losses.emplace_back(result.loss, step);
  };
  Trainer(begun("whole"), options, *self_).run();
  const int64_t best = std::ranges::min(losses).second;
  ASSERT_GT(best, 0);
  ASSERT_LT(best, 14) << "rises again";
  const auto kept = [&](const std::string& output, int64_t step) {
    return std::filesystem::exists(scratch_.file(fmt_path(output, static_cast<int>(step))));
  };
  EXPECT_TRUE(kept("whole", best));
  EXPECT_TRUE(kept("whole", 20));
  for (int64_t step = 1; step < 20; ++step) EXPECT_EQ(kept("whole", step), step == best) << step;
  // Stopped behind the best, and resumed twice.
  for (const int stop : {static_cast<int>(best) + 1, 2, 0}) {
    int asked = 0;
    TrainOptions part;
    part.resume_if_any = true;
    part.stop = [&] { return ++asked == stop ? "the test" : ""; };
    Trainer(begun("parts"), part, *self_).run();
    EXPECT_TRUE(kept("parts", best));
  }
  for (int64_t step = 1; step < 20; ++step) EXPECT_EQ(kept("parts", step), step == best) << step;
  EXPECT_EQ(digest_at("parts", 20), digest_at("whole", 20));
  // One that somebody took away is no measure any more.
  std::filesystem::remove(scratch_.file(fmt_path("parts", static_cast<int>(best))));
  TrainingJob longer = begun("parts");
  longer.settings.steps = 24;
  TrainOptions part;
  part.resume = true;
  losses.clear();
  part.on_evaluation = options.on_evaluation;
  Trainer(std::move(longer), part, *self_).run();
  EXPECT_TRUE(kept("parts", std::ranges::min(losses).second));
}

}  // namespace
}  // namespace lockstep
