// Adam, AdamW and their AMSGrad variants: one flat kernel each, bias corrections computed here in fp64.
#include "optim/adam.h"

#include "kernels/math/portable.h"
#include "optim/flat_optimizer.h"
#include "optim/optimizer_keys.h"

namespace lockstep {
namespace {

class Adam final : public FlatOptimizer {
 public:
  Adam(std::string type, UpdateFormula formula, std::vector<std::string> arrays,
       const MomentSettings& settings, double weight_decay)
      : FlatOptimizer(std::move(type), formula, std::move(arrays), weight_decay), settings_(settings) {}

 private:
  void set_scalars(int64_t update, double* scalars) const override {
    const double k = static_cast<double>(update + 1);
    scalars[2] = settings_.beta1;
    scalars[3] = settings_.beta2;
    scalars[4] = settings_.epsilon;
    scalars[5] = 1.0 - math::portable::power(settings_.beta1, k);
    scalars[6] = 1.0 - math::portable::power(settings_.beta2, k);
  }

  MomentSettings settings_;
};

std::unique_ptr<Optimizer> make(std::string type, UpdateFormula plain, UpdateFormula amsgrad,
                                const MomentSettings& settings, double weight_decay, Section& section) {
  const std::string variant =
      section.text("variant", "plain", {"plain", "amsgrad"},
                   "adam, adamw: amsgrad divides by the largest second moment so far");
  if (variant == "amsgrad") {
    return std::make_unique<Adam>(
        std::move(type), amsgrad,
        std::vector<std::string>{"first_moment", "second_moment", "largest_second_moment"}, settings,
        weight_decay);
  }
  return std::make_unique<Adam>(std::move(type), plain,
                                std::vector<std::string>{"first_moment", "second_moment"}, settings,
                                weight_decay);
}

}  // namespace

std::unique_ptr<Optimizer> make_adam(Section& section) {
  const MomentSettings settings = read_moments(section);
  return make("adam", UpdateFormula::kAdam, UpdateFormula::kAmsGrad, settings,
              read_coupled_weight_decay(section), section);
}

std::unique_ptr<Optimizer> make_adamw(Section& section) {
  const MomentSettings settings = read_moments(section);
  return make("adamw", UpdateFormula::kAdamW, UpdateFormula::kAmsGradW, settings,
              read_decoupled_weight_decay(section, 0.01, "adamw"), section);
}

}  // namespace lockstep
