// Drawing the loss curve.
#include "lockstep/train/loss_plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <sstream>

namespace lockstep {

namespace {

using Curve = std::vector<std::pair<double, double>>;

// Maps losses to [0, 1], and chooses the tick values.
struct LossAxis {
  double low = 0.0, high = 1.0;
  bool logarithmic = false;

  double at(double loss) const {
    return logarithmic ? (std::log(loss) - std::log(low)) / (std::log(high) - std::log(low))
                       : (loss - low) / (high - low);
  }
  std::vector<double> ticks() const {
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
    for (double value = std::ceil(low / step) * step; value <= high + 1e-9 * step; value += step) {
      values.push_back(std::abs(value) < 1e-9 * step ? 0.0 : value);
    }
    return values;
  }
};

LossAxis loss_axis(const LossCurves& curves) {
  double low = INFINITY, high = -INFINITY;
  for (const Curve* curve : {&curves.training, &curves.validation}) {
    for (const auto& [step, loss] : *curve) {
      low = std::min(low, loss);
      high = std::max(high, loss);
    }
  }
  LossAxis axis{low, high, low > 0.0 && high / low > 50.0};
  if (!axis.logarithmic && low >= 0.0) axis.low = 0.0;
  if (!(axis.high > axis.low)) axis.high = axis.low + 1.0;
  return axis;
}

double last_step(const LossCurves& curves) {
  double last = 1.0;
  for (const Curve* curve : {&curves.training, &curves.validation}) {
    if (!curve->empty()) last = std::max(last, curve->back().first);
  }
  return last;
}

// Long runs log more points than a picture has columns: the mean of each of at most `limit` groups.
Curve thinned(const Curve& curve, size_t limit) {
  if (curve.size() <= limit) return curve;
  Curve result;
  for (size_t group = 0; group < limit; ++group) {
    const size_t begin = group * curve.size() / limit, end = (group + 1) * curve.size() / limit;
    double step = 0.0, loss = 0.0;
    for (size_t i = begin; i < end; ++i) {
      step += curve[i].first;
      loss += curve[i].second;
    }
    const auto count = static_cast<double>(end - begin);
    result.emplace_back(step / count, loss / count);
  }
  return result;
}

std::string escape(const std::string& text) {
  std::string result;
  for (char c : text) {
    if (c == '<') {
      result += "&lt;";
    } else if (c == '>') {
      result += "&gt;";
    } else if (c == '&') {
      result += "&amp;";
    } else {
      result += c;
    }
  }
  return result;
}

}  // namespace

LossCurves loss_curves(const std::string& metrics) {
  LossCurves curves;
  std::istringstream lines(metrics);
  for (std::string line; std::getline(lines, line);) {
    const nlohmann::json object = nlohmann::json::parse(line, nullptr, false);
    if (!object.is_object() || !object.contains("step")) continue;
    const double step = object["step"].get<double>();
    const auto add = [&](const char* key, Curve& curve) {
      if (object.contains(key) && object[key].is_number())
        curve.emplace_back(step, object[key].get<double>());
    };
    add("loss", curves.training);
    add("validation_loss", curves.validation);
  }
  return curves;
}

std::string loss_svg(const LossCurves& curves, const std::string& title) {
  constexpr double kWidth = 720, kHeight = 420, kLeft = 70, kRight = 20, kTop = 50, kBottom = 55;
  const LossAxis axis = loss_axis(curves);
  const double last = last_step(curves);
  const auto x = [&](double step) { return kLeft + (kWidth - kLeft - kRight) * step / last; };
  const auto y = [&](double loss) { return kHeight - kBottom - (kHeight - kTop - kBottom) * axis.at(loss); };

  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\" "
      "font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"{0}\" height=\"{1}\" fill=\"white\"/>\n"
      "<text x=\"{2}\" y=\"28\" font-size=\"16\">{3}</text>\n",
      kWidth, kHeight, kLeft, escape(title));
  if (!curves.training.empty() || !curves.validation.empty()) {
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
  double legend = kWidth - kRight - 190;
  const auto draw = [&](const Curve& curve, const char* colour, const char* name, bool dots) {
    if (curve.empty()) return;
    std::string points;
    for (const auto& [step, loss] : curve) points += fmt::format("{:.1f},{:.1f} ", x(step), y(loss));
    svg += fmt::format("<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.6\"/>\n", points,
                       colour);
    for (size_t i = 0; dots && i < curve.size(); ++i) {
      svg += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\" fill=\"{}\"/>\n", x(curve[i].first),
                         y(curve[i].second), colour);
    }
    svg += fmt::format("<text x=\"{}\" y=\"28\" fill=\"{}\">{}</text>\n", legend, colour, name);
    legend += 95;
  };
  draw(thinned(curves.training, 600), "#1f6fb4", "training loss", false);
  draw(thinned(curves.validation, 200), "#d1600a", "validation loss", true);
  return svg + "</svg>\n";
}

std::string loss_chart(const LossCurves& curves, int columns, int rows) {
  if (curves.training.size() < 2) return "";
  const LossAxis axis = loss_axis(curves);
  const double last = last_step(curves);
  const int width = columns * 2, height = rows * 4;
  std::vector<uint8_t> dots(static_cast<size_t>(columns * rows), 0);
  // Bit of the dot at (column, row) inside a Braille character (Unicode block U+2800).
  constexpr uint8_t kBits[4][2] = {{0x01, 0x08}, {0x02, 0x10}, {0x04, 0x20}, {0x40, 0x80}};
  const auto plot = [&](double px, double py) {
    const int cx = std::clamp(static_cast<int>(px), 0, width - 1),
              cy = std::clamp(static_cast<int>(py), 0, height - 1);
    dots[static_cast<size_t>(cy / 4 * columns + cx / 2)] |= kBits[cy % 4][cx % 2];
  };
  const Curve curve = thinned(curves.training, static_cast<size_t>(width));
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
