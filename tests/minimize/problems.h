// The problems of Moré, Garbow and Hillstrom 1981 that SciPy's goldens are of, as sums of squares: f = |r|^2
// / 2.
#pragma once

#include <cmath>
#include <functional>
#include <numbers>
#include <string>
#include <utility>
#include <vector>

#include "jet.h"
#include "lockstep/minimize/problem.h"

namespace lockstep {

using Residuals = std::function<std::vector<Jet>(const std::vector<Jet>& x)>;

// Least squares with exact second derivatives.
class JetProblem final : public Problem {
 public:
  JetProblem(int64_t size, int64_t residual_count, Residuals function)
      : size_(size), count_(residual_count), function_(std::move(function)) {}
  int64_t size() const override { return size_; }
  int64_t residual_count() const override { return count_; }
  double value(const RealVector& x) override {
    RealVector r;
    residuals(x, r, nullptr);
    return 0.5 * dot(r, r);
  }
  double value_and_gradient(const RealVector& x, RealVector& gradient) override {
    RealVector r;
    DenseMatrix jacobian(count_, size_);
    residuals(x, r, &jacobian);
    gradient = multiply_transposed(jacobian, r);
    return 0.5 * dot(r, r);
  }
  void residuals(const RealVector& x, RealVector& r, DenseMatrix* jacobian) override {
    const std::vector<Jet> jets = function_(parameters(x, false));
    r.resize(jets.size());
    for (size_t i = 0; i < jets.size(); ++i) {
      r[i] = jets[i].value;
      for (size_t j = 0; jacobian != nullptr && j < x.size(); ++j) {
        (*jacobian)(static_cast<int64_t>(i), static_cast<int64_t>(j)) =
            jets[i].first.empty() ? 0.0 : jets[i].first[j];
      }
    }
  }
  void hessian_product(const RealVector& x, const RealVector& v, RealVector& out) override {
    Jet f;
    for (const Jet& r : function_(parameters(x, true))) f = f + 0.5 * square(r);
    DenseMatrix hessian(size_, size_);
    hessian.elements = f.second;
    out = multiply(hessian, v);
  }

 private:
  static std::vector<Jet> parameters(const RealVector& x, bool twice) {
    std::vector<Jet> jets;
    for (size_t i = 0; i < x.size(); ++i) jets.push_back(Jet::parameter(x[i], i, x.size(), twice));
    return jets;
  }
  int64_t size_, count_;
  Residuals function_;
};

struct TestProblem {
  std::string name;
  RealVector start;
  int64_t residual_count;
  Residuals residuals;
  std::vector<double> minima;  // of f = |r|^2 / 2; local ones that methods end in, too
  JetProblem problem() const { return {static_cast<int64_t>(start.size()), residual_count, residuals}; }
};

inline std::vector<TestProblem> test_problems() {
  using Jets = std::vector<Jet>;
  std::vector<TestProblem> all;
  const auto add = [&all](const char* name, RealVector start, int64_t count, Residuals residuals,
                          std::vector<double> minima = {0.0}) {
    all.push_back({name, std::move(start), count, std::move(residuals), std::move(minima)});
  };
  const Residuals chained = [](const Jets& x) {
    Jets r;
    for (size_t i = 0; i < x.size(); i += 2) {
      r.push_back(10.0 * (x[i + 1] - square(x[i])));
      r.push_back(1.0 - x[i]);
    }
    return r;
  };
  add("rosenbrock", {-1.2, 1.0}, 2, chained);
  add("freudenstein_roth", {0.5, -2.0}, 2,
      [](const Jets& x) {
        return Jets{-13.0 + x[0] + ((5.0 - x[1]) * x[1] - 2.0) * x[1],
                    -29.0 + x[0] + ((x[1] + 1.0) * x[1] - 14.0) * x[1]};
      },
      {0.0, 24.49212684});
  add("powell_badly_scaled", {0.0, 1.0}, 2, [](const Jets& x) {
    return Jets{1e4 * x[0] * x[1] - 1.0, exp(-x[0]) + exp(-x[1]) - 1.0001};
  });
  add("brown_badly_scaled", {1.0, 1.0}, 3, [](const Jets& x) {
    return Jets{x[0] - 1e6, x[1] - 2e-6, x[0] * x[1] - 2.0};
  });
  add("beale", {1.0, 1.0}, 3, [](const Jets& x) {
    return Jets{1.5 - x[0] * (1.0 - x[1]), 2.25 - x[0] * (1.0 - square(x[1])),
                2.625 - x[0] * (1.0 - x[1] * square(x[1]))};
  });
  add("helical_valley", {-1.0, 0.0, 0.0}, 3, [](const Jets& x) {
    Jet turn = x[0].value == 0.0 ? Jet(x[1].value >= 0.0 ? 0.25 : -0.25)
                                 : atan(x[1] / x[0]) / (2.0 * std::numbers::pi);
    if (x[0].value < 0.0) turn = turn + (x[1].value >= 0.0 ? 0.5 : -0.5);
    return Jets{10.0 * (x[2] - 10.0 * turn), 10.0 * (sqrt(square(x[0]) + square(x[1])) - 1.0), x[2]};
  });
  add("powell_singular", {3.0, -1.0, 0.0, 1.0}, 4, [](const Jets& x) {
    return Jets{x[0] + 10.0 * x[1], std::sqrt(5.0) * (x[2] - x[3]), square(x[1] - 2.0 * x[2]),
                std::sqrt(10.0) * square(x[0] - x[3])};
  });
  add("wood", {-3.0, -1.0, -3.0, -1.0}, 6, [](const Jets& x) {
    return Jets{10.0 * (x[1] - square(x[0])),
                1.0 - x[0],
                std::sqrt(90.0) * (x[3] - square(x[2])),
                1.0 - x[2],
                std::sqrt(10.0) * (x[1] + x[3] - 2.0),
                (x[1] - x[3]) / std::sqrt(10.0)};
  });
  add("biggs_exp6", {1.0, 2.0, 1.0, 1.0, 1.0, 1.0}, 13,
      [](const Jets& x) {
        Jets r;
        for (int i = 1; i <= 13; ++i) {
          const double t = 0.1 * i;
          const double y = std::exp(-t) - 5.0 * std::exp(-10.0 * t) + 3.0 * std::exp(-4.0 * t);
          r.push_back(x[2] * exp(-t * x[0]) - x[3] * exp(-t * x[1]) + x[5] * exp(-t * x[4]) - y);
        }
        return r;
      },
      {0.0, 0.5 * 5.65564992e-3});
  add("brown_dennis", {25.0, 5.0, -5.0, -1.0}, 20,
      [](const Jets& x) {
        Jets r;
        for (int i = 1; i <= 20; ++i) {
          const double t = 0.2 * i;
          r.push_back(square(x[0] + t * x[1] - std::exp(t)) +
                      square(x[2] + std::sin(t) * x[3] - std::cos(t)));
        }
        return r;
      },
      {0.5 * 85822.20162635});
  add("extended_rosenbrock", {-1.2, 1.0, -1.2, 1.0, -1.2, 1.0, -1.2, 1.0, -1.2, 1.0}, 10, chained);
  return all;
}

}  // namespace lockstep
