// Adafactor out of reductions and elementwise kernels.
#include "lockstep/optim/adafactor.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "lockstep/kernels/math/portable.h"
#include "lockstep/optim/clip.h"
#include "lockstep/optim/flat_update.h"
#include "lockstep/optim/optimizer_keys.h"
#include "lockstep/optim/parameter_optimizer.h"
#include "lockstep/optim/tensor_algebra.h"

namespace lockstep {
namespace {

bool is_matrix(const Shape& shape) {
  return shape.rank() > 1;
}

// The one element of b with each of the n of a.
BroadcastPlan repeated_plan(int64_t n) {
  BroadcastPlan plan;
  plan.rank = 1;
  plan.extents[0] = n;
  plan.strides_a[0] = 1;
  return plan;
}

// max(x, floor)
Tensor at_least(const Tensor& x, double floor) {
  return combined(BinaryOp::kMaximum, repeated_plan(x.elements()), x,
                  Tensor::full({1}, x.dtype(), x.backend(), floor), x.shape());
}

Tensor mean(const Tensor& x, int64_t outer, int64_t extent, int64_t inner) {
  Tensor y = Tensor::empty({outer * inner}, x.dtype(), x.backend());
  x.backend().reduce(ReduceOp::kMean, x.dtype(), outer, extent, inner, x.data(), y.mutable_data());
  return y;
}

class Adafactor final : public ParameterOptimizer {
 public:
  explicit Adafactor(const AdafactorOptions& options) : ParameterOptimizer("adafactor"), options_(options) {}

 private:
  void declare_state(size_t, const ParameterEntry& parameter) override {
    if (is_matrix(parameter.shape)) {
      const Shape matrix = matrix_shape(parameter.shape);
      reserve("row_moment", {matrix[0]});
      reserve("column_moment", {matrix[1]});
    } else {
      reserve("second_moment", parameter.shape);
    }
  }

  // The estimate v of the second moments, after this gradient; squares: g^2.
  Tensor second_moment(const ParameterUpdate& update, const Tensor& squares, double beta, double epsilon) {
    const Shape& shape = update.parameter.shape();
    if (!is_matrix(shape)) {
      const Tensor moment = state("second_moment", update.index);
      blend(moment, squares, beta);
      return moment;
    }
    const int64_t rows = matrix_shape(shape)[0], columns = matrix_shape(shape)[1];
    const Tensor row = state("row_moment", update.index), column = state("column_moment", update.index);
    blend(row, mean(squares, rows, columns, 1), beta);
    blend(column, mean(squares, 1, rows, columns), beta);
    const Tensor shares = combined(BinaryOp::kDivide, repeated_plan(rows), row,
                                   at_least(mean(row, 1, rows, 1), epsilon), {rows});
    BroadcastPlan outer;
    outer.rank = 2;
    outer.extents[0] = rows;
    outer.extents[1] = columns;
    outer.strides_a[0] = 1;
    outer.strides_b[1] = 1;
    return combined(BinaryOp::kMultiply, outer, shares, column, shape);
  }

  void update_parameter(const ParameterUpdate& update) override {
    const DType dtype = update.parameter.dtype();
    const int64_t n = update.parameter.elements();
    const double k = static_cast<double>(updates() + 1), root_n = std::sqrt(static_cast<double>(n));
    const double spacing =
        dtype == DType::kF64 ? std::numeric_limits<double>::epsilon() : std::numeric_limits<float>::epsilon();
    const double epsilon = options_.epsilon > 0.0 ? options_.epsilon : spacing;

    const Tensor gradient = scaled(update.gradient, update.gradient_scale), squares = square_of(gradient);
    const Tensor moment = at_least(
        second_moment(update, squares, 1.0 - math::portable::power(k, -options_.decay_exponent), epsilon),
        epsilon * epsilon);
    const Tensor direction = over_root(gradient, moment, 0.0);

    const double relative = std::min(update.learning_rate, 1.0 / std::sqrt(k));
    const double size = std::max(options_.scale_floor, global_norm(update.parameter, n, 1.0) / root_n);
    const double excess = std::max(1.0, global_norm(direction, n, 1.0) / (root_n * options_.threshold));
    const double step = size * relative / excess;
    const double decay = update.weight_decay ? options_.weight_decay : 0.0;
    // kSgd multiplies the decay by the step; here its factor is the learning rate.
    flat_update(UpdateFormula::kSgd, update.parameter, direction, 1.0, {},
                {step, step > 0.0 ? update.learning_rate * decay / step : 0.0});
  }

  AdafactorOptions options_;
};

}  // namespace

std::unique_ptr<Optimizer> make_adafactor(const AdafactorOptions& options) {
  require_positive("adafactor", "decay_exponent", options.decay_exponent);
  require_positive("adafactor", "threshold", options.threshold);
  require_epsilon("adafactor", "scale_floor", options.scale_floor);
  require_not_negative("adafactor", "epsilon", options.epsilon);
  require_not_negative("adafactor", "weight_decay", options.weight_decay);
  return std::make_unique<Adafactor>(options);
}

std::unique_ptr<Optimizer> make_adafactor(Section& section) {
  AdafactorOptions options;
  options.decay_exponent = section.real("decay_exponent", options.decay_exponent, {0.0, 1.0, true},
                                        "adafactor: update k keeps 1 - k^-decay_exponent of its averages");
  options.threshold = section.real("threshold", options.threshold, kPositive,
                                   "adafactor: largest root mean square of a direction");
  options.scale_floor = section.real("scale_floor", options.scale_floor, {1e-30},
                                     "adafactor: steps are relative to the parameter's size, at least this");
  options.epsilon = section.real("epsilon", options.epsilon, kNonNegative,
                                 "adafactor: smallest root of a second moment; 0: by dtype");
  options.weight_decay = read_decoupled_weight_decay(section, options.weight_decay, "lion, adafactor");
  return make_adafactor(options);
}

}  // namespace lockstep
