// Products of the whole objective's second derivatives, and what is made of them.
#include "lockstep/train/checkpoint_curvature.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "lockstep/core/error.h"
#include "lockstep/core/log.h"
#include "lockstep/train/agreement.h"
#include "lockstep/train/checkpoint_problem.h"
#include "lockstep/train/host_memory.h"

namespace lockstep {
namespace {

std::vector<CheckpointCurvature::Sharpness> sharpness_of(const SymmetricProduct& product,
                                                         const ParameterStore& store, int64_t n,
                                                         const SpectrumOptions& options, int64_t& products) {
  std::vector<CheckpointCurvature::Sharpness> result;
  size_t first = 0;
  for (const ParameterEntry& entry : store.parameters()) {
    const auto size = static_cast<size_t>(entry.shape.elements());
    const SymmetricProduct block = [&](const RealVector& v, RealVector& out) {
      RealVector whole(static_cast<size_t>(n), 0.0), image;
      std::copy(v.begin(), v.end(), whole.begin() + static_cast<std::ptrdiff_t>(first));
      product(whole, image);
      const auto from = image.begin() + static_cast<std::ptrdiff_t>(first);
      out.assign(from, from + static_cast<std::ptrdiff_t>(size));
    };
    result.push_back({entry.name, entry.shape.elements(),
                      largest_magnitude(block, entry.shape.elements(), options.steps, options.seed,
                                        static_cast<uint32_t>(result.size()), products)});
    first += size;
  }
  return result;
}

}  // namespace

CheckpointCurvature measure_checkpoint(Configuration& configuration, const std::string& checkpoint,
                                       Communicator& communicator, std::string& weights,
                                       const CurvatureWants& wants, const std::string& base) {
  CheckpointProblem whole("curvature", configuration, checkpoint, communicator, weights, wants.data, base);
  GradientPass& pass = whole.pass();
  PassProblem& problem = whole.problem();
  CheckpointCurvature result;
  result.samples = whole.samples();
  result.precision = whole.model().settings().parameters();
  result.parameters = problem.size();
  const RealVector x = problem.parameters();
  RealVector gradient;
  result.loss = problem.value_and_gradient(x, gradient);
  result.gradient_norm = norm(gradient);
  if (!std::isfinite(result.loss) || !std::isfinite(result.gradient_norm)) {
    fail_together(communicator, ErrorKind::kNumeric,
                  fmt::format("{}: the loss at its weights is {}, its gradient's norm {}", checkpoint,
                              result.loss, result.gradient_norm));
  }
  const double variance = pass.gradient_variance();
  result.noise_scale = result.gradient_norm > 0.0 ? variance / (result.gradient_norm * result.gradient_norm)
                                                  : std::numeric_limits<double>::quiet_NaN();

  SpectrumOptions options = wants.spectrum;
  options.seed = whole.model().settings().seed;
  options.precision = result.precision;
  int64_t products = 0, most = most_products(options, result.parameters);
  if (wants.by_parameter) {
    for (const ParameterEntry& entry : whole.model().replica().store.parameters())
      most += std::min(options.steps, entry.shape.elements());
  }
  const SymmetricProduct product = [&](const RealVector& v, RealVector& out) {
    if (wants.matrix == "hessian") {
      problem.hessian_product(x, v, out);
    } else {
      problem.gauss_newton_product(x, v, out);
    }
    if (wants.progress) wants.progress(++products, most);
  };
  const int64_t vectors = held_vectors(options, result.parameters), bytes = 8 * result.parameters * vectors;
  log_info(fmt::format("{}: {} samples, {} parameters, {}; vectors of {} MiB on each worker", checkpoint,
                       result.samples, result.parameters, name_of(result.precision), bytes / (1 << 20)));
  const bool of_steps = vectors == std::min(options.steps, result.parameters);
  require_memory_on_hosts(
      communicator,
      fmt::format("{}: {}, a vector of {} numbers each", checkpoint,
                  of_steps ? fmt::format("--steps {}", options.steps)
                           : fmt::format("a third of --trace-products {}", options.trace_products),
                  result.parameters),
      bytes, ErrorKind::kUsage);
  try {
    result.spectrum = measure_spectrum(product, problem.size(), options);
    result.products = result.spectrum.products;
    if (wants.by_parameter)
      result.sharpness =
          sharpness_of(product, whole.model().replica().store, problem.size(), options, result.products);
  } catch (const Error& error) {
    // All workers have the same numbers and the same model, and stop at the same product.
    if (error.kind() != ErrorKind::kNumeric && error.kind() != ErrorKind::kUsage) throw;
    fail_together(communicator, error.kind(), fmt::format("{}: {}", checkpoint, error.what()));
  }
  return result;
}

}  // namespace lockstep
