// AdaHessian out of elementwise arithmetic.
#include "lockstep/optim/adahessian.h"

#include "lockstep/kernels/math/portable.h"
#include "lockstep/optim/diagonal_curvature.h"
#include "lockstep/optim/flat_update.h"
#include "lockstep/optim/optimizer_keys.h"
#include "lockstep/optim/tensor_algebra.h"

namespace lockstep {
namespace {

class AdaHessian final : public DiagonalCurvatureOptimizer {
 public:
  explicit AdaHessian(const AdaHessianOptions& options)
      : DiagonalCurvatureOptimizer("adahessian", DiagonalEstimate::kHutchinson, options.every),
        options_(options) {}

 private:
  void declare_state(size_t, const ParameterEntry& parameter) override {
    reserve("first_moment", parameter.shape);
    reserve("second_moment", parameter.shape);
  }

  void gather(size_t index, const Tensor& estimate) override {
    if (!is_finite(estimate)) return;
    blend(state("second_moment", index), square_of(averaged(absolute(estimate))), options_.beta2);
  }

  // The mean over the window of convolution weights (O,KH,KW,C), at each of its places.
  static Tensor averaged(const Tensor& x) {
    if (x.rank() != 4) return x;
    const Shape& shape = x.shape();
    const int64_t window = shape[1] * shape[2];
    Tensor mean = Tensor::empty({shape[0], shape[3]}, x.dtype(), x.backend());
    x.backend().reduce(ReduceOp::kMean, x.dtype(), shape[0], window, shape[3], x.data(), mean.mutable_data());
    BroadcastPlan plan;
    plan.rank = 3;
    const int64_t extents[] = {shape[0], window, shape[3]};
    for (int i = 0; i < plan.rank; ++i) plan.extents[i] = extents[i];
    plan.strides_a[0] = shape[3];
    plan.strides_a[2] = 1;
    return combined(BinaryOp::kMultiply, plan, mean, Tensor::full({1}, x.dtype(), x.backend(), 1.0), shape);
  }

  void update_parameter(const ParameterUpdate& update) override {
    const Tensor first = state("first_moment", update.index), second = state("second_moment", update.index);
    blend(first, scaled(update.gradient, update.gradient_scale), options_.beta1);
    const auto share = [](double beta, int64_t k) {
      return 1.0 - math::portable::power(beta, static_cast<double>(k));
    };
    const Tensor direction =
        over_root(scaled(first, 1.0 / share(options_.beta1, updates() + 1)),
                  scaled(second, 1.0 / share(options_.beta2, gathered())), options_.epsilon);
    flat_update(UpdateFormula::kSgd, update.parameter, direction, 1.0, {},
                {update.learning_rate, update.weight_decay ? options_.weight_decay : 0.0});
  }

  AdaHessianOptions options_;
};

}  // namespace

std::unique_ptr<Optimizer> make_adahessian(const AdaHessianOptions& options) {
  require_moments("adahessian", options);
  require_positive("adahessian", "every", static_cast<double>(options.every));
  return std::make_unique<AdaHessian>(options);
}

std::unique_ptr<Optimizer> make_adahessian(Section& section) {
  AdaHessianOptions options;
  read_moments(section, options);
  options.every = section.integer("every", options.every, {1, 1'000'000'000},
                                  "sophia, adahessian, diagonal: updates between estimates of curvature, a "
                                  "sweep each");
  options.weight_decay = read_decoupled_weight_decay(section, options.weight_decay, "adahessian");
  return make_adahessian(options);
}

}  // namespace lockstep
