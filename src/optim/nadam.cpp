// NAdam as one flat kernel; its product of momenta is a function of the number of updates.
#include "lockstep/optim/nadam.h"

#include "lockstep/kernels/math/portable.h"
#include "lockstep/optim/flat_optimizer.h"
#include "lockstep/optim/optimizer_keys.h"

namespace lockstep {
namespace {

class NAdam final : public FlatOptimizer {
 public:
  explicit NAdam(const NAdamOptions& options)
      : FlatOptimizer("nadam", UpdateFormula::kNAdam, {"first_moment", "second_moment"},
                      options.weight_decay),
        options_(options) {}

 private:
  double momentum(int64_t k) const {
    return options_.beta1 *
           (1.0 - 0.5 * math::portable::power(0.96, static_cast<double>(k) * options_.momentum_decay));
  }

  void set_scalars(int64_t update, double* scalars) const override {
    const int64_t k = update + 1;
    // A resumed run multiplies the same factors in the same order.
    if (multiplied_ > k) {
      multiplied_ = 0;
      product_ = 1.0;
    }
    while (multiplied_ < k) product_ *= momentum(++multiplied_);
    const double next = momentum(k + 1);
    scalars[2] = options_.beta1;
    scalars[3] = options_.beta2;
    scalars[4] = options_.epsilon;
    scalars[5] = (1.0 - momentum(k)) / (1.0 - product_);
    scalars[6] = next / (1.0 - product_ * next);
    scalars[7] = 1.0 - math::portable::power(options_.beta2, static_cast<double>(k));
  }

  NAdamOptions options_;
  mutable int64_t multiplied_ = 0;  // product_ = mu_1 ... mu_multiplied
  mutable double product_ = 1.0;
};

}  // namespace

std::unique_ptr<Optimizer> make_nadam(const NAdamOptions& options) {
  require_moments("nadam", options);
  require_not_negative("nadam", "momentum_decay", options.momentum_decay);
  return std::make_unique<NAdam>(options);
}

std::unique_ptr<Optimizer> make_nadam(Section& section) {
  NAdamOptions options;
  read_moments(section, options);
  options.momentum_decay = section.real("momentum_decay", options.momentum_decay, kNonNegative,
                                        "nadam: how fast the momentum rises from beta1 / 2 to beta1");
  options.weight_decay = read_coupled_weight_decay(section);
  return make_nadam(options);
}

}  // namespace lockstep
