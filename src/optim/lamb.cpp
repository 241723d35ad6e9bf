// LAMB: one flat kernel for the direction, two norms, one flat kernel for the step.
#include "lockstep/optim/lamb.h"

#include "lockstep/kernels/math/portable.h"
#include "lockstep/optim/clip.h"
#include "lockstep/optim/flat_update.h"
#include "lockstep/optim/optimizer_keys.h"
#include "lockstep/optim/parameter_optimizer.h"

namespace lockstep {
namespace {

class Lamb final : public ParameterOptimizer {
 public:
  explicit Lamb(const LambOptions& options) : ParameterOptimizer("lamb"), options_(options) {}

 private:
  void declare_state(size_t, const ParameterEntry& parameter) override {
    reserve("first_moment", parameter.shape);
    reserve("second_moment", parameter.shape);
  }

  void update_parameter(const ParameterUpdate& update) override {
    const double k = static_cast<double>(updates() + 1);
    const int64_t n = update.parameter.elements();
    const Tensor direction = update.parameter.empty_like();
    flat_update(UpdateFormula::kLambDirection, update.parameter, update.gradient, update.gradient_scale,
                {state("first_moment", update.index), state("second_moment", update.index), direction},
                {0.0, update.weight_decay ? options_.weight_decay : 0.0, options_.beta1, options_.beta2,
                 options_.epsilon, 1.0 - math::portable::power(options_.beta1, k),
                 1.0 - math::portable::power(options_.beta2, k)});
    const double parameter_norm = global_norm(update.parameter, n, 1.0);
    const double direction_norm = global_norm(direction, n, 1.0);
    const double ratio = parameter_norm > 0.0 && direction_norm > 0.0 ? parameter_norm / direction_norm : 1.0;
    flat_update(UpdateFormula::kSgd, update.parameter, direction, 1.0, {},
                {update.learning_rate * ratio, 0.0});
  }

  LambOptions options_;
};

}  // namespace

std::unique_ptr<Optimizer> make_lamb(const LambOptions& options) {
  require_moments("lamb", options);
  return std::make_unique<Lamb>(options);
}

std::unique_ptr<Optimizer> make_lamb(Section& section) {
  LambOptions options;
  options.beta1 =
      read_decay_rate(section, "beta1", options.beta1, "share of the first moment kept each step");
  options.beta2 =
      read_decay_rate(section, "beta2", options.beta2, "share of the second moment kept each step");
  options.epsilon = read_epsilon(section, options.epsilon, "lamb");
  options.weight_decay = section.real("weight_decay", options.weight_decay, kNonNegative,
                                      "lamb: weight_decay * parameter joins the direction");
  return make_lamb(options);
}

}  // namespace lockstep
