// Setting a run up, and where its weights come from.
#include "lockstep/train/prepared_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <system_error>
#include <tuple>
#include <utility>

#include "lockstep/autodiff/autocast.h"
#include "lockstep/autodiff/derivatives.h"
#include "lockstep/autodiff/random_scope.h"
#include "lockstep/checkpoint/checkpoint.h"
#include "lockstep/comm/deadline.h"
#include "lockstep/core/log.h"
#include "lockstep/core/thread_pool.h"
#include "lockstep/data/loader.h"
#include "lockstep/exchange/export_model.h"
#include "lockstep/exchange/weights_source.h"
#include "lockstep/minimize/minimizer.h"
#include "lockstep/optim/layer_curvature.h"
#include "lockstep/optim/parameter_groups.h"
#include "lockstep/train/agreement.h"
#include "lockstep/train/configuration_changes.h"
#include "lockstep/train/curvature_step.h"
#include "lockstep/train/host_memory.h"
#include "lockstep/train/introduction.h"
#include "lockstep/train/minimizer_step.h"
#include "lockstep/train/plan_agreement.h"
#include "lockstep/train/recovery_point.h"
#include "lockstep/train/settings_rules.h"
#include "lockstep/train/worker_texts.h"

namespace lockstep {
namespace {

// What of the optimizer asks for Gauss-Newton products; empty: nothing does.
std::string asks_for_gauss_newton(Optimizer& optimizer) {
  const LayerCurvature* const layers = optimizer.layer_curvature();
  if (layers != nullptr && layers->adapts_every() > 0)
    return fmt::format("optimizer.adapt_every = {}", layers->adapts_every());
  const Minimization* const minimizes = optimizer.minimization();
  if (minimizes == nullptr || !minimizes->minimizer->gauss_newton()) return "";
  return minimizes->minimizer->type() == "natural_gradient" ? "optimizer.type = \"natural_gradient\""
                                                            : "optimizer.matrix = \"gauss_newton\"";
}

// Before anything is trained that no checkpoint could hold. A minimizer makes its state when it is asked for
// it: this comes when there is room for that.
void require_paths(Optimizer& optimizer) {
  const auto require = [&](const std::string& of, const std::string& fault) {
    if (!fault.empty())
      fail(ErrorKind::kUsage, fmt::format("optimizer {}: state{}: {}", optimizer.type(), of, fault));
  };
  const std::vector<OptimizerSlot> slots = optimizer.slots();
  for (size_t i = 0; i < slots.size(); ++i) {
    const OptimizerSlot& slot = slots[i];
    require("", fault_of_path(slot.name, std::span(slots).first(i), &OptimizerSlot::name));
    for (const SlotEntry& entry : slot.entries) require(" " + slot.name, fault_of_path(entry.parameter));
  }
}

constexpr const char* kEvaluation = "evaluation";

}  // namespace

void PendingEvaluation::describe(State& state) const {
  if (due) state.pending = kEvaluation;
}

void PendingEvaluation::restore(const State& state, const std::string&) {
  found = state.pending == kEvaluation;
}

PreparedRun::PreparedRun(TrainingJob job_, const TrainOptions& options_, Communicator& communicator_)
    : job(std::move(job_)), options(options_), communicator(communicator_), settings(job.settings) {
  if (!options.output.empty()) job.settings.output = options.output;
  communicator.enter("set-up");
  run_agreed(
      communicator, [&] { set_up(); }, "set-up");
  if (end->minimizes()) {
    // Nothing of it is there yet.
    require_memory_on_hosts(communicator,
                            fmt::format("optimizer.type = \"{}\" with {} parameters",
                                        replica->optimizer->type(), replica->store.parameter_count()),
                            static_cast<int64_t>(end->bytes()), ErrorKind::kUsage);
  }
  run_agreed(
      communicator, [&] { complete(); }, "set-up");
  if (keeps_copies(*this)) {
    int64_t bytes = 0;
    run_agreed(
        communicator, [&] { bytes = state->bytes(); }, "set-up");
    // A minimizer makes its state anew for each copy, twice for a while.
    require_memory_on_hosts(communicator, "checkpoint.recovery_point = true",
                            (end->minimizes() ? 4 : 2) * bytes, ErrorKind::kUsage);
  }
  run_agreed(
      communicator,
      [&] {
        // Last, since it makes the output directory.
        if (leader()) keeper = std::make_unique<RunKeeper>(settings, options.resume);
      },
      "set-up");
  communicator.leave_flight_in(job.settings.output);
  directories.emplace(settings, keeper ? &keeper->store() : nullptr, communicator);
  copies.emplace(settings, *directories, communicator);
  if (keeper) keeper->copy_to(&*copies);
  device->connect();
  require_recordable();
  run_agreed(
      communicator, [&] { compare_workers(communicator, description.text, data); }, "configuration");
  if (options.resume_if_any) options.resume = agreement->any(directories->holds_checkpoint(), "resume");
  const bool frozen = !replica->store.frozen().empty();
  if (frozen || (!options.resume && !settings.initial_weights.empty())) take_initial_weights();
  State found;
  const std::string path = resume_or_start(found);
  if (options.resume) done = state->distribute(done, found, path, communicator);
  saved = done;
  on_disk = options.resume;
  agreement->compare(state->replicated_digest(done), "start");
  if (leader()) {
    introduce({settings, data, *replica, plan, *schedule, *pass, *device, operations, find_loss(),
               communicator.world_size()});
    if (!path.empty())
      log_info(fmt::format("resumed from {} on host {} at step {}", path, host_name(), done));
    for (const std::string& change : changes) log_info("changed since the checkpoint: " + change);
  }
  agree_on_plans(backend().plans(), communicator, {found.plans, settings.tune, plan_cache_path()},
                 [&] { rehearse(); });
}

void PreparedRun::set_up() {
  require_valid(settings);
  if (options.overwrite && (options.resume || options.resume_if_any))
    fail(ErrorKind::kUsage,
         "overwrite: not with resume: the checkpoints would be put aside before one is looked for");
  set_threads(static_cast<int>(settings.threads));
  device.emplace(settings, communicator, options.backend);
  data = read_run_data(settings);
  check_classes(data);
  replica = std::make_unique<Replica>(job, data.shape, backend(), communicator);
  check_indices(data, replica->model->index_limit());
  check_documents(data.train->description(), *replica->model);
  const Optimizer& optimizer = *replica->optimizer;
  const int64_t tokens = tokens_of_sample(data.train->description());
  plan = plan_run(settings, data.train->size(), optimizer, tokens);
  const RunLength length{plan.total_steps, plan.steps_per_epoch, plan.sampler.global_batch,
                         plan.sampler.global_batch * tokens};
  schedule = job.schedule ? job.schedule(length) : make_schedule({}, settings.learning_rate, length);
  if (schedule == nullptr) fail(ErrorKind::kUsage, "schedule: the program's function has made none");
  require_reachable(settings, *schedule, plan, data.validation != nullptr);
  require_graph(settings, optimizer, backend());
  require_minimizable(settings, optimizer, *schedule, replica->store);
  require_curvature(settings, *replica->optimizer);
  description = job.describe ? job.describe() : TrainingJob::Description{defining_settings(settings), {}};
  operations = model_operations(*replica->model, replica->store, tokens);
  operations.workers = communicator.world_size();
  if (settings.peak_tflops > 0.0) {
    operations.device_peak = settings.peak_tflops * 1e12;
  } else if (!settings.share_gpu) {
    operations.device_peak = known_peak(backend().description(), settings.compute);
  }
  owned = plan.owned(communicator.rank(), communicator.world_size());
  objective.emplace(settings.loss, data.shape, settings.parameters(), backend(), settings.objective);
  require_fit_of_gpt();
  if (settings.keep_best == "validation_accuracy" && !objective->classification())
    fail(ErrorKind::kUsage, "checkpoint.keep_best: validation_accuracy is of classification");
  pass.emplace(*replica, *objective, plan, settings, communicator);
  end = make_step_end({*replica, *pass, *schedule, settings, plan.micro_batches, plan.same_batch});
}

void PreparedRun::complete() {
  require_paths(*replica->optimizer);
  replica->optimizer_bytes += end->bytes();
  state.emplace(*replica, plan, data.digest, description.text,
                std::vector<Checkpointed*>{end.get(), &columns, &base, &pending});
  agreement.emplace(*replica, communicator);
  evaluator.emplace(*replica, *objective, data, settings, communicator);
  if (settings.cuda_graph) {
    recorder.emplace(backend(), communicator,
                     std::map<std::string, int64_t>{{kInputsName, replica->model->index_limit()},
                                                    {kTargetsName, data.shape.classes}});
  }
}

// Objective and GradientPass say so too, but of the first batch: when the output directory is there.
void PreparedRun::require_fit_of_gpt() const {
  const double smoothing = settings.objective.label_smoothing;
  const std::string products = asks_for_gauss_newton(*replica->optimizer);
  if (smoothing == 0.0 && products.empty()) return;
  const auto gpt = gpt_of_configuration(description.text, "the run", data.shape.sample.last());
  if (!gpt) return;
  if (smoothing > 0.0) {
    fail(ErrorKind::kUsage, fmt::format("train.label_smoothing: not of model.type = \"gpt\", whose loss does "
                                        "without logits, got {}",
                                        smoothing));
  }
  if (!products.empty() && gpt->z_loss > 0.0) {
    fail(ErrorKind::kUsage, fmt::format("model.z_loss: not with {}: Gauss-Newton products do not know of it: "
                                        "set one of them to 0 or choose another, got {}",
                                        products, gpt->z_loss));
  }
}

void PreparedRun::require_recordable() {
  if (settings.cuda_graph && communicator.world_size() > 1 && !communicator.device().recordable()) {
    fail_together(
        communicator, ErrorKind::kUsage,
        "device.cuda_graph: arrays that travel through the host cannot be recorded; give each worker a GPU "
        "(parallel.share_gpu = false) and parallel.gpu_transport = \"nccl\"");
  }
}

// Adapters are nothing without the weights that they belong to, which would go with the earlier run.
void PreparedRun::require_base_elsewhere() const {
  namespace fs = std::filesystem;
  if (settings.lora.rank == 0) return;
  const fs::path place = fs::weakly_canonical(fs::absolute(settings.initial_weights).parent_path());
  if (place != fs::weakly_canonical(fs::absolute(settings.output))) return;
  fail(ErrorKind::kUsage,
       fmt::format("{}: --overwrite would delete train.initial_weights, which the adapters need; choose "
                   "another --output",
                   settings.output));
}

std::string PreparedRun::resume_or_start(State& found) {
  std::string path;
  std::vector<std::string> hosts = worker_texts(communicator, host_name(), "hosts");
  std::ranges::sort(hosts);
  hosts.erase(std::unique(hosts.begin(), hosts.end()), hosts.end());
  if (options.resume) directories->bring_newest();
  const int64_t replaced = options.overwrite ? directories->latest_begun() : 0;
  run_agreed(
      communicator,
      [&] {
        CheckpointStore* const store = directories->store();
        if (options.overwrite) require_base_elsewhere();
        if (options.overwrite && store != nullptr) store->set_aside();
        if (!options.resume && store != nullptr) store->require_fresh();
        if (!leader()) return;
        if (options.resume) {
          std::tie(path, found) = keeper->newest();
          compare_with_checkpoint(found, path);
          done = state->restore(found, path);
        }
        keeper->start({found.metrics, found.metrics_file},
                      {settings.name, done, plan.total_steps, communicator.world_size(), hosts},
                      description.text, found.begun, replaced);
      },
      "resume");
  if (settings.recovery_point) {
    if (leader()) begun = keeper->begun();
    broadcast_text(communicator, begun, "resume");
  }
  if (options.resume) {
    broadcast_text(communicator, path, "resume");
    std::string text = found.best;
    broadcast_text(communicator, text, "resume");
    best.restore(text);
    std::error_code error;
    const bool gone = leader() && best.step() >= 0 &&
                      std::filesystem::status(keeper->path_of(best.step()), error).type() ==
                          std::filesystem::file_type::not_found;
    if (gone) {
      log_warning(fmt::format("{}: the best checkpoint so far is not there any more; another one will be",
                              keeper->path_of(best.step())));
    }
    if (agreement->any(gone, "resume")) best.forget();
    if (leader()) keeper->offer(done, best);  // to hosts that do not have it
  }
  return path;
}

void PreparedRun::take_initial_weights() {
  const std::string& path = settings.initial_weights;
  State found;
  run_agreed(
      communicator,
      [&] {
        for (const std::string& pattern : settings.initial_weights_without) {
          require_fit("train.initial_weights_without", pattern, replica->store.parameters());
        }
        if (!leader()) return;
        found = read_initial_weights(path, description.text, data.shape,
                                     {settings.initial_weights_without, settings.initial_weights_differ});
        tell_of_dropout(path, description.text, data.shape);
        warn_of_vocabulary(found, path, data.train->description().vocabulary);
        if (!holds_weights(path)) columns.restore(found, path);
      },
      "initial weights");
  if (!replica->store.frozen().empty()) {
    base.load(*replica, found, path, communicator);
    if (leader()) log_info("frozen weights from " + path);
    if (!options.resume && !settings.initial_adapter.empty()) take_initial_adapter();
    return;
  }
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

void PreparedRun::take_initial_adapter() {
  State found;
  run_agreed(
      communicator,
      [&] {
        if (leader()) {
          found = read_initial_adapter(settings.initial_adapter, description.text, data.shape, settings.lora,
                                       replica->store);
        }
      },
      "initial adapter");
  restore_parameters(*replica, found, false, settings.initial_adapter, communicator, {});
  if (replica->average) {
    replica->average->restart(replica->store.values(), replica->store.statistic_values());
  }
  if (leader()) log_info("adapters from " + settings.initial_adapter);
}

void PreparedRun::compare_with_checkpoint(State& found, const std::string& path) {
  columns.restore(found, path);  // says more than that the digest of the data differs
  constexpr size_t kMostNamed = 4;
  std::vector<std::string> kept;
  bool other_steps = false;
  // An earlier version's, of a job without a description: there is nothing to compare with.
  const std::string& before =
      found.configuration.empty() && !job.describe ? description.text : found.configuration;
  for (const SettingChange& change :
       configuration_changes(before, description.text, description.at_default)) {
    changes.push_back(change.text);
    other_steps = other_steps || change.key.starts_with("optimizer.");
    if (defines_run(change.key) && !change.by_default && kept.size() < kMostNamed)
      kept.push_back(change.text);
  }
  if (!kept.empty()) {
    fail(ErrorKind::kCheckpoint,
         fmt::format("{}: {}; a resumed run must keep it", path, fmt::join(kept, "; ")));
  }
  state->require_fit(found, path);  // says less than that a setting is another one
  if (other_steps) forget_end(found);
}

std::string PreparedRun::find_loss() const {
  const RecordingScope off(false);
  const AutocastScope autocast(settings.compute);
  ForwardContext context = replica->evaluation();
  const MicroBatch zeros(1, data.train->description().fields());
  try {
    return objective->loss_of(*replica->model, to_device(zeros, settings.parameters(), backend()), context);
  } catch (const std::exception&) {  // of a model that throws where the run has use for it
    return "logistic of one output, else cross_entropy";
  }
}

void PreparedRun::rehearse() {
  Loader rehearsed(*data.train, plan.sampler, plan.micro_batch_size, 0, 1, done);
  const Batch batch = to_device(rehearsed.next().micro_batches.front(), settings.parameters(), backend());
  const RandomScope random(settings.seed, static_cast<uint32_t>(done), 0);
  const AutocastScope autocast(settings.compute, replica->current_copies());
  const Tensor losses = objective->losses(*replica->model, batch, replica->training);
  take_batch_statistics(replica->training, replica->store);
  backward(losses, losses.full_like(end->loss_scale()), [](const Leaf&, const Tensor&) {});
}

}  // namespace lockstep
