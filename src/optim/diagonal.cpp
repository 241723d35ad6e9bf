// Diagonally preconditioned descent as one flat kernel.
#include "lockstep/optim/diagonal.h"

#include <fmt/format.h>

#include "lockstep/core/error.h"
#include "lockstep/kernels/math/portable.h"
#include "lockstep/optim/diagonal_curvature.h"
#include "lockstep/optim/flat_optimizer.h"
#include "lockstep/optim/flat_update.h"
#include "lockstep/optim/optimizer_keys.h"
#include "lockstep/optim/tensor_algebra.h"

namespace lockstep {
namespace {

class Diagonal final : public FlatOptimizer {
 public:
  Diagonal(double memory, double initial_curvature, double smallest_curvature, double weight_decay)
      : FlatOptimizer("diagonal", UpdateFormula::kDiagonal,
                      {"previous_parameter", "previous_gradient", "covariance", "variance"}, weight_decay),
        memory_(memory),
        initial_curvature_(initial_curvature),
        smallest_curvature_(smallest_curvature) {}

 private:
  void set_scalars(int64_t update, double* scalars) const override {
    scalars[2] = memory_;
    scalars[3] = initial_curvature_;
    scalars[4] = smallest_curvature_;
    scalars[5] = update == 0 ? 0.0 : 1.0;
  }

  double memory_, initial_curvature_, smallest_curvature_;
};

class HutchinsonDiagonal final : public DiagonalCurvatureOptimizer {
 public:
  explicit HutchinsonDiagonal(const DiagonalOptions& options)
      : DiagonalCurvatureOptimizer("diagonal", DiagonalEstimate::kHutchinson, options.every),
        options_(options) {}

 private:
  void declare_state(size_t, const ParameterEntry& parameter) override {
    reserve("curvature", parameter.shape);
  }

  void gather(size_t index, const Tensor& estimate) override {
    if (is_finite(estimate)) blend(state("curvature", index), estimate, options_.memory);
  }

  void update_parameter(const ParameterUpdate& update) override {
    Tensor gradient = scaled(update.gradient, update.gradient_scale);
    if (update.weight_decay && options_.weight_decay > 0.0)
      gradient = weighted_sum(1.0, gradient, options_.weight_decay, update.parameter);
    const double share = 1.0 - math::portable::power(options_.memory, static_cast<double>(gathered()));
    const Tensor curvature = absolute(scaled(state("curvature", update.index), 1.0 / share));
    const Tensor floored =
        combined(BinaryOp::kMaximum, curvature, curvature.full_like(options_.smallest_curvature));
    flat_update(UpdateFormula::kSgd, update.parameter, combined(BinaryOp::kDivide, gradient, floored), 1.0,
                {}, {update.learning_rate, 0.0});
  }

  DiagonalOptions options_;
};

}  // namespace

std::unique_ptr<Optimizer> make_diagonal(const DiagonalOptions& options) {
  require_decay_rate("diagonal", "memory", options.memory);
  require_epsilon("diagonal", "initial_curvature", options.initial_curvature);
  require_epsilon("diagonal", "smallest_curvature", options.smallest_curvature);
  require_not_negative("diagonal", "weight_decay", options.weight_decay);
  require_positive("diagonal", "every", static_cast<double>(options.every));
  if (options.curvature == "hutchinson") return std::make_unique<HutchinsonDiagonal>(options);
  if (options.curvature != "differences") {
    fail(ErrorKind::kUsage,
         fmt::format("diagonal: curvature must be differences or hutchinson, got {}", options.curvature));
  }
  return std::make_unique<Diagonal>(options.memory, options.initial_curvature, options.smallest_curvature,
                                    options.weight_decay);
}

std::unique_ptr<Optimizer> make_diagonal(Section& section) {
  DiagonalOptions options;
  options.curvature = section.text("curvature", options.curvature, {"differences", "hutchinson"},
                                   "diagonal: from how gradients change along the steps, or from products "
                                   "with the Hessian");
  options.every = section.integer("every", options.every, {1, 1'000'000'000},
                                  "sophia, adahessian, diagonal: updates between estimates of curvature, a "
                                  "sweep each");
  options.memory =
      read_decay_rate(section, "memory", options.memory, "diagonal: share of earlier steps in the curvature");
  options.initial_curvature =
      section.real("initial_curvature", options.initial_curvature, {1e-30},
                   "diagonal: the first step is learning_rate / initial_curvature times the gradient");
  options.smallest_curvature = section.real("smallest_curvature", options.smallest_curvature, {1e-30},
                                            "diagonal: flatter directions count as this curved");
  options.weight_decay = read_coupled_weight_decay(section);
  return make_diagonal(options);
}

}  // namespace lockstep
