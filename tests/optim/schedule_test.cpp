// Learning rates at every boundary of the schedules, and refusal of settings that make no sense.
#include "optim/schedule.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "core/error.h"

namespace lockstep {
namespace {

std::unique_ptr<Schedule> schedule_from(const std::string& toml, double base_rate, int64_t total_steps,
                                        int64_t steps_per_epoch = 10) {
  Configuration configuration = Configuration::parse("[schedule]\n" + toml + "\n", "test.toml", {});
  Section section = configuration.section("schedule");
  std::unique_ptr<Schedule> schedule = make_schedule(section, base_rate, total_steps, steps_per_epoch);
  configuration.reject_unknown();
  return schedule;
}

TEST(Schedule, IsConstantByDefault) {
  const auto schedule = schedule_from("", 0.3, 100);
  EXPECT_EQ(schedule->type(), "constant");
  for (int64_t update : {0, 1, 50, 99, 100, 1000}) EXPECT_EQ(schedule->learning_rate(update), 0.3);
}

TEST(Schedule, WarmupRisesLinearlyToTheFullRateWhateverTheType) {
  for (const std::string& type : schedule_types()) {
    const auto schedule = schedule_from("type = '" + type + "'\nwarmup = 4", 0.8, 100);
    EXPECT_EQ(schedule->type(), type);
    EXPECT_DOUBLE_EQ(schedule->learning_rate(0), 0.2) << type;
    EXPECT_DOUBLE_EQ(schedule->learning_rate(1), 0.4) << type;
    EXPECT_DOUBLE_EQ(schedule->learning_rate(2), 0.6) << type;
    EXPECT_EQ(schedule->learning_rate(3), 0.8) << type;
    EXPECT_EQ(schedule->learning_rate(4), 0.8) << type << ": the schedule itself starts at its full rate";
  }
}

TEST(Schedule, CosineFallsOverTheStepsAfterTheWarmup) {
  const auto schedule = schedule_from("type = 'cosine'\nwarmup = 20\nminimum_factor = 0.1", 2.0, 120);
  for (int64_t update = 20; update < 120; ++update) {
    const double progress = static_cast<double>(update - 20) / 100.0;
    const double expected = 0.2 + 1.8 * 0.5 * (1.0 + std::cos(std::numbers::pi * progress));
    EXPECT_NEAR(schedule->learning_rate(update), expected, 1e-15) << update;
    EXPECT_LE(schedule->learning_rate(update), schedule->learning_rate(update - 1)) << update;
  }
  EXPECT_NEAR(schedule->learning_rate(70), 1.1, 1e-15) << "half way";
  EXPECT_GT(schedule->learning_rate(119), 0.2);
  EXPECT_DOUBLE_EQ(schedule->learning_rate(120), 0.2);
  EXPECT_DOUBLE_EQ(schedule->learning_rate(5000), 0.2) << "the minimum holds after the end";
}

TEST(Schedule, CosineEndsNearZeroByDefault) {
  const auto schedule = schedule_from("type = 'cosine'", 1.0, 10);
  EXPECT_EQ(schedule->learning_rate(0), 1.0);
  EXPECT_GT(schedule->learning_rate(9), 0.0);
  EXPECT_LT(schedule->learning_rate(9), 0.03);
  EXPECT_EQ(schedule->learning_rate(10), 0.0);
}

TEST(Schedule, StepMultipliesByTheFactorEveryNUpdatesAfterTheWarmup) {
  const auto schedule = schedule_from("type = 'step'\nevery = 30\nfactor = 0.5\nwarmup = 5", 1.0, 200);
  EXPECT_EQ(schedule->learning_rate(5), 1.0);
  EXPECT_EQ(schedule->learning_rate(34), 1.0);
  EXPECT_EQ(schedule->learning_rate(35), 0.5);
  EXPECT_EQ(schedule->learning_rate(64), 0.5);
  EXPECT_EQ(schedule->learning_rate(65), 0.25);
  EXPECT_EQ(schedule->learning_rate(95), 0.125);
}

TEST(Schedule, UnitEpochsCountsWarmupAndStepsInEpochs) {
  const auto schedule =
      schedule_from("type = 'step'\nunit = 'epochs'\nevery = 3\nfactor = 0.1\nwarmup = 2", 1.0, 1000, 7);
  EXPECT_DOUBLE_EQ(schedule->learning_rate(0), 1.0 / 14);
  EXPECT_EQ(schedule->learning_rate(13), 1.0);
  EXPECT_EQ(schedule->learning_rate(14 + 20), 1.0);
  EXPECT_DOUBLE_EQ(schedule->learning_rate(14 + 21), 0.1);
}

TEST(Schedule, WarmupMayCoverTheWholeRun) {
  const auto schedule = schedule_from("type = 'cosine'\nwarmup = 10\nminimum_factor = 0.5", 1.0, 5);
  EXPECT_DOUBLE_EQ(schedule->learning_rate(4), 0.5);
  EXPECT_DOUBLE_EQ(schedule->learning_rate(9), 1.0);
  EXPECT_DOUBLE_EQ(schedule->learning_rate(10), 0.5);
}

TEST(Schedule, NegativeUpdateIsAnInternalError) {
  EXPECT_THROW(schedule_from("", 1.0, 10)->learning_rate(-1), Error);
}

TEST(ScheduleConfiguration, BadValuesAreUsageErrorsThatNameTheKey) {
  const std::vector<std::pair<std::string, std::string>> bad = {
      {"type = 'cosin'", "schedule.type"},
      {"type = 3", "schedule.type"},
      {"warmup = -1", "schedule.warmup"},
      {"warmup = 1.5", "schedule.warmup"},
      {"unit = 'days'", "schedule.unit"},
      {"type = 'cosine'\nminimum_factor = 1.1", "schedule.minimum_factor"},
      {"type = 'cosine'\nminimum_factor = -0.1", "schedule.minimum_factor"},
      {"type = 'step'\nevery = 0", "schedule.every"},
      {"type = 'step'\nfactor = 0", "schedule.factor"},
      {"type = 'step'\nfactor = 2", "schedule.factor"},
      {"type = 'constant'\nevery = 10", "schedule.every"},
      {"type = 'step'\nminimum_factor = 0.1", "schedule.minimum_factor"},
  };
  for (const auto& [toml, key] : bad) {
    try {
      schedule_from(toml, 1.0, 100);
      ADD_FAILURE() << toml;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUsage) << toml;
      EXPECT_NE(std::string(error.what()).find(key), std::string::npos) << error.what();
    }
  }
}

TEST(ScheduleConfiguration, DescribesTheKeysOfEveryType) {
  Configuration configuration = Configuration::for_description();
  for (const std::string& type : schedule_types()) {
    Section section = configuration.section("schedule");
    make_schedule(section, type, 1.0, 1, 1);
  }
  const std::string description = configuration.describe();
  for (const char* key : {"warmup", "unit", "minimum_factor", "every", "factor"}) {
    EXPECT_NE(description.find(key), std::string::npos) << key << "\n" << description;
  }
}

}  // namespace
}  // namespace lockstep
