// Measures what recomputation saves and costs: activation bytes and time of a sweep of a deep MLP.
//
//   build/release/bin/recompute_benchmark [layers, default 64] [width, default 256] [samples, default 1024]
//
// One row for each k of train.recompute_every: the most bytes that the forward and backward sweep held over
// what was there before (gradients are handed over as they are finished), and the median time of seven
// sweeps, on one thread. About layers/k inputs of runs and k activations of one run live at once: the least
// where k is the square root.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <vector>

#include "lockstep/autodiff/derivatives.h"
#include "lockstep/core/configuration.h"
#include "lockstep/nn/module.h"
#include "lockstep/ops/loss.h"

namespace {

using namespace lockstep;

struct Measured {
  size_t bytes = 0;
  double seconds = 0.0;
};

Measured measure(const Module& model, ForwardContext& context, const Tensor& x, const Tensor& labels) {
  std::vector<double> seconds;
  Measured result;
  for (int repetition = 0; repetition < 7; ++repetition) {
    const size_t before = allocator_statistics().bytes_in_use;
    reset_allocator_peak();
    const auto start = std::chrono::steady_clock::now();
    const Tensor losses = cross_entropy(model.forward(x, context), labels);
    backward(losses, losses.full_like(1.0), [](const Leaf&, const Tensor&) {});
    seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    result.bytes = allocator_statistics().peak_bytes - before;
  }
  std::nth_element(seconds.begin(), seconds.begin() + 3, seconds.end());
  result.seconds = seconds[3];
  return result;
}

}  // namespace

int main(int count, char** arguments) {
  const auto argument = [&](int i, int64_t fallback) {
    return count > i ? std::max(int64_t{1}, static_cast<int64_t>(std::atoll(arguments[i]))) : fallback;
  };
  const int64_t layers = argument(1, 64), width = argument(2, 256), samples = argument(3, 1024);
  std::string hidden;
  for (int64_t i = 1; i < layers; ++i) hidden += fmt::format("{}{}", i == 1 ? "" : ", ", width);
  Configuration configuration =
      Configuration::parse(fmt::format("[model]\ntype = 'mlp'\nhidden = [{}]\n", hidden), "benchmark", {});
  ParameterStore store;
  Section section = configuration.section("model");
  const auto model = build_model(section, {{width}, DType::kF32, 10}, ModuleBuilder(store));
  store.allocate(DType::kF32, cpu_backend(), 1);
  ForwardContext context = forward_context(store, true);
  const Tensor x = Tensor::full({samples, width}, DType::kF32, cpu_backend(), 0.5);
  const Tensor labels = Tensor::zeros({samples}, DType::kI32, cpu_backend());

  fmt::print("{} layers of {} units, {} samples: one activation is {:.2f} MiB\n", layers, width, samples,
             static_cast<double>(x.bytes()) / 1048576.0);
  fmt::print("{:>15}  {:>15}  {:>9}  {:>8}\n", "recompute_every", "activation MiB", "of k = 0", "time");
  const Measured all = measure(*model, context, x, labels);
  for (int64_t k = 0; k < layers; k = k == 0 ? 1 : 2 * k) {
    context.recompute_every = k;
    const Measured measured = measure(*model, context, x, labels);
    fmt::print("{:>15}  {:>15.2f}  {:>9.2f}  {:>7.2f}x\n", k, static_cast<double>(measured.bytes) / 1048576.0,
               static_cast<double>(measured.bytes) / static_cast<double>(all.bytes),
               measured.seconds / all.seconds);
  }
  return 0;
}
