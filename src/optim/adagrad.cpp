// Adagrad as one flat kernel.
#include "lockstep/optim/adagrad.h"

#include "lockstep/optim/flat_optimizer.h"
#include "lockstep/optim/optimizer_keys.h"

namespace lockstep {
namespace {

class Adagrad final : public FlatOptimizer {
 public:
  Adagrad(double epsilon, double weight_decay)
      : FlatOptimizer("adagrad", UpdateFormula::kAdagrad, {"square_sum"}, weight_decay), epsilon_(epsilon) {}

 private:
  void set_scalars(int64_t, double* scalars) const override { scalars[2] = epsilon_; }

  double epsilon_;
};

}  // namespace

std::unique_ptr<Optimizer> make_adagrad(const AdagradOptions& options) {
  require_epsilon("adagrad", "epsilon", options.epsilon);
  require_not_negative("adagrad", "weight_decay", options.weight_decay);
  return std::make_unique<Adagrad>(options.epsilon, options.weight_decay);
}

std::unique_ptr<Optimizer> make_adagrad(Section& section) {
  AdagradOptions options;
  options.epsilon = read_epsilon(section, options.epsilon, "adagrad");
  options.weight_decay = read_coupled_weight_decay(section);
  return make_adagrad(options);
}

}  // namespace lockstep
