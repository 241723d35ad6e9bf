// Adam, AdamW and their AMSGrad variants: one flat kernel each, bias corrections computed here in fp64.
#include "lockstep/optim/adam.h"

#include "lockstep/kernels/math/portable.h"
#include "lockstep/optim/flat_optimizer.h"
#include "lockstep/optim/optimizer_keys.h"

namespace lockstep {
namespace {

class Adam final : public FlatOptimizer {
 public:
  Adam(std::string type, UpdateFormula formula, std::vector<std::string> arrays, const AdamOptions& options)
      : FlatOptimizer(std::move(type), formula, std::move(arrays), options.weight_decay), options_(options) {}

 private:
  void set_scalars(int64_t update, double* scalars) const override {
    const double k = static_cast<double>(update + 1);
    scalars[2] = options_.beta1;
    scalars[3] = options_.beta2;
    scalars[4] = options_.epsilon;
    scalars[5] = 1.0 - math::portable::power(options_.beta1, k);
    scalars[6] = 1.0 - math::portable::power(options_.beta2, k);
  }

  AdamOptions options_;
};

std::unique_ptr<Optimizer> make(const char* type, UpdateFormula plain, UpdateFormula amsgrad,
                                const AdamOptions& options) {
  require_moments(type, options);
  std::vector<std::string> arrays{"first_moment", "second_moment"};
  if (options.amsgrad) arrays.emplace_back("largest_second_moment");
  return std::make_unique<Adam>(type, options.amsgrad ? amsgrad : plain, std::move(arrays), options);
}

template <class Options>
void read(Section& section, Options& options) {
  read_moments(section, options);
  options.amsgrad =
      section.text("variant", "plain", {"plain", "amsgrad"},
                   "adam, adamw: amsgrad divides by the largest second moment so far") == "amsgrad";
}

}  // namespace

std::unique_ptr<Optimizer> make_adam(const AdamOptions& options) {
  return make("adam", UpdateFormula::kAdam, UpdateFormula::kAmsGrad, options);
}

std::unique_ptr<Optimizer> make_adamw(const AdamWOptions& options) {
  return make("adamw", UpdateFormula::kAdamW, UpdateFormula::kAmsGradW,
              {options.beta1, options.beta2, options.epsilon, options.weight_decay, options.amsgrad});
}

std::unique_ptr<Optimizer> make_adam(Section& section) {
  AdamOptions options;
  read(section, options);
  options.weight_decay = read_coupled_weight_decay(section);
  return make_adam(options);
}

std::unique_ptr<Optimizer> make_adamw(Section& section) {
  AdamWOptions options;
  read(section, options);
  options.weight_decay = read_decoupled_weight_decay(section, options.weight_decay, "adamw");
  return make_adamw(options);
}

}  // namespace lockstep
