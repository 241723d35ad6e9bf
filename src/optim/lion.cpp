// Lion as one flat kernel.
#include "lockstep/optim/lion.h"

#include "lockstep/optim/flat_optimizer.h"
#include "lockstep/optim/optimizer_keys.h"

namespace lockstep {
namespace {

class Lion final : public FlatOptimizer {
 public:
  Lion(double beta1, double beta2, double weight_decay)
      : FlatOptimizer("lion", UpdateFormula::kLion, {"momentum"}, weight_decay),
        beta1_(beta1),
        beta2_(beta2) {}

 private:
  void set_scalars(int64_t, double* scalars) const override {
    scalars[2] = beta1_;
    scalars[3] = beta2_;
  }

  double beta1_, beta2_;
};

}  // namespace

std::unique_ptr<Optimizer> make_lion(const LionOptions& options) {
  require_decay_rate("lion", "beta1", options.beta1);
  require_decay_rate("lion", "beta2", options.beta2);
  require_not_negative("lion", "weight_decay", options.weight_decay);
  return std::make_unique<Lion>(options.beta1, options.beta2, options.weight_decay);
}

std::unique_ptr<Optimizer> make_lion(Section& section) {
  LionOptions options;
  options.beta1 =
      read_decay_rate(section, "beta1", options.beta1, "lion: share of the momentum in the direction");
  options.beta2 =
      read_decay_rate(section, "beta2", options.beta2, "lion: share of the momentum kept each step");
  options.weight_decay = read_decoupled_weight_decay(section, options.weight_decay, "lion, adafactor");
  return make_lion(options);
}

}  // namespace lockstep
