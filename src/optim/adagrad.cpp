// Adagrad as one flat kernel.
#include "optim/adagrad.h"

#include "optim/flat_optimizer.h"
#include "optim/optimizer_keys.h"

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

std::unique_ptr<Optimizer> make_adagrad(Section& section) {
  const double epsilon = read_epsilon(section, 1e-10, "adagrad");
  return std::make_unique<Adagrad>(epsilon, read_coupled_weight_decay(section));
}

}  // namespace lockstep
