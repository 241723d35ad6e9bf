// SOAP out of matrix products, and bases from the host.
#include "lockstep/optim/soap.h"

#include <cmath>

#include "lockstep/kernels/math/portable.h"
#include "lockstep/optim/flat_update.h"
#include "lockstep/optim/matrix_optimizer.h"
#include "lockstep/optim/matrix_roots.h"
#include "lockstep/optim/optimizer_keys.h"
#include "lockstep/optim/tensor_algebra.h"

namespace lockstep {
namespace {

// The rows of x, or its columns, in the order given.
Tensor reordered(const Tensor& x, const std::vector<int64_t>& order, bool rows) {
  const std::vector<double> from = x.converted(DType::kF64).to_vector<double>();
  std::vector<double> to(from.size());
  const int64_t n = x.shape()[0], m = x.shape()[1];
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < m; ++j) {
      const int64_t row = rows ? order[static_cast<size_t>(i)] : i;
      const int64_t column = rows ? j : order[static_cast<size_t>(j)];
      to[static_cast<size_t>(i * m + j)] = from[static_cast<size_t>(row * m + column)];
    }
  }
  return Tensor::from(x.shape(), to, x.backend()).converted(x.dtype());
}

class Soap final : public MatrixOptimizer {
 public:
  explicit Soap(const SoapOptions& options)
      : MatrixOptimizer("soap", {options.weight_decay, options.adamw, options.adamw_learning_rate_factor,
                                 options.beta1, options.beta2, options.epsilon}),
        options_(options) {}

 private:
  bool has_basis(int64_t extent) const { return extent <= options_.most_dimension; }

  void declare_matrix(const ParameterEntry& parameter) override {
    const Shape matrix = matrix_shape(parameter.shape);
    reserve("first_moment", parameter.shape);
    reserve("second_moment", parameter.shape);
    for (const int side : {0, 1}) {
      const int64_t n = matrix[side];
      if (!has_basis(n)) continue;
      reserve(kFactors[side], {n, n});
      reserve(kBases[side], {n, n});
    }
  }

  double matrix_load(const ParameterEntry& parameter) const override {
    double load = static_cast<double>(parameter.shape.elements());
    const Shape matrix = matrix_shape(parameter.shape);
    for (const int64_t side : matrix.extents()) {
      const auto n = static_cast<double>(side);
      if (has_basis(side)) load += n * n * n;
    }
    return load;
  }

  void update_matrix(const ParameterUpdate& update, double decay) override {
    const int64_t k = updates();
    const size_t index = update.index;
    const Shape matrix = matrix_shape(update.parameter.shape());
    const Tensor gradient = scaled(update.gradient, update.gradient_scale).view(matrix);
    if (k == 0) {
      gather(index, gradient);
      for (const int side : {0, 1}) {
        if (has_basis(matrix[side]))
          state(kBases[side], index).assign(eigenbasis(state(kFactors[side], index)));
      }
      return;
    }
    const Tensor turned = into_basis(index, gradient);
    const Tensor first = state("first_moment", index).view(matrix),
                 second = state("second_moment", index).view(matrix);
    blend(first, turned, options_.beta1);
    blend(second, square_of(turned), options_.beta2);
    const auto count = static_cast<double>(k);
    const double step = update.learning_rate * std::sqrt(1.0 - math::portable::power(options_.beta2, count)) /
                        (1.0 - math::portable::power(options_.beta1, count));
    Tensor parameter = update.parameter;
    flat_update(UpdateFormula::kSgd, parameter,
                out_of_basis(index, over_root(first, second, options_.epsilon)), 1.0, {}, {step, 0.0});
    if (decay > 0.0) parameter.assign(scaled(parameter, 1.0 - update.learning_rate * decay));
    gather(index, gradient);
    if (k % options_.basis_every == 0) turn_bases(index, first, second);
  }

  void gather(size_t index, const Tensor& gradient) {
    if (!square_is_finite(gradient)) return;
    for (const int side : {0, 1}) {
      if (has_basis(gradient.shape()[side]))
        blend(state(kFactors[side], index), product(gradient, gradient, side == 1, side == 0),
              options_.beta2);
    }
  }

  // Q_L' x Q_R
  Tensor into_basis(size_t index, Tensor x) const {
    if (has_basis(x.shape()[0])) x = product(state(kBases[0], index), x, true, false);
    if (has_basis(x.shape()[1])) x = product(x, state(kBases[1], index), false, false);
    return x;
  }
  // Q_L x Q_R'
  Tensor out_of_basis(size_t index, Tensor x) const {
    if (has_basis(x.shape()[0])) x = product(state(kBases[0], index), x, false, false);
    if (has_basis(x.shape()[1])) x = product(x, state(kBases[1], index), false, true);
    return x;
  }

  void turn_bases(size_t index, Tensor first, Tensor second) {
    const Tensor plain = out_of_basis(index, first);
    for (const int side : {0, 1}) {
      if (!has_basis(plain.shape()[side])) continue;
      Tensor basis = state(kBases[side], index);
      const RefinedBasis refined = refined_basis(state(kFactors[side], index), basis);
      basis.assign(refined.basis);
      second.assign(reordered(second, refined.order, side == 0));
    }
    first.assign(into_basis(index, plain));
  }

  static constexpr const char* kFactors[] = {"left", "right"};
  static constexpr const char* kBases[] = {"left_basis", "right_basis"};
  SoapOptions options_;
};

}  // namespace

std::unique_ptr<Optimizer> make_soap(const SoapOptions& options) {
  require_positive("soap", "basis_every", static_cast<double>(options.basis_every));
  require_positive("soap", "most_dimension", static_cast<double>(options.most_dimension));
  require_not_negative("soap", "adamw_learning_rate_factor", options.adamw_learning_rate_factor);
  require_moments("soap", options);
  return std::make_unique<Soap>(options);
}

std::unique_ptr<Optimizer> make_soap(Section& section) {
  SoapOptions options;
  read_moments(section, options);
  options.basis_every = section.integer("basis_every", options.basis_every, {1, 1'000'000'000},
                                        "soap: updates between steps of the bases");
  options.most_dimension = section.integer("most_dimension", options.most_dimension, {1, 1'000'000},
                                           "soap: sides longer than this have no basis");
  options.weight_decay = read_decoupled_weight_decay(section, options.weight_decay, "soap");
  read_rest(section, options.adamw, options.adamw_learning_rate_factor);
  return make_soap(options);
}

}  // namespace lockstep
