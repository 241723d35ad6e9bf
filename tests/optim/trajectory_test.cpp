// Optimizers follow, step by step, the paths that the textbook formulas give in plain fp64 code.
#include <gtest/gtest.h>

#include "optim/problems.h"

namespace lockstep::testing {
namespace {

constexpr int64_t kSteps = 100;

// A rule: the parameters after each step, element by element as in the formula.
using Rule = std::function<std::vector<Vector>(const Problem& problem, const Rate& rate)>;

// Rules whose gradient is taken at theta: step(i, theta_i, g_i, eta, k) returns the new theta_i; k counts
// from 1.
template <class Step>
Rule plain_rule(Step make_step) {
  return [make_step](const Problem& problem, const Rate& rate) {
    auto step = make_step(problem.start.size());
    std::vector<Vector> path = {problem.start};
    for (int64_t k = 1; k <= kSteps; ++k) {
      Vector theta = path.back();
      const Vector g = problem.gradient(theta);
      for (size_t i = 0; i < theta.size(); ++i) theta[i] = step(i, theta[i], g[i], rate(k - 1), k);
      path.push_back(theta);
    }
    return path;
  };
}

// theta_{k+1} = theta_k - eta_k grad f(theta_k), f including (decay/2)|theta|^2.
Rule gradient_descent(double decay) {
  return plain_rule([=](size_t) {
    return [=](size_t, double theta, double g, double eta, int64_t) {
      return theta - eta * (g + decay * theta);
    };
  });
}

// v_{k+1} = beta v_k + (1 - beta) g_k, theta_{k+1} = theta_k - eta v_{k+1}.
Rule averaged_momentum(double beta, double decay) {
  return plain_rule([=](size_t d) {
    return [=, v = Vector(d)](size_t i, double theta, double g, double eta, int64_t) mutable {
      v[i] = beta * v[i] + (1.0 - beta) * (g + decay * theta);
      return theta - eta * v[i];
    };
  });
}

// v_1 = g_1, then v_{k+1} = mu v_k + (1 - tau) g_k; theta_{k+1} = theta_k - eta v_{k+1}.
Rule classical_momentum(double mu, double tau) {
  return plain_rule([=](size_t d) {
    return [=, v = Vector(d)](size_t i, double theta, double g, double eta, int64_t k) mutable {
      v[i] = k == 1 ? g : mu * v[i] + (1.0 - tau) * g;
      return theta - eta * v[i];
    };
  });
}

// v_{k+1} = mu v_k + g_k, theta_{k+1} = theta_k - eta (g_k + mu v_{k+1}).
Rule classical_nesterov(double mu) {
  return plain_rule([=](size_t d) {
    return [=, v = Vector(d)](size_t i, double theta, double g, double eta, int64_t) mutable {
      v[i] = mu * v[i] + g;
      return theta - eta * (g + mu * v[i]);
    };
  });
}

// theta~_k = theta_k - eta beta v_k, v_{k+1} = beta v_k + (1 - beta) grad f(theta~_k), theta_{k+1} = theta_k
// - eta v_{k+1}.
Rule look_ahead_nesterov(double beta, double decay) {
  return [=](const Problem& problem, const Rate& rate) {
    std::vector<Vector> path = {problem.start};
    Vector v(problem.start.size());
    for (int64_t k = 0; k < kSteps; ++k) {
      Vector theta = path.back(), ahead = theta;
      for (size_t i = 0; i < v.size(); ++i) ahead[i] = theta[i] - rate(k) * beta * v[i];
      const Vector g = problem.gradient(ahead);
      for (size_t i = 0; i < v.size(); ++i) {
        v[i] = beta * v[i] + (1.0 - beta) * (g[i] + decay * ahead[i]);
        theta[i] -= rate(k) * v[i];
      }
      path.push_back(theta);
    }
    return path;
  };
}

// m_k = b1 m + (1 - b1) g, v_k = b2 v + (1 - b2) g^2, m^ = m_k / (1 - b1^k), v^ = v_k / (1 - b2^k),
// theta_{k+1} = theta_k - eta m^ / (sqrt(v^) + eps). coupled: decay theta joins g. decoupled: eta decay theta
// is subtracted too.
Rule adam(double b1, double b2, double eps, double coupled, double decoupled) {
  return plain_rule([=](size_t d) {
    return
        [=, m = Vector(d), v = Vector(d)](size_t i, double theta, double g, double eta, int64_t k) mutable {
          g += coupled * theta;
          m[i] = b1 * m[i] + (1.0 - b1) * g;
          v[i] = b2 * v[i] + (1.0 - b2) * g * g;
          const double m_hat = m[i] / (1.0 - std::pow(b1, k));
          const double v_hat = v[i] / (1.0 - std::pow(b2, k));
          return theta - eta * decoupled * theta - eta * m_hat / (std::sqrt(v_hat) + eps);
        };
  });
}

// theta_{k+1} = theta_k - eta (sign(b1 m + (1 - b1) g) + decay theta), then m = b2 m + (1 - b2) g.
Rule lion(double b1, double b2, double decay) {
  return plain_rule([=](size_t d) {
    return [=, m = Vector(d)](size_t i, double theta, double g, double eta, int64_t) mutable {
      const double mixed = b1 * m[i] + (1.0 - b1) * g;
      m[i] = b2 * m[i] + (1.0 - b2) * g;
      return theta - eta * (std::copysign(mixed == 0.0 ? 0.0 : 1.0, mixed) + decay * theta);
    };
  });
}

// Duchi et al. 2011, diagonal form: G = G + g^2, theta_{k+1} = theta_k - eta g / (sqrt(G) + eps).
Rule adagrad(double eps) {
  return plain_rule([=](size_t d) {
    return [=, sum = Vector(d)](size_t i, double theta, double g, double eta, int64_t) mutable {
      sum[i] += g * g;
      return theta - eta * g / (std::sqrt(sum[i]) + eps);
    };
  });
}

// Tieleman and Hinton 2012: v = rho v + (1 - rho) g^2, theta_{k+1} = theta_k - eta g / (sqrt(v) + eps).
Rule rmsprop(double rho, double eps) {
  return plain_rule([=](size_t d) {
    return [=, v = Vector(d)](size_t i, double theta, double g, double eta, int64_t) mutable {
      v[i] = rho * v[i] + (1.0 - rho) * g * g;
      return theta - eta * g / (std::sqrt(v[i]) + eps);
    };
  });
}

// Diagonal preconditioning: theta_{k+1} = theta_k - eta diag(h)^-1 g, h the slope of g over theta by least
// squares with weights that fade by beta a step.
Rule diagonal(double beta, double initial, double smallest, double decay) {
  return plain_rule([=](size_t d) {
    return [=, history = std::vector<std::vector<std::pair<double, double>>>(d)](
               size_t i, double theta, double g, double eta, int64_t) mutable {
      g += decay * theta;
      history[i].emplace_back(theta, g);
      double covariance = 0.0, variance = 0.0;
      for (size_t k = 1; k < history[i].size(); ++k) {
        const double s = history[i][k].first - history[i][k - 1].first;
        const double y = history[i][k].second - history[i][k - 1].second;
        const double weight = std::pow(beta, static_cast<double>(history[i].size() - 1 - k));
        covariance += weight * s * y;
        variance += weight * s * s;
      }
      const double h = variance > 0.0 ? std::max(std::abs(covariance) / variance, smallest) : initial;
      return theta - eta * g / h;
    };
  });
}

struct Case {
  std::string name, toml;
  double rate;
  Rule rule;

  friend void PrintTo(const Case& test, std::ostream* out) { *out << test.toml; }
};

std::vector<Case> cases() {
  return {
      {"GradientDescent", "type = 'gradient_descent'", 0.01, gradient_descent(0.0)},
      {"Sgd", "type = 'sgd'", 0.01, gradient_descent(0.0)},
      {"SgdDecayed", "type = 'sgd'\nweight_decay = 0.3", 0.01, gradient_descent(0.3)},
      {"MomentumByDefault", "type = 'momentum'", 0.05, averaged_momentum(0.9, 0.0)},
      {"MomentumAveraged", "type = 'momentum'\nform = 'averaged'\nmomentum = 0.8\nweight_decay = 0.2", 0.02,
       averaged_momentum(0.8, 0.2)},
      {"MomentumClassical", "type = 'momentum'\nform = 'classical'", 0.01, classical_momentum(0.9, 0.0)},
      {"MomentumDampened", "type = 'momentum'\nform = 'classical'\nmomentum = 0.7\ndampening = 0.4", 0.01,
       classical_momentum(0.7, 0.4)},
      {"NesterovByDefault", "type = 'nesterov'", 0.05, look_ahead_nesterov(0.9, 0.0)},
      {"NesterovAveraged", "type = 'nesterov'\nform = 'averaged'\nmomentum = 0.8\nweight_decay = 0.2", 0.02,
       look_ahead_nesterov(0.8, 0.2)},
      {"NesterovClassical", "type = 'nesterov'\nform = 'classical'\nmomentum = 0.8", 0.01,
       classical_nesterov(0.8)},
      {"AdamByDefault", "type = 'adam'", 0.05, adam(0.9, 0.999, 1e-8, 0.0, 0.0)},
      {"Adam", "type = 'adam'\nbeta1 = 0.8\nbeta2 = 0.99\nepsilon = 1e-4\nweight_decay = 0.1", 0.05,
       adam(0.8, 0.99, 1e-4, 0.1, 0.0)},
      {"AdamWithoutAverages", "type = 'adam'\nbeta1 = 0\nbeta2 = 0\nepsilon = 1", 0.05,
       adam(0.0, 0.0, 1.0, 0.0, 0.0)},
      {"AdamWByDefault", "type = 'adamw'", 0.05, adam(0.9, 0.999, 1e-8, 0.0, 0.01)},
      {"AdamW", "type = 'adamw'\nbeta1 = 0.7\nweight_decay = 0.5", 0.05, adam(0.7, 0.999, 1e-8, 0.0, 0.5)},
      {"Adagrad", "type = 'adagrad'", 0.2, adagrad(1e-10)},
      {"RmsProp", "type = 'rmsprop'\nrho = 0.9", 0.002, rmsprop(0.9, 1e-8)},
      {"LionByDefault", "type = 'lion'", 0.01, lion(0.9, 0.99, 0.0)},
      {"Lion", "type = 'lion'\nbeta1 = 0.8\nbeta2 = 0.95\nweight_decay = 0.5", 0.02, lion(0.8, 0.95, 0.5)},
      {"Diagonal", "type = 'diagonal'\ninitial_curvature = 100\nsmallest_curvature = 10", 0.05,
       diagonal(0.5, 100.0, 10.0, 0.0)},
      {"DiagonalDecayed",
       "type = 'diagonal'\nmemory = 0.9\ninitial_curvature = 50\nsmallest_curvature = 10\nweight_decay = 0.3",
       0.05, diagonal(0.9, 50.0, 10.0, 0.3)},
  };
}

class Trajectory : public ::testing::TestWithParam<Case> {};

TEST_P(Trajectory, FollowsTheFormulas) {
  for (const Problem& problem : {ill_conditioned_quadratic(), logistic_regression()}) {
    // A rate that changes every step: nobody may use the one before.
    const Rate rate = [&](int64_t update) {
      return GetParam().rate * (1.0 - 0.005 * static_cast<double>(update));
    };
    const std::vector<Vector> expected = GetParam().rule(problem, rate);
    const std::unique_ptr<Optimizer> optimizer = optimizer_from(GetParam().toml);
    const std::vector<Vector> path = walk<double>(*optimizer, problem, rate, kSteps);
    ASSERT_EQ(path.size(), expected.size());
    for (size_t k = 0; k < path.size(); ++k) {
      for (size_t i = 0; i < path[k].size(); ++i) {
        ASSERT_NEAR(path[k][i], expected[k][i], 1e-12) << problem.name << " step " << k << " element " << i;
      }
    }
    EXPECT_EQ(optimizer->updates(), kSteps);
    // The path must have led somewhere, or agreement would mean little.
    double moved = 0.0;
    for (size_t i = 0; i < problem.start.size(); ++i) moved += std::abs(path.back()[i] - problem.start[i]);
    EXPECT_GT(moved, 0.01) << problem.name;
  }
}

TEST_P(Trajectory, InSinglePrecisionStaysNearTheFormulas) {
  const Problem problem = logistic_regression();
  const Rate rate = [&](int64_t) { return GetParam().rate; };
  const std::vector<Vector> expected = GetParam().rule(problem, rate);
  const std::vector<Vector> path = walk<float>(*optimizer_from(GetParam().toml), problem, rate, kSteps);
  for (size_t i = 0; i < problem.start.size(); ++i)
    EXPECT_NEAR(path.back()[i], expected.back()[i], 2e-5) << i;
}

INSTANTIATE_TEST_SUITE_P(Optimizers, Trajectory, ::testing::ValuesIn(cases()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace lockstep::testing
