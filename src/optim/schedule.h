// Learning-rate schedules: the rate of a step as a function of how many updates were done.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/configuration.h"

namespace lockstep {

class Schedule {
 public:
  virtual ~Schedule() = default;
  virtual std::string type() const = 0;
  // Rate of the update with number `update` (0-based).
  virtual double learning_rate(int64_t update) const = 0;
};

std::vector<std::string> schedule_types();

// Reads schedule.type (default "constant") and the keys of that schedule; Error (kUsage) for bad values.
// base_rate is optimizer.learning_rate; total_steps and steps_per_epoch are the run's.
//
// Every type: `warmup` (default 0) and `unit` = "steps" | "epochs", what warmup and every are counted in.
// Update u < warmup gets base_rate * (u + 1) / warmup. After it, with u counted from the end of the warmup
// and T = total_steps - warmup:
//   constant   base_rate
//   cosine     base_rate * (m + (1 - m) * (1 + cos(pi * u / T)) / 2), m = `minimum_factor` (default 0);
//   base_rate * m from T on
//              (Loshchilov and Hutter 2017, one cycle)
//   step       base_rate * `factor` ^ floor(u / `every`), defaults 0.1 and 1000
std::unique_ptr<Schedule> make_schedule(Section& section, double base_rate, int64_t total_steps,
                                        int64_t steps_per_epoch);
// The same, of the given type, one of schedule_types(), whatever schedule.type says: how `config --describe`
// lists every type's keys.
std::unique_ptr<Schedule> make_schedule(Section& section, const std::string& type, double base_rate,
                                        int64_t total_steps, int64_t steps_per_epoch);

}  // namespace lockstep
