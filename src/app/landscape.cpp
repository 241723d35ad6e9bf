// Functions of two variables, the paths of minimizers and optimizers over them, and their picture.
#include "lockstep/app/landscape.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "lockstep/core/configuration.h"
#include "lockstep/core/error.h"
#include "lockstep/core/output_file.h"
#include "lockstep/minimize/minimizer.h"
#include "lockstep/ops/elementwise.h"
#include "lockstep/ops/reduction.h"
#include "lockstep/optim/optimizer.h"

namespace lockstep {
namespace {

struct LandscapeArguments {
  std::string function = "rosenbrock", output;
  std::vector<std::string> methods = {"momentum", "adam", "lbfgs", "newton_cg", "trust_region"};
  std::vector<double> start = {-1.2, 1.0};
  int64_t steps = 200;
  double learning_rate = 0.001;
};

using Surface = std::function<Tensor(const Tensor& x, const Tensor& y)>;  // elementwise
using Point = std::array<double, 2>;

Surface surface_of(const std::string& name) {
  if (name == "rosenbrock") {
    return [](const Tensor& x, const Tensor& y) { return 100.0 * square(y - square(x)) + square(x - 1.0); };
  }
  if (name == "beale") {
    return [](const Tensor& x, const Tensor& y) {
      const Tensor y2 = square(y);
      return square(x * y - x + 1.5) + square(x * y2 - x + 2.25) + square(x * (y2 * y) - x + 2.625);
    };
  }
  if (name == "himmelblau") {
    return [](const Tensor& x, const Tensor& y) {
      return square(square(x) + y - 11.0) + square(x + square(y) - 7.0);
    };
  }
  const std::string prefix = "quadratic:";
  if (name.starts_with(prefix)) {
    char* end = nullptr;
    const double condition = std::strtod(name.c_str() + prefix.size(), &end);
    if (*end == '\0' && std::isfinite(condition) && condition >= 1.0) {
      return [condition](const Tensor& x, const Tensor& y) {
        return 0.5 * square(x) + 0.5 * condition * square(y);
      };
    }
  }
  fail(ErrorKind::kUsage,
       fmt::format("--function {}: it must be rosenbrock, beale, himmelblau, or quadratic:K with a "
                   "condition number K of at least 1",
                   name));
}

struct Path {
  std::string method, outcome;
  std::vector<Point> points;
  double value = 0.0;
  int64_t steps = 0;
  Evaluations evaluations;
};

std::unique_ptr<Minimizer> minimizer_of(const std::string& name) {
  if (name == "line_descent") return make_line_descent();
  if (name == "bfgs") return make_bfgs();
  if (name == "lbfgs") return make_lbfgs();
  if (name == "newton") return make_newton();
  if (name == "newton_cg") return make_newton_cg();
  if (name == "trust_region") return make_trust_region();
  return nullptr;
}

Path walk(const std::string& method, Problem& problem, const LandscapeArguments& arguments) {
  Path path{method, "", {}, 0.0, 0, {}};
  if (const std::unique_ptr<Minimizer> minimizer = minimizer_of(method)) {
    const MinimizeResult result = minimize(problem, *minimizer, arguments.start,
                                           {.most_steps = arguments.steps}, [&path](const Iterate& at) {
                                             path.points.push_back({at.x[0], at.x[1]});
                                           });
    path.outcome = name_of(result.outcome);
    path.value = result.at.value;
    path.steps = result.steps;
    path.evaluations = result.evaluations;
    return path;
  }
  std::vector<std::string> known = optimizer_types();
  // It sees one function of two variables: no sum of squares, and no model that predicts.
  const std::vector<std::string> others = {"levenberg_marquardt", "natural_gradient", "kfac", "sophia",
                                           "adahessian"};
  std::erase_if(known, [&](const std::string& type) {
    return minimizer_of(type) != nullptr || std::ranges::find(others, type) != others.end();
  });
  if (std::find(known.begin(), known.end(), method) == known.end()) {
    fail(ErrorKind::kUsage,
         fmt::format("--methods {}: choose from line_descent, bfgs, lbfgs, newton, newton_cg, "
                     "trust_region, and {}",
                     method, fmt::join(known, ", ")));
  }
  // An optimizer of the training's, with the defaults of its type.
  Configuration configuration =
      Configuration::parse(fmt::format("[optimizer]\ntype = \"{}\"\n", method), method, {});
  Section section = configuration.section("optimizer");
  const std::unique_ptr<Optimizer> optimizer = make_optimizer(section);
  optimizer->allocate({{"x", Shape{2}, 0, {}}}, 2, {{0, 2}}, DType::kF64, cpu_backend());
  Tensor parameters = Tensor::from({2}, arguments.start, cpu_backend());
  const std::vector<UpdateSegment> segments = {{0, 2}};
  path.points.push_back({arguments.start[0], arguments.start[1]});
  path.outcome = name_of(Outcome::kOutOfSteps);
  CountedProblem counted(problem);
  RealVector gradient;
  for (; path.steps < arguments.steps; ++path.steps) {
    optimizer->before_gradient(parameters, arguments.learning_rate, segments);
    const double value = counted.value_and_gradient(parameters.to_vector<double>(), gradient);
    if (!std::isfinite(value)) {
      path.outcome = name_of(Outcome::kNotFinite);
      break;
    }
    optimizer->update({.parameters = parameters,
                       .gradients = Tensor::from({2}, gradient, cpu_backend()),
                       .learning_rate = arguments.learning_rate,
                       .segments = segments});
    const std::vector<double> at = parameters.to_vector<double>();
    if (!all_finite(at)) {
      path.outcome = name_of(Outcome::kNotFinite);
      break;
    }
    path.points.push_back({at[0], at[1]});
  }
  path.value = problem.value({path.points.back()[0], path.points.back()[1]});
  path.evaluations = counted.evaluations();
  return path;
}

// ---- the picture

constexpr int kWidth = 720, kHeight = 540, kMargin = 48, kColumns = 160, kRows = 120;

struct Frame {
  Point low, high;
  double column(double x) const {
    return kMargin + (x - low[0]) / (high[0] - low[0]) * (kWidth - 2 * kMargin);
  }
  double row(double y) const {
    return kHeight - kMargin - (y - low[1]) / (high[1] - low[1]) * (kHeight - 2 * kMargin);
  }
  double x(int i) const { return low[0] + (high[0] - low[0]) * i / (kColumns - 1); }
  double y(int j) const { return low[1] + (high[1] - low[1]) * j / (kRows - 1); }
};

// Around the paths; what has run far away is cut off.
Frame frame_around(const std::vector<Path>& paths, const Point& start) {
  Frame frame{{start[0] - 1.0, start[1] - 1.0}, {start[0] + 1.0, start[1] + 1.0}};
  for (const Path& path : paths) {
    for (const Point& p : path.points) {
      for (size_t k = 0; k < 2; ++k) {
        const double reach = 5.0 * (1.0 + std::fabs(start[k]));
        const double at = std::clamp(p[k], start[k] - reach, start[k] + reach);
        frame.low[k] = std::min(frame.low[k], at - 0.3);
        frame.high[k] = std::max(frame.high[k], at + 0.3);
      }
    }
  }
  return frame;
}

// Line segments of the level set by marching squares (Lorensen and Cline's method in the plane).
std::string contour(const std::vector<double>& grid, double level, const Frame& frame) {
  std::string lines;
  const auto at = [&](int i, int j) { return grid[static_cast<size_t>(j * kColumns + i)]; };
  for (int j = 0; j + 1 < kRows; ++j) {
    for (int i = 0; i + 1 < kColumns; ++i) {
      const int corners[5][2] = {{i, j}, {i + 1, j}, {i + 1, j + 1}, {i, j + 1}, {i, j}};
      std::vector<Point> crossings;
      for (int k = 0; k < 4; ++k) {
        const auto &a = corners[k], &b = corners[k + 1];
        const double fa = at(a[0], a[1]) - level, fb = at(b[0], b[1]) - level;
        if ((fa < 0.0) == (fb < 0.0)) continue;
        const double t = fa / (fa - fb);
        crossings.push_back({frame.x(a[0]) + t * (frame.x(b[0]) - frame.x(a[0])),
                             frame.y(a[1]) + t * (frame.y(b[1]) - frame.y(a[1]))});
      }
      for (size_t k = 0; k + 1 < crossings.size(); k += 2) {
        lines += fmt::format("M{:.1f} {:.1f}L{:.1f} {:.1f}", frame.column(crossings[k][0]),
                             frame.row(crossings[k][1]), frame.column(crossings[k + 1][0]),
                             frame.row(crossings[k + 1][1]));
      }
    }
  }
  return lines;
}

std::string picture(const LandscapeArguments& arguments, const Surface& surface,
                    const std::vector<Path>& paths) {
  const Frame frame = frame_around(paths, {arguments.start[0], arguments.start[1]});
  std::vector<double> xs, ys;
  for (int j = 0; j < kRows; ++j) {
    for (int i = 0; i < kColumns; ++i) {
      xs.push_back(frame.x(i));
      ys.push_back(frame.y(j));
    }
  }
  const auto count = static_cast<int64_t>(xs.size());
  const std::vector<double> grid =
      surface(Tensor::from({count}, xs, cpu_backend()), Tensor::from({count}, ys, cpu_backend()))
          .to_vector<double>();
  const auto [least, most] = std::minmax_element(grid.begin(), grid.end());
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" font-family=\"sans-serif\" "
      "font-size=\"12\">\n"
      "<rect width=\"{0}\" height=\"{1}\" fill=\"white\"/>\n"
      "<clipPath id=\"frame\"><rect x=\"{2}\" y=\"{2}\" width=\"{3}\" height=\"{4}\"/></clipPath>\n"
      "<text x=\"{2}\" y=\"28\" font-size=\"15\">{5} from ({6}, {7})</text>\n<g clip-path=\"url(#frame)\" "
      "fill=\"none\">\n",
      kWidth, kHeight, kMargin, kWidth - 2 * kMargin, kHeight - 2 * kMargin, arguments.function,
      arguments.start[0], arguments.start[1]);
  // Levels lie evenly in the logarithm of the height over the least value in sight.
  const int levels = 16;
  for (int k = 0; k < levels; ++k) {
    const double level = *least + (*most - *least) * std::pow(10.0, -4.0 * (k + 0.5) / levels);
    svg += fmt::format("<path class=\"level\" stroke=\"#b8c4d0\" d=\"{}\"/>\n", contour(grid, level, frame));
  }
  const char* colours[] = {"#d62728", "#1f77b4", "#2ca02c", "#9467bd",
                           "#ff7f0e", "#17becf", "#8c564b", "#e377c2"};
  for (size_t k = 0; k < paths.size(); ++k) {
    std::string points;
    for (const Point& p : paths[k].points)
      points += fmt::format("{:.1f},{:.1f} ", frame.column(p[0]), frame.row(p[1]));
    svg +=
        fmt::format("<polyline stroke=\"{}\" stroke-width=\"1.5\" points=\"{}\"/>\n", colours[k % 8], points);
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
    const Evaluations& made = paths[k].evaluations;
    svg += fmt::format(
        "<text x=\"{}\" y=\"{}\" fill=\"{}\">{}: {:.3g} after {} evaluations, {} products</text>\n",
        kMargin + 8, kMargin + 18 + 16 * static_cast<int>(k), colours[k % 8], paths[k].method, paths[k].value,
        made.values + made.gradients, made.products);
  }
  return svg + "</svg>\n";
}

int run_landscape(const LandscapeArguments& arguments) {
  const Surface surface = surface_of(arguments.function);
  for (const double x : arguments.start) {
    if (!std::isfinite(x)) fail(ErrorKind::kUsage, fmt::format("--start: numbers must be finite: {}", x));
  }
  if (!std::isfinite(arguments.learning_rate) || arguments.learning_rate <= 0.0) {
    fail(ErrorKind::kUsage,
         fmt::format("--learning-rate: must be > 0 and finite: {}", arguments.learning_rate));
  }
  if (!arguments.output.empty()) {
    require_replaceable(arguments.output, "is no SVG", [&] {
      std::string begin(4, ' ');
      std::ifstream(arguments.output, std::ios::binary).read(begin.data(), 4);
      return begin == "<svg";
    });
  }
  const Tensor first = Tensor::from({2}, std::vector<double>{1.0, 0.0}, cpu_backend());
  const Tensor second = Tensor::from({2}, std::vector<double>{0.0, 1.0}, cpu_backend());
  FunctionProblem problem(
      2, [&](const Tensor& at) { return surface(sum(at * first), sum(at * second)); }, cpu_backend());
  std::vector<Path> paths;
  for (const std::string& method : arguments.methods) paths.push_back(walk(method, problem, arguments));
  if (!arguments.output.empty())
    replace_file(arguments.output, picture(arguments, surface, paths), ErrorKind::kUsage);
  for (const Path& path : paths) {
    const nlohmann::ordered_json line = {{"method", path.method},
                                         {"outcome", path.outcome},
                                         {"value", path.value},
                                         {"at", path.points.back()},
                                         {"steps", path.steps},
                                         {"values", path.evaluations.values},
                                         {"gradients", path.evaluations.gradients},
                                         {"products", path.evaluations.products}};
    fmt::print("{}\n", line.dump());
  }
  return 0;
}

}  // namespace

std::function<std::optional<int>()> add_landscape_command(CLI::App& app) {
  const auto arguments = std::make_shared<LandscapeArguments>();
  CLI::App* command =
      app.add_subcommand("landscape", "draw the paths of methods over a function of two variables");
  command
      ->add_option("--function", arguments->function, "rosenbrock, beale, himmelblau, or quadratic:CONDITION")
      ->capture_default_str();
  command
      ->add_option(
          "--methods", arguments->methods,
          "by commas: line_descent, bfgs, lbfgs, newton, newton_cg, trust_region, and every optimizer.type")
      ->delimiter(',')
      ->capture_default_str();
  command->add_option("--start", arguments->start, "X,Y")->delimiter(',')->expected(2)->capture_default_str();
  command->add_option("--steps", arguments->steps, "the most of each method")
      ->check(CLI::Range(int64_t{1}, int64_t{1'000'000}))
      ->capture_default_str();
  command->add_option("--learning-rate", arguments->learning_rate, "of the optimizers")
      ->capture_default_str();
  command->add_option("--output", arguments->output,
                      "SVG file to write; without it only the lines are printed");
  command->footer(
      "Prints a JSON line a method. Example:\n  lockstep landscape --function himmelblau --methods "
      "adam,lbfgs --start "
      "0,-1 --output f.svg");
  return [command, arguments]() -> std::optional<int> {
    if (!command->parsed()) return std::nullopt;
    return run_landscape(*arguments);
  };
}

}  // namespace lockstep
