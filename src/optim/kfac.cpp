// K-FAC out of matrix products, and inverses from the host.
#include "lockstep/optim/kfac.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>

#include "lockstep/core/error.h"
#include "lockstep/core/log.h"
#include "lockstep/kernels/math/portable.h"
#include "lockstep/optim/curvature_layout.h"
#include "lockstep/optim/flat_update.h"
#include "lockstep/optim/layer_curvature.h"
#include "lockstep/optim/matrix_optimizer.h"
#include "lockstep/optim/matrix_roots.h"
#include "lockstep/optim/optimizer_keys.h"
#include "lockstep/optim/tensor_algebra.h"

namespace lockstep {
namespace {

constexpr double kMostDamping = 1e10;

// The two sides of a layer, and which axis of W with b behind it each is.
constexpr int kSides[] = {0, 1};
constexpr const char* kFactors[] = {"input_factor", "output_factor"};
constexpr const char* kInverses[] = {"input_inverse", "output_inverse"};
constexpr const char* kBases[] = {"input_basis", "output_basis"};
constexpr const char* kValues[] = {"input_eigenvalues", "output_eigenvalues"};

class Kfac final : public MatrixOptimizer, public LayerCurvature {
 public:
  explicit Kfac(const KfacOptions& options)
      : MatrixOptimizer("kfac", {options.weight_decay, options.adamw, options.adamw_learning_rate_factor,
                                 options.beta1, options.beta2, options.epsilon}),
        options_(options),
        damping_(options.damping) {}

  LayerCurvature* layer_curvature() override { return this; }

  void set_layers(const std::vector<CurvedLayer>& layers,
                  const std::vector<ParameterEntry>& parameters) override {
    std::vector<CurvedLayer> taken;
    for (CurvedLayer layer : layers) {
      if (is_named(parameters[layer.weight])) continue;
      if (layer.bias && is_named(parameters[layer.weight + 1])) {
        layer.bias = false;
        --layer.inputs;
      }
      taken.push_back(layer);
    }
    sums_ = lay_out_sums(taken, options_.max_size, ekfac());
    layer_of_.assign(parameters.size(), -1);
    for (size_t l = 0; l < sums_.layers.size(); ++l) {
      const CurvedLayer& layer = sums_.layers[l].layer;
      for (size_t i = layer.weight; i <= layer.weight + (layer.bias ? 1 : 0); ++i) {
        layer_of_[i] = static_cast<int64_t>(l);
        index_of_[parameters[i].name] = i;
      }
    }
    directions_.resize(sums_.layers.size());
    description_ = describe_sums(sums_, parameters,
                                 fmt::format("kfac ({}, {} Fisher)", options_.method, options_.fisher));
  }

  const CurvatureSums& sums() const override { return sums_; }
  bool draws_targets() const override { return options_.fisher == "sampled"; }
  std::string describe() const override { return description_; }
  bool joins_previous(size_t index) const override {
    return index < layer_of_.size() && layer_of_[index] >= 0 && !is_weight(index);
  }

  Due due(int64_t update) const override {
    return {update % options_.factor_every == 0,
            ekfac() && update > 0 && update % options_.scales_every == 0 && !inverts_before(update)};
  }

  Tensor bases() const override {
    Tensor all;
    for (const LayerSums& layer : sums_.layers) {
      const size_t index = layer.layer.weight;
      if (!owns(index)) continue;
      for (const int side : kSides) {
        if (!is_square(layer, side)) continue;
        const Tensor basis = state(kBases[side], index);
        if (!all.defined()) all = Tensor::zeros({sums_.extent}, basis.dtype(), basis.backend());
        all.view(basis.shape(), side == 0 ? layer.inputs_at : layer.outputs_at).assign(basis);
      }
    }
    return all;
  }

  void take(const Due& due, const Tensor& sums, const std::vector<int64_t>& rows, double weight) override {
    if (due.factors) ++gathered_;
    for (size_t l = 0; l < sums_.layers.size(); ++l) {
      const LayerSums& layer = sums_.layers[l];
      if (!owns(layer.layer.weight)) continue;
      if (due.factors) {
        blend_factor(layer, 0, sums, static_cast<double>(rows[l]));
        blend_factor(layer, 1, sums, weight);
      }
      if (due.scales) {
        const Tensor scales = state("scales", layer.layer.weight);
        const Tensor found = scaled(sums.view(scales.shape(), layer.scales_at), 1.0 / weight);
        if (is_finite(found)) blend(scales, found, options_.factor_decay);
      }
    }
  }

  std::vector<double> precondition(const UpdateContext& context, bool& changes_bases) override {
    changes_bases = inverts_before(updates());
    if (changes_bases) invert();
    std::vector<double> products(sums_.layers.size(), 0.0);
    for (size_t l = 0; l < sums_.layers.size(); ++l) {
      const LayerSums& layer = sums_.layers[l];
      if (!owns(layer.layer.weight)) continue;
      const Tensor gradient = joint_gradient(layer.layer, context);
      directions_[l] = preconditioned(layer, gradient);
      const double rate = context.learning_rate * rate_factor(layer.layer, context.segments);
      products[l] = rate * rate * std::fabs(inner_product(gradient, directions_[l]));
    }
    return products;
  }

  void limit(double sum) override {
    shortening_ = options_.kl_clip > 0.0 && sum > options_.kl_clip ? std::sqrt(options_.kl_clip / sum) : 1.0;
  }

  int64_t adapts_every() const override { return options_.adapt_every; }
  double damping() const override { return damping_; }
  void adapt(double ratio) override {
    const double step = math::portable::power(0.9, static_cast<double>(options_.adapt_every));
    if (!(ratio >= 0.25)) damping_ /= step;
    if (ratio > 0.75) damping_ *= step;
    damping_ = std::clamp(damping_, options_.least_damping, kMostDamping);
  }

  std::map<std::string, double> numbers() const override {
    return {{"damping", damping_}, {"gathered", static_cast<double>(gathered_)}};
  }
  void set_numbers(const std::map<std::string, double>& numbers) override {
    gathered_ = static_cast<int64_t>(numbers.at("gathered"));
    // Without adaptation it is what the configuration says, now.
    if (options_.adapt_every > 0) damping_ = numbers.at("damping");
  }

 private:
  bool ekfac() const { return options_.method == "ekfac"; }
  bool is_weight(size_t index) const {
    return sums_.layers[static_cast<size_t>(layer_of_[index])].layer.weight == index;
  }
  static bool is_square(const LayerSums& layer, int side) {
    return side == 0 ? layer.square_inputs : layer.square_outputs;
  }
  static int64_t length(const LayerSums& layer, int side) {
    return side == 0 ? layer.layer.inputs : layer.layer.outputs;
  }

  bool takes(const ParameterEntry& parameter) const override { return index_of_.contains(parameter.name); }

  void declare_matrix(const ParameterEntry& parameter) override {
    const size_t index = index_of_.at(parameter.name);
    if (options_.momentum > 0.0) reserve("velocity", parameter.shape);
    if (!is_weight(index)) return;
    const LayerSums& layer = sums_.layers[static_cast<size_t>(layer_of_[index])];
    for (const int side : kSides) {
      const int64_t n = length(layer, side);
      const Shape shape = is_square(layer, side) ? Shape{n, n} : Shape{n};
      reserve(kFactors[side], shape);
      if (options_.method == "cholesky") {
        reserve(kInverses[side], shape);
        continue;
      }
      if (is_square(layer, side)) reserve(kBases[side], shape);
      reserve(kValues[side], {n});
    }
    if (ekfac()) reserve("scales", layer.layer.joint());
  }

  double matrix_load(const ParameterEntry& parameter) const override {
    double load = static_cast<double>(parameter.shape.elements());
    const size_t index = index_of_.at(parameter.name);
    if (!is_weight(index)) return load;
    const LayerSums& layer = sums_.layers[static_cast<size_t>(layer_of_[index])];
    for (const int side : kSides) {
      const auto n = static_cast<double>(length(layer, side));
      if (is_square(layer, side)) load += n * n * n;
    }
    return load;
  }

  // ---- factors

  void blend_factor(const LayerSums& layer, int side, const Tensor& sums, double count) const {
    const Tensor factor = state(kFactors[side], layer.layer.weight);
    Tensor found =
        scaled(sums.view(factor.shape(), side == 0 ? layer.inputs_at : layer.outputs_at), 1.0 / count);
    // In its place what there is, so that the number of estimates holds for all.
    if (!is_finite(found))
      found = gathered_ > 1 ? scaled(factor, 1.0 / share(gathered_ - 1)) : factor.full_like(0.0);
    blend(factor, found, options_.factor_decay);
  }

  // 1 - factor_decay^k, what an average of k values from 0 on has of them.
  double share(int64_t k) const {
    return 1.0 - math::portable::power(options_.factor_decay, static_cast<double>(k));
  }

  bool inverts_before(int64_t update) const {
    if (update % options_.inverse_every == 0) return true;
    return update < options_.inverse_every && update % options_.factor_every == 0 &&
           std::has_single_bit(static_cast<uint64_t>(update / options_.factor_every));
  }

  void invert() {
    if (gathered_ == 0) return;
    const double lacking = 1.0 / share(gathered_);
    std::vector<InverseTask> inverses;
    std::vector<EigenTask> decompositions;
    for (const LayerSums& layer : sums_.layers) {
      const size_t index = layer.layer.weight;
      if (!owns(index)) continue;
      const double added[] = {std::sqrt(damping_) * balance(layer), std::sqrt(damping_) / balance(layer)};
      for (const int side : kSides) {
        const Tensor factor = state(kFactors[side], index);
        const int64_t n = length(layer, side);
        const bool cholesky = options_.method == "cholesky";
        if (!is_square(layer, side)) {
          Tensor to = state(cholesky ? kInverses[side] : kValues[side], index);
          to.assign(cholesky ? reciprocal_of(shifted(scaled(factor, lacking), added[side]))
                             : scaled(factor, lacking));
        } else if (cholesky) {
          inverses.push_back({{factor, state(kInverses[side], index), n}, lacking, added[side]});
        } else {
          decompositions.push_back(
              {{factor, state(kBases[side], index), n}, state(kValues[side], index), lacking});
        }
      }
    }
    damped_inverses(inverses);
    eigen_decompositions(decompositions);
    warn_of_kept(inverses);
    warn_of_kept(decompositions);
    if (!ekfac()) return;
    for (const LayerSums& layer : sums_.layers) {
      if (owns(layer.layer.weight))
        state("scales", layer.layer.weight).assign(products_of_eigenvalues(layer));
    }
  }

  template <class Task>
  void warn_of_kept(const std::vector<Task>& tasks) const {
    const auto kept = std::ranges::count_if(tasks, [](const Task& task) { return task.kept; });
    if (kept == 0) return;
    log_warning(fmt::format("kfac: update {}: {} of {} inverses cannot be computed and stay as they were",
                            updates() + 1, kept, tasks.size()));
  }

  // pi: the root of the mean eigenvalue of A over that of G.
  double balance(const LayerSums& layer) const {
    double means[2] = {};
    for (const int side : kSides) {
      const Tensor factor = state(kFactors[side], layer.layer.weight);
      means[side] = trace(factor) / static_cast<double>(length(layer, side));
    }
    const double ratio = means[0] / means[1];
    return ratio > 0.0 && std::isfinite(ratio) ? std::sqrt(ratio) : 1.0;
  }

  // ---- directions

  // a g' in the layout of W.
  Tensor products_of_eigenvalues(const LayerSums& layer) const {
    const Tensor inputs = state(kValues[0], layer.layer.weight),
                 outputs = state(kValues[1], layer.layer.weight);
    const Tensor &rows = layer.layer.inputs_first ? inputs : outputs,
                 &columns = layer.layer.inputs_first ? outputs : inputs;
    return product(rows.view({rows.elements(), 1}), columns.view({1, columns.elements()}), false, false);
  }

  // factor x on the side's axis; transposed: factor' x. Diagonal: elementwise.
  Tensor along(const LayerSums& layer, int side, const Tensor& factor, const Tensor& x,
               bool transposed) const {
    const bool rows = (side == 0) == layer.layer.inputs_first;
    if (factor.rank() == 1) return stretched(x, factor, rows);
    return rows ? product(factor, x, transposed, false) : product(x, factor, false, !transposed);
  }

  Tensor preconditioned(const LayerSums& layer, Tensor x) const {
    const size_t index = layer.layer.weight;
    if (options_.method == "cholesky") {
      for (const int side : kSides) x = along(layer, side, state(kInverses[side], index), x, false);
      return x;
    }
    for (const int side : kSides) {
      if (is_square(layer, side)) x = along(layer, side, state(kBases[side], index), x, true);
    }
    const Tensor scales = ekfac() ? state("scales", index) : products_of_eigenvalues(layer);
    x = combined(BinaryOp::kDivide, x, shifted(scales, damping_));
    for (const int side : kSides) {
      if (is_square(layer, side)) x = along(layer, side, state(kBases[side], index), x, false);
    }
    return x;
  }

  double rate_factor(const CurvedLayer& layer, std::span<const UpdateSegment> segments) const {
    const int64_t at = entry(layer.weight).offset;
    for (const UpdateSegment& segment : segments) {
      if (segment.begin <= at && at < segment.end) return segment.learning_rate_factor;
    }
    return 0.0;
  }

  // D in the layout of W.
  Tensor joint_gradient(const CurvedLayer& layer, const UpdateContext& context) const {
    const auto gradient_of = [&](size_t index) {
      return context.gradients.view(entry(index).shape, entry(index).offset);
    };
    const Tensor weight = gradient_of(layer.weight);
    Tensor joint = Tensor::empty(layer.joint(), weight.dtype(), weight.backend());
    put_part(layer, weight, false, joint);
    if (layer.bias) put_part(layer, gradient_of(layer.weight + 1), true, joint);
    return scaled(joint, context.gradient_scale);
  }

  void update_matrix(const ParameterUpdate& update, double decay) override {
    const auto l = static_cast<size_t>(layer_of_[update.index]);
    const CurvedLayer& layer = sums_.layers[l].layer;
    if (!directions_[l].defined()) fail(ErrorKind::kInternal, "kfac: update() without precondition()");
    Tensor direction = scaled(part_of(layer, directions_[l], !is_weight(update.index)), shortening_);
    if (options_.momentum > 0.0) {
      Tensor velocity = state("velocity", update.index);
      velocity.assign(weighted_sum(options_.momentum, velocity, 1.0, direction.view(velocity.shape())));
      direction = velocity;
    }
    flat_update(UpdateFormula::kSgd, update.parameter, direction, 1.0, {}, {update.learning_rate, decay});
  }

  KfacOptions options_;
  CurvatureSums sums_;
  std::string description_;
  std::vector<int64_t> layer_of_;           // by parameter; -1: none
  std::map<std::string, size_t> index_of_;  // of the parameters of layers, by name
  std::vector<Tensor> directions_;          // by layer, of the update to come
  double damping_, shortening_ = 1.0;
  int64_t gathered_ = 0;  // estimates of the factors
};

void require_one_of(const char* option, const std::string& value, std::initializer_list<const char*> known) {
  if (std::ranges::find(known, value) != known.end()) return;
  fail(ErrorKind::kUsage,
       fmt::format("kfac: {} must be one of {}, got {}", option, fmt::join(known, ", "), value));
}

void require_options(const KfacOptions& options) {
  require_one_of("method", options.method, {"cholesky", "eigen", "ekfac"});
  require_one_of("fisher", options.fisher, {"sampled", "empirical"});
  require_positive("kfac", "factor_every", static_cast<double>(options.factor_every));
  require_positive("kfac", "inverse_every", static_cast<double>(options.inverse_every));
  require_positive("kfac", "scales_every", static_cast<double>(options.scales_every));
  require_positive("kfac", "max_size", static_cast<double>(options.max_size));
  require_not_negative("kfac", "adapt_every", static_cast<double>(options.adapt_every));
  require_decay_rate("kfac", "factor_decay", options.factor_decay);
  require_epsilon("kfac", "damping", options.damping);
  require_epsilon("kfac", "least_damping", options.least_damping);
  require_not_negative("kfac", "kl_clip", options.kl_clip);
  require_decay_rate("kfac", "momentum", options.momentum);
  require_not_negative("kfac", "adamw_learning_rate_factor", options.adamw_learning_rate_factor);
  require_moments("kfac", options);
}

}  // namespace

std::unique_ptr<Optimizer> make_kfac(const KfacOptions& options) {
  require_options(options);
  return std::make_unique<Kfac>(options);
}

std::unique_ptr<Optimizer> make_kfac(Section& section) {
  KfacOptions options;
  constexpr int64_t kMany = 1'000'000'000;
  options.method = section.text("method", options.method, {"cholesky", "eigen", "ekfac"},
                                "kfac: inverses of damped factors; eigenvalues of both, damped together; the "
                                "same with second moments that are estimated in their basis");
  options.fisher = section.text("fisher", options.fisher, {"sampled", "empirical"},
                                "kfac: of targets drawn from what the model predicts, or of the batch's");
  options.factor_every = section.integer("factor_every", options.factor_every, {1, kMany},
                                         "kfac: updates between estimates of the factors, a sweep each");
  options.inverse_every =
      section.integer("inverse_every", options.inverse_every, {1, kMany}, "kfac: updates between inverses");
  options.scales_every = section.integer("scales_every", options.scales_every, {1, kMany},
                                         "kfac: updates between second moments of ekfac, a sweep each");
  options.factor_decay =
      read_decay_rate(section, "factor_decay", options.factor_decay, "kfac: share of the factors kept");
  options.damping = section.real("damping", options.damping, {1e-30},
                                 "kfac: added to the curvature; of the first updates where it adapts");
  options.least_damping =
      section.real("least_damping", options.least_damping, {1e-30}, "kfac: where it adapts");
  options.adapt_every = section.integer("adapt_every", options.adapt_every, {0, kMany},
                                        "kfac: updates between looks at how well the quadratic model "
                                        "predicts, by which damping adapts; 0: it stays");
  options.kl_clip = section.real("kl_clip", options.kl_clip, kNonNegative,
                                 "kfac: most that an update may change what the model predicts; 0: no limit");
  options.max_size = section.integer("max_size", options.max_size, {1, 65536},
                                     "kfac: sides longer than this count as diagonal");
  options.momentum =
      read_decay_rate(section, "momentum", options.momentum, "kfac: share of the velocity kept each step");
  read_moments(section, options);
  options.weight_decay = read_decoupled_weight_decay(section, options.weight_decay, "kfac");
  read_rest(section, options.adamw, options.adamw_learning_rate_factor);
  return make_kfac(options);
}

}  // namespace lockstep
