// The two forms of a step's end: the same updates, and what they make of steps that lead to none.
#include "lockstep/train/step_end.h"

#include <gtest/gtest.h>

#include <limits>

#include "train/small_run.h"

namespace lockstep {
namespace {

using testing::SmallRun;
using testing::SmallRunOptions;

// A run whose steps are taken one by one.
class SteppedAlone {
 public:
  explicit SteppedAlone(const SmallRunOptions& options, double rate = 0.1)
      : run(options, *self_), schedule_(make_constant(rate)) {
    end = make_step_end({*run.replica, *run.pass, *schedule_, run.settings(), run.plan.micro_batches});
    end->start(0);
  }

  // With the samples of a step; `spoil` makes its first input that number.
  StepReport step(int64_t number, std::optional<double> spoil = {}) {
    end->begin(0);
    run.set_batch(number);
    if (spoil)
      run.batches[0].inputs().view({1}, 0).assign(run.batches[0].inputs().view({1}, 0).full_like(*spoil));
    run.pass->issue(end->cotangent({run.plan.micro_batch_size}), nullptr);
    end->issue();
    end->post(number + 1);
    end->decide(number + 1);
    return end->report(number + 1);
  }

  SmallRun& parts() { return run; }

 private:
  static std::unique_ptr<Schedule> make_constant(double rate) {
    Configuration configuration = Configuration::parse("", "test.toml", {});
    Section section = configuration.section("schedule");
    return make_schedule(section, rate, {100, 10, 12});
  }

  std::unique_ptr<Communicator> self_ = make_self_communicator();

 public:
  SmallRun run;
  std::unique_ptr<StepEnd> end;

 private:
  std::unique_ptr<Schedule> schedule_;
};

// A guard that nothing sets off makes the host look.
SmallRunOptions host_decides_on(SmallRunOptions options) {
  options.settings.guard.norm_z = 1e30;
  return options;
}

SmallRunOptions with_optimizer(const std::string& type) {
  SmallRunOptions options;
  options.optimizer = "type = \"" + type + "\"\n";
  options.settings.clip.global_norm = 0.05;
  return options;
}

TEST(StepEnd, DeviceAndHostLeaveTheSameBits) {
  for (const char* type : {"sgd", "momentum", "adamw", "lion"}) {
    SteppedAlone device(with_optimizer(type)), host(host_decides_on(with_optimizer(type)));
    EXPECT_TRUE(device.end->device_decides());
    EXPECT_FALSE(host.end->device_decides());
    for (int64_t step = 0; step < 5; ++step) {
      const StepReport one = device.step(step), other = host.step(step);
      EXPECT_EQ(one.loss, other.loss);
      EXPECT_EQ(one.gradient_norm, other.gradient_norm);
      EXPECT_EQ(one.learning_rate, other.learning_rate);
    }
    EXPECT_EQ(device.run.parameters(), host.run.parameters()) << type;
    EXPECT_EQ(device.run.replica->optimizer->updates(), 5);
    EXPECT_EQ(host.run.replica->optimizer->updates(), 5);
  }
}

TEST(StepEnd, NamesTheSettingThatTheHostIsNeededFor) {
  const auto reason = [](const SmallRunOptions& options) {
    SteppedAlone stepped(options);
    return host_decides(*stepped.run.replica->optimizer, options.settings);
  };
  EXPECT_EQ(reason(with_optimizer("adamw")), "");
  EXPECT_EQ(reason(host_decides_on(with_optimizer("adamw"))), "guard.norm_z_score");
  EXPECT_EQ(reason(with_optimizer("lamb")), "optimizer.type = \"lamb\"");
  SmallRunOptions options;
  options.settings.l2 = 0.1;
  EXPECT_EQ(reason(options), "train.l2");
}

TEST(StepEnd, WithoutALossScaleWhatIsNotFiniteIsADivergence) {
  for (const SmallRunOptions& options : {SmallRunOptions(), host_decides_on({})}) {
    SteppedAlone stepped(options);
    stepped.step(0);
    const std::vector<double> before = stepped.run.parameters();
    try {
      stepped.step(1, std::numeric_limits<double>::quiet_NaN());
      FAIL();
    } catch (const Divergence& divergence) {
      EXPECT_EQ(divergence.kind(), ErrorKind::kNumeric);
      EXPECT_STREQ(divergence.what(), "step 2: training diverged: loss nan, gradient norm nan");
    }
    EXPECT_EQ(stepped.run.parameters(), before);
  }
}

TEST(StepEnd, WithALossScaleItIsASkippedStepAndTheScaleBacksOff) {
  for (SmallRunOptions options : {SmallRunOptions(), host_decides_on({})}) {
    options.settings.loss_scale.mode = LossScaling::kDynamic;
    options.settings.loss_scale.initial = 1024.0;
    SteppedAlone stepped(options);
    stepped.step(0);
    const std::vector<double> before = stepped.run.parameters();
    EXPECT_EQ(stepped.step(1, std::numeric_limits<double>::infinity()).loss_scale, 1024.0);
    EXPECT_EQ(stepped.run.parameters(), before);
    EXPECT_EQ(stepped.run.replica->optimizer->updates(), 1);
    EXPECT_EQ(stepped.end->skipped_steps(), 1);
    EXPECT_EQ(stepped.end->loss_scale(), 512.0);
    EXPECT_EQ(stepped.step(2).loss_scale, 512.0);
    EXPECT_EQ(stepped.run.replica->optimizer->updates(), 2);
    EXPECT_NE(stepped.run.parameters(), before);
  }
}

TEST(StepEnd, TheLossScaleChangesNoBits) {
  SteppedAlone plain{SmallRunOptions()};
  SmallRunOptions scaled;
  scaled.settings.loss_scale.mode = LossScaling::kStatic;
  scaled.settings.loss_scale.initial = 4096.0;
  SteppedAlone other(scaled);
  for (int64_t step = 0; step < 3; ++step) EXPECT_EQ(plain.step(step).loss, other.step(step).loss);
  EXPECT_EQ(plain.run.parameters(), other.run.parameters());
}

TEST(StepEnd, KeepsItsCountersInCheckpoints) {
  SmallRunOptions options;
  options.settings.loss_scale.mode = LossScaling::kDynamic;
  options.settings.guard.loss_z = 100.0;
  SteppedAlone one(options), other(options);
  for (int64_t step = 0; step < 3; ++step) one.step(step);
  one.step(3, std::numeric_limits<double>::infinity());
  State state;
  one.end->describe(state);
  other.end->restore(state, "file.h5");
  State again;
  other.end->describe(again);
  again.scalars["/schedule/update"] = state.scalars["/schedule/update"];  // of the optimizer
  EXPECT_EQ(state.scalars, again.scalars);
  EXPECT_EQ(other.end->skipped_steps(), 1);
  state.scalars.erase("/loss_scale/scale");
  EXPECT_THROW(other.end->restore(state, "file.h5"), Error);
}

}  // namespace
}  // namespace lockstep
