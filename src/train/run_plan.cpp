// Batches, epochs and shares of a run.
#include "lockstep/train/run_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "lockstep/core/error.h"
#include "lockstep/minimize/minimizer.h"
#include "lockstep/train/settings_rules.h"

namespace lockstep {

MicroBatchRange RunPlan::owned(int rank, int world_size) const {
  if (world_size > micro_batches) {
    fail(ErrorKind::kUsage,
         fmt::format("train.micro_batches: {} workers cannot share {} micro-batches; use at most {} "
                     "workers or raise it",
                     world_size, micro_batches, micro_batches));
  }
  return owned_micro_batches(micro_batches, rank, world_size);
}

std::vector<int64_t> RunPlan::shares(int world_size) const {
  std::vector<int64_t> shares;
  shares.reserve(static_cast<size_t>(world_size));
  for (int rank = 0; rank < world_size; ++rank) shares.push_back(owned(rank, world_size).size());
  return shares;
}

int64_t RunPlan::samples_seen(int64_t step) const {
  const int64_t stride = sampler.stride(), whole = steps_per_epoch * stride;
  const int64_t epoch = sampler.last_batch == LastBatch::kPad ? std::min(whole, sampler.samples) : whole;
  return step / steps_per_epoch * epoch + std::min(step % steps_per_epoch * stride, epoch);
}

void RunPlan::describe(int64_t step, State& state) const {
  state.scalars["/train/step"] = step;
  state.scalars["/train/micro_batches"] = micro_batches;
  state.scalars["/train/micro_batch_size"] = micro_batch_size;
  state.scalars["/rng/algorithm"] = std::string("philox4x32-10");
  state.scalars["/rng/seed"] = static_cast<int64_t>(sampler.seed);
  state.scalars["/rng/step"] = step;
  state.scalars["/data/samples"] = sampler.samples;
  state.scalars["/data/shuffle"] = static_cast<int64_t>(sampler.shuffle);
  state.scalars["/data/validation_fraction"] = validation_fraction;
  state.scalars["/data/last_batch"] = std::string(sampler.last_batch == LastBatch::kPad ? "pad" : "drop");
  if (sampler.overlap > 0) state.scalars["/optimizer/overlap"] = sampler.overlap / micro_batch_size;
  state.scalars["/data/epoch"] = step / steps_per_epoch;
  state.scalars["/data/position"] = step % steps_per_epoch;
}

namespace {

// Of a global batch of train.batch_tokens.
int64_t micro_batches_of_tokens(const RunSettings& settings, bool full_batch, int64_t tokens) {
  const int64_t wanted = settings.batch_tokens;
  const auto refuse = [&](const std::string& rule) {
    fail(ErrorKind::kUsage, fmt::format("train.batch_tokens: {}", rule));
  };
  if (tokens == 0) refuse("the samples are no text (data.format = \"tokens\")");
  if (settings.micro_batches != 0 || full_batch)
    refuse(
        "gives the number of micro-batches: leave train.micro_batches out, and optimizers of full batches");
  const int64_t each = settings.micro_batch_size * tokens, count = wanted / each;
  if (count * each == wanted) return count;
  refuse(fmt::format("must be a multiple of {} tokens, a micro-batch of {} windows of {}: {}{}, got {}", each,
                     settings.micro_batch_size, tokens, count > 0 ? fmt::format("{} or ", count * each) : "",
                     (count + 1) * each, wanted));
  return 0;
}

// whole: micro-batches of the whole training set.
void require_overlap(int64_t overlap, const RunSettings& settings, int64_t micro_batches, int64_t whole) {
  if (overlap == 0) return;
  const bool of_tokens = settings.batch_tokens != 0;
  if (micro_batches >= whole) {
    fail(ErrorKind::kUsage,
         fmt::format("optimizer.overlap: batches that have the whole training set share all of it: give "
                     "{} than {}, or leave overlap out, got {}",
                     of_tokens ? "train.batch_tokens for fewer micro-batches" : "train.micro_batches, fewer",
                     whole, overlap));
  }
  if (2 * overlap > micro_batches) {
    const std::string given = of_tokens ? fmt::format("the {} of train.batch_tokens", micro_batches)
                                        : fmt::format("train.micro_batches = {}", micro_batches);
    fail(ErrorKind::kUsage, fmt::format("optimizer.overlap: a batch shares at most half of its micro-batches "
                                        "with the next: {} of {}, got {}",
                                        micro_batches / 2, given, overlap));
  }
}

}  // namespace

RunPlan plan_run(const RunSettings& settings, int64_t samples, bool full_batch, const std::string& optimizer,
                 int64_t tokens, int64_t overlap) {
  require_valid(settings);
  if ((settings.steps > 0) == (settings.epochs > 0)) {
    fail(ErrorKind::kUsage,
         fmt::format("train.steps: give either steps or epochs, got steps = {} and epochs = {}",
                     settings.steps, settings.epochs));
  }
  RunPlan plan;
  plan.micro_batches = settings.micro_batches;
  plan.micro_batch_size = settings.micro_batch_size;
  plan.sampler.samples = samples;
  plan.sampler.seed = settings.seed;
  plan.sampler.shuffle = settings.shuffle;
  plan.sampler.last_batch = settings.last_batch;
  plan.validation_fraction = settings.validation_fraction;
  plan.tokens_of_sample = tokens;
  if (settings.batch_tokens != 0) plan.micro_batches = micro_batches_of_tokens(settings, full_batch, tokens);
  const int64_t needed =
      samples / settings.micro_batch_size + (samples % settings.micro_batch_size != 0 ? 1 : 0);
  if (full_batch) {
    if (settings.micro_batches != 0 && settings.micro_batches != needed) {
      fail(ErrorKind::kUsage,
           fmt::format("train.micro_batches: {} takes the whole training set in each step: {} samples in "
                       "micro-batches of "
                       "{} are {}, got {} (leave it out: --set '~train.micro_batches')",
                       optimizer, samples, settings.micro_batch_size, needed, settings.micro_batches));
    }
    plan.micro_batches = needed;
    plan.sampler.last_batch = LastBatch::kPad;
  } else if (plan.micro_batches == 0) {
    plan.micro_batches = 1;
  }
  require_overlap(overlap, settings, plan.micro_batches, needed);
  plan.sampler.global_batch = plan.micro_batches * settings.micro_batch_size;
  plan.sampler.overlap = overlap * settings.micro_batch_size;
  plan.steps_per_epoch = Sampler(plan.sampler).steps_per_epoch();
  plan.total_steps = settings.steps;
  if (settings.steps == 0 &&
      (__builtin_mul_overflow(settings.epochs, plan.steps_per_epoch, &plan.total_steps) ||
       static_cast<double>(plan.total_steps) > kMostSteps)) {
    fail(ErrorKind::kUsage, fmt::format("train.epochs: {} epochs of {} steps are more than {:.0f} steps",
                                        settings.epochs, plan.steps_per_epoch, kMostSteps));
  }
  return plan;
}

RunPlan plan_run(const RunSettings& settings, int64_t samples, const Optimizer& optimizer, int64_t tokens) {
  bool whole = optimizer.full_batch();
  const bool minimizes = optimizer.minimization() != nullptr;
  if (minimizes && settings.batch_tokens == 0) {
    const int64_t size = std::max<int64_t>(settings.micro_batch_size, 1);
    whole = settings.micro_batches == 0 || settings.micro_batches == (samples + size - 1) / size;
  }
  const int64_t overlap = minimizes ? optimizer.minimization()->minimizer->overlap() : 0;
  RunPlan plan = plan_run(settings, samples, whole, optimizer.type(), tokens, overlap);
  plan.same_batch = minimizes && whole;
  if (plan.same_batch) plan.sampler.shuffle = false;
  return plan;
}

void require_reachable(const RunSettings& settings, const Schedule& schedule, const RunPlan& plan,
                       bool validation) {
  if (schedule.observes() && (!validation || settings.evaluate_every == 0)) {
    fail(ErrorKind::kUsage,
         fmt::format("schedule.type: {} follows the validation loss: give validation data and "
                     "train.evaluate_every",
                     schedule.type()));
  }
  if (schedule.observes() && settings.evaluate_every > plan.total_steps) {
    fail(ErrorKind::kUsage,
         fmt::format("schedule.type: {} never sees the validation loss: train.evaluate_every = {}, the run "
                     "has {} steps",
                     schedule.type(), settings.evaluate_every, plan.total_steps));
  }
  const bool averages = settings.average.type != AverageSettings::Type::kNone;
  if (averages && settings.average.start > plan.total_steps) {
    fail(ErrorKind::kUsage, fmt::format("average.start: the run has {} steps, got {}", plan.total_steps,
                                        settings.average.start));
  }
}

}  // namespace lockstep
