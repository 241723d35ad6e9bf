// Lion as one flat kernel.
#include "optim/lion.h"

#include "optim/flat_optimizer.h"
#include "optim/optimizer_keys.h"

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

std::unique_ptr<Optimizer> make_lion(Section& section) {
  const double beta1 = read_decay_rate(section, "beta1", 0.9, "lion: share of the momentum in the direction");
  const double beta2 = read_decay_rate(section, "beta2", 0.99, "lion: share of the momentum kept each step");
  return std::make_unique<Lion>(beta1, beta2, read_decoupled_weight_decay(section, 0.0, "lion, adafactor"));
}

}  // namespace lockstep
