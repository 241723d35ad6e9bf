// Learning-rate schedules as factors of the base rate, with the linear warmup that all of them share.
#include "optim/schedule.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <utility>

#include "core/error.h"
#include "kernels/math/portable.h"

namespace lockstep {
namespace {

// Factor of the base rate at position u >= 0 after the warmup.
using Factor = std::function<double(int64_t u)>;

// Bounds the product of a count of epochs with the steps of an epoch.
constexpr double kMaximumCount = 1e9;

// What a schedule is laid out over. A position in a run is a number of steps, or of samples where the configuration counts in
// these: lengths need not be whole steps then.
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

double read_minimum(Section& section) {
  return section.real(
      "minimum_factor", 0.0, kUnit,
      "linear, cosine, warmup_stable_decay, plateau: lowest rate as a factor of the learning rate");
}

double read_factor(Section& section) {
  return section.real("factor", 0.1, {0.0, 1.0, true},
                      "step, exponential, plateau: what the rate is multiplied by");
}

Factor read_constant(Section&, const Course&) {
  return [](int64_t) { return 1.0; };
}

// Falls from 1 to the minimum over what comes after the warmup; shape: 1 at progress 0, 0 at progress 1.
Factor falling(Section& section, const Course& course, double (*shape)(double progress)) {
  return [minimum = read_minimum(section), total = course.remaining(), shape](int64_t u) {
    if (u >= total) return minimum;
    return minimum + (1.0 - minimum) * shape(static_cast<double>(u) / static_cast<double>(total));
  };
}

Factor read_linear(Section& section, const Course& course) {
  return falling(section, course, [](double progress) { return 1.0 - progress; });
}

Factor read_cosine(Section& section, const Course& course) {
  return falling(section, course, [](double progress) { return 0.5 * (1.0 + half_wave(progress)); });
}

struct Decay {
  double factor;
  int64_t period;
};

Decay read_decay(Section& section, const Course& course) {
  const double factor = read_factor(section);
  const int64_t every =
      section.integer("every", 1000, {1.0, kMaximumCount},
                      "step, exponential: how often, in units, by factor (exponential: smoothly)");
  return {factor, every * course.count};
}

Factor read_step(Section& section, const Course& course) {
  return [decay = read_decay(section, course)](int64_t u) {
    return math::portable::power(decay.factor, static_cast<double>(u / decay.period));
  };
}

Factor read_exponential(Section& section, const Course& course) {
  return [decay = read_decay(section, course)](int64_t u) {
    return math::portable::power(decay.factor, static_cast<double>(u) / static_cast<double>(decay.period));
  };
}

Factor read_inverse_sqrt(Section&, const Course& course) {
  return [warmup = static_cast<double>(course.warmup > 0 ? course.warmup : course.step)](int64_t u) {
    return std::sqrt(warmup / (warmup + static_cast<double>(u)));
  };
}

Factor read_warmup_stable_decay(Section& section, const Course& course) {
  const double minimum = read_minimum(section);
  const double fraction = section.real("decay_fraction", 0.2, kUnit,
                                       "warmup_stable_decay: share of all steps, the last ones, that decay");
  // Never more than the warmup leaves: the rate falls from where it has risen to.
  const int64_t decay =
      std::min<int64_t>(std::llround(fraction * static_cast<double>(course.total)), course.remaining());
  return [minimum, decay, begin = course.remaining() - decay, end = course.remaining()](int64_t u) {
    if (u >= end) return minimum;
    if (u <= begin) return 1.0;
    const double progress = static_cast<double>(u - begin) / static_cast<double>(decay);
    return minimum + (1.0 - minimum) * (1.0 - std::sqrt(progress));
  };
}

Factor read_one_cycle(Section& section, const Course& course) {
  const double rise =
      section.real("rise_fraction", 0.3, kUnit, "one_cycle: share of the run in which the rate rises");
  const double initial_divisor =
      section.real("initial_divisor", 25.0, {1.0}, "one_cycle: peak rate over first rate");
  const double final_divisor =
      section.real("final_divisor", 1e4, {1.0}, "one_cycle: first rate over last rate");
  if (course.warmup > 0) section.reject("warmup", "must be 0: one_cycle rises by itself");
  const double initial = 1.0 / initial_divisor, last_factor = initial / final_divisor;
  const double last = static_cast<double>(course.total - course.step);
  const double peak = std::clamp(rise * static_cast<double>(course.total) - static_cast<double>(course.step), 0.0, std::max(last, 0.0));
  return [=](int64_t position) {
    const double u = static_cast<double>(position);
    if (u >= last) return last_factor;
    const auto between = [](double from, double to, double progress) {
      return to + (from - to) * 0.5 * (1.0 + half_wave(progress));
    };
    if (u < peak) return between(initial, 1.0, u / peak);
    return between(1.0, last_factor, (u - peak) / (last - peak));
  };
}

struct ScheduleType {
  const char* name;
  Factor (*read)(Section& section, const Course& course);
};

constexpr ScheduleType kScheduleTypes[] = {
    {"constant", read_constant},
    {"linear", read_linear},
    {"cosine", read_cosine},
    {"step", read_step},
    {"exponential", read_exponential},
    {"inverse_sqrt", read_inverse_sqrt},
    {"warmup_stable_decay", read_warmup_stable_decay},
    {"one_cycle", read_one_cycle},
};

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
  PlateauSchedule(Section& section, double base_rate, const Course& course)
      : base_rate_(base_rate),
        course_(course),
        factor_(read_factor(section)),
        minimum_(read_minimum(section)) {
    patience_ = section.integer("patience", 10, kNonNegative,
                                "plateau: evaluations without a better validation loss that are put up with");
    threshold_ =
        section.real("threshold", 1e-4, kUnit, "plateau: relative improvement that counts as better");
    cooldown_ = section.integer("cooldown", 0, kNonNegative,
                                "plateau: evaluations after a fall of the rate that do not count as worse");
  }

  std::string type() const override { return "plateau"; }
  int64_t warmup() const override { return course_.warmup_updates(); }
  double learning_rate(int64_t update) const override {
    return base_rate_ * course_.rise(update) * reached_;
  }

  bool observes() const override { return true; }
  void observe(double validation_loss) override {
    if (validation_loss < best_ * (1.0 - threshold_)) {  // never true of NaN
      best_ = validation_loss;
      worse_ = 0;
    } else {
      ++worse_;
    }
    if (cooling_ > 0) {
      --cooling_;
      worse_ = 0;
    }
    if (worse_ <= patience_) return;
    reached_ = std::max(reached_ * factor_, minimum_);
    cooling_ = cooldown_;
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
  double base_rate_;
  Course course_;
  double factor_, minimum_, threshold_ = 0.0;
  int64_t patience_ = 0, cooldown_ = 0;
  double best_ = std::numeric_limits<double>::max();
  double reached_ = 1.0;  // factor of the base rate
  int64_t worse_ = 0;     // evaluations since the best that counts
  int64_t cooling_ = 0;   // evaluations left that do not count
};

}  // namespace

std::vector<std::string> schedule_types() {
  std::vector<std::string> names;
  for (const ScheduleType& type : kScheduleTypes) names.emplace_back(type.name);
  names.emplace_back("plateau");
  return names;
}

std::unique_ptr<Schedule> make_schedule(Section& section, double base_rate, const RunLength& run) {
  return make_schedule(
      section, section.text("type", "constant", schedule_types(), "course of the rate after the warmup"),
      base_rate, run);
}

std::unique_ptr<Schedule> make_schedule(Section& section, const std::string& type, double base_rate,
                                        const RunLength& run) {
  const std::string unit =
      section.text("unit", "steps", {"steps", "epochs", "samples"}, "what warmup and every are counted in");
  Course course{unit == "samples" ? run.samples_per_step : 1, unit == "epochs" ? run.steps_per_epoch : 1};
  course.total = run.total_steps * course.step;
  course.warmup = course.count * section.integer("warmup", 0, {0.0, kMaximumCount},
                                                 "length, in units, of the linear rise to the full rate; 0 for none");
  Section own = section.of_type(type);
  if (type == "plateau") return std::make_unique<PlateauSchedule>(own, base_rate, course);
  for (const ScheduleType& known : kScheduleTypes) {
    if (type == known.name) {
      return std::make_unique<WarmupSchedule>(type, base_rate, course, known.read(own, course));
    }
  }
  fail(ErrorKind::kInternal, "make_schedule: unknown type: " + type);
}

}  // namespace lockstep
