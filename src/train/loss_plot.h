// The loss curve of a run as an SVG picture and as a chart of characters.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "lockstep/train/metrics_history.h"

namespace lockstep {

struct LossCurves {
  std::vector<std::pair<double, double>> training;    // (step, loss)
  std::vector<std::pair<double, double>> validation;  // (step, loss)
};

// Steps without a finite loss are left out.
LossCurves loss_curves(const MetricsHistory& metrics);

// A complete SVG document; loss axis logarithmic when the losses span more than a factor of 50.
std::string loss_svg(const LossCurves& curves, const std::string& title);

// `columns` x `rows` characters (Braille dots, 2 x 4 a character) with axis labels; empty for fewer than two
// points.
std::string loss_chart(const LossCurves& curves, int columns, int rows);

}  // namespace lockstep
