// Small fp64 problems with hand-written gradients, and a loop that lets an optimizer walk over them.
#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "device.h"
#include "lockstep/core/configuration.h"
#include "lockstep/optim/optimizer.h"

namespace lockstep::testing {

using Vector = std::vector<double>;
using Gradient = std::function<Vector(const Vector& theta)>;
using Rate = std::function<double(int64_t update)>;

struct Problem {
  std::string name;
  Vector start;
  Gradient gradient;
  Shape shape = {static_cast<int64_t>(start.size())};
};

// f(theta) = theta' A theta / 2 - b' theta; A is symmetric, row-major.
inline Gradient quadratic_gradient(Vector matrix, Vector linear) {
  return [matrix = std::move(matrix), linear = std::move(linear)](const Vector& theta) {
    const size_t d = linear.size();
    Vector gradient(d);
    for (size_t i = 0; i < d; ++i) {
      double sum = -linear[i];
      for (size_t j = 0; j < d; ++j) sum += matrix[i * d + j] * theta[j];
      gradient[i] = sum;
    }
    return gradient;
  };
}

// Mean logistic loss over the rows x_i of `features` (n, d) with labels y_i in {0, 1}, plus (l2/2) |theta|^2:
// the gradient is sum_i (sigmoid(x_i' theta) - y_i) x_i / n + l2 theta.
inline Gradient logistic_gradient(Vector features, Vector labels, double l2) {
  return [features = std::move(features), labels = std::move(labels), l2](const Vector& theta) {
    const size_t n = labels.size(), d = theta.size();
    Vector gradient(d);
    for (size_t j = 0; j < d; ++j) gradient[j] = l2 * theta[j];
    for (size_t i = 0; i < n; ++i) {
      double z = 0.0;
      for (size_t j = 0; j < d; ++j) z += features[i * d + j] * theta[j];
      const double residual = 1.0 / (1.0 + std::exp(-z)) - labels[i];
      for (size_t j = 0; j < d; ++j) gradient[j] += residual * features[i * d + j] / static_cast<double>(n);
    }
    return gradient;
  };
}

// Six dimensions, eigenvalues 0.1 ... 100 (condition number 1000), turned by a Householder reflection so that
// no axis is special.
inline Problem ill_conditioned_quadratic() {
  const Vector eigenvalues = {0.1, 0.5, 2.0, 9.0, 40.0, 100.0};
  const Vector normal = {1.0, -2.0, 0.5, 3.0, -1.0, 2.5};
  const size_t d = eigenvalues.size();
  double square = 0.0;
  for (double x : normal) square += x * x;
  Vector reflection(d * d), matrix(d * d, 0.0);
  for (size_t i = 0; i < d; ++i) {
    for (size_t j = 0; j < d; ++j) {
      reflection[i * d + j] = (i == j ? 1.0 : 0.0) - 2.0 * normal[i] * normal[j] / square;
    }
  }
  for (size_t i = 0; i < d; ++i) {
    for (size_t j = 0; j < d; ++j) {
      for (size_t k = 0; k < d; ++k) {
        matrix[i * d + j] += reflection[i * d + k] * eigenvalues[k] * reflection[j * d + k];
      }
    }
  }
  return {"Quadratic",
          {1.0, -1.5, 2.0, 0.5, -0.25, 3.0},
          quadratic_gradient(matrix, {0.3, -1.0, 2.0, 0.0, 5.0, -0.7})};
}

inline Problem logistic_regression() {
  const size_t n = 40, d = 5;
  uint32_t state = 12345;
  auto uniform = [&state] {  // a linear congruential generator is random enough for inputs
    state = state * 1664525u + 1013904223u;
    return static_cast<double>(state >> 8) / 16777216.0 - 0.5;
  };
  Vector features(n * d), labels(n);
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < d; ++j) features[i * d + j] = uniform() * std::pow(3.0, static_cast<double>(j));
    labels[i] =
        features[i * d] + features[i * d + 1] - 0.1 * features[i * d + 4] + uniform() > 0.0 ? 1.0 : 0.0;
  }
  return {"Logistic", {0.1, -0.2, 0.3, 0.0, 0.05}, logistic_gradient(features, labels, 0.01)};
}

// An optimizer from the body of its [optimizer] table.
inline std::unique_ptr<Optimizer> optimizer_from(const std::string& toml) {
  Configuration configuration = Configuration::parse("[optimizer]\n" + toml + "\n", "test.toml", {});
  Section section = configuration.section("optimizer");
  std::unique_ptr<Optimizer> optimizer = make_optimizer(section);
  configuration.reject_unknown();
  return optimizer;
}

// A table of one parameter, "theta", of the given shape, at the start of the arrays.
inline std::vector<ParameterEntry> one_parameter(const Shape& shape) {
  return {{.name = "theta", .shape = shape, .offset = 0, .initializer = {}}};
}

// Parameters after each of `steps` updates in dtype fp64 or fp32: [0] is the start.
template <class T>
std::vector<Vector> walk(Optimizer& optimizer, const Problem& problem, const Rate& rate, int64_t steps) {
  Backend& backend = test_backend();
  const auto d = static_cast<int64_t>(problem.start.size());
  Tensor parameters =
      Tensor::from(Shape{d}, std::vector<T>(problem.start.begin(), problem.start.end()), backend);
  optimizer.allocate(one_parameter(problem.shape), d, {{0, d}}, dtype_of<T>, backend);
  const std::vector<UpdateSegment> segments = {{.begin = 0, .end = d}};
  std::vector<Vector> path = {problem.start};
  for (int64_t k = 0; k < steps; ++k) {
    optimizer.before_gradient(parameters, rate(k), segments);
    const Vector gradient = problem.gradient(parameters.to_vector<double>());
    optimizer.update(
        {.parameters = parameters,
         .gradients = Tensor::from(Shape{d}, std::vector<T>(gradient.begin(), gradient.end()), backend),
         .gradient_scale = 1.0,
         .learning_rate = rate(k),
         .segments = segments});
    path.push_back(parameters.to_vector<double>());
  }
  return path;
}

}  // namespace lockstep::testing
