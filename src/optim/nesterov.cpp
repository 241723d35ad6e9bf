// Nesterov momentum with a true look-ahead, and the classical form that takes its gradient where it stands.
#include "lockstep/optim/nesterov.h"

#include "lockstep/core/error.h"
#include "lockstep/optim/flat_optimizer.h"
#include "lockstep/optim/flat_update.h"
#include "lockstep/optim/optimizer_keys.h"

namespace lockstep {
namespace {

class LookAheadNesterov final : public FlatOptimizer {
 public:
  LookAheadNesterov(double momentum, double weight_decay)
      : FlatOptimizer("nesterov", UpdateFormula::kNesterovAveraged, {"velocity", "origin"}, weight_decay),
        momentum_(momentum) {}

  // The origin, theta itself, is rewritten by every before_gradient: it is not state.
  std::vector<OptimizerSlot> slots() override { return {arrays_[0]}; }

  bool before_gradient(Tensor& parameters, double learning_rate,
                       std::span<const UpdateSegment> segments) override {
    if (ahead_) fail(ErrorKind::kInternal, "nesterov: before_gradient called twice without an update");
    for_origin(parameters, [](Tensor origin, const Tensor& owned) { origin.assign(owned); });
    // theta~ = theta - (eta momentum) v is an SGD step along the velocity.
    for_owned(segments, [&](const UpdateSegment& segment, const ElementRange& elements, int64_t position) {
      flat_update(UpdateFormula::kSgd, parameters.view({elements.size()}, elements.begin),
                  arrays_[0].values.view({elements.size()}, position), 1.0, {},
                  {learning_rate * segment.learning_rate_factor * momentum_, 0.0});
    });
    ahead_ = true;
    return true;
  }

  Tensor origin() const override { return ahead_ && owned().size() == 1 ? arrays_[1].values : Tensor(); }

  bool cancel_gradient(Tensor& parameters) override {
    if (!ahead_) return false;
    for_origin(parameters, [](const Tensor& origin, Tensor owned) { owned.assign(origin); });
    ahead_ = false;
    return true;
  }

  // The parameters that the gradient is taken at depend on the learning rate of the update to come.
  bool prearranged() const override { return false; }
  // The gradient is never taken at what an update leaves.
  bool lowers() const override { return false; }
  void update(const UpdateContext& context) override {
    if (!ahead_) fail(ErrorKind::kInternal, "nesterov: update needs before_gradient first");
    FlatOptimizer::update(context);
    ahead_ = false;
  }

 private:
  void set_scalars(int64_t, double* scalars) const override { scalars[2] = momentum_; }

  // Views of the saved and the present parameters that this worker owns, range by range.
  template <class Use>
  void for_origin(const Tensor& parameters, const Use& use) {
    int64_t position = 0;
    for (const ElementRange& range : owned()) {
      use(arrays_[1].values.view({range.size()}, position), parameters.view({range.size()}, range.begin));
      position += range.size();
    }
  }

  double momentum_;
  bool ahead_ = false;  // the parameters are at the look-ahead, not at theta
};

class ClassicalNesterov final : public FlatOptimizer {
 public:
  ClassicalNesterov(double momentum, double weight_decay)
      : FlatOptimizer("nesterov", UpdateFormula::kNesterovClassical, {"velocity"}, weight_decay),
        momentum_(momentum) {}

 private:
  void set_scalars(int64_t, double* scalars) const override { scalars[2] = momentum_; }

  double momentum_;
};

}  // namespace

std::unique_ptr<Optimizer> make_nesterov(const NesterovOptions& options) {
  require_decay_rate("nesterov", "momentum", options.momentum);
  require_not_negative("nesterov", "weight_decay", options.weight_decay);
  if (options.classical) return std::make_unique<ClassicalNesterov>(options.momentum, options.weight_decay);
  return std::make_unique<LookAheadNesterov>(options.momentum, options.weight_decay);
}

std::unique_ptr<Optimizer> make_nesterov(Section& section) {
  NesterovOptions options;
  options.weight_decay = read_coupled_weight_decay(section);
  options.momentum =
      read_decay_rate(section, "momentum", options.momentum, "share of the velocity kept each step");
  options.classical =
      section.text("form", "averaged", {"averaged", "classical"},
                   "nesterov: v = momentum*v + (1-momentum)*g with a look-ahead, or v = momentum*v + g") ==
      "classical";
  return make_nesterov(options);
}

}  // namespace lockstep
