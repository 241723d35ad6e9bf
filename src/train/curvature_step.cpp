// Around the updates of optimizers that ask for curvature.
#include "lockstep/train/curvature_step.h"

#include <fmt/format.h>

#include <limits>
#include <map>
#include <optional>

#include "lockstep/optim/diagonal_curvature.h"
#include "lockstep/optim/layer_curvature.h"
#include "lockstep/optim/tensor_algebra.h"
#include "lockstep/train/agreement.h"
#include "lockstep/train/curvature_pass.h"

namespace lockstep {
namespace {

// What an update changes of a replica, but for averages, to be put back.
class UpdateUndo {
 public:
  explicit UpdateUndo(const Replica& replica)
      : parameters_(replica.store.values().clone()),
        statistics_(replica.store.statistic_values().clone()),
        updates_(replica.optimizer->updates()) {
    for (const OptimizerSlot& slot : replica.optimizer->slots()) slots_.push_back(slot.values.clone());
  }

  // What it holds.
  static size_t bytes_of(const Replica& replica) {
    size_t sum = replica.store.values().bytes() + replica.store.statistic_values().bytes();
    for (const OptimizerSlot& slot : replica.optimizer->slots()) sum += slot.values.bytes();
    return sum;
  }

  const Tensor& parameters() const { return parameters_; }

  void put_back(Replica& replica) const {
    Tensor values = replica.store.values(), statistics = replica.store.statistic_values();
    values.assign(parameters_);
    statistics.assign(statistics_);
    std::vector<OptimizerSlot> slots = replica.optimizer->slots();
    for (size_t i = 0; i < slots.size(); ++i) slots[i].values.assign(slots_[i]);
    replica.optimizer->slots_restored(slots);
    replica.optimizer->set_updates(updates_);
  }

 private:
  Tensor parameters_, statistics_;
  std::vector<Tensor> slots_;
  int64_t updates_;
};

// Sums over layers before the update, the length of all their directions together, and a look at what the
// update has done.
class LayerCurvatureStep final : public CurvatureStep {
 public:
  LayerCurvatureStep(Replica& replica, GradientPass& pass, const RunSettings& settings)
      : replica_(replica),
        gradients_(pass),
        curvature_(*replica.optimizer->layer_curvature()),
        sums_(curvature_, replica, pass, settings) {}

  void before_update(const UpdateContext& update, double loss) override {
    if (curvature_.sums().layers.empty()) return;
    const int64_t number = replica_.optimizer->updates(), every = curvature_.adapts_every();
    const bool adapts = every > 0 && (number + 1) % every == 0;
    if (adapts) {
      before_.emplace(replica_);
      numbers_before_ = curvature_.numbers();
    }
    if (const LayerCurvature::Due due = curvature_.due(number); due.any()) {
      if (due.scales && !bases_.defined()) gather_bases();
      const CurvaturePass::Result found = sums_.sweep(due, bases_);
      curvature_.take(due, found.sums, found.rows, found.weight);
    }
    UpdateContext context = update;
    context.segments = replica_.segments;
    bool changes_bases = false;
    const std::vector<double> products = curvature_.precondition(context, changes_bases);
    if (changes_bases) bases_ = {};
    curvature_.limit(sum_over_layers(products));
    if (!adapts) return;
    gradient_ = scaled(update.gradients.view(before_->parameters().shape(), 0), update.gradient_scale);
    replica_.shards->gather(gradient_, "gradient");
    loss_ = loss;
  }

  void after_update() override {
    if (!before_) return;
    try {
      adapt();
    } catch (const AgreedFailure&) {
      before_->put_back(replica_);
      curvature_.set_numbers(numbers_before_);
      bases_ = {};
      throw;
    }
    before_.reset();
    gradient_ = {};
  }

  size_t bytes() const override {
    return sums_.bytes() + (curvature_.adapts_every() > 0 ? UpdateUndo::bytes_of(replica_) : 0);
  }

  void describe(State& state) const override { put_numbers(state, kGroup, curvature_.numbers()); }
  void restore(const State& found, const std::string& path) override {
    curvature_.set_numbers(take_numbers(found, kGroup, curvature_.numbers(), path));
    bases_ = {};
  }

 private:
  static constexpr const char* kGroup = "/curvature/";

  void gather_bases() {
    bases_ = Tensor::zeros({curvature_.sums().extent}, replica_.store.dtype(), replica_.store.backend());
    if (const Tensor mine = curvature_.bases(); mine.defined()) bases_.assign(mine);
    sums_.shards().gather(bases_, "bases");
  }

  // (L(theta + d) - L(theta)) / (g'd + d'(G + lambda I)d / 2), Martens and Grosse 2015, section 6.5.
  void adapt() {
    Tensor values = replica_.store.values(), curved = values.empty_like();
    const double decrease = gradients_.value().loss - loss_;
    const Tensor after = values.clone(), change = weighted_sum(1.0, values, -1.0, before_->parameters());
    values.assign(before_->parameters());
    gradients_.gauss_newton_product(change, curved);
    values.assign(after);
    const double predicted = inner_product(gradient_, change) + 0.5 * inner_product(change, curved) +
                             0.5 * curvature_.damping() * inner_product(change, change);
    // A step that its own model does not take for one downhill says nothing by the ratio.
    curvature_.adapt(predicted < 0.0 ? decrease / predicted : std::numeric_limits<double>::quiet_NaN());
  }

  double sum_over_layers(const std::vector<double>& mine) const {
    Tensor all = Tensor::from({std::ssize(mine)}, mine, replica_.store.backend());
    sums_.numbers().gather(all, "lengths of layers");
    double sum = 0.0;
    for (const double number : all.to_vector<double>()) sum += number;
    return sum;
  }

  Replica& replica_;
  GradientPass& gradients_;
  LayerCurvature& curvature_;
  CurvaturePass sums_;
  Tensor bases_;  // where scales are due, whole; undefined: to be gathered
  // Where damping is about to adapt: what the update begins with.
  std::optional<UpdateUndo> before_;
  std::map<std::string, double> numbers_before_;
  Tensor gradient_;
  double loss_ = 0.0;
};

class DiagonalCurvatureStep final : public CurvatureStep {
 public:
  DiagonalCurvatureStep(Replica& replica, GradientPass& pass, const RunSettings& settings)
      : replica_(replica),
        pass_(pass),
        curvature_(*replica.optimizer->diagonal_curvature()),
        seed_(settings.seed) {}

  void before_update(const UpdateContext&, double) override {
    const int64_t update = replica_.optimizer->updates();
    if (!curvature_.due(update)) return;
    // The sweep takes its place.
    const Tensor kept = pass_.gradient().clone();
    Tensor found = replica_.store.values().empty_like();
    if (curvature_.estimate() == DiagonalEstimate::kPredictedGradient) {
      const double weight = pass_.predicted_gradient(found);
      found = scaled(square_of(found), 1.0 / weight);
    } else {
      const Tensor signs = drawn_signs(update);
      pass_.hessian_product(signs, found);
      found = combined(BinaryOp::kMultiply, signs, found);
    }
    Tensor gradient = pass_.gradient();
    gradient.assign(kept);
    curvature_.take(found);
  }

 private:
  // 1 or -1 for each parameter, of an update's number.
  Tensor drawn_signs(int64_t update) const {
    const Tensor values = replica_.store.values();
    const PhiloxKey key = philox_key(seed_, RandomPurpose::kSigns);
    std::vector<double> signs(static_cast<size_t>(values.elements()));
    constexpr size_t kBits = 32, kBlock = 4 * kBits;
    for (size_t begin = 0; begin < signs.size(); begin += kBlock) {
      const PhiloxBlock block =
          philox(key, {static_cast<uint32_t>(begin / kBlock), static_cast<uint32_t>(update), 0, 0});
      for (size_t i = begin; i < std::min(begin + kBlock, signs.size()); ++i) {
        const uint32_t word = block.r[(i - begin) / kBits];
        signs[i] = (word >> (i % kBits)) % 2 == 0 ? 1.0 : -1.0;
      }
    }
    return Tensor::from(values.shape(), signs, values.backend()).converted(values.dtype());
  }

  Replica& replica_;
  GradientPass& pass_;
  DiagonalCurvature& curvature_;
  uint64_t seed_;
};

}  // namespace

void require_curvature(const RunSettings& settings, Optimizer& optimizer) {
  const bool layers = optimizer.layer_curvature() != nullptr;
  if (!layers && optimizer.diagonal_curvature() == nullptr) return;
  const auto refuse = [&](bool given, const char* key, const std::string& reason) {
    if (given)
      fail(ErrorKind::kUsage,
           fmt::format("{}: not with optimizer.type = \"{}\": {}", key, optimizer.type(), reason));
  };
  refuse(settings.compute != settings.parameters(), "precision.compute",
         fmt::format("{} has too few digits for curvature; take fp32 or fp64", name_of(settings.compute)));
  refuse(settled(settings.loss_scale, settings.compute).mode != LossScaling::kOff, "precision.loss_scale",
         "curvature is of the loss as it is");
  refuse(layers && settings.clip.global_norm > 0.0, "clip.global_norm",
         "optimizer.kl_clip and optimizer.damping limit its steps");
  refuse(settings.clip.value > 0.0, "clip.value", "it needs the gradient as it is");
  refuse(settings.clip.adaptive > 0.0, "clip.adaptive", "it needs the gradient as it is");
}

std::unique_ptr<CurvatureStep> make_curvature_step(Replica& replica, GradientPass& pass,
                                                   const RunSettings& settings) {
  if (replica.optimizer->layer_curvature() != nullptr)
    return std::make_unique<LayerCurvatureStep>(replica, pass, settings);
  if (replica.optimizer->diagonal_curvature() != nullptr)
    return std::make_unique<DiagonalCurvatureStep>(replica, pass, settings);
  return nullptr;
}

}  // namespace lockstep
