// Learning-rate schedules: the rate of a step as a function of how many updates were done.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "lockstep/core/configuration.h"

namespace lockstep {

class Schedule {
 public:
  virtual ~Schedule() = default;
  virtual std::string type() const = 0;
  // Rate of the update with number `update` (0-based).
  virtual double learning_rate(int64_t update) const = 0;
  // Updates until the full rate is reached.
  virtual int64_t warmup() const = 0;

  // Whether the rate depends on the validation loss, which observe() then gets after every evaluation.
  virtual bool observes() const { return false; }
  virtual void observe(double validation_loss) { (void)validation_loss; }
  // What a checkpoint must hold beyond the number of updates; empty for most.
  virtual std::map<std::string, double> state() const { return {}; }
  virtual void set_state(const std::map<std::string, double>& state) { (void)state; }
};

std::vector<std::string> schedule_types();

// How long a run is, in every unit that schedules count in.
struct RunLength {
  int64_t total_steps = 1;
  int64_t steps_per_epoch = 1;
  int64_t samples_per_step = 1;  // of a global batch
  int64_t tokens_per_step = 0;   // the same; 0: samples are no text
};

// A schedule as a program asks for one; which options a type looks at stands below.
struct ScheduleOptions {
  std::string type = "constant";
  std::string unit = "steps";  // "epochs", "samples", "tokens": what warmup and every are counted in
  int64_t warmup = 0;
  double minimum_factor = 0.0;
  double factor = 0.1;
  int64_t every = 1000;
  double decay_fraction = 0.2;
  double rise_fraction = 0.3, initial_divisor = 25.0, final_divisor = 1e4;
  int64_t patience = 10, cooldown = 0;
  double threshold = 1e-4;
};
// Error (kUsage) for bad values.
std::unique_ptr<Schedule> make_schedule(const ScheduleOptions& options, double base_rate,
                                        const RunLength& run);

// Reads schedule.type (default "constant") and the keys of that schedule; Error (kUsage) for bad values.
// base_rate is optimizer.learning_rate.
//
// Every type: `warmup` (default 0) and `unit` = "steps" | "epochs" | "samples" | "tokens", what warmup and
// every are counted in. Positions below are steps; with samples, samples: update k is at k times those of a
// global batch, wherever that lies between two multiples of warmup or every. The update that goes from
// position u < warmup to v gets base_rate * v / warmup, at most base_rate. After it, with u counted from the
// end of the warmup, T what remains of the run then, and m = `minimum_factor` (default 0), base_rate times
//   constant              1
//   linear                m + (1 - m) (1 - u / T); m from T on
//   cosine                m + (1 - m) (1 + cos(pi u / T)) / 2; m from T on
//                         (Loshchilov and Hutter 2017, one cycle)
//   step                  `factor` ^ floor(u / `every`), defaults 0.1 and 1000
//   exponential           `factor` ^ (u / `every`)
//   inverse_sqrt          sqrt(w / (w + u)), w = warmup, or a step without (Vaswani et al. 2017)
//   warmup_stable_decay   1; over the last D = `decay_fraction` (0.2) of the run, T at most, d of them done,
//                         m + (1 - m) (1 - sqrt(d / D)) (Haegele et al. 2024)
//   one_cycle             from 1 / `initial_divisor` (25) to 1 over the first `rise_fraction` (0.3) of the
//                         run, then to 1 / (initial_divisor `final_divisor` (1e4)), along cosines
//                         (Smith and Topin 2018); rises by itself: no warmup
//   plateau               times `factor` (0.1) each time that more than `patience` (10) evaluations in a row
//                         were no better than (1 - `threshold` (1e-4)) times the best validation loss; then
//                         `cooldown` (0) evaluations do not count; not below m
std::unique_ptr<Schedule> make_schedule(Section& section, double base_rate, const RunLength& run);
// The same, of the given type, one of schedule_types(), whatever schedule.type says: how `config --describe`
// lists every type's keys.
std::unique_ptr<Schedule> make_schedule(Section& section, const std::string& type, double base_rate,
                                        const RunLength& run);

}  // namespace lockstep
