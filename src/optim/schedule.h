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
  // Rate of the update with number `update` (0-based) of a run of `total` updates.
  virtual double learning_rate(int64_t update) const = 0;
};

std::vector<std::string> schedule_types();
// Reads schedule.type and its keys. base_rate is optimizer.learning_rate; total_steps and steps_per_epoch are the run's.
std::unique_ptr<Schedule> make_schedule(Section& section, double base_rate, int64_t total_steps, int64_t steps_per_epoch);

}  // namespace lockstep
