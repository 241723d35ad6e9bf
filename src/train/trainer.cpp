// The training loop.
#include "lockstep/train/trainer.h"

#include <fmt/format.h>

#include <chrono>
#include <optional>
#include <utility>

#include "lockstep/core/control_groups.h"
#include "lockstep/core/log.h"
#include "lockstep/train/agreement.h"
#include "lockstep/train/prepared_run.h"
#include "lockstep/train/recovery_point.h"
#include "lockstep/train/run_ending.h"
#include "lockstep/train/run_saving.h"
#include "lockstep/train/sample_supply.h"
#include "lockstep/train/step_failure.h"
#include "lockstep/train/step_reports.h"
#include "lockstep/train/step_word.h"
#include "lockstep/train/straggler_watch.h"
#include "lockstep/train/worker_wishes.h"

namespace lockstep {

struct Trainer::Parts : PreparedRun {
  std::optional<SampleSupply> samples;
  std::optional<StepReports> reports;
  std::optional<WorkerWishes> wishes;
  std::optional<RecoveryPoint> recovery;
  StepWord word;
  StepFailure failure;
  StragglerWatch stragglers;
  ThrottleMeter throttle;
  bool save_wanted = false;  // after this step, by the clock
  // Whether stop requests are heard within steps that evaluate the objective many times, and whether one was,
  // or the step has failed: it has not been taken.
  bool interruptible = false, interrupted = false;

  Parts(TrainingJob job_, const TrainOptions& options_, Communicator& communicator_)
      : PreparedRun(std::move(job_), options_, communicator_),
        word(communicator_),
        failure(communicator_),
        stragglers(plan.shares(communicator_.world_size()),
                   [this](int rank) { return communicator.host_of(rank); }) {
    set_going();
  }

  void set_going() {
    communicator.set_timeout(settings.timeout_seconds);
    samples.emplace(*data.train, plan, settings, owned, done, backend(), communicator);
    end->start(done);
    reports.emplace(*this, stragglers);
    wishes.emplace(*this);
    if (settings.recovery_point) recovery.emplace(*this, [this](size_t left) { reports->read(left); });
    if (recovery) recovery->whole(done);
    if (done == plan.total_steps) return;
    samples->stage();
    if (samples->agree()) tell_failure(*this, [&]() -> int { throw *samples->failure(); });
    samples->overflow().tell(communicator);
  }

  bool evaluates(int64_t step) const {
    return data.validation &&
           (step == plan.total_steps || (settings.evaluate_every > 0 && step % settings.evaluate_every == 0));
  }

  // The state in memory is that after this step.
  void hold(int64_t step, size_t left = 0) {
    pending.hold(step, interruptible && evaluates(step));
    if (recovery) recovery->whole(step, left);
  }

  // Whether the step behind this one has samples of its own.
  bool stages(int64_t step) const { return step < plan.total_steps && !plan.same_batch; }

  // All that the device does in the step that the inputs have turned to. issued: GradientPass::issue().
  void issue(StepLog::Step& step, const std::function<void()>& issued) {
    // What is recorded cannot be spoilt later.
    pass->issue(end->cotangent(pass->loss_shape()), step.swept.get(), issued,
                recorder ? nullptr : failure.mine());
    step.exchanged->set();
    failure.change([&] { end->issue(); });
  }

  // Asked within a step.
  bool interrupts() { return interruptible && agreement->any(wishes->end(), "stop"); }

  // Tells the others what this worker wants, in the step under way.
  void post_word() {
    // Within a minimizer's step workers wait for each other many times: of their own work nobody knows.
    double seconds = end->minimizes() ? 0.0 : reports->log().take_own_seconds();
    const double delay = communicator.take_quota_delay();
    if (seconds > 0.0) seconds += delay;
    word.post({wishes->end(), wishes->save(), stages(done + 1) && !samples->certain(),
               !samples->overflow().found().empty(), failure.is_mine(), seconds, throttle.take(),
               copies->word()});
  }

  // What any of them wants: whether to stop, or has to. Rank 0 says who is slow.
  bool take_words() {
    const StepWord::Word any = word.take();
    save_wanted = any.saves != 0;
    if (copies->active())
      copies->hear([&](int rank) { return word.words()[static_cast<size_t>(rank)].copy; });
    std::vector<double> seconds, throttled;
    for (const StepWord::Word& theirs : word.words()) {
      seconds.push_back(theirs.seconds);
      throttled.push_back(theirs.throttled);
    }
    if (const auto said = stragglers.add(done, seconds, throttled); said && leader()) log_warning(*said);
    if (any.finds != 0) samples->overflow().tell(communicator);
    const bool lacks = any.doubts != 0 && samples->agree();
    if (any.fails != 0) failure.agree(done);
    return lacks || any.fails != 0 || any.stops != 0;
  }

  // The step under way has failed (failure.agreed()), and left no trace.
  void take_back() {
    reports->log().drop();
    reports->read(0);
    end->take_back(--done);
    if (keeper) keeper->status().step(done);
    interrupted = true;
    hold(done);
  }

  // One step. Returns whether a worker wants the run to end, or has no samples for the next one.
  bool advance() {
    if (samples->failure()) throw *samples->failure();
    if (failure.agreed()) throw *failure.agreed();
    failure.require_whole(done);
    const auto begin = std::chrono::steady_clock::now();
    communicator.enter(fmt::format("step {}", done + 1));
    samples->next();
    const InputQueue& inputs = samples->inputs();
    StepLog& log = reports->log();
    StepLog::Step& step = log.begin(done + 1, inputs.valid(), samples->take_seconds());
    end->begin(static_cast<int64_t>(log.under_way()));
    pass->set_batch(inputs.batches(), done, recorder ? end->random_step() : nullptr);
    if (!begin_step(step)) return interrupted = true;
    ++done;
    const bool reads_later = recovery && recovery->copies();  // which know the reports
    end->device_decides() && !reads_later ? hold(done) : hold(done - 1, 1);
    if (keeper) keeper->status().step(done);
    if (end->device_decides()) step.done->set();
    if (!end->minimizes()) end->post(done);
    log.issued(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    if (stages(done)) {
      samples->stage();
      if (!end->device_decides()) step.supply_seconds = samples->seconds();
    }
    return end_step(step);
  }

  // Sweeps and exchange, or all that a minimizer does. Returns false where that has been left, and the step
  // has not been taken.
  bool begin_step(StepLog::Step& step) {
    if (end->minimizes()) {
      bool taken = false;
      fail_of_divergence(*this, [&] {
        failure.none_of(done + 1, [&] { taken = end->minimize(done + 1, [this] { return interrupts(); }); });
      });
      if (!taken) return false;
      step.swept->set();
      step.exchanged->set();
      post_word();
    } else if (recorder) {
      // Outside of recordings, which would make the copies anew in each replay, or never.
      replica->current_copies();
      step.replayed = recorder->issue(samples->inputs(), done + 1, [&] { issue(step, {}); });
      post_word();
    } else {
      issue(step, [this] { post_word(); });
    }
    return true;
  }

  // What the workers say, and the update where the host decides about it. Returns what advance() does.
  bool end_step(StepLog::Step& step) {
    const bool stops = take_words();
    if (!failure.agreed()) {
      if ((stops && done < plan.total_steps) || !end->ended().empty()) reports->end_at(done);
      if (!end->device_decides()) {
        failure.change(
            [&] { fail_of_divergence(*this, [&] { failure.none_of(done, [&] { end->decide(done); }); }); });
        step.done->set();
      }
    }
    if (failure.agreed()) {
      take_back();
      return true;
    }
    hold(done);
    reports->read(static_cast<size_t>(end->ahead()));
    return stops;
  }

  void compare_replicas() {
    const std::string digest = agreement->compare(*state, done);
    if (keeper) keeper->log_digest(done, digest);
    agreement->compare_copies(done);
  }

  EvaluationResult evaluate() {
    if (!data.validation)
      fail(ErrorKind::kUsage, "evaluation: there are no validation data (data.validation)");
    reports->read(0);
    communicator.enter(fmt::format("evaluation at step {}", done));
    if (done == plan.total_steps) reports->finish_line();
    if (keeper) keeper->status().activity("evaluating");
    EvaluationResult result = evaluator->evaluate();
    if (!keeper) return result;
    keeper->status().activity("training");
    reports->finish_line();
    const EvaluationMetrics metrics = evaluator->metrics(done, result);
    keeper->log(metrics);
    log_info(in_words(metrics));
    if (result.samples == 0) log_warning("none of the validation samples counts: their loss is none");
    return result;
  }

  // The evaluation of a run, which the schedule may look at. Returns whether it is the best so far.
  bool validate(bool due) {
    const EvaluationResult result = evaluate();
    pending.make(done);  // with what follows, which asks nobody
    const bool improved = best.observe(done, result);
    // Not the one at the end of a run, unless it is due: a run that is extended goes on like one that never
    // stopped.
    if (due && result.samples > 0) schedule->observe(result.loss);
    if (schedule->observes()) end->schedule_changed();
    if (recovery) recovery->renew();
    callbacks.evaluation(done, result);
    return improved;
  }

  void save() {
    failure.require_whole(done);
    if (keeper) keeper->status().activity("saving");
    reports->read(0);
    communicator.enter(fmt::format("save at step {}", done));
    begin_save(*this);
    wishes->saved();
    if (keeper) keeper->status().activity("training");
  }

  TrainOutcome run() {
    const int64_t first = done;
    bool stopped = false;
    const auto every = [&](int64_t steps) { return steps > 0 && done % steps == 0; };
    interruptible = true;
    callbacks.keep();
    if (options.resume && agreement->any(pending.found, "pending evaluation") && evaluates(done) &&
        validate(every(settings.evaluate_every)))
      save();
    pending.make(done);
    while (done < plan.total_steps && !stopped && end->ended().empty()) {
      const bool stops = advance();
      if (interrupted) {
        stopped = true;
        if (failure.agreed() && done == 0) throw *failure.agreed();  // nothing is lost
        if (!on_disk || saved != done) save();
        break;
      }
      const bool last = done == plan.total_steps || !end->ended().empty();
      stopped = stops && !last;
      bool due = last || stopped || save_wanted || every(settings.checkpoint_every);
      // What looks at the state looks at one whose steps are all known.
      if (every(settings.digest_every) || due) reports->read(0);
      if (every(settings.digest_every)) compare_replicas();
      if (evaluates(done) || (data.validation && last)) {
        try {
          due = validate(every(settings.evaluate_every)) || due;
        } catch (const AgreedFailure&) {
          // Of the validation data, say: what has been trained is worth keeping.
          save();
          if (keeper) keeper->finish(false);
          throw;
        }
      }
      if (due)
        save();
      else if (keeper)
        keeper->poll();
    }
    reports->finish_line();
    if (leader() && !end->ended().empty()) log_info(fmt::format("step {}: {}", done, end->ended()));
    if (leader() && done == first && !stopped)
      log_info(fmt::format("nothing left to do: the checkpoint is of step {}, the run has {} steps", first,
                           plan.total_steps));
    finish(stopped);
    if (samples->failure()) throw *samples->failure();
    if (failure.agreed()) throw *failure.agreed();
    callbacks.rethrow();
    return stopped ? TrainOutcome::kStopped : TrainOutcome::kFinished;
  }

  void finish(bool stopped) {
    reports->read(0);
    communicator.enter("finish");
    reports->finish_line();
    finish_run(*this, stopped, [&] { return wishes->reason(); });
  }
};

Trainer::Trainer(TrainingJob job, const TrainOptions& options, Communicator& communicator)
    : parts_(std::make_unique<Parts>(std::move(job), options, communicator)) {}

Trainer::~Trainer() = default;

int64_t Trainer::steps_done() const {
  return parts_->done;
}
int64_t Trainer::total_steps() const {
  return parts_->plan.total_steps;
}
std::string Trainer::ended() const {
  return parts_->end->ended();
}
void Trainer::step() {
  if (parts_->done >= parts_->plan.total_steps) {
    fail(ErrorKind::kUsage, fmt::format("step: all {} steps are done", parts_->plan.total_steps));
  }
  parts_->advance();
  if (parts_->failure.agreed()) throw *parts_->failure.agreed();
}
EvaluationResult Trainer::evaluate() {
  return parts_->evaluate();
}
void Trainer::save() {
  parts_->save();
}
TrainOutcome Trainer::run() {
  TrainOutcome outcome{};
  tell_end(*parts_, [&] {
    outcome = parts_->run();
    return outcome == TrainOutcome::kStopped ? kExitStopped : 0;
  });
  return outcome;
}
void Trainer::finish() {
  tell_end(*parts_, [&] {
    parts_->finish(false);
    return 0;
  });
}

TrainOutcome train(Configuration& configuration, const TrainOptions& options, const StopSignal& stop,
                   Communicator& communicator) {
  std::optional<TrainingJob> job;
  run_agreed(
      communicator, [&] { job = read_training_job(configuration); }, "configuration");
  TrainOptions with_stop = options;
  with_stop.stop = [&stop, &options] {
    return stop.raised() ? stop.name() : options.stop ? options.stop() : std::string();
  };
  return Trainer(std::move(*job), with_stop, communicator).run();
}

}  // namespace lockstep
