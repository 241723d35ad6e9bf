// Momentum in its averaged and its classical form.
#include "optim/momentum.h"

#include <fmt/format.h>

#include "optim/flat_optimizer.h"
#include "optim/optimizer_keys.h"

namespace lockstep {
namespace {

class AveragedMomentum final : public FlatOptimizer {
 public:
  AveragedMomentum(double momentum, double weight_decay)
      : FlatOptimizer("momentum", UpdateFormula::kMomentumAveraged, {"velocity"}, weight_decay),
        momentum_(momentum) {}

 private:
  void set_scalars(int64_t, double* scalars) const override { scalars[2] = momentum_; }

  double momentum_;
};

class ClassicalMomentum final : public FlatOptimizer {
 public:
  ClassicalMomentum(double momentum, double dampening, double weight_decay)
      : FlatOptimizer("momentum", UpdateFormula::kMomentumClassical, {"velocity"}, weight_decay),
        momentum_(momentum),
        dampening_(dampening) {}

 private:
  void set_scalars(int64_t update, double* scalars) const override {
    scalars[2] = momentum_;
    scalars[3] = update == 0 ? 0.0 : dampening_;
  }

  double momentum_, dampening_;
};

}  // namespace

std::unique_ptr<Optimizer> make_momentum(Section& section) {
  const double weight_decay = read_coupled_weight_decay(section);
  const double momentum = read_decay_rate(section, "momentum", 0.9, "share of the velocity kept each step");
  const double dampening = section.real(
      "dampening", 0.0, kUnit, "momentum, form = \"classical\": the gradient enters times 1 - dampening");
  const std::string form =
      section.text("form", "averaged", {"averaged", "classical"},
                   "momentum: v = momentum*v + (1-momentum)*g, or v = momentum*v + (1-dampening)*g");
  if (form == "classical") return std::make_unique<ClassicalMomentum>(momentum, dampening, weight_decay);
  if (dampening != 0.0) {
    section.reject("dampening", fmt::format("belongs to form = \"classical\": must be 0, got {}", dampening));
  }
  return std::make_unique<AveragedMomentum>(momentum, weight_decay);
}

}  // namespace lockstep
