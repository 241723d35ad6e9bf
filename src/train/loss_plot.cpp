// Drawing the loss curve.
#include "lockstep/train/loss_plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "lockstep/train/line_plot.h"

namespace lockstep {

LossCurves loss_curves(const MetricsHistory& metrics) {
  return {metrics["loss"].points(), metrics["validation_loss"].points()};
}

std::string loss_svg(const LossCurves& curves, const std::string& title) {
  return line_plot(title,
                   {{"training loss", "#1f6fb4", curves.training},
                    {"validation loss", "#d1600a", curves.validation, true}},
                   true);
}

std::string loss_chart(const LossCurves& curves, int columns, int rows) {
  if (curves.training.size() < 2) return "";
  const PlotAxis axis = PlotAxis::of({&curves.training, &curves.validation});
  const double last = last_step({&curves.training, &curves.validation});
  const int width = columns * 2, height = rows * 4;
  std::vector<uint8_t> dots(static_cast<size_t>(columns * rows), 0);
  // Bit of the dot at (column, row) inside a Braille character (Unicode block U+2800).
  constexpr uint8_t kBits[4][2] = {{0x01, 0x08}, {0x02, 0x10}, {0x04, 0x20}, {0x40, 0x80}};
  const auto plot = [&](double px, double py) {
    const int cx = std::clamp(static_cast<int>(px), 0, width - 1),
              cy = std::clamp(static_cast<int>(py), 0, height - 1);
    dots[static_cast<size_t>(cy / 4 * columns + cx / 2)] |= kBits[cy % 4][cx % 2];
  };
  const PlotPoints curve = thinned(curves.training, static_cast<size_t>(width));
  for (size_t i = 0; i + 1 < curve.size(); ++i) {
    const double x0 = curve[i].first / last * (width - 1), x1 = curve[i + 1].first / last * (width - 1);
    const double y0 = (1.0 - axis.at(curve[i].second)) * (height - 1),
                 y1 = (1.0 - axis.at(curve[i + 1].second)) * (height - 1);
    const int steps = 1 + static_cast<int>(std::max(std::abs(x1 - x0), std::abs(y1 - y0)));
    for (int s = 0; s <= steps; ++s) {
      const double t = static_cast<double>(s) / steps;
      plot(x0 + t * (x1 - x0), y0 + t * (y1 - y0));
    }
  }
  std::string chart;
  for (int row = 0; row < rows; ++row) {
    const bool labelled = row == 0 || row == rows - 1;
    chart +=
        labelled ? fmt::format("{:>9.4g} |", row == 0 ? axis.high : axis.low) : std::string(10, ' ') + "|";
    for (int column = 0; column < columns; ++column) {
      const uint32_t code = 0x2800u + dots[static_cast<size_t>(row * columns + column)];
      chart += static_cast<char>(0xE0 | (code >> 12));
      chart += static_cast<char>(0x80 | ((code >> 6) & 0x3F));
      chart += static_cast<char>(0x80 | (code & 0x3F));
    }
    chart += '\n';
  }
  chart += std::string(10, ' ') + "+" + std::string(static_cast<size_t>(columns), '-') + "\n";
  chart += fmt::format("{:11}0{:>{}}\n", "", fmt::format("step {:.0f}", last), columns - 1);
  return chart;
}

}  // namespace lockstep
