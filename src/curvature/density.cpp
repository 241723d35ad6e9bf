// Normal distributions around the nodes of a quadrature, and pictures of their sum.
#include "lockstep/curvature/density.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "lockstep/kernels/math/portable.h"

namespace lockstep {
namespace {

constexpr size_t kGrid = 400;
constexpr double kTail = 6.0;           // widths beyond the outermost nodes; less than 1e-8 is left out
constexpr double kLeastDensity = 1e-6;  // of the largest, in pictures

double normal_density(double z) {
  return math::portable::power(std::numbers::e, -0.5 * z * z) * std::numbers::inv_sqrtpi /
         std::numbers::sqrt2;
}

}  // namespace

double SpectralDensity::share_below(double margin) const {
  double share = 0.0;
  for (size_t j = 0; j < nodes.size() && nodes[j] < -margin; ++j) share += weights[j];
  return share;
}

SpectralDensity widened(std::vector<std::pair<double, double>> points) {
  std::stable_sort(points.begin(), points.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  SpectralDensity density;
  for (const auto& [node, weight] : points) {
    density.nodes.push_back(node);
    density.weights.push_back(weight);
  }
  const double low = density.nodes.front(), high = density.nodes.back();
  const double magnitude = std::max(std::fabs(low), std::fabs(high));
  // Nodes that are one eigenvalue but for rounding have no range.
  const double range = high - low > 1e-10 * magnitude ? high - low : magnitude;
  density.width = range > 0.0 ? range / 80.0 : 1.0 / 80.0;
  const double from = low - kTail * density.width, to = high + kTail * density.width;
  for (size_t i = 0; i < kGrid; ++i) {
    const double x = from + (to - from) * static_cast<double>(i) / static_cast<double>(kGrid - 1);
    double value = 0.0;
    for (size_t j = 0; j < density.nodes.size(); ++j) {
      const double z = (x - density.nodes[j]) / density.width;
      if (std::fabs(z) < 2.0 * kTail) value += density.weights[j] * normal_density(z) / density.width;
    }
    density.at.push_back(x);
    density.values.push_back(value);
  }
  return density;
}

std::string density_svg(const SpectralDensity& density, const std::string& title) {
  constexpr double kWidth = 720, kHeight = 420, kLeft = 64, kRight = 24, kTop = 48, kBottom = 48;
  const double most = *std::max_element(density.values.begin(), density.values.end());
  const double least = most * kLeastDensity;
  const double low = density.at.front(), high = density.at.back();
  const auto column = [&](double x) { return kLeft + (x - low) / (high - low) * (kWidth - kLeft - kRight); };
  const auto row = [&](double value) {
    const double share = std::log10(std::max(value, least) / least) / -std::log10(kLeastDensity);
    return kHeight - kBottom - share * (kHeight - kTop - kBottom);
  };
  std::string points = fmt::format("{:.1f},{:.1f} ", column(low), row(least));
  for (size_t i = 0; i < density.at.size(); ++i)
    points += fmt::format("{:.1f},{:.1f} ", column(density.at[i]), row(density.values[i]));
  points += fmt::format("{:.1f},{:.1f}", column(high), row(least));
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" font-family=\"sans-serif\" "
      "font-size=\"12\">\n<rect width=\"{0}\" height=\"{1}\" fill=\"white\"/>\n"
      "<text x=\"{2}\" y=\"28\" font-size=\"15\">{3}</text>\n",
      kWidth, kHeight, kLeft, title);
  for (int power = 0; power >= -6; power -= 2) {
    const double value = most * std::pow(10.0, power), y = row(value);
    svg += fmt::format(
        "<path stroke=\"#dddddd\" d=\"M{0} {1:.1f}H{2}\"/>\n<text x=\"{3}\" y=\"{4:.1f}\" "
        "text-anchor=\"end\">{5:.1e}</text>\n",
        kLeft, y, kWidth - kRight, kLeft - 6, y + 4, value);
  }
  for (int i = 0; i <= 4; ++i) {
    const double x = low + (high - low) * i / 4.0;
    svg += fmt::format("<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{:.3g}</text>\n", column(x),
                       kHeight - kBottom + 18, x);
  }
  if (low < 0.0 && high > 0.0) {
    svg += fmt::format("<path stroke=\"#999999\" stroke-dasharray=\"4 4\" d=\"M{:.1f} {}V{}\"/>\n",
                       column(0.0), kTop, kHeight - kBottom);
  }
  svg += fmt::format("<polygon fill=\"#1f77b4\" fill-opacity=\"0.3\" stroke=\"#1f77b4\" points=\"{}\"/>\n",
                     points);
  svg += fmt::format(
      "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">eigenvalue</text>\n"
      "<text x=\"{}\" y=\"{}\">density</text>\n</svg>\n",
      (kLeft + kWidth - kRight) / 2, kHeight - 8, 8, kTop - 8);
  return svg;
}

std::string density_sketch(const SpectralDensity& density, int rows, int columns) {
  const double low = density.nodes.front(), high = density.nodes.back();
  const double step = (high - low) / rows;
  std::vector<double> shares(static_cast<size_t>(rows), 0.0);
  for (size_t j = 0; j < density.nodes.size(); ++j) {
    const int bin = step > 0.0 ? static_cast<int>((density.nodes[j] - low) / step) : 0;
    shares[static_cast<size_t>(std::clamp(bin, 0, rows - 1))] += density.weights[j];
  }
  std::string text;
  for (int i = rows - 1; i >= 0; --i) {
    if (step == 0.0 && i > 0) continue;
    const double share = shares[static_cast<size_t>(i)];
    const double length =
        share > kLeastDensity ? std::log10(share / kLeastDensity) / -std::log10(kLeastDensity) : 0.0;
    text += fmt::format("{:>12.4g} {:<{}} {:.3g}%\n", low + step * (i + 0.5),
                        std::string(static_cast<size_t>(std::ceil(length * columns)), '#'), columns,
                        100.0 * share);
  }
  return text;
}

}  // namespace lockstep
