// Muon out of matrix products and flat kernels.
#include "lockstep/optim/muon.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "lockstep/core/error.h"
#include "lockstep/kernels/math/portable.h"
#include "lockstep/optim/clip.h"
#include "lockstep/optim/flat_update.h"
#include "lockstep/optim/optimizer_keys.h"
#include "lockstep/optim/parameter_groups.h"
#include "lockstep/optim/parameter_optimizer.h"

namespace lockstep {
namespace {

Tensor product(const Tensor& a, const Tensor& b, bool transpose_a, bool transpose_b) {
  MatmulArguments arguments;
  arguments.dtype = arguments.output = a.dtype();
  arguments.m = a.shape()[transpose_a ? 1 : 0];
  arguments.k = a.shape()[transpose_a ? 0 : 1];
  arguments.n = b.shape()[transpose_b ? 0 : 1];
  arguments.transpose_a = transpose_a;
  arguments.transpose_b = transpose_b;
  Tensor c = Tensor::empty({arguments.m, arguments.n}, a.dtype(), a.backend());
  arguments.a = a.data();
  arguments.b = b.data();
  arguments.c = c.mutable_data();
  a.backend().matmul(arguments);
  return c;
}

// alpha x + beta y
Tensor weighted_sum(double alpha, const Tensor& x, double beta, const Tensor& y) {
  Tensor sum = x.empty_like(), term = y.empty_like();
  Backend& backend = x.backend();
  backend.scale_shift(x.dtype(), x.elements(), x.data(), alpha, 0.0, sum.mutable_data());
  backend.scale_shift(y.dtype(), y.elements(), y.data(), beta, 0.0, term.mutable_data());
  backend.accumulate(x.dtype(), x.elements(), term.data(), sum.mutable_data());
  return sum;
}

// u (rows, columns) with its singular values brought near 1. The Gram matrix is that of the shorter side.
Tensor orthogonalized(const Tensor& u, int64_t steps) {
  constexpr double kA = 3.4445, kB = -4.7750, kC = 2.0315;
  constexpr double kSmallestNorm = 1e-7;
  const bool tall = u.shape()[0] > u.shape()[1];
  Tensor x = u.empty_like();
  u.backend().scale_shift(u.dtype(), u.elements(), u.data(),
                          1.0 / std::max(global_norm(u, u.elements(), 1.0), kSmallestNorm), 0.0,
                          x.mutable_data());
  for (int64_t i = 0; i < steps; ++i) {
    const Tensor gram = product(x, x, tall, !tall);
    const Tensor polynomial = weighted_sum(kB, gram, kC, product(gram, gram, false, false));
    x = weighted_sum(kA, x, 1.0,
                     tall ? product(x, polynomial, false, false) : product(polynomial, x, false, false));
  }
  return x;
}

class Muon final : public ParameterOptimizer {
 public:
  explicit Muon(MuonOptions options) : ParameterOptimizer("muon"), options_(std::move(options)) {}

 private:
  void check_parameters(const std::vector<ParameterEntry>& parameters) const override {
    for (const std::string& pattern : options_.adamw) require_fit("optimizer.adamw", pattern, parameters);
  }

  void declare_state(size_t index, const ParameterEntry& parameter) override {
    orthogonal_.resize(index + 1);
    const auto& patterns = options_.adamw;
    orthogonal_[index] = parameter.shape.rank() > 1 &&
                         std::none_of(patterns.begin(), patterns.end(), [&](const std::string& pattern) {
                           return matches_pattern(pattern, parameter.name);
                         });
    if (orthogonal_[index]) {
      reserve("momentum", parameter.shape);
    } else {
      reserve("first_moment", parameter.shape);
      reserve("second_moment", parameter.shape);
    }
  }

  void update_parameter(const ParameterUpdate& update) override {
    const double decay = update.weight_decay ? options_.weight_decay : 0.0;
    if (orthogonal_[update.index]) {
      update_matrix(update, decay);
    } else {
      update_rest(update, decay);
    }
  }

  void update_matrix(const ParameterUpdate& update, double decay) {
    const Shape& shape = update.parameter.shape();
    const int64_t rows = shape[0], columns = shape.elements(1, shape.rank());
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
                orthogonalized(direction.view({rows, columns}), options_.newton_schulz_steps), 1.0, {},
                {update.learning_rate * scale, decay / scale});
  }

  void update_rest(const ParameterUpdate& update, double decay) {
    const double k = static_cast<double>(updates() + 1);
    flat_update(UpdateFormula::kAdamW, update.parameter, update.gradient, update.gradient_scale,
                {state("first_moment", update.index), state("second_moment", update.index)},
                {update.learning_rate * options_.adamw_learning_rate_factor, decay, options_.beta1,
                 options_.beta2, options_.epsilon, 1.0 - math::portable::power(options_.beta1, k),
                 1.0 - math::portable::power(options_.beta2, k)});
  }

  MuonOptions options_;
  std::vector<bool> orthogonal_;  // by parameter: Muon's, not AdamW's
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
  options.adamw = section.texts(
      "adamw", options.adamw,
      "muon: patterns of names of matrices left to AdamW, such as embeddings and the last layer");
  options.adamw_learning_rate_factor =
      section.real("adamw_learning_rate_factor", options.adamw_learning_rate_factor, kNonNegative,
                   "muon: on the learning rate of what AdamW updates");
  read_moments(section, options);
  return make_muon(options);
}

}  // namespace lockstep
