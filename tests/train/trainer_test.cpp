// The trainer as a library: a job of plain C++, steps one by one, callbacks, weights of another run.
#include "lockstep/train/trainer.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "lockstep/train/agreement.h"
#include "train/small_job.h"

namespace lockstep {
namespace {

using testing::Linear;
using TrainerTest = testing::SmallJobTest;

TEST_F(TrainerTest, StepsOneByOneAreTheRun) {
  TrainOptions quiet{.progress = false};
  std::vector<int64_t> lines;
  std::vector<double> losses;
  TrainOptions watched = quiet;
  watched.on_step = [&](const StepMetrics& metrics) {
    lines.push_back(metrics.step);
    losses.push_back(metrics.loss);
  };
  EXPECT_EQ(Trainer(job("run"), watched, *self_).run(), TrainOutcome::kFinished);
  EXPECT_EQ(lines, (std::vector<int64_t>{10, 20}));
  EXPECT_LT(losses[1], losses[0]);

  Trainer trainer(job("own"), quiet, *self_);
  EXPECT_EQ(trainer.total_steps(), 20);
  while (trainer.steps_done() < trainer.total_steps()) trainer.step();
  const EvaluationResult result = trainer.evaluate();
  EXPECT_EQ(result.samples, 12);
  EXPECT_EQ(result.accuracy, 1.0);
  trainer.save();
  trainer.finish();
  EXPECT_EQ(digest_at("own", 20), digest_at("run", 20));
  EXPECT_THROW(trainer.step(), Error);
}

TEST_F(TrainerTest, StopsWhenAskedAndGoesOnFromThere) {
  TrainOptions quiet{.progress = false};
  Trainer(job("whole"), quiet, *self_).run();
  int asked = 0;
  TrainOptions stopping = quiet;
  stopping.stop = [&] { return ++asked == 7 ? "the test" : ""; };
  EXPECT_EQ(Trainer(job("parts"), stopping, *self_).run(), TrainOutcome::kStopped);
  TrainOptions resuming = quiet;
  resuming.resume = true;
  Trainer rest(job("parts"), resuming, *self_);
  EXPECT_EQ(rest.steps_done(), 7);
  EXPECT_EQ(rest.run(), TrainOutcome::kFinished);
  EXPECT_EQ(digest_at("parts", 20), digest_at("whole", 20));
}

TEST_F(TrainerTest, ResumesWhereThereIsACheckpointAndElseBegins) {
  for (const int64_t begun : {0, 5, 20}) {
    SCOPED_TRACE(begun);
    const std::string name = "from_" + std::to_string(begun);
    int asked = 0;
    TrainOptions options{.stop = [&] { return ++asked == begun ? "the test" : ""; }};
    if (begun > 0) Trainer(job(name), options, *self_).run();
    Trainer again(job(name), {.resume_if_any = true}, *self_);
    EXPECT_EQ(again.steps_done(), begun);
    EXPECT_EQ(again.run(), TrainOutcome::kFinished);
    EXPECT_EQ(digest_at(name, 20), digest_at("from_0", 20));
  }
}

TEST_F(TrainerTest, StartsFromTheWeightsOfAnotherRunButForThoseLeftOut) {
  TrainOptions quiet{.progress = false};
  Trainer(job("first"), quiet, *self_).run();
  const State first = read_checkpoint(scratch_.file(fmt_path("first", 20)));
  const auto parameters_of = [&](const std::vector<std::string>& without) {
    TrainingJob next = job("next" + std::to_string(without.size()));
    next.settings.learning_rate = 0.0;  // nothing moves
    next.settings.initial_weights = scratch_.file(fmt_path("first", 20));
    next.settings.initial_weights_without = without;
    next.optimizer = [] { return make_adam(AdamOptions{}); };
    const std::string output = next.settings.output;
    Trainer(std::move(next), quiet, *self_).run();
    return read_checkpoint(output + "/step-000000020.h5").arrays;
  };
  const auto bytes = [](const std::vector<StateArray>& arrays, const std::string& path) {
    return std::ranges::find_if(arrays, [&](const StateArray& array) { return array.path == path; })->bytes;
  };
  const std::string weight = "/parameters/output.weight", bias = "/parameters/output.bias";
  const std::vector<StateArray> all = parameters_of({}), without = parameters_of({"*.weight"});
  EXPECT_EQ(bytes(all, weight), bytes(first.arrays, weight));
  EXPECT_EQ(bytes(all, bias), bytes(first.arrays, bias));
  EXPECT_NE(bytes(without, weight), bytes(first.arrays, weight));
  EXPECT_EQ(bytes(without, bias), bytes(first.arrays, bias));
}

TEST_F(TrainerTest, NamesWhatDoesNotFitOfInitialWeights) {
  TrainOptions quiet{.progress = false};
  Trainer(job("first"), quiet, *self_).run();
  const auto error_of = [&](const std::function<void(TrainingJob&)>& change) {
    TrainingJob next = job("next");
    next.settings.initial_weights = scratch_.file(fmt_path("first", 20));
    change(next);
    try {
      Trainer(std::move(next), quiet, *self_);
    } catch (const AgreedFailure& failure) {
      return std::string(failure.what());
    }
    return std::string("no error");
  };
  EXPECT_NE(error_of([](TrainingJob& next) {
              next.model = [](const DataShape& data, const ModuleBuilder& builder) {
                return std::make_unique<Linear>(data, builder.scope("other"));
              };
            }).find("other.output.weight"),
            std::string::npos);
  EXPECT_NE(error_of([](TrainingJob& next) {
              next.settings.initial_weights_without = {"outpt*"};
            }).find("pattern \"outpt*\" fits no parameter; there are output.weight, output.bias"),
            std::string::npos);
}

TEST_F(TrainerTest, EvaluatingWithoutValidationDataIsAnError) {
  TrainingJob plain = job("plain");
  plain.settings.validation_fraction = 0.0;
  Trainer trainer(std::move(plain), {.progress = false}, *self_);
  EXPECT_THROW(trainer.evaluate(), Error);
}

}  // namespace
}  // namespace lockstep
