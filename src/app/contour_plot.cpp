// Marching squares.
#include "lockstep/app/contour_plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>

#include "lockstep/core/output_file.h"
#include "lockstep/core/printable.h"

namespace lockstep {
namespace {

using Point = std::array<double, 2>;

constexpr int kWidth = 720, kHeight = 540, kMargin = 48, kLevels = 16;
constexpr double kDecades = 4.0;

struct Frame {
  Point low, high;
  double column(double x) const {
    return kMargin + (x - low[0]) / (high[0] - low[0]) * (kWidth - 2 * kMargin);
  }
  double row(double y) const {
    return kHeight - kMargin - (y - low[1]) / (high[1] - low[1]) * (kHeight - 2 * kMargin);
  }
};

// Of what is finite; {0, 0}: nothing is.
std::pair<double, double> least_and_most(const PlaneGrid& grid) {
  double least = std::numeric_limits<double>::infinity(), most = -least;
  for (const double value : grid.values) {
    if (!std::isfinite(value)) continue;
    least = std::min(least, value);
    most = std::max(most, value);
  }
  return least <= most ? std::pair(least, most) : std::pair(0.0, 0.0);
}

// Line segments of the level set by marching squares (Lorensen and Cline's method in the plane).
std::string contour(const PlaneGrid& grid, double level, const Frame& frame) {
  std::string lines;
  const size_t columns = grid.x.size();
  for (size_t j = 0; j + 1 < grid.y.size(); ++j) {
    for (size_t i = 0; i + 1 < columns; ++i) {
      const size_t corners[5][2] = {{i, j}, {i + 1, j}, {i + 1, j + 1}, {i, j + 1}, {i, j}};
      std::vector<Point> crossings;
      bool known = true;
      for (int k = 0; k < 4; ++k) {
        const auto &a = corners[k], &b = corners[k + 1];
        const double fa = grid.values[a[1] * columns + a[0]] - level,
                     fb = grid.values[b[1] * columns + b[0]] - level;
        known = known && std::isfinite(fa);
        if ((fa < 0.0) == (fb < 0.0)) continue;
        const double t = fa / (fa - fb);
        crossings.push_back({grid.x[a[0]] + t * (grid.x[b[0]] - grid.x[a[0]]),
                             grid.y[a[1]] + t * (grid.y[b[1]] - grid.y[a[1]])});
      }
      for (size_t k = 0; known && k + 1 < crossings.size(); k += 2) {
        lines += fmt::format("M{:.1f} {:.1f}L{:.1f} {:.1f}", frame.column(crossings[k][0]),
                             frame.row(crossings[k][1]), frame.column(crossings[k + 1][0]),
                             frame.row(crossings[k + 1][1]));
      }
    }
  }
  return lines;
}

const char* colour_of_path(size_t path) {
  static constexpr const char* kColours[] = {"#d62728", "#1f77b4", "#2ca02c", "#9467bd",
                                             "#ff7f0e", "#17becf", "#8c564b", "#e377c2"};
  return kColours[path % std::size(kColours)];
}

}  // namespace

std::string contour_plot(const std::string& title, const PlaneGrid& grid,
                         const std::vector<PlanePath>& paths) {
  const Frame frame{{grid.x.front(), grid.y.front()}, {grid.x.back(), grid.y.back()}};
  const auto [least, most] = least_and_most(grid);
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" font-family=\"sans-serif\" "
      "font-size=\"12\">\n"
      "<rect width=\"{0}\" height=\"{1}\" fill=\"white\"/>\n"
      "<clipPath id=\"frame\"><rect x=\"{2}\" y=\"{2}\" width=\"{3}\" height=\"{4}\"/></clipPath>\n"
      "<text x=\"{2}\" y=\"28\" font-size=\"15\">{5}</text>\n<g clip-path=\"url(#frame)\" fill=\"none\">\n",
      kWidth, kHeight, kMargin, kWidth - 2 * kMargin, kHeight - 2 * kMargin, xml_text(title));
  for (int k = 0; k < kLevels; ++k) {
    const double level = least + (most - least) * std::pow(10.0, -kDecades * (k + 0.5) / kLevels);
    svg += fmt::format("<path class=\"level\" stroke=\"#b8c4d0\" d=\"{}\"><title>{:.4g}</title></path>\n",
                       contour(grid, level, frame), level);
  }
  // Of what runs far away no more digits than a picture has room for.
  const auto place = [](double at) { return std::clamp(at, -1e6, 1e6); };
  for (size_t k = 0; k < paths.size(); ++k) {
    std::string points, dots;
    for (const Point& p : paths[k].points) {
      const double x = place(frame.column(p[0])), y = place(frame.row(p[1]));
      points += fmt::format("{:.1f},{:.1f} ", x, y);
      if (paths[k].dots)
        dots += fmt::format("<circle fill=\"{}\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\"/>\n", colour_of_path(k),
                            x, y);
    }
    svg += fmt::format("<polyline stroke=\"{}\" stroke-width=\"1.5\" points=\"{}\"/>\n{}", colour_of_path(k),
                       points, dots);
  }
  svg += "</g>\n";
  svg +=
      fmt::format("<rect x=\"{0}\" y=\"{0}\" width=\"{1}\" height=\"{2}\" fill=\"none\" stroke=\"black\"/>\n",
                  kMargin, kWidth - 2 * kMargin, kHeight - 2 * kMargin);
  for (size_t k = 0; k < 2; ++k) {
    for (const double value : {frame.low[k], frame.high[k]}) {
      const double x = k == 0 ? frame.column(value) : kMargin - 24,
                   y = k == 0 ? kHeight - kMargin + 16 : frame.row(value);
      svg +=
          fmt::format("<text x=\"{:.0f}\" y=\"{:.0f}\" text-anchor=\"middle\">{:.3g}</text>\n", x, y, value);
    }
  }
  for (size_t k = 0; k < paths.size(); ++k) {
    svg += fmt::format("<text x=\"{}\" y=\"{}\" fill=\"{}\">{}</text>\n", kMargin + 8,
                       kMargin + 18 + 16 * static_cast<int>(k), colour_of_path(k), xml_text(paths[k].legend));
  }
  return svg + "</svg>\n";
}

std::string plane_sketch(const PlaneGrid& grid, const Point& point, char mark) {
  constexpr std::string_view kShades = ".:-=+*#%@";
  constexpr size_t kColumns = 60, kRows = 24;
  const auto [least, most] = least_and_most(grid);
  // Of `count` characters, those that show an axis evenly, and the one nearest to `value`.
  const auto shown = [](const std::vector<double>& axis, size_t count, double value) {
    std::vector<size_t> places;
    for (size_t k = 0; k < count; ++k) places.push_back((2 * k + 1) * axis.size() / (2 * count));
    const auto nearest =
        std::ranges::min_element(places, {}, [&](size_t place) { return std::fabs(axis[place] - value); });
    return std::pair(places, *nearest);
  };
  const auto [columns, of_x] = shown(grid.x, kColumns, point[0]);
  const auto [rows, of_y] = shown(grid.y, kRows, point[1]);
  bool marked = false;
  std::string sketch;
  for (size_t line = rows.size(); line-- > 0;) {
    std::string text = "  ";
    for (const size_t i : columns) {
      const double value = grid.values[rows[line] * grid.x.size() + i];
      const double part = (value - least) / (most - least);
      const double height = part > 0.0 ? 1.0 + std::log10(part) / kDecades : 0.0;
      const double shade = std::clamp(height, 0.0, 1.0) * static_cast<double>(kShades.size() - 1);
      const bool here = !marked && rows[line] == of_y && i == of_x;
      marked = marked || here;
      text += here ? mark : std::isfinite(value) ? kShades[static_cast<size_t>(std::lround(shade))] : ' ';
    }
    sketch += text + '\n';
  }
  return sketch;
}

void require_replaceable_svg(const std::string& path) {
  constexpr const char* kSuffix = ".svg";
  if (!path.ends_with(kSuffix) || path == kSuffix)
    fail(ErrorKind::kUsage, fmt::format("--output {}: must end with {}", path, kSuffix));
  require_replaceable(path, "is no SVG", [&] {
    std::string begin(4, ' ');
    std::ifstream(path, std::ios::binary).read(begin.data(), 4);
    return begin == "<svg";
  });
}

}  // namespace lockstep
