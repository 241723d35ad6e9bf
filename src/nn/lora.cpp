// Low-rank changes of frozen matrices.
#include "lockstep/nn/lora.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <utility>

#include "lockstep/core/error.h"
#include "lockstep/core/name_pattern.h"
#include "lockstep/nn/dropout.h"
#include "lockstep/nn/refused_option.h"
#include "lockstep/ops/dropout.h"
#include "lockstep/ops/elementwise.h"
#include "lockstep/ops/matmul.h"
#include "lockstep/ops/movement.h"

namespace lockstep {

namespace {

constexpr Range kRank{0.0, 65536.0, false};

}  // namespace

LoraOptions read_lora(Section& lora) {
  const LoraOptions defaults;
  LoraOptions options;
  options.rank = lora.integer("rank", options.rank, kRank,
                              "numbers between the two matrices that are trained beside each target, all "
                              "else staying as train.initial_weights has it; 0: everything is trained");
  options.alpha = lora.real("alpha", options.alpha, kPositive, "alpha / rank scales what they add");
  options.targets =
      lora.texts("targets", options.targets,
                 "patterns of names of matrices, * for any characters; [\"*\"]: all products of "
                 "the blocks");
  options.dropout = read_dropout(lora, "dropout", options.dropout);
  // What a run writes down names every key: those at their defaults ask for nothing.
  const std::pair<const char*, bool> asked[] = {{"alpha", options.alpha != defaults.alpha},
                                                {"targets", options.targets != defaults.targets},
                                                {"dropout", options.dropout != defaults.dropout}};
  for (const auto& [key, other] : asked) {
    if (options.rank == 0 && other) lora.reject(key, "goes with lora.rank, which is 0: off");
  }
  return options;
}

LoraPlan::LoraPlan(LoraOptions options) : options_(std::move(options)) {
  require_option("lora", "rank", static_cast<double>(options_.rank), {1.0, kRank.maximum, false});
  require_option("lora", "alpha", options_.alpha, kPositive);
  require_dropout("lora", "dropout", options_.dropout);
  if (options_.targets.empty()) throw RefusedOption("lora", "targets", "names none");
}

bool LoraPlan::takes(const std::string& name, const Shape& shape, bool inside) {
  names_.push_back(name);
  if (inside) inside_.insert(name);
  const bool wanted = std::ranges::any_of(
      options_.targets, [&](const std::string& pattern) { return matches_pattern(pattern, name); });
  if (const int64_t most = std::min(shape[0], shape[1]); wanted && options_.rank > most) {
    fail(ErrorKind::kUsage, fmt::format("lora.rank: at most {} for {} {}, got {}", most, name,
                                        shape.to_string(), options_.rank));
  }
  return wanted && !inside;
}

void LoraPlan::require_fit(const ParameterStore& store) const {
  if (names_.empty() || !store.statistics().empty())
    throw RefusedOption("lora", "rank",
                        "the model has no products that can be adapted: model.type = \"gpt\" has");
  for (const std::string& pattern : options_.targets) {
    std::vector<std::string> fits;
    std::ranges::copy_if(names_, std::back_inserter(fits),
                         [&](const std::string& name) { return matches_pattern(pattern, name); });
    if (fits.empty())
      throw RefusedOption(
          "lora", "targets",
          fmt::format("pattern \"{}\" fits no matrix; there are {}", pattern, fmt::join(names_, ", ")));
    // It would have asked for matrices of their own.
    if (std::ranges::all_of(fits, [&](const std::string& name) { return inside_.contains(name); }))
      throw RefusedOption("lora", "targets",
                          fmt::format("pattern \"{}\" fits {}, a part of what another one takes as a whole",
                                      pattern, fits.front()));
  }
}

AdaptedWeight::AdaptedWeight(const Shape& shape, const Initializer& initializer, const ModuleBuilder& builder,
                             const std::vector<ProductPart>& parts) {
  LoraPlan* const plan = builder.lora();
  if (plan == nullptr) {
    weight_ = builder.parameter("weight", shape, initializer);
    return;
  }
  weight_ = builder.store().declare_frozen(builder.path("weight"), shape, true);
  scale_ = plan->options().scale();
  dropout_ = plan->options().dropout;
  const bool whole = plan->takes(builder.path("weight"), shape);
  if (whole) adapt(builder, 0, shape);
  int64_t column = 0;
  for (const ProductPart& part : parts) {
    const Shape of_part{shape[0], part.columns};
    const ModuleBuilder scope = builder.scope(part.name);
    if (plan->takes(scope.path("weight"), of_part, whole)) adapt(scope, column, of_part);
    column += part.columns;
  }
}

void AdaptedWeight::adapt(const ModuleBuilder& builder, int64_t column, const Shape& shape) {
  ParameterStore& store = builder.store();
  const int64_t inputs = shape[0], outputs = shape[1], rank = builder.lora()->options().rank;
  // PEFT's: He et al. 2015 with a slope of sqrt(5).
  const double bound = 1.0 / std::sqrt(static_cast<double>(inputs));
  const int a = store.declare_parameter(builder.prefix() + kLoraA, {inputs, rank},
                                        {Initializer::Kind::kUniform, inputs, rank, bound});
  changes_.push_back({a, store.declare_parameter(builder.prefix() + kLoraB, {rank, outputs}, {}), column});
}

Tensor AdaptedWeight::with_change(const Tensor& y, const Tensor& x, const ForwardContext& context) const {
  Tensor sum = y;
  for (const Change& change : changes_) {
    const Tensor reached = context.training ? dropout(x, dropout_) : x;
    const Tensor inner = scale(linear(reached, context.parameter(change.a), {}), scale_);
    const Tensor added = linear(inner, context.parameter(change.b), {});
    const bool all = added.shape().last() == y.shape().last();
    sum = add(sum, all ? added : pad_axis(added, y.rank() - 1, change.column, y.shape().last()));
  }
  return sum;
}

}  // namespace lockstep
