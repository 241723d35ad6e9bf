// Logistic regression by gradient descent, from scratch: logistic_regression DATA STEPS RATE L2 prints the
// loss of each step. The same objective, and so the same trajectory, as optimizer.type = "gradient_descent"
// with model.type = "logistic".
#include <lockstep/autodiff/derivatives.h>
#include <lockstep/data/dataset.h>
#include <lockstep/ops/elementwise.h>
#include <lockstep/ops/loss.h>
#include <lockstep/ops/matmul.h>
#include <lockstep/ops/reduction.h>

#include <cstdio>
#include <cstdlib>

using namespace lockstep;

int main(int, char** argv) {
  const Dataset data = read_dataset({.path = argv[1]});
  const int64_t n = data.size(), features = data.sample_shape.elements();
  const Tensor x = Tensor::from(Shape{n, features}, data.inputs_f32, cpu_backend()).converted(DType::kF64);
  const Tensor y = Tensor::from(Shape{n, 1}, data.labels, cpu_backend()).converted(DType::kF64);
  const double rate = std::atof(argv[3]), l2 = std::atof(argv[4]);

  // L(w, b) = mean_i (softplus(z_i) - y_i z_i) + l2/2 (|w|^2 + b^2),  z = x w + b
  const Function objective = [&](std::span<const Tensor> at) {
    const Tensor loss = mean(logistic_loss(linear(x, at[0], at[1]), y));
    return loss + scale(sum(square(at[0])) + sum(square(at[1])), 0.5 * l2);
  };
  std::vector<Tensor> theta = {Tensor::zeros({features, 1}, DType::kF64, cpu_backend()),
                               Tensor::zeros({1}, DType::kF64, cpu_backend())};
  for (int step = 0; step < std::atoi(argv[2]); ++step) {
    const auto [loss, gradient] = value_and_grad(objective, theta);
    std::printf("%.17g\n", loss.item());
    for (size_t i = 0; i < theta.size(); ++i) theta[i] = theta[i] - scale(gradient[i], rate);
  }
}
