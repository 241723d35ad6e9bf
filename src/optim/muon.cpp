// Muon out of matrix products and flat kernels.
#include "lockstep/optim/muon.h"

#include <algorithm>
#include <cmath>

#include "lockstep/optim/clip.h"
#include "lockstep/optim/flat_update.h"
#include "lockstep/optim/matrix_optimizer.h"
#include "lockstep/optim/optimizer_keys.h"
#include "lockstep/optim/tensor_algebra.h"

namespace lockstep {
namespace {

// u (rows, columns) with its singular values brought near 1. The Gram matrix is that of the shorter side; its
// square is a product with its own transpose as well, of which backends may compute half.
Tensor orthogonalized(const Tensor& u, int64_t steps) {
  constexpr double kA = 3.4445, kB = -4.7750, kC = 2.0315;
  constexpr double kSmallestNorm = 1e-7;
  const bool tall = u.shape()[0] > u.shape()[1];
  Tensor x = scaled(u, 1.0 / std::max(global_norm(u, u.elements(), 1.0), kSmallestNorm));
  for (int64_t i = 0; i < steps; ++i) {
    const Tensor gram = product(x, x, tall, !tall);
    const Tensor polynomial = weighted_sum(kB, gram, kC, product(gram, gram, false, true));
    x = weighted_sum(kA, x, 1.0,
                     tall ? product(x, polynomial, false, false) : product(polynomial, x, false, false));
  }
  return x;
}

class Muon final : public MatrixOptimizer {
 public:
  explicit Muon(const MuonOptions& options)
      : MatrixOptimizer("muon", {options.weight_decay, options.adamw, options.adamw_learning_rate_factor,
                                 options.beta1, options.beta2, options.epsilon}),
        options_(options) {}

 private:
  void declare_matrix(const ParameterEntry& parameter) override { reserve("momentum", parameter.shape); }

  void update_matrix(const ParameterUpdate& update, double decay) override {
    const Shape& shape = update.parameter.shape();
    const Shape matrix = matrix_shape(shape);
    const int64_t rows = matrix[0], columns = matrix[1];
    // Both rules write -(-1) times their step into a parameter that was 0: the direction.
    const Tensor direction = update.gradient.full_like(0.0);
    flat_update(options_.nesterov ? UpdateFormula::kNesterovClassical : UpdateFormula::kMomentumClassical,
                direction, update.gradient, update.gradient_scale, {state("momentum", update.index)},
                {-1.0, 0.0, options_.momentum, 0.0});
    // Weights of linear layers are (in, out), of convolutions (out, ...).
    const double fan_ratio = shape.rank() == 2 ? static_cast<double>(columns) / static_cast<double>(rows)
                                               : static_cast<double>(rows) / static_cast<double>(columns);
    const double scale = options_.match_adamw ? 0.2 * std::sqrt(static_cast<double>(std::max(rows, columns)))
                                              : std::sqrt(std::max(1.0, fan_ratio));
    // kSgd multiplies the decay by the whole step; here its factor is the learning rate alone.
    flat_update(UpdateFormula::kSgd, update.parameter,
                orthogonalized(direction.view(matrix), options_.newton_schulz_steps), 1.0, {},
                {update.learning_rate * scale, decay / scale});
  }

  MuonOptions options_;
};

}  // namespace

std::unique_ptr<Optimizer> make_muon(const MuonOptions& options) {
  require_decay_rate("muon", "momentum", options.momentum);
  require_positive("muon", "newton_schulz_steps", static_cast<double>(options.newton_schulz_steps));
  require_not_negative("muon", "adamw_learning_rate_factor", options.adamw_learning_rate_factor);
  require_moments("muon", options);
  return std::make_unique<Muon>(options);
}

std::unique_ptr<Optimizer> make_muon(Section& section) {
  MuonOptions options;
  options.momentum =
      read_decay_rate(section, "momentum", options.momentum, "muon: share of the velocity kept each step");
  options.nesterov =
      section.boolean("nesterov", options.nesterov, "muon: orthogonalize the gradient plus momentum");
  options.newton_schulz_steps = section.integer("newton_schulz_steps", options.newton_schulz_steps, {1, 100},
                                                "muon: iterations of the orthogonalization");
  options.match_adamw =
      section.text("rate_scale", "original", {"original", "match_adamw"},
                   "muon: steps times sqrt(max(1, fan_out/fan_in)), or 0.2 sqrt(longer side)") ==
      "match_adamw";
  options.weight_decay = read_decoupled_weight_decay(section, options.weight_decay, "muon");
  read_rest(section, options.adamw, options.adamw_learning_rate_factor);
  read_moments(section, options);
  return make_muon(options);
}

}  // namespace lockstep
