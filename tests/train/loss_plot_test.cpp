// The loss plot: a picture that every XML reader accepts, a chart of the size asked for, points where they
// belong.
#include "lockstep/train/loss_plot.h"

#include <gtest/gtest.h>

#include <cmath>
#include <regex>
#include <sstream>

#include "train/xml_fault.h"

namespace lockstep {
namespace {

using testing::xml_fault;

LossCurves falling(int points) {
  LossCurves curves;
  for (int i = 1; i <= points; ++i) curves.training.emplace_back(i, 2.0 / i);
  return curves;
}

// All pairs "x,y" of the first polyline.
std::vector<std::pair<double, double>> first_line(const std::string& svg) {
  std::vector<std::pair<double, double>> points;
  const std::string opening = "<polyline points=\"";
  const size_t at = svg.find(opening);
  if (at == std::string::npos) return points;
  const size_t begin = at + opening.size();
  std::istringstream text(svg.substr(begin, svg.find('"', begin) - begin));
  double x = 0.0, y = 0.0;
  char comma = 0;
  while (text >> x >> comma >> y) points.emplace_back(x, y);
  return points;
}

TEST(LossPlot, ReadsTrainingAndValidationAndSkipsWhatIsNoLoss) {
  MetricsHistory history;
  history.add(
      "{\"step\":1,\"loss\":2.5}\n{\"step\":1,\"digest\":\"aa\"}\n{\"step\":2,\"loss\":null}\nnot "
      "json\n[1]\n\n"
      "{\"step\":2,\"validation_loss\":1.5}\n{\"loss\":9}\n{\"step\":3,\"loss\":0.5}\n{\"step\":4,\"lo");
  const LossCurves curves = loss_curves(history);
  using Curve = std::vector<std::pair<double, double>>;
  EXPECT_EQ(curves.training, (Curve{{1, 2.5}, {3, 0.5}}));
  EXPECT_EQ(curves.validation, (Curve{{2, 1.5}}));
}

TEST(LossPlot, ThePictureIsWellFormedForAnyCurves) {
  std::vector<LossCurves> cases = {{}, falling(1), falling(2), falling(5000)};
  cases.push_back({{{1, 0.0}}, {}});
  cases.push_back({{{1, 3.0}, {2, 3.0}}, {}});
  cases.push_back({{{1, -2.0}, {2, 1.0}}, {}});
  cases.push_back({{{1, 1e-300}, {2, 1e300}}, {{2, 1e100}}});
  cases.push_back({{}, {{10, 0.5}}});
  for (const LossCurves& curves : cases) {
    const std::string svg = loss_svg(curves, "run <a> & \"b\"");
    EXPECT_EQ(xml_fault(svg), "") << svg.substr(0, 2000);
    EXPECT_NE(svg.find("run &lt;a&gt; &amp; \"b\""), std::string::npos);
    EXPECT_EQ(svg.find("nan"), std::string::npos);
    EXPECT_EQ(svg.find("inf"), std::string::npos);
  }
}

TEST(LossPlot, ThePictureIsWellFormedForAnyName) {
  // Control characters, bytes that are no UTF-8, and characters that XML has no place for.
  const std::string svg =
      loss_svg(falling(3), "a\x01\x1b[31m\r\xff\xc2\x85 \xef\xbf\xbe\xef\xbf\xbf <\xe6\xbc\xa2>");
  EXPECT_EQ(xml_fault(svg), "");
  EXPECT_NE(svg.find(">a??[31m?\xef\xbf\xbd? ?? &lt;\xe6\xbc\xa2&gt;<"), std::string::npos)
      << svg.substr(0, 400);
}

TEST(LossPlot, PointsLieInThePictureFromLeftToRightAndHigherLossesHigher) {
  for (const int points : {2, 40, 5000}) {
    const auto line = first_line(loss_svg(falling(points), "loss"));
    ASSERT_GE(line.size(), 2u);
    EXPECT_LE(line.size(), 600u) << "long runs are thinned";
    for (size_t i = 0; i < line.size(); ++i) {
      EXPECT_GE(line[i].first, 0.0);
      EXPECT_LE(line[i].first, 720.0);
      EXPECT_GE(line[i].second, 0.0);
      EXPECT_LE(line[i].second, 420.0);
      if (i > 0) {
        EXPECT_GE(line[i].first, line[i - 1].first);
        EXPECT_GE(line[i].second, line[i - 1].second) << "y points down";
      }
    }
  }
}

TEST(LossPlot, TheAxisIsLogarithmicFromAFactorOf50On) {
  const auto middle = [](double low) {
    const auto line = first_line(loss_svg({{{0, 1.0}, {1, std::sqrt(low)}, {2, low}}, {}}, "loss"));
    return (line[1].second - line[0].second) / (line[2].second - line[0].second);
  };
  EXPECT_NEAR(middle(1e-4), 0.5, 0.01);
  EXPECT_NEAR(middle(0.25), (1.0 - 0.5) / (1.0 - 0.25), 0.01);
}

TEST(LossPlot, TheAxisHasFewLabelsWhateverItsRange) {
  for (const auto& [low, high] :
       {std::pair(1e-300, 1e300), {1e-9, 1e3}, {2.0, 150.0}, {0.3, 0.31}, {0.0, 1e-7}, {-3.0, 8.0}}) {
    const std::string svg = loss_svg({{{0, high}, {1, low}}, {}}, "loss");
    const std::regex label("text-anchor=\"end\"");
    const auto labels =
        std::distance(std::sregex_iterator(svg.begin(), svg.end(), label), std::sregex_iterator());
    EXPECT_GE(labels, 2) << low << " to " << high;
    EXPECT_LE(labels, 10) << low << " to " << high;
  }
}

TEST(LossPlot, TheChartHasTheRowsAndColumnsAskedFor) {
  for (const auto& [columns, rows] : {std::pair(60, 10), {20, 3}, {100, 1}}) {
    std::istringstream lines(loss_chart(falling(300), columns, rows));
    int drawn = 0;
    for (std::string line; std::getline(lines, line);) {
      const size_t bar = line.find('|');
      if (bar == std::string::npos) continue;
      EXPECT_EQ(bar, 10u);
      EXPECT_EQ(line.size() - bar - 1, 3u * static_cast<size_t>(columns))
          << "three bytes a Braille character";
      ++drawn;
    }
    EXPECT_EQ(drawn, rows);
  }
}

TEST(LossPlot, TheChartFallsWithTheLossAndNeedsTwoPoints) {
  EXPECT_EQ(loss_chart({}, 60, 10), "");
  EXPECT_EQ(loss_chart(falling(1), 60, 10), "");
  const std::string chart = loss_chart({{{0, 1.0}, {100, 0.0}}, {}}, 10, 2);
  std::istringstream lines(chart);
  std::string top, bottom;
  std::getline(lines, top);
  std::getline(lines, bottom);
  const std::string blank = "\xE2\xA0\x80";  // U+2800
  EXPECT_NE(top.substr(11, 3), blank) << chart;
  EXPECT_EQ(top.substr(11 + 27, 3), blank) << chart;
  EXPECT_EQ(bottom.substr(11, 3), blank) << chart;
  EXPECT_NE(bottom.substr(11 + 27, 3), blank) << chart;
  EXPECT_NE(chart.find("step 100\n"), std::string::npos) << chart;
}

}  // namespace
}  // namespace lockstep
