// Measures products with second derivatives against the gradient, over the same samples of a trained model.
//
//   [mpirun -np 2] build/release/bin/curvature_benchmark CONFIG CHECKPOINT [samples, default 1024]
//   [SETTING...]
//
// CONFIG, CHECKPOINT and settings as `lockstep curvature` takes them. One JSON line: median seconds of the
// gradient, of the first product with the Hessian at a point and of a further one, and of those with the
// Gauss-Newton matrix, over all samples. They alternate; a repetition takes as long as its slowest worker.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <exception>
#include <functional>
#include <string>
#include <vector>

#include "lockstep/comm/communicator.h"
#include "lockstep/core/configuration.h"
#include "lockstep/train/checkpoint_problem.h"

namespace {

using namespace lockstep;

// Fewer where they take long, but no fewer than three.
constexpr int kMostRepetitions = 15;
constexpr double kEnoughSeconds = 30.0;

void measure(int count, char** arguments, Communicator& communicator) {
  Configuration configuration =
      Configuration::load(arguments[1], {arguments + std::min(count, 4), arguments + count});
  std::string weights;
  DataPart part;
  part.samples = count > 3 ? std::max(std::atoll(arguments[3]), 1LL) : 1024;
  CheckpointProblem problem("curvature_benchmark", configuration, arguments[2], communicator, weights, part);
  GradientPass& pass = problem.pass();
  ParameterStore& store = problem.model().replica().store;
  GradientPass::Linearization hessian, gauss_newton;
  Tensor vector = store.values().full_like(1.0), result = store.values().full_like(0.0);

  const std::vector<std::function<void()>> sides = {
      [&] { pass.value_and_gradient(result); },
      [&] { pass.hessian_product(vector, result); },
      [&] { pass.hessian_product(vector, result, &hessian); },
      [&] { pass.gauss_newton_product(vector, result); },
      [&] { pass.gauss_newton_product(vector, result, &gauss_newton); },
  };
  std::vector<std::vector<double>> times(sides.size());
  double all = 0.0;
  // The first warms up. How long they take is rank 0's to say: all end together.
  for (int repetition = -1; repetition < kMostRepetitions; ++repetition) {
    double enough = all > kEnoughSeconds ? 1.0 : 0.0;
    communicator.broadcast(&enough, sizeof enough, 0, "time")->wait();
    if (repetition >= 3 && enough > 0.0) break;
    for (size_t side = 0; side < sides.size(); ++side) {
      communicator.barrier("start");
      const auto start = std::chrono::steady_clock::now();
      sides[side]();
      communicator.barrier("end");
      const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      all += seconds;
      if (repetition >= 0) times[side].push_back(seconds);
    }
  }
  for (std::vector<double>& some : times) std::sort(some.begin(), some.end());
  const auto median = [&](size_t side) { return times[side][times[side].size() / 2]; };
  if (communicator.rank() == 0) {
    fmt::print(
        "{{\"workers\": {}, \"samples\": {}, \"parameters\": {}, \"gradient\": {:.6f}, "
        "\"first_hessian\": {:.6f}, \"hessian\": {:.6f}, \"first_gauss_newton\": {:.6f}, "
        "\"gauss_newton\": {:.6f}, \"kept_mb\": [{:.1f}, {:.1f}]}}\n",
        communicator.world_size(), problem.samples(), problem.problem().size(), median(0), median(1),
        median(2), median(3), median(4), static_cast<double>(hessian.bytes) / 1048576.0,
        static_cast<double>(gauss_newton.bytes) / 1048576.0);
  }
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 3) {
    fmt::print(stderr, "usage: curvature_benchmark CONFIG CHECKPOINT [SAMPLES] [SETTING...]\n");
    return 2;
  }
  const auto communicator = make_mpi_communicator({});
  try {
    measure(count, arguments, *communicator);
  } catch (const std::exception& error) {
    fmt::print(stderr, "curvature_benchmark: {}\n", error.what());
    return 1;
  }
  return 0;
}
