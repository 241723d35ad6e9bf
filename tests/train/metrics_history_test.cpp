// Series of a metrics.jsonl: long ones, cut ones, ones that begin again.
#include "lockstep/train/metrics_history.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "hdf5/scratch_directory.h"

namespace lockstep {
namespace {

using Points = std::vector<std::pair<double, double>>;

TEST(MetricSeries, AMillionStepsAreAFewThousandPointsOfTheSameMean) {
  MetricSeries series;
  for (int64_t step = 1; step <= 1'000'000; ++step) {
    const double value = step == 700'000 ? -1.0 : 1.0 / static_cast<double>(step);
    series.add(static_cast<double>(step), value);
  }
  const Points points = series.points();
  EXPECT_LE(points.size(), MetricSeries::kMostGroups);
  EXPECT_GT(points.size(), MetricSeries::kMostGroups / 2 - 1);
  EXPECT_GT(points.front().second, points[1].second);
  EXPECT_EQ(series.last_step(), 1e6);
  EXPECT_EQ(series.last(), 1e-6);
  EXPECT_EQ(series.least(), -1.0);
  EXPECT_EQ(series.least_step(), 700'000.0);
}

// As a run that was resumed does, whose lines nobody has cut.
TEST(MetricSeries, StepsThatAreTakenAgainReplaceWhatWasToldOfThem) {
  MetricSeries series;
  for (const auto& [step, value] : Points{{1, 5}, {2, 4}, {3, 0.5}, {4, 2}, {3, 3}, {4, 2.5}, {4, 2.25}})
    series.add(step, value);
  EXPECT_EQ(series.points(), (Points{{1, 5}, {2, 4}, {3, 3}, {4, 2.25}}));
  EXPECT_EQ(series.least(), 2.25);
  EXPECT_EQ(series.least_step(), 4.0);
}

TEST(MetricSeries, WhatIsNotFiniteIsCountedAndNoPoint) {
  MetricSeries series;
  series.add(1, 2.0);
  series.add(2, std::nan(""));
  series.add(3, INFINITY);
  EXPECT_EQ(series.points(), (Points{{1, 2.0}}));
  EXPECT_EQ(series.not_finite(), 2);
  EXPECT_EQ(series.first_not_finite(), 2.0);
}

TEST(MetricsHistory, ReadsAFileAsItGrowsAndPassesOverWhatIsNoLine) {
  const testing::ScratchDirectory scratch;
  const std::string path = scratch.file("m");
  MetricsHistory history;
  EXPECT_FALSE(history.read(path));
  EXPECT_FALSE(history.read(scratch.file(".")));
  testing::overwrite(path,
                     "{\"step\":1,\"loss\":2,\"name\":\"x\"}\n[]\n\xff\n{\"loss\":1}\n{\"step\":2,\"lo");
  EXPECT_TRUE(history.read(path));
  EXPECT_EQ(history["loss"].points(), (Points{{1, 2}}));
  testing::overwrite(path, testing::bytes_of(path) + "ss\":1}\n{\"step\":3,\"loss\":null}\n");
  EXPECT_TRUE(history.read(path));
  EXPECT_EQ(history["loss"].points(), (Points{{1, 2}, {2, 1}}));
  EXPECT_EQ(history["loss"].not_finite(), 1);
  EXPECT_EQ(history.bad_lines(), 3);
  EXPECT_TRUE(history["name"].empty());
  // A run that began anew.
  testing::overwrite(path, "{\"step\":1,\"loss\":9}\n");
  EXPECT_TRUE(history.read(path));
  EXPECT_EQ(history["loss"].points(), (Points{{1, 9}}));
}

// A run that was begun anew, or cut to its checkpoint, and has gone on beyond where it was before.
TEST(MetricsHistory, AFileThatIsAnotherOneIsReadAnewHoweverLongItIs) {
  const testing::ScratchDirectory scratch;
  const std::string path = scratch.file("metrics.jsonl");
  const auto lines = [](int first, int last, int loss) {
    std::string text;
    for (int step = first; step <= last; ++step)
      text += "{\"step\":" + std::to_string(step) + ",\"loss\":" + std::to_string(loss) + "}\n";
    return text;
  };
  MetricsHistory history;
  testing::overwrite(path, lines(1, 3, 5));
  EXPECT_TRUE(history.read(path));
  testing::overwrite(path, lines(1, 4, 7));
  EXPECT_TRUE(history.read(path));
  EXPECT_EQ(history["loss"].points(), (Points{{1, 7}, {2, 7}, {3, 7}, {4, 7}}));
  testing::overwrite(path, lines(1, 2, 7) + lines(3, 6, 8));
  EXPECT_TRUE(history.read(path));
  EXPECT_EQ(history["loss"].points(), (Points{{1, 7}, {2, 7}, {3, 8}, {4, 8}, {5, 8}, {6, 8}}));
  EXPECT_EQ(history.lines(), 6);
  testing::overwrite(path, lines(1, 2, 7) + lines(3, 6, 8) + lines(7, 7, 1));
  EXPECT_TRUE(history.read(path));
  EXPECT_EQ(history["loss"].last(), 1.0);
  EXPECT_EQ(history.lines(), 7);
  EXPECT_EQ(history.bad_lines(), 0);
}

TEST(MetricsHistory, TheLossOfABatchInWhichNothingCountsIsNoFault) {
  MetricsHistory history;
  history.add(
      "{\"step\":1,\"loss\":2,\"gradient_norm\":1}\n{\"step\":2,\"loss\":null,\"gradient_norm\":0.0}\n"
      "{\"step\":3,\"loss\":1,\"gradient_norm\":1}\n");
  EXPECT_EQ(history["loss"].not_finite(), 0);
  EXPECT_EQ(history["loss"].points(), (Points{{1, 2}, {3, 1}}));
  history.add("{\"step\":4,\"loss\":null,\"gradient_norm\":null}\n");
  EXPECT_EQ(history["loss"].not_finite(), 1);
  EXPECT_EQ(history["loss"].first_not_finite(), 4.0);
}

}  // namespace
}  // namespace lockstep
