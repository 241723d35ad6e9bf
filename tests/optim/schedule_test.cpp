// Learning rates at every boundary of the schedules, and refusal of settings that make no sense.
#include "lockstep/optim/schedule.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "lockstep/core/error.h"

namespace lockstep {
namespace {

std::unique_ptr<Schedule> schedule_from(const std::string& toml, double base_rate, int64_t total_steps,
                                        int64_t steps_per_epoch = 10, int64_t samples_per_step = 32,
                                        int64_t tokens_per_step = 0) {
  Configuration configuration = Configuration::parse("[schedule]\n" + toml + "\n", "test.toml", {});
  Section section = configuration.section("schedule");
  std::unique_ptr<Schedule> schedule =
      make_schedule(section, base_rate, {total_steps, steps_per_epoch, samples_per_step, tokens_per_step});
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
    if (type == "one_cycle") continue;  // rises by itself
    const auto schedule = schedule_from("type = '" + type + "'\nwarmup = 4", 0.8, 100);
    EXPECT_EQ(schedule->type(), type);
    EXPECT_DOUBLE_EQ(schedule->learning_rate(0), 0.2) << type;
    EXPECT_DOUBLE_EQ(schedule->learning_rate(1), 0.4) << type;
    EXPECT_DOUBLE_EQ(schedule->learning_rate(2), 0.6) << type;
    EXPECT_EQ(schedule->learning_rate(3), 0.8) << type;
    EXPECT_EQ(schedule->learning_rate(4), 0.8) << type << ": the schedule itself starts at its full rate";
  }
}

// As recipes of language models state them: lengths in tokens, whatever the batch.
TEST(Schedule, CountsInTokens) {
  // 100 steps of 500 tokens; a warmup of 2,250 tokens ends in the middle of the fifth step.
  const auto cosine = schedule_from("type = 'cosine'\nunit = 'tokens'\nwarmup = 2250", 1.0, 100, 10, 4, 500);
  EXPECT_DOUBLE_EQ(cosine->learning_rate(0), 500.0 / 2250.0);
  EXPECT_DOUBLE_EQ(cosine->learning_rate(3), 2000.0 / 2250.0);
  EXPECT_DOUBLE_EQ(cosine->learning_rate(4), 1.0);
  EXPECT_DOUBLE_EQ(cosine->learning_rate(50),
                   0.5 * (1.0 + std::cos(std::numbers::pi * (25000.0 - 2250.0) / (50000.0 - 2250.0))));
  EXPECT_EQ(cosine->warmup(), 5);
  const auto stable =
      schedule_from("type = 'warmup_stable_decay'\nunit = 'tokens'\nwarmup = 1000\ndecay_fraction = 0.2", 1.0,
                    100, 10, 4, 500);
  EXPECT_EQ(stable->learning_rate(79), 1.0);
  EXPECT_DOUBLE_EQ(stable->learning_rate(90), 1.0 - std::sqrt(0.5));
  const auto large = schedule_from("unit = 'tokens'\nwarmup = 3000000000", 1.0, 10000, 10, 4, 500000);
  EXPECT_DOUBLE_EQ(large->learning_rate(2999), 0.5);
  EXPECT_THROW(schedule_from("unit = 'tokens'\nwarmup = 10", 1.0, 100), Error);
}

TEST(Schedule, PlateauFallsAfterPatienceAndRests) {
  // Followed by hand, and as torch.optim.lr_scheduler.ReduceLROnPlateau(factor=0.5, patience=1,
  // threshold=0.1, cooldown=1) goes.
  const auto schedule = schedule_from(
      "type = 'plateau'\nfactor = 0.5\npatience = 1\nthreshold = 0.1\ncooldown = 1\nminimum_factor = 0.2",
      1.0, 100);
  EXPECT_TRUE(schedule->observes());
  const std::vector<std::pair<double, double>> course = {
      {1.00, 1.0},               // the first is the best
      {0.95, 1.0},               // better, but not by a tenth: worse, 1
      {0.89, 1.0},               // the best
      {0.89, 1.0}, {0.85, 0.5},  // the second that is no better: the rate falls
      {0.99, 0.5},               // does not count
      {0.99, 0.5}, {std::nan(""), 0.25}, {0.99, 0.25}, {0.99, 0.25}, {0.99, 0.2},  // the minimum
      {0.10, 0.2},
  };
  for (size_t i = 0; i < course.size(); ++i) {
    schedule->observe(course[i].first);
    EXPECT_DOUBLE_EQ(schedule->learning_rate(static_cast<int64_t>(i)), course[i].second) << i;
  }
}

TEST(Schedule, PlateauGoesOnFromItsState) {
  const std::string toml = "type = 'plateau'\nfactor = 0.5\npatience = 2\ncooldown = 2";
  for (int split = 0; split < 12; ++split) {
    const auto first = schedule_from(toml, 1.0, 100), second = schedule_from(toml, 1.0, 100),
               straight = schedule_from(toml, 1.0, 100);
    for (int i = 0; i < 12; ++i) {
      const double loss = i % 5 == 0 ? 1.0 / (i + 1.0) : 1.0;
      straight->observe(loss);
      (i < split ? first : second)->observe(loss);
      if (i + 1 == split) second->set_state(first->state());
    }
    EXPECT_EQ(second->state(), straight->state()) << split;
    EXPECT_EQ(second->learning_rate(9), straight->learning_rate(9)) << split;
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

TEST(Schedule, UnitSamplesKnowsWhereInAPeriodAStepLies) {
  const auto schedule = schedule_from(
      "type = 'step'\nunit = 'samples'\nevery = 320\nfactor = 0.5\nwarmup = 65", 1.0, 1000, 7, 32);
  EXPECT_EQ(schedule->warmup(), 3) << "65 samples need 3 steps of 32";
  EXPECT_DOUBLE_EQ(schedule->learning_rate(0), 32.0 / 65);
  EXPECT_DOUBLE_EQ(schedule->learning_rate(1), 64.0 / 65);
  EXPECT_EQ(schedule->learning_rate(2), 1.0) << "not above the full rate";
  EXPECT_EQ(schedule->learning_rate(3), 1.0);
  // Sample 384 is the 319th after the warmup; 13 * 32 - 65 = 351.
  EXPECT_EQ(schedule->learning_rate(12), 1.0);
  EXPECT_EQ(schedule->learning_rate(13), 0.5);
  // 22 * 32 - 65 = 639, 23 * 32 - 65 = 671.
  EXPECT_EQ(schedule->learning_rate(22), 0.5);
  EXPECT_EQ(schedule->learning_rate(23), 0.25);
}

TEST(Schedule, UnitSamplesDoesNotRoundPeriodsToWholeSteps) {
  // 64 of 72 samples a step: 0.5^(64 / 72) = 0.540, not 0.5^(1/2) = 0.707 as if a period were two steps.
  const auto schedule =
      schedule_from("type = 'exponential'\nunit = 'samples'\nevery = 72\nfactor = 0.5", 1.0, 1000, 7, 64);
  for (int64_t update = 0; update < 20; ++update) {
    EXPECT_NEAR(schedule->learning_rate(update), std::pow(0.5, 64.0 * static_cast<double>(update) / 72),
                1e-15);
  }
  // A period shorter than a step: seven of them in each.
  const auto fast =
      schedule_from("type = 'step'\nunit = 'samples'\nevery = 9\nfactor = 0.9", 1.0, 1000, 7, 64);
  EXPECT_NEAR(fast->learning_rate(1), std::pow(0.9, 7), 1e-15);
  EXPECT_NEAR(fast->learning_rate(9), std::pow(0.9, 64), 1e-15);
}

TEST(Schedule, UnitSamplesGivesTheRatesOfStepsWhereLengthsAreWholeSteps) {
  for (const std::string& type : schedule_types()) {
    const std::string warmup = type == "one_cycle" ? "" : "\nwarmup = ";
    const bool periodic = type == "step" || type == "exponential";
    const auto steps = schedule_from(
        "type = '" + type + "'" + (warmup.empty() ? "" : warmup + "6") + (periodic ? "\nevery = 9" : ""), 0.3,
        100);
    const auto samples =
        schedule_from("type = '" + type + "'\nunit = 'samples'" + (warmup.empty() ? "" : warmup + "192") +
                          (periodic ? "\nevery = 288" : ""),
                      0.3, 100);
    EXPECT_EQ(samples->warmup(), steps->warmup());
    for (int64_t update = 0; update < 110; ++update) {
      EXPECT_NEAR(samples->learning_rate(update), steps->learning_rate(update), 1e-15)
          << type << " " << update;
    }
  }
}

TEST(Schedule, RatesAreMadeOfNoFunctionOfTheCLibrary) {
  // The nearest numbers to what the formulas say, computed with mpmath in 300 bits.
  const auto cosine = schedule_from("type = 'cosine'", 1.0, 7);
  EXPECT_EQ(cosine->learning_rate(0), 1.0);
  EXPECT_EQ(schedule_from("type = 'cosine'", 1.0, 8)->learning_rate(4), 0.5);
  const auto exponential = schedule_from("type = 'exponential'\nevery = 3\nfactor = 0.7", 1.0, 100);
  EXPECT_EQ(exponential->learning_rate(1), 0.8879040017426006);
  EXPECT_EQ(exponential->learning_rate(50), 0.0026199962330459817);
}

TEST(Schedule, LinearFallsInEqualStepsToTheMinimum) {
  const auto schedule = schedule_from("type = 'linear'\nwarmup = 20\nminimum_factor = 0.25", 2.0, 120);
  for (int64_t update = 20; update < 120; ++update) {
    EXPECT_NEAR(schedule->learning_rate(update), 2.0 - 1.5 * static_cast<double>(update - 20) / 100.0, 1e-15);
  }
  EXPECT_EQ(schedule->learning_rate(120), 0.5);
  EXPECT_EQ(schedule->learning_rate(9999), 0.5);
}

TEST(Schedule, ExponentialPassesThroughThePointsOfTheStepSchedule) {
  const auto schedule = schedule_from("type = 'exponential'\nevery = 30\nfactor = 0.5\nwarmup = 5", 1.0, 200);
  EXPECT_EQ(schedule->learning_rate(5), 1.0);
  EXPECT_NEAR(schedule->learning_rate(20), std::sqrt(0.5), 1e-15) << "half way to the first point";
  EXPECT_EQ(schedule->learning_rate(35), 0.5);
  EXPECT_EQ(schedule->learning_rate(65), 0.25);
}

TEST(Schedule, InverseSquareRootContinuesItsWarmup) {
  const auto schedule = schedule_from("type = 'inverse_sqrt'\nwarmup = 100", 0.5, 1000);
  EXPECT_EQ(schedule->learning_rate(99), 0.5);
  EXPECT_EQ(schedule->learning_rate(100), 0.5);
  EXPECT_NEAR(schedule->learning_rate(400), 0.25, 1e-15) << "four times as far, half the rate";
  EXPECT_NEAR(schedule->learning_rate(900), 0.5 / 3, 1e-15);
  EXPECT_NEAR(schedule_from("type = 'inverse_sqrt'", 1.0, 10)->learning_rate(3), 0.5, 1e-15);
}

TEST(Schedule, WarmupStableDecayDecaysOverTheLastFifth) {
  const auto schedule =
      schedule_from("type = 'warmup_stable_decay'\nwarmup = 10\nminimum_factor = 0.1", 2.0, 200);
  for (int64_t update = 9; update <= 160; ++update) EXPECT_EQ(schedule->learning_rate(update), 2.0) << update;
  EXPECT_LT(schedule->learning_rate(161), 2.0);
  EXPECT_NEAR(schedule->learning_rate(170), 2.0 * (0.1 + 0.9 * 0.5), 1e-15) << "a quarter of the decay";
  EXPECT_GT(schedule->learning_rate(199), 0.2);
  EXPECT_EQ(schedule->learning_rate(200), 0.2);
  const auto none = schedule_from("type = 'warmup_stable_decay'\ndecay_fraction = 0", 1.0, 10);
  EXPECT_EQ(none->learning_rate(9), 1.0);
  // No jump where warmup and decay do not both fit: the decay has what the warmup leaves.
  const auto tight = schedule_from("type = 'warmup_stable_decay'\nwarmup = 6\ndecay_fraction = 0.8", 1.0, 10);
  EXPECT_EQ(tight->learning_rate(5), 1.0);
  EXPECT_EQ(tight->learning_rate(6), 1.0);
  EXPECT_EQ(tight->learning_rate(7), 0.5);
  EXPECT_EQ(tight->learning_rate(10), 0.0);
  const auto all = schedule_from("type = 'warmup_stable_decay'\ndecay_fraction = 1", 1.0, 16);
  EXPECT_EQ(all->learning_rate(0), 1.0);
  EXPECT_EQ(all->learning_rate(4), 0.5);
}

// What PyTorch's OneCycleLR(max_lr=0.4, total_steps=10) gives.
TEST(Schedule, OneCycleRisesAndFallsAlongCosines) {
  const std::vector<double> expected = {0.016000000000000014,
                                        0.20800000000000002,
                                        0.4,
                                        0.38019385280538953,
                                        0.3246982615799052,
                                        0.24450480877451572,
                                        0.1554967912254843,
                                        0.0753033384200948,
                                        0.019807747194610516,
                                        1.6e-06};
  const auto schedule = schedule_from("type = 'one_cycle'", 0.4, 10);
  for (size_t u = 0; u < expected.size(); ++u) {
    EXPECT_NEAR(schedule->learning_rate(static_cast<int64_t>(u)), expected[u], 1e-15) << u;
  }
  EXPECT_NEAR(schedule->learning_rate(50), expected.back(), 1e-15);
  const auto other = schedule_from(
      "type = 'one_cycle'\nrise_fraction = 0.45\ninitial_divisor = 10\nfinal_divisor = 50", 0.4, 10);
  const std::vector<double> second = {
      0.03999999999999998, 0.10777183566542792, 0.2600537681121366,  0.38217439622243543, 0.3919147975334537,
      0.33111020249547896, 0.22880604171934774, 0.11748316340482348, 0.03248579484689621, 0.0008};
  for (size_t u = 0; u < second.size(); ++u) {
    EXPECT_NEAR(other->learning_rate(static_cast<int64_t>(u)), second[u], 1e-15) << u;
  }
}

TEST(Schedule, OneCycleThatRisesToTheEndEndsAtItsPeak) {
  const auto schedule = schedule_from("type = 'one_cycle'\nrise_fraction = 1.0", 0.4, 10);
  for (int64_t u = 1; u < 10; ++u) EXPECT_GT(schedule->learning_rate(u), schedule->learning_rate(u - 1)) << u;
  EXPECT_DOUBLE_EQ(schedule->learning_rate(9), 0.4);
  EXPECT_DOUBLE_EQ(schedule->learning_rate(50), 0.4);
}

TEST(Schedule, RatesOfTheShortestRunsAreFinite) {
  for (const std::string& type : schedule_types()) {
    for (int64_t total : {1, 2}) {
      for (int64_t update : {0, 1, 2}) {
        const double rate = schedule_from("type = '" + type + "'", 1.0, total)->learning_rate(update);
        EXPECT_TRUE(rate >= 0.0 && rate <= 1.0) << type << " " << total << " " << update << " " << rate;
      }
    }
  }
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
      {"type = 'one_cycle'\nwarmup = 1", "schedule.warmup: must be 0"},
      {"type = 'one_cycle'\nrise_fraction = 1.5", "schedule.rise_fraction"},
      {"type = 'one_cycle'\ninitial_divisor = 0", "schedule.initial_divisor"},
      {"type = 'warmup_stable_decay'\ndecay_fraction = -1", "schedule.decay_fraction"},
      {"type = 'exponential'\nfactor = 0", "schedule.factor"},
      {"type = 'linear'\nevery = 10", "schedule.every"},
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
    make_schedule(section, type, 1.0, {});
  }
  std::string description;
  for (const KeyDescription& key : configuration.keys()) description += key.key + " ";
  for (const char* key : {"warmup", "unit", "minimum_factor", "every", "factor", "decay_fraction",
                          "rise_fraction", "initial_divisor", "final_divisor"}) {
    EXPECT_NE(description.find(key), std::string::npos) << key << "\n" << description;
  }
}

}  // namespace
}  // namespace lockstep
