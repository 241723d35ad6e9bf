// Functions of two variables, the paths of minimizers and optimizers over them, and their picture.
#include "lockstep/app/landscape.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "lockstep/app/contour_plot.h"
#include "lockstep/core/configuration.h"
#include "lockstep/core/error.h"
#include "lockstep/core/output_file.h"
#include "lockstep/minimize/minimizer.h"
#include "lockstep/ops/elementwise.h"
#include "lockstep/ops/reduction.h"
#include "lockstep/optim/optimizer.h"

namespace lockstep {
namespace {

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

// Around the paths; what has run far away is cut off.
PlaneGrid grid_around(const std::vector<Path>& paths, const Point& start, const Surface& surface) {
  constexpr int kColumns = 160, kRows = 120;
  Point low = start, high = start;
  for (size_t k = 0; k < 2; ++k) {
    // Far from 0 what rounding swallows is no width.
    const double rim = std::max(1.0, 1e-6 * std::fabs(start[k]));
    const double reach = 5.0 * (1.0 + std::fabs(start[k]));
    low[k] = start[k] - rim;
    high[k] = start[k] + rim;
    for (const Path& path : paths) {
      for (const Point& p : path.points) {
        const double at = std::clamp(p[k], start[k] - reach, start[k] + reach);
        low[k] = std::min(low[k], at - 0.3 * rim);
        high[k] = std::max(high[k], at + 0.3 * rim);
      }
    }
  }
  PlaneGrid grid;
  for (int i = 0; i < kColumns; ++i) grid.x.push_back(low[0] + (high[0] - low[0]) * i / (kColumns - 1));
  for (int j = 0; j < kRows; ++j) grid.y.push_back(low[1] + (high[1] - low[1]) * j / (kRows - 1));
  std::vector<double> xs, ys;
  for (const double y : grid.y) {
    for (const double x : grid.x) {
      xs.push_back(x);
      ys.push_back(y);
    }
  }
  const auto count = static_cast<int64_t>(xs.size());
  grid.values = surface(Tensor::from({count}, xs, cpu_backend()), Tensor::from({count}, ys, cpu_backend()))
                    .to_vector<double>();
  return grid;
}

std::string picture(const LandscapeArguments& arguments, const Surface& surface,
                    const std::vector<Path>& paths) {
  std::vector<PlanePath> drawn;
  for (const Path& path : paths) {
    const Evaluations& made = path.evaluations;
    drawn.push_back({fmt::format("{}: {:.3g} after {} evaluations, {} products", path.method, path.value,
                                 made.values + made.gradients, made.products),
                     path.points});
  }
  const Point start = {arguments.start[0], arguments.start[1]};
  return contour_plot(
      fmt::format("{} from ({}, {})", arguments.function, arguments.start[0], arguments.start[1]),
      grid_around(paths, start, surface), drawn);
}

}  // namespace

int run_landscape(const LandscapeArguments& arguments) {
  const Surface surface = surface_of(arguments.function);
  for (const double x : arguments.start) {
    if (!std::isfinite(x)) fail(ErrorKind::kUsage, fmt::format("--start: numbers must be finite: {}", x));
  }
  if (!std::isfinite(arguments.learning_rate) || arguments.learning_rate <= 0.0) {
    fail(ErrorKind::kUsage,
         fmt::format("--learning-rate: must be > 0 and finite: {}", arguments.learning_rate));
  }
  if (!arguments.output.empty()) require_replaceable_svg(arguments.output);
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

}  // namespace lockstep
