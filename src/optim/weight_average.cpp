// Running averages as steps towards what enters.
#include "lockstep/optim/weight_average.h"

#include <algorithm>

#include "lockstep/optim/optimizer.h"
#include "lockstep/optim/optimizer_keys.h"

namespace lockstep {

AverageSettings read_average(Section& section) {
  const std::string type =
      section.text("type", "none", {"none", "ema", "swa"},
                   "weights that are evaluated: trained, or their moving average or mean");
  for (const AverageSettings::Type known : {AverageSettings::Type::kEma, AverageSettings::Type::kSwa}) {
    if (type == name_of(known)) return read_average(section, known);
  }
  return {};
}

AverageSettings read_average(Section& any, AverageSettings::Type type) {
  Section section = any.of_type(name_of(type));
  AverageSettings settings;
  settings.type = type;
  if (type == AverageSettings::Type::kEma) {
    settings.decay = read_decay_rate(section, "decay", settings.decay, "ema: share of the average kept");
    settings.warmup = section.boolean("warmup", settings.warmup,
                                      "ema: the n-th to enter finds a decay of (1 + n) / (10 + n) at most");
  }
  settings.start = section.integer("start", settings.start, {1, AverageSettings::kMostUpdates},
                                   "updates until the first weights enter the average");
  settings.every = section.integer("every", settings.every, {1, AverageSettings::kMostUpdates},
                                   "updates between weights that enter the average");
  return settings;
}

std::string name_of(AverageSettings::Type type) {
  switch (type) {
    case AverageSettings::Type::kEma:
      return "ema";
    case AverageSettings::Type::kSwa:
      return "swa";
    case AverageSettings::Type::kNone:
      break;
  }
  return "none";
}

WeightAverage::WeightAverage(const AverageSettings& settings, const Tensor& parameters,
                             std::vector<ElementRange> owned, const Tensor& statistics)
    : settings_(settings),
      owned_(std::move(owned)),
      values_(Tensor::empty({total_size(owned_)}, parameters.dtype(), parameters.backend())) {
  restart(parameters, statistics);
}

void WeightAverage::restart(const Tensor& parameters, const Tensor& statistics) {
  for_owned(parameters, [](Tensor average, const Tensor& theta) { average.assign(theta); });
  if (has_statistics()) statistics_ = statistics.clone();
}

template <class Use>
void WeightAverage::for_owned(const Tensor& parameters, const Use& use) const {
  int64_t position = 0;
  for (const ElementRange& range : owned_) {
    use(values_.view({range.size()}, position), parameters.view({range.size()}, range.begin));
    position += range.size();
  }
}

double WeightAverage::share(int64_t updates) const {
  const int64_t since = updates - settings_.start;
  if (since <= 0) return 1.0;
  if (since % settings_.every != 0) return 0.0;
  const auto n = static_cast<double>(since / settings_.every);  // have entered before
  const double decay = settings_.warmup ? std::min(settings_.decay, (1.0 + n) / (10.0 + n)) : settings_.decay;
  return settings_.type == AverageSettings::Type::kSwa ? 1.0 / (n + 1.0) : 1.0 - decay;
}

void WeightAverage::write_row(int64_t update, double* row) const {
  std::fill_n(row, Optimizer::kRowSize, 0.0);
  row[2] = share(update + 1);
}

void WeightAverage::update(const Tensor& parameters, const Tensor& statistics, int64_t updates) {
  UpdateArguments arguments;
  arguments.scalars[2] = share(updates);
  if (arguments.scalars[2] != 0.0) approach(parameters, statistics, arguments);
}

void WeightAverage::update(const Tensor& parameters, const Tensor& statistics, const StepState* verdict,
                           const double* row) {
  UpdateArguments arguments;
  arguments.gate = &verdict->gate;
  arguments.row = row;
  approach(parameters, statistics, arguments);
}

void WeightAverage::approach(const Tensor& parameters, const Tensor& statistics, UpdateArguments arguments) {
  const auto enter = [&](Tensor average, const Tensor& x) {
    if (average.elements() == 0) return;
    arguments.dtype = average.dtype();
    arguments.n = average.elements();
    arguments.parameters = average.mutable_data();
    arguments.gradients = x.data();
    average.backend().update(UpdateFormula::kApproach, arguments);
  };
  for_owned(parameters, enter);
  if (has_statistics()) enter(statistics_, statistics);
}

void WeightAverage::write(Tensor& parameters) const {
  for_owned(parameters, [](const Tensor& average, Tensor theta) { theta.assign(average); });
}

}  // namespace lockstep
