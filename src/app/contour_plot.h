// A function of two variables as a picture: level lines, and paths over them.
#pragma once

#include <array>
#include <string>
#include <vector>

namespace lockstep {

// Values (y.size(), x.size()) on a grid of ascending, evenly spaced coordinates, two along each axis at
// least. What is not finite is left white.
struct PlaneGrid {
  std::vector<double> x, y, values;
};

struct PlanePath {
  std::string legend;
  std::vector<std::array<double, 2>> points;
  bool dots = false;  // at each point
};

// A complete SVG document. Levels lie evenly in the logarithm of the height over the least value; what of a
// path is outside of the grid is cut off.
std::string contour_plot(const std::string& title, const PlaneGrid& grid,
                         const std::vector<PlanePath>& paths);

// Characters that get darker with the logarithm of the height over the least value, a line a row, the highest
// y first; blanks for what is not finite. `mark` at a point.
std::string plane_sketch(const PlaneGrid& grid, const std::array<double, 2>& point, char mark);

// require_replaceable() of a file that is an SVG of a command, with a name that says so.
void require_replaceable_svg(const std::string& path);

}  // namespace lockstep
