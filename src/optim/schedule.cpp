// Learning-rate schedules as factors of the base rate, with the linear warmup that all of them share.
#include "optim/schedule.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numbers>
#include <utility>

#include "core/error.h"

namespace lockstep {
namespace {

// Factor of the base rate at update u >= 0 after the warmup, of `total` updates after the warmup (0 if there
// are none).
using Factor = std::function<double(int64_t u, int64_t total)>;

// Bounds the product of a count of epochs with the steps of an epoch.
constexpr double kMaximumCount = 1e9;

Factor read_constant(Section&, int64_t) {
  return [](int64_t, int64_t) { return 1.0; };
}

Factor read_cosine(Section& section, int64_t) {
  const double minimum =
      section.real("minimum_factor", 0.0, kUnit, "cosine: last rate as a factor of the learning rate");
  return [minimum](int64_t u, int64_t total) {
    if (u >= total) return minimum;
    const double progress = static_cast<double>(u) / static_cast<double>(total);
    return minimum + (1.0 - minimum) * 0.5 * (1.0 + std::cos(std::numbers::pi * progress));
  };
}

Factor read_step(Section& section, int64_t steps_per_unit) {
  const double factor = section.real("factor", 0.1, {0.0, 1.0, true}, "step: what the rate is multiplied by");
  const int64_t every = section.integer("every", 1000, {1.0, kMaximumCount},
                                        "step: how often, in units, the rate is multiplied by factor");
  return [factor, period = every * steps_per_unit](int64_t u, int64_t) {
    return std::pow(factor, static_cast<double>(u / period));
  };
}

struct ScheduleType {
  const char* name;
  Factor (*read)(Section& section, int64_t steps_per_unit);
};

constexpr ScheduleType kScheduleTypes[] = {
    {"constant", read_constant},
    {"cosine", read_cosine},
    {"step", read_step},
};

class WarmupSchedule final : public Schedule {
 public:
  WarmupSchedule(std::string type, double base_rate, int64_t warmup, int64_t total, Factor factor)
      : type_(std::move(type)),
        base_rate_(base_rate),
        warmup_(warmup),
        remaining_(std::max<int64_t>(total - warmup, 0)),
        factor_(std::move(factor)) {}

  std::string type() const override { return type_; }

  double learning_rate(int64_t update) const override {
    if (update < 0) fail(ErrorKind::kInternal, fmt::format("schedule: update must be >= 0: {}", update));
    if (update < warmup_)
      return base_rate_ * (static_cast<double>(update + 1) / static_cast<double>(warmup_));
    return base_rate_ * factor_(update - warmup_, remaining_);
  }

 private:
  std::string type_;
  double base_rate_;
  int64_t warmup_, remaining_;
  Factor factor_;
};

}  // namespace

std::vector<std::string> schedule_types() {
  std::vector<std::string> names;
  for (const ScheduleType& type : kScheduleTypes) names.emplace_back(type.name);
  return names;
}

std::unique_ptr<Schedule> make_schedule(Section& section, double base_rate, int64_t total_steps,
                                        int64_t steps_per_epoch) {
  return make_schedule(
      section, section.text("type", "constant", schedule_types(), "course of the rate after the warmup"),
      base_rate, total_steps, steps_per_epoch);
}

std::unique_ptr<Schedule> make_schedule(Section& section, const std::string& type, double base_rate,
                                        int64_t total_steps, int64_t steps_per_epoch) {
  const std::string unit =
      section.text("unit", "steps", {"steps", "epochs"}, "what warmup and every are counted in");
  const int64_t steps_per_unit = unit == "epochs" ? steps_per_epoch : 1;
  const int64_t warmup = section.integer("warmup", 0, {0.0, kMaximumCount},
                                         "length, in units, of the linear rise to the full rate; 0 for none");
  for (const ScheduleType& known : kScheduleTypes) {
    if (type != known.name) continue;
    return std::make_unique<WarmupSchedule>(type, base_rate, warmup * steps_per_unit, total_steps,
                                            known.read(section, steps_per_unit));
  }
  fail(ErrorKind::kInternal, "make_schedule: unknown type: " + type);
}

}  // namespace lockstep
