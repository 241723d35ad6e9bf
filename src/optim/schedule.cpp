// Learning-rate schedules as factors of the base rate, with the linear warmup that all of them share.
#include "lockstep/optim/schedule.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <utility>

#include "lockstep/core/error.h"
#include "lockstep/kernels/math/portable.h"

namespace lockstep {
namespace {

// Factor of the base rate at position u >= 0 after the warmup.
using Factor = std::function<double(int64_t u)>;

// Bounds the product of a count of epochs with the steps of an epoch.
constexpr double kMaximumCount = 1e12;

// What a schedule is laid out over. A position in a run is a number of steps, or of samples where the
// configuration counts in these: lengths need not be whole steps then.
struct Course {
  int64_t step;   // positions that one update advances
  int64_t count;  // positions of one unit of the configuration
  int64_t warmup = 0, total = 0;
  int64_t remaining() const { return std::max<int64_t>(total - warmup, 0); }

  // Linear rise over the warmup, to the full rate in the update that completes it.
  double rise(int64_t update) const {
    if (update < 0) fail(ErrorKind::kInternal, fmt::format("schedule: update must be >= 0: {}", update));
    const int64_t done = (update + 1) * step;
    return done < warmup ? static_cast<double>(done) / static_cast<double>(warmup) : 1.0;
  }
  int64_t warmup_updates() const { return (warmup + step - 1) / step; }
};

// 1 at progress 0, -1 at progress 1, along a cosine.
double half_wave(double progress) {
  return math::portable::cos_pi(progress);
}

Factor constant(const ScheduleOptions&, const Course&) {
  return [](int64_t) { return 1.0; };
}

// Falls from 1 to the minimum over what comes after the warmup; shape: 1 at progress 0, 0 at progress 1.
Factor falling(const ScheduleOptions& options, const Course& course, double (*shape)(double progress)) {
  return [minimum = options.minimum_factor, total = course.remaining(), shape](int64_t u) {
    if (u >= total) return minimum;
    return minimum + (1.0 - minimum) * shape(static_cast<double>(u) / static_cast<double>(total));
  };
}

Factor linear(const ScheduleOptions& options, const Course& course) {
  return falling(options, course, [](double progress) { return 1.0 - progress; });
}

Factor cosine(const ScheduleOptions& options, const Course& course) {
  return falling(options, course, [](double progress) { return 0.5 * (1.0 + half_wave(progress)); });
}

Factor step(const ScheduleOptions& options, const Course& course) {
  return [factor = options.factor, period = options.every * course.count](int64_t u) {
    return math::portable::power(factor, static_cast<double>(u / period));
  };
}

Factor exponential(const ScheduleOptions& options, const Course& course) {
  return [factor = options.factor, period = static_cast<double>(options.every * course.count)](int64_t u) {
    return math::portable::power(factor, static_cast<double>(u) / period);
  };
}

Factor inverse_sqrt(const ScheduleOptions&, const Course& course) {
  return [warmup = static_cast<double>(course.warmup > 0 ? course.warmup : course.step)](int64_t u) {
    return std::sqrt(warmup / (warmup + static_cast<double>(u)));
  };
}

Factor warmup_stable_decay(const ScheduleOptions& options, const Course& course) {
  // Never more than the warmup leaves: the rate falls from where it has risen to.
  const int64_t decay = std::min<int64_t>(
      std::llround(options.decay_fraction * static_cast<double>(course.total)), course.remaining());
  return [minimum = options.minimum_factor, decay, begin = course.remaining() - decay,
          end = course.remaining()](int64_t u) {
    if (u >= end) return minimum;
    if (u <= begin) return 1.0;
    const double progress = static_cast<double>(u - begin) / static_cast<double>(decay);
    return minimum + (1.0 - minimum) * (1.0 - std::sqrt(progress));
  };
}

Factor one_cycle(const ScheduleOptions& options, const Course& course) {
  const double initial = 1.0 / options.initial_divisor, last_factor = initial / options.final_divisor;
  const double last = static_cast<double>(course.total - course.step);
  const double end_of_rise =
      options.rise_fraction * static_cast<double>(course.total) - static_cast<double>(course.step);
  const double peak = std::clamp(end_of_rise, 0.0, std::max(last, 0.0));
  const bool falls = end_of_rise < last;
  return [=](int64_t position) {
    const double u = static_cast<double>(position);
    if (u >= last) return falls ? last_factor : 1.0;
    const auto between = [](double from, double to, double progress) {
      return to + (from - to) * 0.5 * (1.0 + half_wave(progress));
    };
    if (u < peak) return between(initial, 1.0, u / peak);
    return between(1.0, last_factor, (u - peak) / (last - peak));
  };
}

// The keys of a type, into options that hold the defaults.
void read_minimum(Section& section, ScheduleOptions& options) {
  options.minimum_factor = section.real(
      "minimum_factor", options.minimum_factor, kUnit,
      "linear, cosine, warmup_stable_decay, plateau: lowest rate as a factor of the learning rate");
}

void read_factor(Section& section, ScheduleOptions& options) {
  options.factor = section.real("factor", options.factor, {0.0, 1.0, true},
                                "step, exponential, plateau: what the rate is multiplied by");
}

void read_decay(Section& section, ScheduleOptions& options) {
  read_factor(section, options);
  options.every =
      section.integer("every", options.every, {1.0, kMaximumCount},
                      "step, exponential: how often, in units, by factor (exponential: smoothly)");
}

void read_warmup_stable_decay(Section& section, ScheduleOptions& options) {
  read_minimum(section, options);
  options.decay_fraction = section.real("decay_fraction", options.decay_fraction, kUnit,
                                        "warmup_stable_decay: share of all steps, the last ones, that decay");
}

void read_one_cycle(Section& section, ScheduleOptions& options) {
  options.rise_fraction = section.real("rise_fraction", options.rise_fraction, kUnit,
                                       "one_cycle: share of the run in which the rate rises");
  options.initial_divisor =
      section.real("initial_divisor", options.initial_divisor, {1.0}, "one_cycle: peak rate over first rate");
  options.final_divisor =
      section.real("final_divisor", options.final_divisor, {1.0}, "one_cycle: first rate over last rate");
  if (options.warmup > 0) section.reject("warmup", "must be 0: one_cycle rises by itself");
}

void read_plateau(Section& section, ScheduleOptions& options) {
  read_factor(section, options);
  read_minimum(section, options);
  options.patience =
      section.integer("patience", options.patience, kNonNegative,
                      "plateau: evaluations without a better validation loss that are put up with");
  options.threshold = section.real("threshold", options.threshold, kUnit,
                                   "plateau: relative improvement that counts as better");
  options.cooldown =
      section.integer("cooldown", options.cooldown, kNonNegative,
                      "plateau: evaluations after a fall of the rate that do not count as worse");
}

void read_nothing(Section&, ScheduleOptions&) {}

struct ScheduleType {
  const char* name;
  void (*read)(Section& section, ScheduleOptions& options);
  Factor (*factor)(const ScheduleOptions& options, const Course& course);  // null: plateau
};

constexpr ScheduleType kScheduleTypes[] = {
    {"constant", read_nothing, constant},
    {"linear", read_minimum, linear},
    {"cosine", read_minimum, cosine},
    {"step", read_decay, step},
    {"exponential", read_decay, exponential},
    {"inverse_sqrt", read_nothing, inverse_sqrt},
    {"warmup_stable_decay", read_warmup_stable_decay, warmup_stable_decay},
    {"one_cycle", read_one_cycle, one_cycle},
    {"plateau", read_plateau, nullptr},
};

const std::vector<std::string> kUnits = {"steps", "epochs", "samples", "tokens"};

// What the reader of a configuration has seen to by itself; not a number is in no range.
void check(const ScheduleOptions& options) {
  const auto require = [](bool holds, const char* option, const char* rule, auto value) {
    if (!holds) fail(ErrorKind::kUsage, fmt::format("schedule: {} must be {}, got {}", option, rule, value));
  };
  const auto unit = [&](const char* option, double value) {
    require(value >= 0.0 && value <= 1.0, option, "in [0, 1]", value);
  };
  const auto count = [&](const char* option, int64_t value, int64_t least) {
    require(value >= least && static_cast<double>(value) <= kMaximumCount, option,
            least > 0 ? "in [1, 1e12]" : "in [0, 1e12]", value);
  };
  require(std::ranges::count(kUnits, options.unit) > 0, "unit", "steps, epochs, samples or tokens",
          options.unit);
  count("warmup", options.warmup, 0);
  unit("minimum_factor", options.minimum_factor);
  require(options.factor > 0.0 && options.factor <= 1.0, "factor", "in (0, 1]", options.factor);
  count("every", options.every, 1);
  unit("decay_fraction", options.decay_fraction);
  unit("rise_fraction", options.rise_fraction);
  require(options.initial_divisor >= 1.0, "initial_divisor", ">= 1", options.initial_divisor);
  require(options.final_divisor >= 1.0, "final_divisor", ">= 1", options.final_divisor);
  count("patience", options.patience, 0);
  unit("threshold", options.threshold);
  count("cooldown", options.cooldown, 0);
  require(options.type != "one_cycle" || options.warmup == 0, "warmup", "0: one_cycle rises by itself",
          options.warmup);
}

class WarmupSchedule final : public Schedule {
 public:
  WarmupSchedule(std::string type, double base_rate, const Course& course, Factor factor)
      : type_(std::move(type)), base_rate_(base_rate), course_(course), factor_(std::move(factor)) {}

  std::string type() const override { return type_; }
  int64_t warmup() const override { return course_.warmup_updates(); }

  double learning_rate(int64_t update) const override {
    const double rise = course_.rise(update);
    const int64_t position = update * course_.step - course_.warmup;
    return base_rate_ * (position < 0 ? rise : factor_(position));
  }

 private:
  std::string type_;
  double base_rate_;
  Course course_;
  Factor factor_;
};

// Falls when the validation loss has stopped to.
class PlateauSchedule final : public Schedule {
 public:
  PlateauSchedule(const ScheduleOptions& options, double base_rate, const Course& course)
      : options_(options), base_rate_(base_rate), course_(course) {}

  std::string type() const override { return "plateau"; }
  int64_t warmup() const override { return course_.warmup_updates(); }
  double learning_rate(int64_t update) const override { return base_rate_ * course_.rise(update) * reached_; }

  bool observes() const override { return true; }
  void observe(double validation_loss) override {
    if (validation_loss < best_ * (1.0 - options_.threshold)) {  // never true of NaN
      best_ = validation_loss;
      worse_ = 0;
    } else {
      ++worse_;
    }
    if (cooling_ > 0) {
      --cooling_;
      worse_ = 0;
    }
    if (worse_ <= options_.patience) return;
    reached_ = std::max(reached_ * options_.factor, options_.minimum_factor);
    cooling_ = options_.cooldown;
    worse_ = 0;
  }

  std::map<std::string, double> state() const override {
    return {{"best", best_},
            {"reached", reached_},
            {"worse", static_cast<double>(worse_)},
            {"cooling", static_cast<double>(cooling_)}};
  }
  void set_state(const std::map<std::string, double>& state) override {
    best_ = state.at("best");
    reached_ = state.at("reached");
    worse_ = static_cast<int64_t>(state.at("worse"));
    cooling_ = static_cast<int64_t>(state.at("cooling"));
  }

 private:
  ScheduleOptions options_;
  double base_rate_;
  Course course_;
  double best_ = std::numeric_limits<double>::max();
  double reached_ = 1.0;  // factor of the base rate
  int64_t worse_ = 0;     // evaluations since the best that counts
  int64_t cooling_ = 0;   // evaluations left that do not count
};

}  // namespace

std::vector<std::string> schedule_types() {
  std::vector<std::string> names;
  for (const ScheduleType& type : kScheduleTypes) names.emplace_back(type.name);
  return names;
}

std::unique_ptr<Schedule> make_schedule(Section& section, double base_rate, const RunLength& run) {
  return make_schedule(
      section, section.text("type", "constant", schedule_types(), "course of the rate after the warmup"),
      base_rate, run);
}

std::unique_ptr<Schedule> make_schedule(Section& section, const std::string& type, double base_rate,
                                        const RunLength& run) {
  ScheduleOptions options;
  options.type = type;
  options.unit = section.text("unit", options.unit, kUnits, "what warmup and every are counted in");
  options.warmup = section.integer("warmup", options.warmup, {0.0, kMaximumCount},
                                   "length, in units, of the linear rise to the full rate; 0 for none");
  Section own = section.of_type(type);
  for (const ScheduleType& known : kScheduleTypes) {
    if (type == known.name) known.read(own, options);
  }
  return make_schedule(options, base_rate, run);
}

std::unique_ptr<Schedule> make_schedule(const ScheduleOptions& options, double base_rate,
                                        const RunLength& run) {
  check(options);
  if (options.unit == "tokens" && run.tokens_per_step == 0)
    fail(ErrorKind::kUsage,
         "schedule: unit = \"tokens\": the samples are no text (data.format = \"tokens\")");
  Course course{options.unit == "samples"  ? run.samples_per_step
                : options.unit == "tokens" ? run.tokens_per_step
                                           : 1,
                options.unit == "epochs" ? run.steps_per_epoch : 1};
  int64_t period = 0;
  if (__builtin_mul_overflow(run.total_steps, course.step, &course.total) ||
      __builtin_mul_overflow(course.count, options.warmup, &course.warmup) ||
      __builtin_mul_overflow(course.count, options.every, &period)) {
    fail(ErrorKind::kUsage,
         fmt::format("schedule: {} steps with warmup = {} and every = {} {} are more than can be counted",
                     run.total_steps, options.warmup, options.every, options.unit));
  }
  for (const ScheduleType& known : kScheduleTypes) {
    if (options.type != known.name) continue;
    if (known.factor == nullptr) return std::make_unique<PlateauSchedule>(options, base_rate, course);
    return std::make_unique<WarmupSchedule>(options.type, base_rate, course, known.factor(options, course));
  }
  fail(ErrorKind::kUsage, fmt::format("schedule: type must be one of {}, got {}",
                                      fmt::join(schedule_types(), ", "), options.type));
}

}  // namespace lockstep
