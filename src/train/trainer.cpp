// The training loop.
#include "train/trainer.h"

#include <fmt/format.h>

#include <chrono>
#include <optional>
#include <span>

#include "autodiff/autocast.h"
#include "autodiff/derivatives.h"
#include "autodiff/random_scope.h"
#include "checkpoint/checkpoint.h"
#include "core/log.h"
#include "core/thread_pool.h"
#include "data/loader.h"
#include "optim/parameter_groups.h"
#include "train/agreement.h"
#include "train/configuration_changes.h"
#include "train/data_checks.h"
#include "train/device.h"
#include "train/evaluator.h"
#include "train/gradient_pass.h"
#include "train/input_queue.h"
#include "train/introduction.h"
#include "train/plan_agreement.h"
#include "train/progress.h"
#include "train/replica_agreement.h"
#include "train/run_data.h"
#include "train/run_keeper.h"
#include "train/run_plan.h"
#include "train/run_state.h"
#include "train/step_end.h"
#include "train/step_log.h"
#include "train/step_recorder.h"

namespace lockstep {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

}  // namespace

struct Trainer::Parts {
  TrainingJob job;
  TrainOptions options;
  Communicator& communicator;
  const RunSettings& settings;

  std::optional<WorkerDevice> device;
  RunData data;
  KeptColumns columns{data};
  std::unique_ptr<Replica> replica;
  RunPlan plan;
  MicroBatchRange owned;
  std::unique_ptr<Schedule> schedule;
  TrainingJob::Description description;
  std::vector<std::string> changes;  // settings that a resumed run has changed
  std::optional<Objective> objective;
  std::unique_ptr<RunKeeper> keeper;  // on rank 0
  std::optional<GradientPass> pass;
  std::unique_ptr<StepEnd> end;
  std::optional<RunState> state;
  std::optional<ReplicaAgreement> agreement;
  std::optional<Evaluator> evaluator;
  std::optional<StepRecorder> recorder;  // where steps are recorded

  int64_t done = 0;         // steps
  int64_t saved = 0;        // the step of the newest checkpoint
  int64_t stopping_at = 0;  // the step after which the run ends before its time; 0: none
  std::string stop_reason;  // of this worker

  std::optional<Loader> loader;
  std::optional<InputQueue> inputs;
  std::optional<StepLog> log;
  std::optional<Progress> progress;
  double data_seconds = 0.0;  // that the samples of the step to come took

  Parts(TrainingJob job_, const TrainOptions& options_, Communicator& communicator_)
      : job(std::move(job_)), options(options_), communicator(communicator_), settings(job.settings) {
    if (!options.output.empty()) job.settings.output = options.output;
    run_agreed(
        communicator, [&] { set_up(); }, "set-up");
    device->connect();
    require_recordable();
    run_agreed(
        communicator, [&] { compare_workers(communicator, description.text, data); }, "configuration");
    if (!options.resume && !settings.initial_weights.empty()) take_initial_weights();
    State found;
    const std::string path = resume_or_start(found);
    if (options.resume) done = state->distribute(done, found, path, communicator);
    saved = done;
    agreement->compare(state->capture(done, ""), "start");
    if (leader()) {
      introduce({settings, data, *replica, plan, *schedule, *pass, *device, communicator.world_size()});
      if (!path.empty()) log_info(fmt::format("resumed from {} at step {}", path, done));
      for (const std::string& change : changes) log_info("changed since the checkpoint: " + change);
    }
    agree_on_plans(backend().plans(), communicator, {found.plans, settings.tune, plan_cache_path()},
                   [&] { rehearse(); });
    set_going();
  }

  bool leader() const { return communicator.rank() == 0; }
  Backend& backend() const { return device->backend(); }

  void set_up() {
    set_threads(static_cast<int>(settings.threads));
    device.emplace(settings, communicator);
    data = read_run_data(settings);
    check_classes(data);
    replica = std::make_unique<Replica>(job, data.shape, backend(), communicator);
    check_indices(data, replica->model->index_limit());
    const Optimizer& optimizer = *replica->optimizer;
    plan = plan_run(settings, data.train->size(), optimizer.full_batch(), optimizer.type());
    const RunLength length{plan.total_steps, plan.steps_per_epoch, plan.sampler.global_batch};
    schedule = job.schedule ? job.schedule(length) : make_schedule({}, settings.learning_rate, length);
    require_reachable(settings, *schedule, plan, data.validation != nullptr);
    require_graph(settings, optimizer, backend());
    if (job.describe) description = job.describe();
    owned = plan.owned(communicator.rank(), communicator.world_size());
    objective.emplace(settings.loss, data.shape, settings.parameters(), backend(), settings.objective);
    if (leader()) keeper = std::make_unique<RunKeeper>(settings, options.resume);
    pass.emplace(*replica, *objective, plan, settings, communicator);
    end = make_step_end({*replica, *pass, *schedule, settings, plan.micro_batches});
    state.emplace(*replica, plan, data.digest, description.text,
                  std::vector<Checkpointed*>{end.get(), &columns});
    agreement.emplace(*replica, communicator);
    evaluator.emplace(*replica, *objective, data, settings, communicator);
    if (settings.cuda_graph) recorder.emplace(backend(), communicator);
  }

  // Before the checkpoints of an earlier run would be deleted.
  void require_recordable() {
    if (settings.cuda_graph && communicator.world_size() > 1 && !communicator.device().recordable()) {
      fail_together(
          communicator, ErrorKind::kUsage,
          "device.cuda_graph: arrays that travel through the host cannot be recorded; give each worker a GPU "
          "(parallel.share_gpu = false) and parallel.gpu_transport = \"nccl\"");
    }
  }

  // Rank 0 reads the checkpoint; the others receive it, so that a shared file system is not needed. Returns
  // its path, which is empty where there is none.
  std::string resume_or_start(State& found) {
    std::string path;
    run_agreed(
        communicator,
        [&] {
          if (!leader()) return;
          if (options.overwrite) keeper->set_checkpoints_aside();
          if (options.resume) {
            std::tie(path, found) = keeper->newest();
            compare_with_checkpoint(found, path);
            done = state->restore(found, path);
          } else {
            keeper->require_fresh();
          }
          keeper->start(found.metrics, description.text);
        },
        "resume");
    if (options.resume) broadcast_text(communicator, path, "resume");
    return path;
  }

  // Before the checkpoints of an earlier run are set aside: it may be one of them.
  void take_initial_weights() {
    const std::string& path = settings.initial_weights;
    State found;
    run_agreed(
        communicator,
        [&] {
          for (const std::string& pattern : settings.initial_weights_without) {
            require_fit("train.initial_weights_without", pattern, replica->store.parameters());
          }
          if (!leader()) return;
          found = read_checkpoint(path);
          columns.restore(found, path);
        },
        "initial weights");
    restore_parameters(*replica, found, has_average(found), path, communicator,
                       settings.initial_weights_without);
    bool mean = leader() && has_average(found) && found.scalars.contains("/average/type") &&
                found.scalars.at("/average/type") == Scalar(name_of(AverageSettings::Type::kSwa));
    if (agreement->any(mean, "initial weights")) {
      // A mean of weights has no statistics of its own.
      const AutocastScope autocast(settings.compute);
      Tensor statistics = replica->store.statistic_values();
      statistics.assign(mean_statistics(*replica, *data.train, settings, communicator));
    }
    if (replica->average) {
      replica->average->restart(replica->store.values(), replica->store.statistic_values());
    }
    if (leader()) log_info("initial weights from " + path);
  }

  // What a resumed run does otherwise than the run that wrote the checkpoint is said; another model or
  // objective is refused.
  void compare_with_checkpoint(const State& found, const std::string& path) {
    columns.restore(found, path);  // says more than that the digest of the data differs
    check_matches(state->describe(0), found, path);
    for (const SettingChange& change :
         configuration_changes(found.configuration, description.text, description.at_default)) {
      if (defines_run(change.key) && !change.by_default) {
        fail(ErrorKind::kCheckpoint, fmt::format("{}: {}; a resumed run must keep it", path, change.text));
      }
      changes.push_back(change.text);
    }
  }

  // Forward and backward sweep of the next micro-batch: everything that a step's sweeps call, with no effect
  // on the run.
  void rehearse() {
    Loader rehearsed(*data.train, plan.sampler, plan.micro_batch_size, 0, 1, done);
    const Batch batch = to_device(rehearsed.next().micro_batches.front(), settings.parameters(), backend());
    const RandomScope random(settings.seed, static_cast<uint32_t>(done), 0);
    const AutocastScope autocast(settings.compute, replica->current_copies());
    const Tensor losses = objective->losses(forward(*replica->model, batch, replica->training), batch);
    take_batch_statistics(replica->training, replica->store);
    backward(losses, losses.full_like(end->loss_scale()), [](const Leaf&, const Tensor&) {});
  }

  void set_going() {
    communicator.set_timeout(settings.timeout_seconds);
    loader.emplace(*data.train, plan.sampler, plan.micro_batch_size, owned.begin, owned.end, done,
                   settings.prefetch);
    inputs.emplace(backend(), data.train->description().fields(), settings.parameters(), owned.size(),
                   plan.micro_batch_size);
    progress.emplace(done, plan.total_steps, leader() && options.progress);
    end->start(done);
    log.emplace(backend(), plan, settings.log_every, end->ahead());
    if (done < plan.total_steps) stage();
  }

  // Hands the samples of the next step over.
  void stage() {
    const Clock::time_point begin = Clock::now();
    inputs->stage(loader->next());
    data_seconds = seconds_since(begin);
  }

  // All that the device does in the step that the inputs have turned to.
  void issue(StepLog::Step& step) {
    pass->issue(end->cotangent(pass->loss_shape()), step.swept.get());
    step.exchanged->set();
    end->issue();
  }

  // One step. Returns whether a worker wants the run to end.
  bool advance() {
    const Clock::time_point begin = Clock::now();
    inputs->next();
    StepLog::Step& step = log->begin(done + 1, inputs->valid(), data_seconds);
    end->begin(static_cast<int64_t>(log->under_way()));
    pass->set_batch(inputs->batches(), done, recorder ? end->random_step() : nullptr);
    if (recorder) {
      // Outside of recordings, which would make the copies anew in each replay, or never.
      replica->current_copies();
      step.replayed = recorder->issue(*inputs, done + 1, [&] { issue(step); });
    } else {
      issue(step);
    }
    ++done;
    if (end->device_decides()) step.done->set();
    end->post(done);
    log->issued(seconds_since(begin));
    if (done < plan.total_steps) stage();
    if (options.stop && stop_reason.empty()) stop_reason = options.stop();
    const bool stops = agreement->any(!stop_reason.empty(), "stop");
    if (stops && done < plan.total_steps) stopping_at = done;
    if (!end->device_decides()) {
      with_reason([&] { end->decide(done); });
      step.done->set();
    }
    read_reports(static_cast<size_t>(end->ahead()));
    return stops;
  }

  // Reads the reports of steps under way, oldest first, until no more than `left` are.
  void read_reports(size_t left) {
    while (log->under_way() > left) {
      StepReport report;
      with_reason([&] { report = end->report(log->oldest()); });
      std::optional<StepMetrics> metrics = log->end(report, pass->take_exposed_seconds(), stopping_at);
      if (!metrics) continue;
      metrics->skipped_steps = end->skipped_steps();
      metrics->peak_bytes = pass->peak_bytes();
      metrics->cached_bytes = allocator_statistics().cached_bytes;
      metrics->activation_bytes = pass->activation_bytes();
      if (keeper) keeper->metrics().step(*metrics);
      progress->show(*metrics, metrics->step == plan.total_steps);
      if (options.on_step) options.on_step(*metrics);
    }
  }

  // A divergence ends the run on every worker, which all have found the same, with what is left of it.
  template <class Part>
  void with_reason(const Part& part) {
    try {
      part();
    } catch (const Divergence& divergence) {
      if (keeper) keeper->metrics().flush();
      fail_together(communicator, ErrorKind::kNumeric,
                    fmt::format("{}; {}", divergence.what(),
                                saved > 0 ? fmt::format("the newest checkpoint is of step {}", saved)
                                          : "there is no checkpoint yet"));
    }
  }

  void compare_replicas() {
    const std::string digest = agreement->compare(state->capture(done, ""), fmt::format("step {}", done));
    if (keeper) keeper->metrics().digest(done, digest);
    agreement->compare_copies(done);
  }

  EvaluationResult evaluate() {
    if (!data.validation) {
      fail(ErrorKind::kUsage, "evaluation: there are no validation data (data.validation)");
    }
    read_reports(0);
    if (done == plan.total_steps) progress->finish_line();
    const EvaluationResult result = evaluator->evaluate();
    if (!keeper) return result;
    progress->finish_line();
    const bool classification = objective->classification();
    keeper->metrics().evaluation(done, result.loss, classification ? &result.accuracy : nullptr,
                                 result.samples, evaluator->averaged() ? "averaged" : "");
    log_info(fmt::format("step {}: validation loss {:.4f}{} on {} samples{}", done, result.loss,
                         classification ? fmt::format(", accuracy {:.2f}%", 100.0 * result.accuracy) : "",
                         result.samples, evaluator->averaged() ? ", averaged weights" : ""));
    return result;
  }

  // The evaluation of a run, which the schedule may look at.
  void validate(bool due) {
    const EvaluationResult result = evaluate();
    // Not the one at the end of a run, unless it is due: a run that is extended goes on like one that never
    // stopped.
    if (due) schedule->observe(result.loss);
    if (schedule->observes()) end->schedule_changed();
    if (options.on_evaluation) options.on_evaluation(done, result);
  }

  void save() {
    read_reports(0);
    agreement->require_finite(done);
    // The others wait longer than for a step: the checkpoint before this one may still be on its way to disk.
    run_agreed(
        communicator,
        [&] {
          if (keeper) keeper->finish_write();
        },
        "save", settings.save_timeout_seconds);
    if (keeper) {
      keeper->save(done, [&](std::string metrics) { return state->capture(done, std::move(metrics)); });
    } else if (settings.shard_optimizer) {
      state->capture(done, "");
    }
    saved = done;
  }

  TrainOutcome run() {
    const int64_t first = done;
    bool stopped = false;
    const auto every = [&](int64_t steps) { return steps > 0 && done % steps == 0; };
    while (done < plan.total_steps && !stopped) {
      const bool stops = advance();
      const bool last = done == plan.total_steps;
      stopped = stops && !last;
      const bool due = last || stopped || every(settings.checkpoint_every);
      // What looks at the state looks at one whose steps are all known.
      if (every(settings.digest_every) || due) read_reports(0);
      if (every(settings.digest_every)) compare_replicas();
      if (data.validation && (last || every(settings.evaluate_every))) {
        try {
          validate(every(settings.evaluate_every));
        } catch (const AgreedFailure&) {
          // Of the validation data, say: what has been trained is worth keeping.
          save();
          if (keeper) keeper->finish(false);
          throw;
        }
      }
      if (due) {
        save();
      } else if (keeper) {
        keeper->poll();
      }
    }
    progress->finish_line();
    if (leader() && first >= plan.total_steps) {
      log_info(fmt::format("nothing left to do: the checkpoint is of step {}, the run has {} steps", first,
                           plan.total_steps));
    }
    finish(stopped);
    return stopped ? TrainOutcome::kStopped : TrainOutcome::kFinished;
  }

  void finish(bool stopped) {
    read_reports(0);
    progress->finish_line();
    run_agreed(
        communicator,
        [&] {
          if (!keeper) return;
          keeper->finish(!stopped && options.progress && shown_on_terminal());
          if (stopped) {
            // The signal may have reached this worker only after another one's.
            if (stop_reason.empty() && options.stop) stop_reason = options.stop();
            log_info(fmt::format("stopped{} at step {}; continue with --resume",
                                 stop_reason.empty() ? "" : " by " + stop_reason, done));
          }
          log_info(fmt::format("checkpoint  {}\nmetrics     {}/metrics.jsonl\nloss plot   {}/loss.svg",
                               saved > 0 ? keeper->path_of(saved) : "none", settings.output,
                               settings.output));
        },
        "finish", settings.save_timeout_seconds);
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
void Trainer::step() {
  if (parts_->done >= parts_->plan.total_steps) {
    fail(ErrorKind::kUsage, fmt::format("step: all {} steps are done", parts_->plan.total_steps));
  }
  parts_->advance();
}
EvaluationResult Trainer::evaluate() {
  return parts_->evaluate();
}
void Trainer::save() {
  parts_->save();
}
TrainOutcome Trainer::run() {
  return parts_->run();
}
void Trainer::finish() {
  parts_->finish(false);
}

TrainOutcome train(Configuration& configuration, const TrainOptions& options, const StopSignal& stop,
                   Communicator& communicator) {
  std::optional<TrainingJob> job;
  run_agreed(
      communicator, [&] { job = read_training_job(configuration); }, "configuration");
  TrainOptions with_stop = options;
  with_stop.stop = [&stop] { return std::string(stop.raised() ? stop.name() : ""); };
  return Trainer(std::move(*job), with_stop, communicator).run();
}

}  // namespace lockstep
