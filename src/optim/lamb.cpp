// LAMB: one flat kernel for the direction, two norms, one flat kernel for the step.
#include "optim/lamb.h"

#include "kernels/math/portable.h"
#include "optim/clip.h"
#include "optim/flat_update.h"
#include "optim/optimizer_keys.h"
#include "optim/parameter_optimizer.h"

namespace lockstep {
namespace {

class Lamb final : public ParameterOptimizer {
 public:
  Lamb(const MomentSettings& settings, double weight_decay)
      : ParameterOptimizer("lamb"), settings_(settings), weight_decay_(weight_decay) {}

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
                {0.0, update.weight_decay ? weight_decay_ : 0.0, settings_.beta1, settings_.beta2,
                 settings_.epsilon, 1.0 - math::portable::power(settings_.beta1, k), 1.0 - math::portable::power(settings_.beta2, k)});
    const double parameter_norm = global_norm(update.parameter, n, 1.0);
    const double direction_norm = global_norm(direction, n, 1.0);
    const double ratio = parameter_norm > 0.0 && direction_norm > 0.0 ? parameter_norm / direction_norm : 1.0;
    flat_update(UpdateFormula::kSgd, update.parameter, direction, 1.0, {},
                {update.learning_rate * ratio, 0.0});
  }

  MomentSettings settings_;
  double weight_decay_;
};

}  // namespace

std::unique_ptr<Optimizer> make_lamb(Section& section) {
  MomentSettings settings;
  settings.beta1 = read_decay_rate(section, "beta1", 0.9, "share of the first moment kept each step");
  settings.beta2 = read_decay_rate(section, "beta2", 0.999, "share of the second moment kept each step");
  settings.epsilon = read_epsilon(section, 1e-6, "lamb");
  return std::make_unique<Lamb>(settings, section.real("weight_decay", 0.01, kNonNegative,
                                                       "lamb: weight_decay * parameter joins the direction"));
}

}  // namespace lockstep
