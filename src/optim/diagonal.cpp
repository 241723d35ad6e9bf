// Diagonally preconditioned descent as one flat kernel.
#include "optim/diagonal.h"

#include "optim/flat_optimizer.h"
#include "optim/optimizer_keys.h"

namespace lockstep {
namespace {

class Diagonal final : public FlatOptimizer {
 public:
  Diagonal(double memory, double initial_curvature, double smallest_curvature, double weight_decay)
      : FlatOptimizer("diagonal", UpdateFormula::kDiagonal,
                      {"previous_parameter", "previous_gradient", "covariance", "variance"}, weight_decay),
        memory_(memory),
        initial_curvature_(initial_curvature),
        smallest_curvature_(smallest_curvature) {}

 private:
  void set_scalars(int64_t update, double* scalars) const override {
    scalars[2] = memory_;
    scalars[3] = initial_curvature_;
    scalars[4] = smallest_curvature_;
    scalars[5] = update == 0 ? 0.0 : 1.0;
  }

  double memory_, initial_curvature_, smallest_curvature_;
};

}  // namespace

std::unique_ptr<Optimizer> make_diagonal(Section& section) {
  const double memory =
      read_decay_rate(section, "memory", 0.5, "diagonal: share of earlier steps in the curvature");
  const double initial =
      section.real("initial_curvature", 1.0, {1e-30},
                   "diagonal: the first step is learning_rate / initial_curvature times the gradient");
  const double smallest =
      section.real("smallest_curvature", 1e-6, {1e-30}, "diagonal: flatter directions count as this curved");
  return std::make_unique<Diagonal>(memory, initial, smallest, read_coupled_weight_decay(section));
}

}  // namespace lockstep
