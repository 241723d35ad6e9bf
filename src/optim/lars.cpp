// LARS: two norms, then classical momentum with the local rate inside the velocity.
#include "lockstep/optim/lars.h"

#include "lockstep/optim/clip.h"
#include "lockstep/optim/flat_update.h"
#include "lockstep/optim/optimizer_keys.h"
#include "lockstep/optim/parameter_optimizer.h"

namespace lockstep {
namespace {

class Lars final : public ParameterOptimizer {
 public:
  Lars(double momentum, double trust, double weight_decay)
      : ParameterOptimizer("lars"), momentum_(momentum), trust_(trust), weight_decay_(weight_decay) {}

 private:
  void declare_state(size_t, const ParameterEntry& parameter) override {
    reserve("velocity", parameter.shape);
  }

  void update_parameter(const ParameterUpdate& update) override {
    const int64_t n = update.parameter.elements();
    const double decay = update.weight_decay ? weight_decay_ : 0.0;
    const double parameter_norm = global_norm(update.parameter, n, 1.0);
    const double gradient_norm = global_norm(update.gradient, n, update.gradient_scale);
    const double local = parameter_norm > 0.0 && gradient_norm > 0.0
                             ? trust_ * parameter_norm / (gradient_norm + decay * parameter_norm)
                             : 1.0;
    // The local rate scales what enters the velocity, so that a later one does not rescale the past.
    const double rate = update.learning_rate * local;
    flat_update(UpdateFormula::kMomentumClassical, update.parameter, update.gradient,
                update.gradient_scale * rate, {state("velocity", update.index)},
                {1.0, decay * rate, momentum_, 0.0});
  }

  double momentum_, trust_, weight_decay_;
};

}  // namespace

std::unique_ptr<Optimizer> make_lars(const LarsOptions& options) {
  require_decay_rate("lars", "momentum", options.momentum);
  require_positive("lars", "trust", options.trust);
  require_not_negative("lars", "weight_decay", options.weight_decay);
  return std::make_unique<Lars>(options.momentum, options.trust, options.weight_decay);
}

std::unique_ptr<Optimizer> make_lars(Section& section) {
  LarsOptions options;
  options.momentum =
      read_decay_rate(section, "momentum", options.momentum, "share of the velocity kept each step");
  options.trust = section.real("trust", options.trust, kPositive,
                               "lars: local rate per ratio of parameter norm to gradient norm");
  options.weight_decay = read_coupled_weight_decay(section);
  return make_lars(options);
}

}  // namespace lockstep
