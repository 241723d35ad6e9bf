// Averages of the parameters along the path of training: often better than where it ends.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lockstep/core/configuration.h"
#include "lockstep/parallel/parameter_shards.h"
#include "lockstep/tensor/tensor.h"

namespace lockstep {

struct AverageSettings {
  enum class Type { kNone, kEma, kSwa };
  Type type = Type::kNone;
  double decay = 0.999;
  bool warmup = false;
  static constexpr int64_t kMostUpdates = 1'000'000'000'000'000;
  int64_t start = 1, every = 1;  // in [1, kMostUpdates]
};

// Reads [average]: type "none" (default), or
//   ema   exponential moving average: average <- decay average + (1 - decay) theta, decay (0.999);
//         with warmup (false) the decay of the n-th to enter is at most (1 + n) / (10 + n), so that
//         the first ones are forgotten soon
//   swa   stochastic weight averaging (Izmailov et al. 2018): the mean
// Both: what is there after update `start` (1) is the first to enter, as it is; then what every `every`-th
// (1) update leaves. Before `start` the average is where training is.
AverageSettings read_average(Section& section);
// The keys of ema or swa, whatever average.type says: how `config --describe` lists them.
AverageSettings read_average(Section& section, AverageSettings::Type type);
std::string name_of(AverageSettings::Type type);

class WeightAverage {
 public:
  // parameters (>= the last owned element), of which the `owned` ranges are averaged here; statistics: the
  // model's running statistics, averaged with the parameters by ema. What the mean's statistics are only a
  // pass over data can tell: swa keeps none.
  WeightAverage(const AverageSettings& settings, const Tensor& parameters, std::vector<ElementRange> owned,
                const Tensor& statistics);

  // Starts anew from these, which have taken the place of what the average was made of.
  void restart(const Tensor& parameters, const Tensor& statistics);
  // After each update. updates: done so far, this one included. A skipped step is none.
  void update(const Tensor& parameters, const Tensor& statistics, int64_t updates);
  // The same where the device decides whether there was an update: verdict and row, in its memory, are those
  // of UpdateContext; the row is written ahead by write_row. The row may be that of an update whose number is
  // not known here.
  void update(const Tensor& parameters, const Tensor& statistics, const StepState* verdict,
              const double* row);
  // The row (Optimizer::kRowSize) of the average after the update with number `update`, counted from 0.
  void write_row(int64_t update, double* row) const;

  const AverageSettings& settings() const { return settings_; }
  bool has_statistics() const { return settings_.type == AverageSettings::Type::kEma; }
  Tensor values() const { return values_; }          // the owned ranges, one behind the other
  Tensor statistics() const { return statistics_; }  // (statistic extent); undefined unless has_statistics()

  // Writes the owned ranges of the average into `parameters`.
  void write(Tensor& parameters) const;

 private:
  // Calls use(part of the average, the same part of the parameters) for each owned range.
  template <class Use>
  void for_owned(const Tensor& parameters, const Use& use) const;
  // What the weights enter with after so many updates; 0: they do not.
  double share(int64_t updates) const;
  // With the share in arguments.scalars or behind arguments.row.
  void approach(const Tensor& parameters, const Tensor& statistics, UpdateArguments arguments);

  AverageSettings settings_;
  std::vector<ElementRange> owned_;
  Tensor values_, statistics_;
};

}  // namespace lockstep
