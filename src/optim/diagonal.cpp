// Diagonally preconditioned descent as one flat kernel.
#include "lockstep/optim/diagonal.h"

#include "lockstep/optim/flat_optimizer.h"
#include "lockstep/optim/optimizer_keys.h"

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

std::unique_ptr<Optimizer> make_diagonal(const DiagonalOptions& options) {
  require_decay_rate("diagonal", "memory", options.memory);
  require_epsilon("diagonal", "initial_curvature", options.initial_curvature);
  require_epsilon("diagonal", "smallest_curvature", options.smallest_curvature);
  require_not_negative("diagonal", "weight_decay", options.weight_decay);
  return std::make_unique<Diagonal>(options.memory, options.initial_curvature, options.smallest_curvature,
                                    options.weight_decay);
}

std::unique_ptr<Optimizer> make_diagonal(Section& section) {
  DiagonalOptions options;
  options.memory =
      read_decay_rate(section, "memory", options.memory, "diagonal: share of earlier steps in the curvature");
  options.initial_curvature =
      section.real("initial_curvature", options.initial_curvature, {1e-30},
                   "diagonal: the first step is learning_rate / initial_curvature times the gradient");
  options.smallest_curvature = section.real("smallest_curvature", options.smallest_curvature, {1e-30},
                                            "diagonal: flatter directions count as this curved");
  options.weight_decay = read_coupled_weight_decay(section);
  return make_diagonal(options);
}

}  // namespace lockstep
