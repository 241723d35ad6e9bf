// Drawing curves.
#include "lockstep/train/line_plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "lockstep/core/printable.h"

namespace lockstep {

PlotAxis PlotAxis::of(const std::vector<const PlotPoints*>& curves) {
  double low = INFINITY, high = -INFINITY;
  for (const PlotPoints* curve : curves) {
    for (const auto& [step, value] : *curve) {
      low = std::min(low, value);
      high = std::max(high, value);
    }
  }
  PlotAxis axis{low, high, low > 0.0 && high / low > 50.0};
  if (!axis.logarithmic && low >= 0.0) axis.low = 0.0;
  if (!(axis.high > axis.low)) axis.high = axis.low + 1.0;
  return axis;
}

double PlotAxis::at(double value) const {
  return logarithmic ? (std::log(value) - std::log(low)) / (std::log(high) - std::log(low))
                     : (value / 2.0 - low / 2.0) / (high / 2.0 - low / 2.0);  // a difference may overflow
}

std::vector<double> PlotAxis::ticks() const {
  std::vector<double> values;
  if (logarithmic) {
    // Powers of ten, at most nine of them.
    const double first = std::ceil(std::log10(low)), last = std::floor(std::log10(high));
    const double step = std::ceil((last - first + 1.0) / 9.0);
    for (double exponent = first; exponent <= last; exponent += step)
      values.push_back(std::pow(10.0, exponent));
    if (values.size() >= 2) return values;
    return {low, std::sqrt(low) * std::sqrt(high), high};
  }
  // About five steps of 1, 2 or 5 times a power of ten.
  const double raw = (high - low) / 5.0;
  if (!std::isnormal(raw)) return {low, high};
  const double power = std::pow(10.0, std::floor(std::log10(raw)));
  const double step = raw / power > 5.0   ? 10.0 * power
                      : raw / power > 2.0 ? 5.0 * power
                      : raw / power > 1.0 ? 2.0 * power
                                          : power;
  // Counted: beside large numbers a step may be too small to move one.
  const double first = std::ceil(low / step);
  for (int i = 0; i < 12; ++i) {
    const double value = (first + i) * step;
    if (value > high + 1e-9 * step) break;
    values.push_back(std::abs(value) < 1e-9 * step ? 0.0 : value);
  }
  return values;
}

double last_step(const std::vector<const PlotPoints*>& curves) {
  double last = 1.0;
  for (const PlotPoints* curve : curves) {
    if (!curve->empty()) last = std::max(last, curve->back().first);
  }
  return last;
}

PlotPoints thinned(const PlotPoints& points, size_t limit) {
  if (points.size() <= limit) return points;
  PlotPoints result;
  for (size_t group = 0; group < limit; ++group) {
    const size_t begin = group * points.size() / limit, end = (group + 1) * points.size() / limit;
    double step = 0.0, value = 0.0;
    for (size_t i = begin; i < end; ++i) {
      step += points[i].first;
      value += points[i].second;
    }
    const auto count = static_cast<double>(end - begin);
    result.emplace_back(step / count, value / count);
  }
  return result;
}

std::string line_plot(const std::string& title, const std::vector<PlotCurve>& curves, bool legend) {
  constexpr double kWidth = 720, kHeight = 420, kLeft = 70, kRight = 20, kTop = 50, kBottom = 55;
  std::vector<const PlotPoints*> all;
  for (const PlotCurve& curve : curves) all.push_back(&curve.points);
  const PlotAxis axis = PlotAxis::of(all);
  const double last = last_step(all);
  const auto x = [&](double step) { return kLeft + (kWidth - kLeft - kRight) * step / last; };
  const auto y = [&](double value) {
    return kHeight - kBottom - (kHeight - kTop - kBottom) * axis.at(value);
  };

  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\" "
      "font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"{0}\" height=\"{1}\" fill=\"white\"/>\n"
      "<text x=\"{2}\" y=\"28\" font-size=\"16\">{3}</text>\n",
      kWidth, kHeight, kLeft, xml_text(title));
  if (std::ranges::any_of(all, [](const PlotPoints* points) { return !points->empty(); })) {
    for (double tick : axis.ticks()) {
      svg += fmt::format(
          "<line x1=\"{0}\" x2=\"{1}\" y1=\"{2:.1f}\" y2=\"{2:.1f}\" stroke=\"#ddd\"/>"
          "<text x=\"{3}\" y=\"{4:.1f}\" text-anchor=\"end\">{5:.4g}</text>\n",
          kLeft, kWidth - kRight, y(tick), kLeft - 8, y(tick) + 4, tick);
    }
    for (int i = 0; i <= 5; ++i) {
      const double step = last * i / 5.0;
      svg += fmt::format("<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{:.6g}</text>\n", x(step),
                         kHeight - kBottom + 18, std::round(step));
    }
  }
  svg += fmt::format("<path d=\"M{0} {1}V{2}H{3}\" fill=\"none\" stroke=\"#444\"/>\n", kLeft, kTop,
                     kHeight - kBottom, kWidth - kRight);
  svg += fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">step</text>\n",
                     (kLeft + kWidth - kRight) / 2, kHeight - 14);
  double beside = kWidth - kRight - 190;
  for (const PlotCurve& curve : curves) {
    if (curve.points.empty()) continue;
    const PlotPoints shown = thinned(curve.points, curve.dots ? 200 : 600);
    std::string points;
    for (const auto& [step, value] : shown) points += fmt::format("{:.1f},{:.1f} ", x(step), y(value));
    svg += fmt::format("<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.6\"/>\n", points,
                       curve.colour);
    for (size_t i = 0; curve.dots && i < shown.size(); ++i) {
      svg += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\" fill=\"{}\"/>\n", x(shown[i].first),
                         y(shown[i].second), curve.colour);
    }
    if (!legend) continue;
    svg += fmt::format("<text x=\"{}\" y=\"28\" fill=\"{}\">{}</text>\n", beside, curve.colour,
                       xml_text(curve.name));
    beside += 95;
  }
  return svg + "</svg>\n";
}

}  // namespace lockstep
