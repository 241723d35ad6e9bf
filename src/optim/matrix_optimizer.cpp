// Which parameters are matrices, and AdamW for the others.
#include "lockstep/optim/matrix_optimizer.h"

#include <algorithm>

#include "lockstep/kernels/math/portable.h"
#include "lockstep/optim/flat_update.h"
#include "lockstep/optim/optimizer_keys.h"
#include "lockstep/optim/parameter_groups.h"

namespace lockstep {

void MatrixOptimizer::check_parameters(const std::vector<ParameterEntry>& parameters) const {
  for (const std::string& pattern : rest_.adamw) require_fit("optimizer.adamw", pattern, parameters);
}

bool MatrixOptimizer::is_named(const ParameterEntry& parameter) const {
  return std::ranges::any_of(
      rest_.adamw, [&](const std::string& pattern) { return matches_pattern(pattern, parameter.name); });
}

double MatrixOptimizer::load(const ParameterEntry& parameter) const {
  return is_matrix(parameter) ? matrix_load(parameter) : Optimizer::load(parameter);
}

void MatrixOptimizer::declare_state(size_t index, const ParameterEntry& parameter) {
  matrix_.resize(index + 1);
  matrix_[index] = is_matrix(parameter);
  if (matrix_[index]) {
    declare_matrix(parameter);
  } else {
    reserve("first_moment", parameter.shape);
    reserve("second_moment", parameter.shape);
  }
}

void MatrixOptimizer::update_parameter(const ParameterUpdate& update) {
  const double decay = update.weight_decay ? rest_.weight_decay : 0.0;
  if (matrix_[update.index]) {
    update_matrix(update, decay);
    return;
  }
  const double k = static_cast<double>(updates() + 1);
  flat_update(UpdateFormula::kAdamW, update.parameter, update.gradient, update.gradient_scale,
              {state("first_moment", update.index), state("second_moment", update.index)},
              {update.learning_rate * rest_.adamw_learning_rate_factor, decay, rest_.beta1, rest_.beta2,
               rest_.epsilon, 1.0 - math::portable::power(rest_.beta1, k),
               1.0 - math::portable::power(rest_.beta2, k)});
}

void read_rest(Section& section, std::vector<std::string>& adamw, double& learning_rate_factor) {
  adamw = section.texts("adamw", adamw,
                        "muon, shampoo, soap, kfac: patterns of names of matrices left to AdamW, such as "
                        "embeddings and the last layer");
  learning_rate_factor =
      section.real("adamw_learning_rate_factor", learning_rate_factor, kNonNegative,
                   "muon, shampoo, soap, kfac: on the learning rate of what AdamW updates");
}

}  // namespace lockstep
