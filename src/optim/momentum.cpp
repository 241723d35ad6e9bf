// Momentum in its averaged and its classical form.
#include "lockstep/optim/momentum.h"

#include <fmt/format.h>

#include "lockstep/core/error.h"
#include "lockstep/optim/flat_optimizer.h"
#include "lockstep/optim/minimizing.h"
#include "lockstep/optim/optimizer_keys.h"

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

std::unique_ptr<Optimizer> make_momentum(const MomentumOptions& options) {
  require_decay_rate("momentum", "momentum", options.momentum);
  require_not_negative("momentum", "dampening", options.dampening);
  require_not_negative("momentum", "weight_decay", options.weight_decay);
  if (options.classical) {
    return std::make_unique<ClassicalMomentum>(options.momentum, options.dampening, options.weight_decay);
  }
  if (options.dampening != 0.0) {
    fail(ErrorKind::kUsage,
         fmt::format("momentum: dampening belongs to the classical form: must be 0, got {}",
                     options.dampening));
  }
  return std::make_unique<AveragedMomentum>(options.momentum, options.weight_decay);
}

std::unique_ptr<Optimizer> make_momentum(Section& section) {
  MomentumOptions options;
  options.momentum =
      read_decay_rate(section, "momentum", options.momentum, "share of the velocity kept each step");
  const auto along_lines = [&](const LineSearchOptions& search) {
    return make_momentum_descent({.momentum = options.momentum, .line_search = search});
  };
  if (auto searching = read_line_descent(section, "momentum", along_lines)) return searching;
  options.weight_decay = read_coupled_weight_decay(section);
  options.dampening = section.real("dampening", options.dampening, kUnit,
                                   "momentum, form = \"classical\": the gradient enters times 1 - dampening");
  options.classical =
      section.text("form", "averaged", {"averaged", "classical"},
                   "momentum: v = momentum*v + (1-momentum)*g, or v = momentum*v + (1-dampening)*g") ==
      "classical";
  if (!options.classical && options.dampening != 0.0) {
    section.reject("dampening",
                   fmt::format("belongs to form = \"classical\": must be 0, got {}", options.dampening));
  }
  return make_momentum(options);
}

}  // namespace lockstep
