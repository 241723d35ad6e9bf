// Sophia-G out of elementwise arithmetic.
#include "lockstep/optim/sophia.h"

#include "lockstep/optim/diagonal_curvature.h"
#include "lockstep/optim/flat_update.h"
#include "lockstep/optim/optimizer_keys.h"
#include "lockstep/optim/tensor_algebra.h"

namespace lockstep {
namespace {

constexpr double kLeastDenominator = 1e-15;

class Sophia final : public DiagonalCurvatureOptimizer {
 public:
  explicit Sophia(const SophiaOptions& options)
      : DiagonalCurvatureOptimizer("sophia", DiagonalEstimate::kPredictedGradient, options.every),
        options_(options) {}

 private:
  void declare_state(size_t, const ParameterEntry& parameter) override {
    reserve("momentum", parameter.shape);
    reserve("curvature", parameter.shape);
  }

  void gather(size_t index, const Tensor& estimate) override {
    if (is_finite(estimate)) blend(state("curvature", index), estimate, options_.beta2);
  }

  void update_parameter(const ParameterUpdate& update) override {
    const Tensor momentum = state("momentum", update.index);
    blend(momentum, scaled(update.gradient, update.gradient_scale), options_.beta1);
    const Tensor denominator =
        shifted(scaled(state("curvature", update.index), options_.rho), kLeastDenominator);
    const Tensor quotient = combined(BinaryOp::kDivide, momentum, denominator);
    const Tensor direction =
        combined(BinaryOp::kMaximum, combined(BinaryOp::kMinimum, quotient, quotient.full_like(1.0)),
                 quotient.full_like(-1.0));
    flat_update(UpdateFormula::kSgd, update.parameter, direction, 1.0, {},
                {update.learning_rate, update.weight_decay ? options_.weight_decay : 0.0});
  }

  SophiaOptions options_;
};

}  // namespace

std::unique_ptr<Optimizer> make_sophia(const SophiaOptions& options) {
  require_decay_rate("sophia", "beta1", options.beta1);
  require_decay_rate("sophia", "beta2", options.beta2);
  require_positive("sophia", "rho", options.rho);
  require_positive("sophia", "every", static_cast<double>(options.every));
  require_not_negative("sophia", "weight_decay", options.weight_decay);
  return std::make_unique<Sophia>(options);
}

std::unique_ptr<Optimizer> make_sophia(Section& section) {
  SophiaOptions options;
  options.beta1 =
      read_decay_rate(section, "beta1", options.beta1, "share of the first moment kept each step");
  options.beta2 = read_decay_rate(section, "beta2", options.beta2, "sophia: share of the curvature kept");
  options.rho = section.real("rho", options.rho, kPositive,
                             "sophia: steps are clipped where |momentum| > rho curvature");
  options.every = section.integer("every", options.every, {1, 1'000'000'000},
                                  "sophia, adahessian, diagonal: updates between estimates of curvature, a "
                                  "sweep each");
  options.weight_decay = read_decoupled_weight_decay(section, options.weight_decay, "sophia");
  return make_sophia(options);
}

}  // namespace lockstep
