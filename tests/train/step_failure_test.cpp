// Parts of a program's own that throw in the middle of a run: the last whole step is saved, all workers leave
// and say why, and nobody waits.
#include <gtest/gtest.h>

#include <filesystem>
#include <stdexcept>

#include "comm/threaded_communicator.h"
#include "lockstep/autodiff/node.h"
#include "lockstep/minimize/minimizer.h"
#include "lockstep/nn/batch_norm.h"
#include "lockstep/optim/adahessian.h"
#include "lockstep/optim/kfac.h"
#include "lockstep/optim/minimizing.h"
#include "lockstep/optim/nesterov.h"
#include "lockstep/optim/parameter_optimizer.h"
#include "lockstep/optim/sophia.h"
#include "lockstep/train/agreement.h"
#include "train/small_job.h"

namespace lockstep {
namespace {

using StepFailureTest = testing::SmallJobTest;

// y = x, whose derivative cannot be had.
class Broken final : public Node {
 public:
  const char* name() const override { return "broken"; }
  Saved saved() const override { return Saved::nothing(); }
  void vjp(const Tensor&, const Tensor&, InputGradients&) const override {
    throw std::out_of_range("no derivative");
  }
  Tensor jvp(const Tensor&, std::span<const Tensor> tangents) const override { return tangents[0]; }
};

// Where a model throws.
enum class Place { kForward, kUsage, kDerivative, kEvaluation, kNowhere };

// Of the newest model of this thread, which is a worker: its calls in training.
thread_local int calls_in_training = 0;

// Throws at its call number `call` in training, or in its first evaluation. normalized: has running
// statistics.
class Throwing final : public Module {
 public:
  Throwing(const DataShape& data, const ModuleBuilder& builder, Place place, int call,
           bool normalized = false)
      : linear_(data, builder), place_(place), call_(call) {
    if (normalized) norm_.emplace(data.sample.elements(), BatchNormOptions{}, builder.scope("norm"));
    calls_in_training = 0;
  }
  Tensor forward(const Tensor& x, ForwardContext& context) const override {
    const Tensor y = linear_.forward(norm_ ? norm_->forward(x, context) : x, context);
    if (!context.training) return place_ == Place::kEvaluation ? throw std::out_of_range("no value") : y;
    if (++calls_in_training != call_ || place_ == Place::kNowhere || place_ == Place::kEvaluation) return y;
    if (place_ == Place::kForward) throw std::out_of_range("no value");
    if (place_ == Place::kUsage) fail(ErrorKind::kUsage, "own: no such shape");
    return record<Broken>(y.detach(), {&y});
  }

 private:
  std::optional<BatchNormLayer> norm_;
  testing::Linear linear_;
  const Place place_;
  const int call_;
};

class StepFailures : public StepFailureTest {
 protected:
  using Optimizers = std::function<std::unique_ptr<Optimizer>()>;

  TrainingJob throwing(const std::string& output, const Optimizers& optimizer, Place place, int call) const {
    TrainingJob next = job(output);
    next.optimizer = optimizer;
    next.model = [place, call, normalized = normalized_](const DataShape& data,
                                                         const ModuleBuilder& builder) {
      return std::make_unique<Throwing>(data, builder, place, call, normalized);
    };
    return next;
  }

  // Threads that share a GPU are no workers of a run.
  static std::vector<int> numbers_of_workers() {
    return test_device() == "cpu" ? std::vector{1, 2} : std::vector{1};
  }

  // The run of `workers`, of whom the last throws; what came out of each.
  std::vector<std::string> failures(int workers, const std::string& output, const Optimizers& optimizer,
                                    Place place, int call, int64_t evaluate_every = 0,
                                    const std::function<TrainingJob(TrainingJob)>& change = {}) const {
    std::vector<std::string> what(static_cast<size_t>(workers));
    testing::run_threaded(workers, [&](Communicator& communicator) {
      const bool last = communicator.rank() == workers - 1;
      TrainingJob next = throwing(output, optimizer, last ? place : Place::kNowhere, call);
      next.settings.evaluate_every = evaluate_every;
      if (change) next = change(std::move(next));
      Trainer trainer(std::move(next), {}, communicator);
      try {
        trainer.run();
      } catch (const AgreedFailure& failure) {
        EXPECT_EQ(failure.kind(), place == Place::kUsage ? ErrorKind::kUsage : ErrorKind::kInternal);
        EXPECT_EQ(failure.speaks(), last);
        what[static_cast<size_t>(communicator.rank())] = failure.what();
      }
    });
    return what;
  }

  bool normalized_ = false;  // what throwing() makes
};

TEST_F(StepFailures, OfAModelCostNoWholeStepAndAreSaidByAll) {
  const std::vector<std::pair<std::string, Optimizers>> optimizers = {
      {"device_decides", [] { return make_adamw(AdamWOptions{}); }},
      {"looks_ahead", [] { return make_nesterov(NesterovOptions{}); }}};
  for (const auto& [name, optimizer] : optimizers) {
    TrainingJob whole = throwing(name, optimizer, Place::kNowhere, 0);
    whole.settings.checkpoint_every = 1;
    whole.settings.keep = 0;
    Trainer(whole, {}, *self_).run();
    for (const int workers : numbers_of_workers()) {
      for (const Place place : {Place::kForward, Place::kUsage, Place::kDerivative}) {
        // In step 6: of two micro-batches alone, in the first or the second, else of one.
        for (const int call : workers == 1 ? std::vector{11, 12} : std::vector{6}) {
          const std::string output =
              name + std::to_string(workers) + std::to_string(static_cast<int>(place)) + std::to_string(call);
          SCOPED_TRACE(output);
          const std::vector<std::string> what = failures(workers, output, optimizer, place, call);
          const std::string reason = place == Place::kUsage        ? "own: no such shape"
                                     : place == Place::kDerivative ? "no derivative"
                                                                   : "no value";
          EXPECT_EQ(what.back(), "step 6: " + reason);
          if (workers > 1) {
            EXPECT_EQ(what.front(), "step 6: rank 1: " + reason);
          }
          ASSERT_TRUE(std::filesystem::exists(scratch_.file(fmt_path(output, 5))));
          EXPECT_FALSE(std::filesystem::exists(scratch_.file(fmt_path(output, 6))));
          EXPECT_EQ(digest_at(output, 5), digest_at(name, 5));
          EXPECT_NE(testing::bytes_of(scratch_.file(output + "/status.json")).find("step 6: "),
                    std::string::npos);
          Trainer rest(throwing(output, optimizer, Place::kNowhere, 0), {.resume = true}, *self_);
          EXPECT_EQ(rest.run(), TrainOutcome::kFinished);
          EXPECT_EQ(digest_at(output, 20), digest_at(name, 20));
        }
      }
    }
  }
}

// Which look at the objective at many places within a step.
TEST_F(StepFailures, WithinAStepOfAMinimizerPutItsBeginningBack) {
  constexpr int kSteps = 6, kMicroBatches = 12;
  const std::vector<std::pair<std::string, Optimizers>> optimizers = {
      {"levenberg_marquardt", [] { return optimizer_of(make_levenberg_marquardt({})); }},
      {"lbfgs", [] { return optimizer_of(make_lbfgs({})); }},
      {"newton_cg", [] { return optimizer_of(make_newton_cg({})); }}};
  for (const auto& [name, optimizer] : optimizers) {
    const bool of_squares = name == "levenberg_marquardt";
    const auto minimizing = [&](TrainingJob next) {
      next.settings.steps = kSteps;
      next.settings.micro_batches = kMicroBatches;
      next.settings.learning_rate = RunSettings().learning_rate;
      next.settings.checkpoint_every = 1;
      next.settings.keep = 0;
      // Sums of squares are of numbers.
      if (of_squares) next.settings.train_data.classes = -1;
      return next;
    };
    const std::string whole = name;
    Trainer(minimizing(throwing(whole, optimizer, Place::kNowhere, 0)), {}, *self_).run();
    // Whose steps are all saved.
    const auto newest = [&](const std::string& output) {
      int step = 0;
      while (std::filesystem::exists(scratch_.file(fmt_path(output, step + 1)))) ++step;
      return step;
    };
    for (const int workers : numbers_of_workers()) {
      for (const Place place : {Place::kForward, Place::kDerivative}) {
        // Whose derivatives of residuals go forward.
        if (name == "levenberg_marquardt" && place == Place::kDerivative) continue;
        // Evaluations have so many calls each: in the first of an evaluation, and within one.
        const int before = name == "levenberg_marquardt" ? 6 : 3;
        for (const int call :
             {before * kMicroBatches / workers + 1, (before + 1) * kMicroBatches / workers - 1}) {
          const std::string output = name + std::to_string(workers) +
                                     std::to_string(static_cast<int>(place)) + "_" + std::to_string(call);
          SCOPED_TRACE(output);
          const auto what = failures(workers, output, optimizer, place, call, 0, minimizing);
          const std::string reason = place == Place::kDerivative ? "no derivative" : "no value";
          EXPECT_TRUE(what.back().starts_with("step ") && what.back().ends_with(": " + reason))
              << what.back();
          if (workers > 1) {
            EXPECT_TRUE(what.front().ends_with(": rank 1: " + reason)) << what.front();
          }
          const int saved = newest(output);
          for (int step = 1; step <= saved; ++step)
            EXPECT_EQ(digest_at(output, step), digest_at(whole, step)) << step;
          ASSERT_GT(saved, 0);
          EXPECT_TRUE(what.back().starts_with("step " + std::to_string(saved + 1) + ":")) << what.back();
          Trainer rest(minimizing(throwing(output, optimizer, Place::kNowhere, 0)), {.resume = true}, *self_);
          EXPECT_EQ(rest.run(), TrainOutcome::kFinished);
          EXPECT_EQ(newest(output), newest(whole));
          EXPECT_EQ(digest_at(output, newest(whole)), digest_at(whole, newest(whole)));
        }
      }
    }
  }
}

// Before its update, or behind it: a step is all that is behind them, or has not been.
TEST_F(StepFailures, InSweepsThatAnOptimizerAddsCostNoWholeStep) {
  constexpr int kSteps = 5, kFails = 3;
  normalized_ = true;
  struct Case {
    std::string name;
    Optimizers optimizer;
    int sweeps;                    // of a step
    int without_derivatives = -1;  // which of them, counted from 0, only evaluates
    bool sharded = false;
  };
  KfacOptions kfac{.factor_every = 1, .inverse_every = 2, .adapt_every = 1};
  const Optimizers cholesky = [kfac] { return make_kfac(kfac); };
  kfac.method = "ekfac";
  kfac.inverse_every = 1;
  const Optimizers ekfac = [kfac] { return make_kfac(kfac); };
  const std::vector<Case> cases = {{"kfac", cholesky, 4, 2},
                                   {"ekfac", ekfac, 4, 2},
                                   {"ekfac_sharded", ekfac, 4, 2, true},
                                   {"sophia", [] { return make_sophia({.every = 1}); }, 2},
                                   {"sophia_sharded", [] { return make_sophia({.every = 1}); }, 2, -1, true},
                                   {"adahessian", [] { return make_adahessian({.every = 1}); }, 2}};
  for (const Case& each : cases) {
    const auto change = [&](TrainingJob next) {
      next.settings.steps = kSteps;
      next.settings.shard_optimizer = each.sharded;
      next.settings.guard.loss_z = 1e9;  // learns, and skips nothing
      next.settings.average.type = AverageSettings::Type::kEma;
      next.settings.log_every = 1;
      return next;
    };
    for (const int workers : numbers_of_workers()) {
      // How many calls there have been before the step that is to fail, and behind it.
      int before = 0, behind = 0;
      const std::string whole = each.name + std::to_string(workers);
      testing::run_threaded(workers, [&](Communicator& communicator) {
        TrainOptions options;
        if (communicator.rank() == workers - 1) {
          options.on_step = [&](const StepMetrics& metrics) {
            if (metrics.step == kFails - 1) before = calls_in_training;
            if (metrics.step == kFails) behind = calls_in_training;
          };
        }
        TrainingJob next = change(throwing(whole, each.optimizer, Place::kNowhere, 0));
        next.settings.checkpoint_every = 1;
        next.settings.keep = 0;
        Trainer(std::move(next), options, communicator).run();
      });
      const int micro_batches = 2 / workers;
      ASSERT_EQ(behind - before, each.sweeps * micro_batches) << whole;
      for (const Place place : {Place::kForward, Place::kDerivative}) {
        for (int call = before + 1; call <= behind; ++call) {
          const int sweep = (call - before - 1) / micro_batches;
          if (place == Place::kDerivative && sweep == each.without_derivatives) continue;
          const std::string output =
              whole + "_" + std::to_string(static_cast<int>(place)) + "_" + std::to_string(call);
          SCOPED_TRACE(output);
          const auto what = failures(workers, output, each.optimizer, place, call, 0, change);
          const std::string reason = place == Place::kDerivative ? "no derivative" : "no value";
          EXPECT_EQ(what.back(), "step 3: " + reason);
          if (workers > 1) {
            EXPECT_EQ(what.front(), "step 3: rank 1: " + reason);
          }
          ASSERT_TRUE(std::filesystem::exists(scratch_.file(fmt_path(output, kFails - 1))));
          EXPECT_FALSE(std::filesystem::exists(scratch_.file(fmt_path(output, kFails))));
          EXPECT_EQ(digest_at(output, kFails - 1), digest_at(whole, kFails - 1));
          testing::run_threaded(workers, [&](Communicator& communicator) {
            TrainingJob rest = change(throwing(output, each.optimizer, Place::kNowhere, 0));
            Trainer(std::move(rest), {.resume = true}, communicator).run();
          });
          EXPECT_EQ(digest_at(output, kSteps), digest_at(whole, kSteps));
        }
      }
    }
  }
}

TEST_F(StepFailures, OfTheFirstStepLeaveNoCheckpoint) {
  const auto adamw = [] { return make_adamw(AdamWOptions{}); };
  for (const int workers : numbers_of_workers()) {
    const std::string output = "first" + std::to_string(workers);
    EXPECT_EQ(failures(workers, output, adamw, Place::kForward, 1).back(), "step 1: no value");
    EXPECT_FALSE(std::filesystem::exists(scratch_.file(fmt_path(output, 0))));
  }
}

TEST_F(StepFailures, OfAnEvaluationComeBehindItsStep) {
  const auto adamw = [] { return make_adamw(AdamWOptions{}); };
  TrainingJob whole = throwing("whole", adamw, Place::kNowhere, 0);
  whole.settings.steps = 7;
  Trainer(whole, {}, *self_).run();
  for (const int workers : numbers_of_workers()) {
    const std::string output = "evaluation" + std::to_string(workers);
    SCOPED_TRACE(output);
    EXPECT_EQ(failures(workers, output, adamw, Place::kEvaluation, 0, 7).back(), "no value");
    const State saved = read_checkpoint(scratch_.file(fmt_path(output, 7)));
    EXPECT_EQ(
        testing::bytes_of(saved, "/parameters/output.weight"),
        testing::bytes_of(read_checkpoint(scratch_.file(fmt_path("whole", 7))), "/parameters/output.weight"));
  }
}

TEST_F(StepFailures, InALoopOfTheProgramsOwnLeaveItToSave) {
  const auto adamw = [] { return make_adamw(AdamWOptions{}); };
  Trainer trainer(throwing("own", adamw, Place::kForward, 7), {}, *self_);
  for (int i = 0; i < 3; ++i) trainer.step();
  for (int again = 0; again < 2; ++again) EXPECT_THROW(trainer.step(), AgreedFailure);
  EXPECT_EQ(trainer.steps_done(), 3);
  trainer.save();
  trainer.finish();
  TrainingJob whole = throwing("three", adamw, Place::kNowhere, 0);
  whole.settings.checkpoint_every = 3;
  whole.settings.keep = 0;
  Trainer(whole, {}, *self_).run();
  EXPECT_EQ(digest_at("own", 3), digest_at("three", 3));
}

// Changes one parameter, and throws at the next.
class HalfWay final : public ParameterOptimizer {
 public:
  HalfWay() : ParameterOptimizer("half_way") {}

 protected:
  void declare_state(size_t, const ParameterEntry&) override {}
  void update_parameter(const ParameterUpdate& update) override {
    if (++calls_ == 10) throw std::out_of_range("half way");
    Tensor parameter = update.parameter;
    parameter.assign(parameter.full_like(static_cast<double>(calls_)));
  }

 private:
  int calls_ = 0;
};

TEST_F(StepFailures, OfAnOptimizerHalfWayAreNotSavedAsAStep) {
  TrainingJob next = job("half");
  next.settings.checkpoint_every = 2;
  next.optimizer = [] { return std::make_unique<HalfWay>(); };
  EXPECT_THROW(Trainer(std::move(next), {}, *self_).run(), std::out_of_range);
  EXPECT_TRUE(std::filesystem::exists(scratch_.file(fmt_path("half", 4))));
  EXPECT_FALSE(std::filesystem::exists(scratch_.file(fmt_path("half", 5))));
  EXPECT_NE(testing::bytes_of(scratch_.file("half/status.json")).find("\"exit_code\":1"), std::string::npos);
}

TEST_F(StepFailures, OfAnOptimizerHalfWayLeaveALoopOfTheProgramsOwnNothingToSave) {
  TrainingJob next = job("own_half");
  next.optimizer = [] { return std::make_unique<HalfWay>(); };
  Trainer trainer(std::move(next), {}, *self_);
  EXPECT_THROW(while (true) trainer.step(), std::out_of_range);
  for (const auto& go_on : {&Trainer::save, &Trainer::step}) {
    try {
      (trainer.*go_on)();
      ADD_FAILURE() << "not refused";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUsage);
      EXPECT_NE(std::string(error.what()).find("update has failed on the way"), std::string::npos)
          << error.what();
    }
  }
}

}  // namespace
}  // namespace lockstep
