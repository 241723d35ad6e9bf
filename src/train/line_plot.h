// Curves over the steps of runs as an SVG picture.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace lockstep {

using PlotPoints = std::vector<std::pair<double, double>>;  // (step, value), finite

// Maps values to [0, 1], and chooses the tick values.
struct PlotAxis {
  double low = 0.0, high = 1.0;
  bool logarithmic = false;

  // From 0 or the least to the largest of all; logarithmic when they span more than a factor of 50.
  static PlotAxis of(const std::vector<const PlotPoints*>& curves);
  double at(double value) const;
  std::vector<double> ticks() const;
};

// The largest step, at least 1.
double last_step(const std::vector<const PlotPoints*>& curves);

// Long runs log more points than a picture has columns: the mean of each of at most `limit` groups.
PlotPoints thinned(const PlotPoints& points, size_t limit);

struct PlotCurve {
  std::string name, colour;
  PlotPoints points;
  bool dots = false;
};

// A complete SVG document, which an HTML page may hold as well. legend: names of the curves beside the title.
std::string line_plot(const std::string& title, const std::vector<PlotCurve>& curves, bool legend);

}  // namespace lockstep
