// The training loop.
#include "train/trainer.h"

#include <fmt/format.h>

#include <array>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <span>
#include <sstream>

#include "autodiff/autocast.h"
#include "autodiff/derivatives.h"
#include "autodiff/random_scope.h"
#include "checkpoint/store.h"
#include "core/log.h"
#include "core/thread_pool.h"
#include "data/loader.h"
#include "optim/clip.h"
#include "parallel/gradient_exchange.h"
#include "train/agreement.h"
#include "train/configuration_changes.h"
#include "train/device.h"
#include "train/input_queue.h"
#include "train/loss_plot.h"
#include "train/metrics_log.h"
#include "train/plan_agreement.h"
#include "train/progress.h"
#include "train/run_data.h"
#include "train/step_control.h"

namespace lockstep {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_between(Clock::time_point begin, Clock::time_point end) {
  return std::chrono::duration<double>(end - begin).count();
}

// How the data and the configuration make up global batches.
struct BatchPlan {
  int64_t micro_batches = 0;
  int64_t total_steps = 0;
  int64_t steps_per_epoch = 0;
  SamplerOptions sampler;
};

BatchPlan plan_batches(const RunSettings& settings, const Optimizer& optimizer, int64_t samples) {
  BatchPlan plan;
  plan.micro_batches = settings.micro_batches;
  plan.sampler.samples = samples;
  plan.sampler.seed = settings.seed;
  plan.sampler.shuffle = settings.shuffle;
  plan.sampler.last_batch = settings.last_batch;
  if (optimizer.full_batch()) {
    const int64_t needed = (samples + settings.micro_batch_size - 1) / settings.micro_batch_size;
    if (settings.micro_batches != 0 && settings.micro_batches != needed) {
      fail(ErrorKind::kUsage,
           fmt::format("train.micro_batches: {} takes the whole training set in each step: {} samples in "
                       "micro-batches of "
                       "{} are {}, got {} (leave it out)",
                       optimizer.type(), samples, settings.micro_batch_size, needed, settings.micro_batches));
    }
    plan.micro_batches = needed;
    plan.sampler.last_batch = LastBatch::kPad;
  } else if (plan.micro_batches == 0) {
    plan.micro_batches = 1;
  }
  plan.sampler.global_batch = plan.micro_batches * settings.micro_batch_size;
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

// Rank 0's side of a run: the directory, its checkpoints and its metrics. Other ranks have none.
struct Keeper {
  Keeper(const std::string& directory, const RunSettings& settings)
      : lock(directory), store(StoreOptions{directory, settings.keep, settings.keep_every}) {}
  DirectoryLock lock;
  CheckpointStore store;
  std::optional<MetricsLog> metrics;
};

void write_text(const std::string& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  file.close();
  if (!file) fail(ErrorKind::kCheckpoint, path + ": cannot be written: " + std::strerror(errno));
}

// The scalars of rank 0's state, to the ranks that did not read the file: of the same names everywhere, in
// the order of the map; texts are the same by the comparison of configurations.
void broadcast_scalars(Communicator& communicator, State& state) {
  std::vector<std::array<std::byte, 8>> numbers;
  for (const auto& [name, scalar] : state.scalars) {
    if (const auto* integer = std::get_if<int64_t>(&scalar))
      numbers.push_back(std::bit_cast<std::array<std::byte, 8>>(*integer));
    if (const auto* real = std::get_if<double>(&scalar))
      numbers.push_back(std::bit_cast<std::array<std::byte, 8>>(*real));
  }
  communicator.broadcast(numbers.data(), numbers.size() * sizeof numbers[0], 0, "scalars")->wait();
  auto next = numbers.begin();
  for (auto& [name, scalar] : state.scalars) {
    if (auto* integer = std::get_if<int64_t>(&scalar)) *integer = std::bit_cast<int64_t>(*next++);
    if (auto* real = std::get_if<double>(&scalar)) *real = std::bit_cast<double>(*next++);
  }
}

double mebibytes(size_t bytes) {
  return static_cast<double>(bytes) / 1048576.0;
}

// Error where this worker's configuration or data are not those of rank 0: workers that read different files
// would part at some step, and wait for each other until the timeout. Collective.
void compare_workers(Communicator& communicator, const std::string& configuration, const RunData& data) {
  std::string leaders = configuration;
  broadcast_text(communicator, leaders, "configuration");
  std::string leaders_data = data.digest;
  broadcast_text(communicator, leaders_data, "data");
  if (leaders_data != data.digest) {
    fail(ErrorKind::kData,
         fmt::format("the data differ between workers: rank 0 read {}, rank {} read {} from {}", leaders_data,
                     communicator.rank(), data.digest, data.train.source));
  }
  if (leaders == configuration) return;
  std::istringstream theirs(leaders), mine(configuration);
  std::string their_line, my_line;
  do {
    std::getline(theirs, their_line);
    std::getline(mine, my_line);
  } while (their_line == my_line && (theirs || mine));
  fail(ErrorKind::kUsage,
       fmt::format("the configuration differs between workers: rank 0 has \"{}\", rank {} has \"{}\"",
                   their_line, communicator.rank(), my_line));
}

class Run {
 public:
  Run(Configuration& configuration, const TrainOptions& options, const StopSignal& stop,
      Communicator& communicator)
      : configuration_(configuration), options_(options), stop_(stop), communicator_(communicator) {}

  TrainOutcome go() {
    run_agreed(
        communicator_, [&] { set_up(); }, "set-up");
    device_->connect();
    require_recordable();
    run_agreed(
        communicator_, [&] { compare_workers(communicator_, resolved_, data_); }, "configuration");
    resume_or_start();
    return loop();
  }

 private:
  bool leader() const { return communicator_.rank() == 0; }

  void set_up() {
    settings_ = read_settings(configuration_);
    if (!options_.output.empty()) settings_.output = options_.output;
    set_threads(static_cast<int>(settings_.threads));
    device_.emplace(settings_, communicator_);
    backend_ = &device_->backend();
    data_ = read_run_data(settings_);
    replica_ = std::make_unique<Replica>(configuration_, settings_, data_.shape, *backend_, communicator_);
    batches_ = plan_batches(settings_, *replica_->optimizer, data_.train.size());
    Section schedule = configuration_.section("schedule");
    schedule_ =
        make_schedule(schedule, settings_.learning_rate,
                      {batches_.total_steps, batches_.steps_per_epoch, batches_.sampler.global_batch});
    if (schedule_->observes() && (!data_.validation || settings_.evaluate_every == 0)) {
      schedule.reject(
          "type",
          schedule_->type() + " follows the validation loss: give validation data and train.evaluate_every");
    }
    if (schedule_->observes() && settings_.evaluate_every > batches_.total_steps) {
      schedule.reject(
          "type",
          fmt::format("{} never sees the validation loss: train.evaluate_every = {}, the run has {} steps",
                      schedule_->type(), settings_.evaluate_every, batches_.total_steps));
    }
    if (replica_->average && settings_.average.start > batches_.total_steps) {
      configuration_.section("average").reject(
          "start",
          fmt::format("the run has {} steps, got {}", batches_.total_steps, settings_.average.start));
    }
    scaler_.emplace(settings_.loss_scale);
    guard_.emplace(settings_.guard);
    configuration_.reject_unknown();
    resolved_ = configuration_.resolved();
    if (communicator_.world_size() > batches_.micro_batches) {
      fail(ErrorKind::kUsage,
           fmt::format("train.micro_batches: {} workers cannot share {} micro-batches; use at most {} "
                       "workers or raise it",
                       communicator_.world_size(), batches_.micro_batches, batches_.micro_batches));
    }
    owned_ = owned_micro_batches(batches_.micro_batches, communicator_.rank(), communicator_.world_size());
    objective_ = std::make_unique<Objective>(settings_.loss, data_.shape, settings_.parameters(), *backend_);
    if (leader()) {
      // Before the directory would be made.
      if (options_.resume && !std::filesystem::is_directory(settings_.output)) {
        fail(ErrorKind::kCheckpoint, settings_.output + ": --resume: there is no such directory");
      }
      keeper_ = std::make_unique<Keeper>(settings_.output, settings_);
    }
    std::vector<int64_t> slices;
    for (const ParameterEntry& entry : replica_->store.parameters()) slices.push_back(entry.offset);
    for (const StatisticEntry& entry : replica_->store.statistics()) {
      slices.push_back(replica_->store.parameter_extent() + entry.offset);
    }
    slices.push_back(loss_offset());
    exchange_ = std::make_unique<GradientExchange>(
        communicator_, *backend_, settings_.parameters(), loss_offset() + ParameterStore::kParameterAlignment,
        slices,
        ExchangeOptions{batches_.micro_batches, settings_.reduction, settings_.bucket_bytes,
                        settings_.shard_optimizer ? replica_->shards->shares() : std::vector<Share>()});
    set_up_control();
  }

  // Before the checkpoints of an earlier run would be deleted.
  void require_recordable() {
    if (settings_.cuda_graph && communicator_.world_size() > 1 && !communicator_.device().recordable()) {
      fail_together(
          communicator_, ErrorKind::kUsage,
          "device.cuda_graph: arrays that travel through the host cannot be recorded; give each worker a GPU "
          "(parallel.share_gpu = false) and parallel.gpu_transport = \"nccl\"");
    }
  }

  // The sum of a micro-batch's losses travels behind its gradient and its statistics.
  int64_t loss_offset() const { return replica_->store.gradient_extent(); }

  // Why the host has to know the verdict on a step before its update; empty: the device goes on by itself.
  std::string host_decides() const {
    if (!replica_->optimizer->prearranged())
      return "optimizer.type = \"" + replica_->optimizer->type() + "\"";
    if (settings_.clip.value > 0.0) return "clip.value";
    if (settings_.clip.adaptive > 0.0) return "clip.adaptive";
    if (settings_.l2 > 0.0) return "train.l2";
    if (settings_.guard.loss_z > 0.0) return "guard.loss_z_score";
    if (settings_.guard.norm_z > 0.0) return "guard.norm_z_score";
    return "";
  }

  void set_up_control() {
    // Enough that the host never waits for the device it feeds, few enough that what goes wrong is known
    // soon.
    constexpr int64_t kStepsAhead = 4;
    const bool on_gpu = backend_->native_queue() != nullptr;
    const std::string reason = host_decides();
    arranged_ = reason.empty();
    if (settings_.cuda_graph) {
      Section device = configuration_.section("device");
      const std::string but =
          !on_gpu      ? "needs a GPU, this run computes on the CPU"
          : !arranged_ ? "the device must decide about steps by itself, which it cannot with " + reason
                       : "";
      if (!but.empty()) device.reject("cuda_graph", but);
    }
    row_size_ =
        Optimizer::kRowSize * static_cast<int64_t>(replica_->segments.size() + (replica_->average ? 1 : 0));
    control_.emplace(*backend_, settings_.parameters(), *scaler_,
                     arranged_ ? settings_.clip.global_norm : 0.0, arranged_ ? row_size_ : 0,
                     arranged_ && on_gpu ? kStepsAhead : 0);
  }

  // Collective when the optimizer is sharded; whole on rank 0 then.
  State snapshot() {
    return completed(capture_state(*replica_, settings_, position_, data_.train.size(),
                                   batches_.micro_batches, schedule_->type(), resolved_));
  }
  // Without the bytes of arrays.
  State description() {
    return completed(describe_state(*replica_, settings_, position_, data_.train.size(),
                                    batches_.micro_batches, schedule_->type(), resolved_));
  }

  State completed(State state) {
    state.scalars["/data/digest"] = data_.digest;
    state.plans = plans_of_run(backend_->plans());
    put(state, "/loss_scale/", scaler_->state());
    put(state, "/guard/", guard_->state());
    put(state, "/schedule/", schedule_->state());
    return state;
  }

  static void put(State& state, const std::string& group, const std::map<std::string, double>& values) {
    for (const auto& [name, value] : values) state.scalars[group + name] = value;
  }

  // The scalars of a checkpoint under `group` with the names of `current`.
  static std::map<std::string, double> take(const State& state, const std::string& group,
                                            std::map<std::string, double> current, const std::string& path) {
    for (auto& [name, value] : current) {
      const auto found = state.scalars.find(group + name);
      const double* number = found == state.scalars.end() ? nullptr : std::get_if<double>(&found->second);
      if (number == nullptr)
        fail(ErrorKind::kCheckpoint, fmt::format("{}: has no number {}{}", path, group, name));
      value = *number;
    }
    return current;
  }

  // Everything but arrays.
  void restore(const State& found, const std::string& path) {
    position_ = restore_scalars(*replica_, description(), found, path);
    scaler_->set_state(take(found, "/loss_scale/", scaler_->state(), path));
    guard_->set_state(take(found, "/guard/", guard_->state(), path));
    // Another schedule than before starts afresh.
    const auto type = found.scalars.find("/schedule/type");
    if (type != found.scalars.end() && type->second == Scalar(schedule_->type())) {
      schedule_->set_state(take(found, "/schedule/", schedule_->state(), path));
    }
  }

  // Rank 0 reads the checkpoint; the others receive it, so that a shared file system is not needed.
  void resume_or_start() {
    State found;
    std::string path;
    run_agreed(
        communicator_,
        [&] {
          if (!leader()) return;
          if (options_.overwrite) keeper_->store.remove_all();
          if (options_.resume) {
            std::vector<std::string> skipped;
            auto newest = keeper_->store.load_newest(skipped);
            for (const std::string& reason : skipped) log_warning("skipped checkpoint " + reason);
            if (!newest) {
              fail(ErrorKind::kCheckpoint,
                   settings_.output + ": --resume: there is no checkpoint in this directory");
            }
            path = newest->first;
            found = std::move(newest->second);
            check_matches(description(), found, path);
            compare_with_checkpoint(found.configuration, path);
            restore(found, path);
          } else if (const std::optional<int64_t> newest = keeper_->store.newest_step()) {
            fail(ErrorKind::kUsage,
                 fmt::format("{}: already holds {}; continue it with --resume, delete it with --overwrite, "
                             "or choose another --output",
                             settings_.output,
                             std::filesystem::path(keeper_->store.path_of(*newest)).filename().string()));
          }
          keeper_->metrics.emplace(settings_.output + "/metrics.jsonl", position_.metrics);
          write_text(settings_.output + "/configuration.toml", resolved_);
        },
        "resume");
    if (options_.resume) {
      broadcast_text(communicator_, path, "resume");
      State state = description();
      broadcast_scalars(communicator_, state);
      if (!leader()) restore(state, path);
      restore_arrays(*replica_, found, communicator_);
    }
    check_replicas("start");
    introduce(path);
    agree_on_plans(backend_->plans(), communicator_, {found.plans, settings_.tune, plan_cache_path()},
                   [&] { rehearse(); });
  }

  // Forward and backward sweep of the next micro-batch: everything that a step's sweeps call, with no effect
  // on the run.
  void rehearse() {
    peak_bytes_ = std::max(peak_bytes_, allocator_statistics().peak_bytes);
    Loader loader(data_.train, batches_.sampler, settings_.micro_batch_size, 0, 1, position_.step);
    const MicroBatch& batch = loader.next().micro_batches.front();
    {
      const RandomScope random(settings_.seed, static_cast<uint32_t>(position_.step), 0);
      const AutocastScope autocast(settings_.compute, replica_->current_copies());
      const Tensor losses =
          objective_->losses(replica_->model->forward(objective_->inputs(batch), replica_->training), batch);
      backward(losses, losses.full_like(scaler_->scale()), [](const Leaf&, const Tensor&) {});
    }
    reset_allocator_peak();
  }

  // What a resumed run does otherwise than the run that wrote the checkpoint is said; another model or
  // objective is refused.
  void compare_with_checkpoint(const std::string& before, const std::string& path) {
    for (const SettingChange& change :
         configuration_changes(before, resolved_, configuration_.at_default())) {
      if (defines_run(change.key) && !change.by_default) {
        fail(ErrorKind::kCheckpoint, fmt::format("{}: {}; a resumed run must keep it", path, change.text));
      }
      changes_.push_back(change.text);
    }
  }

  void introduce(const std::string& resumed_from) {
    if (!leader()) return;
    log_info(fmt::format("{} | {} thread{} a worker", device_->description(), settings_.threads,
                         settings_.threads == 1 ? "" : "s"));
    log_info(
        fmt::format("{} parameters, {} optimizer, {} samples for training{}",
                    replica_->store.parameter_count(), replica_->optimizer->type(), data_.train.size(),
                    data_.validation ? fmt::format(", {} for validation", data_.validation->size()) : ""));
    log_info(fmt::format("{} steps of {} x {} samples, {} steps an epoch, output in {}", batches_.total_steps,
                         batches_.micro_batches, settings_.micro_batch_size, batches_.steps_per_epoch,
                         settings_.output));
    const size_t statistics = replica_->store.statistic_values().bytes();
    const size_t copy = replica_->lowered ? replica_->lowered->values().bytes() : 0;
    std::string averages;
    if (replica_->average) {
      averages = fmt::format(", averages {:.1f}", mebibytes(replica_->average->values().bytes()));
    }
    log_info(fmt::format(
        "memory of this worker, MiB: parameters {:.1f}, gradients {:.1f}, optimizer state {:.1f}{}{}",
        mebibytes(replica_->store.values().bytes() + copy + statistics), mebibytes(exchange_->bytes()),
        mebibytes(replica_->optimizer_bytes), averages,
        settings_.shard_optimizer ? fmt::format(" (its share of {} workers)", communicator_.world_size())
                                  : ""));
    if (!resumed_from.empty())
      log_info(fmt::format("resumed from {} at step {}", resumed_from, position_.step));
    if (schedule_->warmup() > batches_.total_steps) {
      log_warning(
          fmt::format("schedule.warmup: {} steps, the run has {}: the full learning rate is never reached",
                      schedule_->warmup(), batches_.total_steps));
    }
    for (const std::string& change : changes_) log_info("changed since the checkpoint: " + change);
  }

  // All workers hold the same state, or the ones that differ are named. Of a sharded optimizer's state there
  // is one copy only: what is compared then are parameters, statistics and scalars. Returns the digest of the
  // whole state, on rank 0.
  std::string check_replicas(const std::string& when) {
    const State state = snapshot();
    const std::string whole = state_digest(state);
    std::string digest = whole;
    if (settings_.shard_optimizer) {
      State copied = capture_parameters(*replica_);
      copied.scalars = state.scalars;
      digest = state_digest(copied);
    }
    std::vector<char> all(digest.size() * static_cast<size_t>(communicator_.world_size()));
    communicator_.all_gather(digest.data(), digest.size(), all.data(), "digest")->wait();
    // The digest that most workers have counts as right, rank 0's when there is no majority.
    std::vector<std::string> digests;
    std::map<std::string, int> votes;
    for (int rank = 0; rank < communicator_.world_size(); ++rank) {
      digests.emplace_back(all.data() + static_cast<size_t>(rank) * digest.size(), digest.size());
      ++votes[digests.back()];
    }
    std::string right = digests.front();
    for (const auto& [candidate, count] : votes) {
      if (2 * count > communicator_.world_size()) right = candidate;
    }
    std::string drifted;
    for (size_t rank = 0; rank < digests.size(); ++rank) {
      if (digests[rank] != right) drifted += fmt::format(", rank {} has {}", rank, digests[rank]);
    }
    if (!drifted.empty()) {
      fail_together(communicator_, ErrorKind::kNumeric,
                    fmt::format("{}: replicas differ: {} of {} workers have {}{}", when, votes[right],
                                digests.size(), right, drifted));
    }
    return whole;
  }

  // The next step's products compute with the parameters, rounded, or every worker leaves. Collective.
  void check_copies() {
    if (!replica_->lowered) return;
    replica_->current_copies();
    int64_t broken = replica_->lowered->exact() ? 0 : 1;
    communicator_.all_reduce_max(&broken, 1, "copies")->wait();
    if (broken != 0) {
      fail_together(
          communicator_, ErrorKind::kNumeric,
          fmt::format("step {}: the {} copy that products compute with does not have the parameters' values",
                      position_.step, name_of(settings_.compute)));
    }
  }

  // Forward and backward sweep of one micro-batch: gradients, statistics and the sum of its losses go to the
  // exchange. Waits for nothing: a GPU has the next micro-batches before it is done with this one.
  void sweep(const DeviceBatch& batch) {
    const RandomScope random({settings_.seed, static_cast<uint32_t>(position_.step),
                              static_cast<uint32_t>(batch.number), 0,
                              settings_.cuda_graph ? &control_->verdict()->random_step : nullptr});
    const ParameterStore& store = replica_->store;
    const AllocatorStatistics before = allocator_statistics();
    peak_bytes_ = std::max(peak_bytes_, before.peak_bytes);
    reset_allocator_peak();
    exchange_->begin_micro_batch(batch.number);
    const Tensor output = replica_->model->forward(batch.inputs, replica_->training);
    const Tensor losses = objective_->losses(output, batch);
    Tensor sum = Tensor::empty({1}, losses.dtype(), *backend_);
    backend_->reduce(ReduceOp::kSum, losses.dtype(), 1, losses.elements(), 1, losses.data(),
                     sum.mutable_data());
    exchange_->add(loss_offset(), 1, sum.data());
    for (size_t i = 0; i < store.statistics().size(); ++i) {
      const Tensor& value = replica_->training.batch_statistics[i];
      exchange_->add(store.parameter_extent() + store.statistics()[i].offset, value.elements(), value.data());
    }
    backward(losses, cotangent_, [&](const Leaf& leaf, const Tensor& gradient) {
      const ParameterEntry& entry = store.parameters()[static_cast<size_t>(leaf.index)];
      exchange_->add(entry.offset, gradient.elements(), gradient.data());
    });
    activation_bytes_ = std::max(activation_bytes_, allocator_statistics().peak_bytes - before.bytes_in_use);
    exchange_->end_micro_batch();
  }

  // All that the device does in the step that the inputs have turned to.
  void issue_step() {
    exchange_->begin_step();
    cotangent_ = control_->cotangent({settings_.micro_batch_size});
    {
      // One for the whole step, which ends before the update.
      const AutocastScope autocast(settings_.compute, replica_->current_copies());
      for (int64_t i = 0; i < owned_.size(); ++i) sweep(inputs_->batch(i));
    }
    current_->swept->set();
    exchange_->finish();
    current_->exchanged->set();
    Tensor gradient = exchange_->result();
    const ParameterShards& shards = *replica_->shards;
    penalty_ = regularize(gradient, static_cast<double>(inputs_->valid()) * scaler_->scale());
    control_->judge(shards.block_square_sums(gradient), gradient.view({1}, loss_offset()));
    if (!arranged_) return;
    replica_->update({.gradients = gradient, .verdict = control_->verdict(), .rows = control_->row()});
    update_statistics(gradient, &control_->verdict()->gate);
    if (replica_->average) {
      replica_->average->update(replica_->store.values(), replica_->store.statistic_values(),
                                control_->verdict(), control_->row() + row_size_ - Optimizer::kRowSize);
    }
  }

  // A step of a kind that is seen for the first time runs as it is: libraries make their plans then, and the
  // allocator learns what is needed. The next one is recorded, and from then on all of its kind are that
  // recording.
  struct RecordedStep {
    bool seen = false;
    std::unique_ptr<Recording> recording;
  };

  void issue_recorded_step() {
    // Outside of recordings, which would make the copies anew in each replay, or never.
    replica_->current_copies();
    // Steps are of a kind when their samples lie at the same place and as many of them count.
    RecordedStep& step = recorded_[{inputs_->place(), inputs_->valid()}];
    // Ops look at the range of indices when they are issued, which a replay leaves out.
    const bool known = remember_indices();
    if (!step.seen || !known) {
      step.seen = true;
      issue_step();
      return;
    }
    if (step.recording == nullptr) {
      recorded_memory_.begin();
      backend_->begin_recording();
      try {
        issue_step();
      } catch (...) {
        // What was told so far is forgotten, so that the queue can be used while the run ends.
        try {
          backend_->end_recording();
        } catch (const Error&) {
        }
        throw;
      }
      step.recording = backend_->end_recording();
      recorded_memory_.end();
    }
    communicator_.device().reissue(
        backend_->native_queue(), [&] { step.recording->replay(); },
        fmt::format("step {}", position_.step + 1));
    current_->replayed = true;
  }

  // Remembers the range of the step's indices and labels, which is about to pass the ops' checks. Returns
  // whether it lies within that of steps that did.
  bool remember_indices() {
    bool known = true;
    const auto look = [&](const Tensor& tensor, std::optional<IndexRange>& range) {
      const std::optional<IndexRange>& now = tensor.index_range();
      if (!now) return;
      known = known && range && range->least <= now->least && now->largest <= range->largest;
      range = range ? IndexRange{std::min(range->least, now->least), std::max(range->largest, now->largest)}
                    : *now;
    };
    for (int64_t i = 0; i < owned_.size(); ++i) {
      look(inputs_->batch(i).inputs, input_range_);
      look(inputs_->batch(i).targets, target_range_);
    }
    return known;
  }

  // The rows of the updates that the step to come may lead to.
  void arrange_rows() {
    const Optimizer& optimizer = *replica_->optimizer;
    control_->arrange(
        optimizer.updates(), static_cast<int64_t>(under_way_), [&](int64_t update, std::span<double> row) {
          optimizer.write_rows(update, schedule_->learning_rate(update), replica_->segments, row);
          if (replica_->average) replica_->average->write_row(update, &row[row.size() - Optimizer::kRowSize]);
        });
  }

  // Adds lambda * divisor * theta to the summed gradient, which is divided by `divisor` later; returns
  // lambda/2 |theta|^2.
  double regularize(Tensor& gradient, double divisor) {
    if (settings_.l2 == 0.0) return 0.0;
    const Tensor values = replica_->store.values();
    const int64_t n = replica_->store.parameter_extent();
    Tensor term = values.empty_like();
    backend_->scale_shift(values.dtype(), n, values.data(), settings_.l2 * divisor, 0.0, term.mutable_data());
    backend_->accumulate(values.dtype(), n, term.data(), gradient.mutable_data());
    const double norm = global_norm(values, n, 1.0);
    return 0.5 * settings_.l2 * norm * norm;
  }

  // running <- (1 - momentum) running + momentum * mean over the micro-batches; where gate (null: 1) holds 0,
  // nothing.
  void update_statistics(const Tensor& gradient, const double* gate) {
    const ParameterStore& store = replica_->store;
    for (size_t i = 0; i < store.statistics().size(); ++i) {
      const StatisticEntry& entry = store.statistics()[i];
      Tensor running = store.statistic(static_cast<int>(i));
      UpdateArguments arguments;
      arguments.dtype = running.dtype();
      arguments.n = running.elements();
      arguments.parameters = running.mutable_data();
      const Tensor summed = gradient.view(entry.shape, store.parameter_extent() + entry.offset);
      arguments.gradients = summed.data();
      arguments.gradient_scale = entry.momentum / static_cast<double>(batches_.micro_batches);
      arguments.scalars[2] = entry.momentum;
      arguments.gate = gate;
      backend_->update(UpdateFormula::kRunning, arguments);
    }
  }

  [[noreturn]] void diverged(int64_t step, const std::string& how) {
    if (leader()) keeper_->metrics->flush();
    fail_together(
        communicator_, ErrorKind::kNumeric,
        fmt::format("step {}: training diverged: {}; {}", step, how,
                    saved_step_ > 0 ? fmt::format("the newest checkpoint is of step {}", saved_step_)
                                    : "there is no checkpoint yet"));
  }

  // A step whose report has not been read. Used again and again.
  struct StepUnderWay {
    int64_t step = 0;  // its number, counted from 1
    int64_t valid = 0;
    double data_seconds = 0.0, host_seconds = 0.0;
    bool replayed = false;
    std::unique_ptr<Marker> begun, swept, exchanged, done;  // where the device was through with that
  };

  // What the host makes of a step's report. Every worker gets the same report. Returns whether the step leads
  // to an update; of one that the device has decided about, the host only takes note.
  bool settle(int64_t step, const StepState& report) {
    const double loss = report.loss + penalty_, norm = report.norm;
    const bool finite = std::isfinite(loss) && std::isfinite(norm);
    if (!finite && !scaler_->skips())
      diverged(step, fmt::format("loss {}, gradient norm {}", loss, std::abs(norm)));
    if (finite && settings_.guard.largest_loss > 0.0 && loss > settings_.guard.largest_loss) {
      diverged(step, fmt::format("loss {} > guard.largest_loss = {}", loss, settings_.guard.largest_loss));
    }
    const bool updates = finite && !guard_->skip(loss, norm);
    scaler_->update(finite);
    if (scaler_->skips() && scaler_->diverged()) {
      diverged(step, fmt::format("{} steps in a row whose gradient is not finite, loss scale {}",
                                 scaler_->skips_in_a_row(), report.used_scale));
    }
    if (guard_->diverged()) {
      diverged(step, fmt::format("{} outliers in a row, loss {}, gradient norm {}", guard_->skips_in_a_row(),
                                 loss, norm));
    }
    return updates;
  }

  // Settings that only the host can follow: it reads the report before there is an update.
  void decide(int64_t step, double learning_rate) {
    const double scale = 1.0 / (static_cast<double>(current_->valid) * scaler_->scale());
    const StepState report = control_->read(step);
    const bool updates = settle(step, report);
    Tensor gradient = exchange_->result(), parameters = replica_->store.values();
    const ParameterShards& shards = *replica_->shards;
    Optimizer& optimizer = *replica_->optimizer;
    if (updates) {
      const double gradient_scale = clip_gradients(settings_.clip, gradient, parameters,
                                                   replica_->store.parameters(), shards, scale, report.norm);
      replica_->update(
          {.gradients = gradient, .gradient_scale = gradient_scale, .learning_rate = learning_rate});
      update_statistics(gradient, nullptr);
      if (replica_->average) {
        replica_->average->update(parameters, replica_->store.statistic_values(), optimizer.updates());
      }
    } else {
      // The batch is spent, and that is all: no update, no statistics, no progress of schedule and bias
      // correction.
      if (optimizer.cancel_gradient(parameters)) shards.gather(parameters, "cancelled look-ahead");
    }
    if (updates != (report.gate != 0.0)) control_->set(*scaler_, optimizer.updates(), step);
  }

  // Reads the reports of steps under way, oldest first, until no more than `left` are.
  void read_reports(size_t left) {
    while (under_way_ > left) {
      const StepUnderWay& done =
          steps_[static_cast<size_t>(position_.step - static_cast<int64_t>(under_way_)) % steps_.size()];
      --under_way_;
      const StepState report = control_->read(done.step);
      Optimizer& optimizer = *replica_->optimizer;
      // Of the host's decisions everything is done already.
      const int64_t before = arranged_ ? optimizer.updates() : updates_before_;
      if (arranged_ && settle(done.step, report)) optimizer.set_updates(before + 1);
      log_step(done, report, schedule_->learning_rate(before));
    }
  }

  void log_step(const StepUnderWay& done, const StepState& report, double learning_rate) {
    done.done->wait();  // where the host decided, the update may still be running
    times_.data += done.data_seconds;
    times_.host += done.host_seconds;
    if (done.replayed) {
      times_.compute += done.done->seconds_since(*done.begun);
      times_.exposed_communication = times_.optimizer = std::nan("");
    } else {
      times_.compute += done.swept->seconds_since(*done.begun);
      times_.exposed_communication += exchange_->take_exposed_seconds();
      times_.optimizer += done.done->seconds_since(*done.exchanged);
    }
    ++interval_steps_;
    interval_samples_ += done.valid;
    const bool last = done.step == batches_.total_steps;
    if (!leader() || !(done.step % settings_.log_every == 0 || last || done.step == stopping_at_)) return;
    const auto steps = static_cast<double>(interval_steps_);
    const Clock::time_point now = Clock::now();
    StepMetrics metrics;
    metrics.step = done.step;
    metrics.epoch = static_cast<double>(done.step) / static_cast<double>(batches_.steps_per_epoch);
    metrics.loss = report.loss + penalty_;
    metrics.learning_rate = learning_rate;
    metrics.gradient_norm = report.norm;
    metrics.loss_scale = report.used_scale;
    metrics.skipped_steps = scaler_->skipped() + guard_->skipped();
    metrics.samples_per_second =
        static_cast<double>(interval_samples_) / seconds_between(interval_start_, now);
    metrics.times = {times_.data / steps, times_.compute / steps, times_.exposed_communication / steps,
                     times_.optimizer / steps, times_.host / steps};
    metrics.peak_bytes = std::max(peak_bytes_, allocator_statistics().peak_bytes);
    metrics.cached_bytes = allocator_statistics().cached_bytes;
    metrics.activation_bytes = activation_bytes_;
    keeper_->metrics->step(metrics);
    progress_->show(metrics, last);
    times_ = {};
    interval_steps_ = interval_samples_ = 0;
    interval_start_ = now;
  }

  TrainOutcome loop() {
    TrainOutcome outcome = TrainOutcome::kFinished;
    Loader loader(data_.train, batches_.sampler, settings_.micro_batch_size, owned_.begin, owned_.end,
                  position_.step, settings_.prefetch);
    progress_.emplace(position_.step, batches_.total_steps, leader() && options_.progress);
    Tensor parameters = replica_->store.values();
    Optimizer& optimizer = *replica_->optimizer;
    const int64_t first_step = position_.step;
    saved_step_ = first_step;
    interval_start_ = Clock::now();
    control_->set(*scaler_, optimizer.updates(), position_.step);
    inputs_.emplace(*backend_, data_.shape, settings_.parameters(), owned_.size(),
                    settings_.micro_batch_size);
    steps_.resize(static_cast<size_t>(control_->ahead() + 1));
    for (StepUnderWay& step : steps_) {
      for (std::unique_ptr<Marker>* marker : {&step.begun, &step.swept, &step.exchanged, &step.done})
        *marker = backend_->marker(true);
    }
    // Hands the samples of the next step over, and says how long that took.
    const auto stage = [&] {
      const Clock::time_point begin = Clock::now();
      inputs_->stage(loader.next());
      return seconds_between(begin, Clock::now());
    };
    double data_seconds = position_.step < batches_.total_steps ? stage() : 0.0;

    while (position_.step < batches_.total_steps && outcome == TrainOutcome::kFinished) {
      const Clock::time_point begin = Clock::now();
      inputs_->next();
      current_ = &steps_[static_cast<size_t>(position_.step) % steps_.size()];
      current_->step = position_.step + 1;
      current_->valid = inputs_->valid();
      current_->data_seconds = data_seconds;
      current_->replayed = false;
      current_->begun->set();
      const double learning_rate = arranged_ ? 0.0 : schedule_->learning_rate(optimizer.updates());
      updates_before_ = optimizer.updates();
      if (optimizer.before_gradient(parameters, learning_rate, replica_->segments)) {
        replica_->shards->gather(parameters, "look-ahead");
      }
      if (arranged_) arrange_rows();
      control_->set_count(static_cast<double>(inputs_->valid()));
      if (settings_.cuda_graph) {
        issue_recorded_step();
      } else {
        issue_step();
      }
      ++position_.step;
      ++under_way_;
      if (arranged_) current_->done->set();
      control_->post(position_.step);
      current_->host_seconds = seconds_between(begin, Clock::now());
      const bool last = position_.step == batches_.total_steps;
      if (!last) data_seconds = stage();
      int64_t stops = stop_.raised() ? 1 : 0;
      communicator_.all_reduce_max(&stops, 1, "stop")->wait();
      if (!arranged_) {
        decide(position_.step, learning_rate);
        current_->done->set();
      }

      position_.epoch = position_.step / batches_.steps_per_epoch;
      position_.position = position_.step % batches_.steps_per_epoch;
      if (stops > 0 && !last) {
        outcome = TrainOutcome::kStopped;
        stopping_at_ = position_.step;
      }
      const bool digested = settings_.digest_every > 0 && position_.step % settings_.digest_every == 0;
      const bool evaluated =
          last || (settings_.evaluate_every > 0 && position_.step % settings_.evaluate_every == 0);
      const bool due = last || outcome == TrainOutcome::kStopped ||
                       (settings_.checkpoint_every > 0 && position_.step % settings_.checkpoint_every == 0);
      // What looks at the state looks at one whose steps are all known.
      read_reports(digested || evaluated || due ? 0 : static_cast<size_t>(control_->ahead()));
      if (digested) {
        const std::string digest = check_replicas(fmt::format("step {}", position_.step));
        if (leader()) keeper_->metrics->digest(position_.step, digest);
        check_copies();
      }
      if (evaluated) {
        if (last) progress_->finish_line();
        validate(*progress_);
        if (schedule_->observes()) control_->forget_rows(optimizer.updates());
      }
      if (due) {
        require_finite();
        save();
        saved_step_ = position_.step;
      } else if (leader()) {
        keeper_->store.poll();
      }
    }
    progress_->finish_line();
    if (leader() && first_step >= batches_.total_steps) {
      log_info(fmt::format("nothing left to do: the checkpoint is of step {}, the run has {} steps",
                           first_step, batches_.total_steps));
    }
    finish(outcome);
    return outcome;
  }

  void validate(Progress& progress) {
    if (!data_.validation) return;
    const AutocastScope autocast(settings_.compute);
    const EvaluationResult result = evaluate_weights();
    // Not the one at the end of a run, unless it is due: a run that is extended goes on like one that never
    // stopped.
    if (settings_.evaluate_every > 0 && position_.step % settings_.evaluate_every == 0)
      schedule_->observe(result.loss);
    if (!leader()) return;
    progress.finish_line();
    const bool classification = objective_->classification();
    keeper_->metrics->evaluation(position_.step, result.loss, classification ? &result.accuracy : nullptr,
                                 result.samples, replica_->average ? "averaged" : "");
    log_info(fmt::format("step {}: validation loss {:.4f}{} on {} samples{}", position_.step, result.loss,
                         classification ? fmt::format(", accuracy {:.2f}%", 100.0 * result.accuracy) : "",
                         result.samples, replica_->average ? ", averaged weights" : ""));
  }

  // Of the averaged weights, where there are any: they take the place of the trained ones for as long as it
  // takes.
  EvaluationResult evaluate_weights() {
    const auto result = [&] {
      return evaluate(*replica_, *objective_, *data_.validation, settings_.micro_batch_size, communicator_);
    };
    if (!replica_->average) return result();
    Tensor values = replica_->store.values(), statistics = replica_->store.statistic_values();
    const Tensor trained = values.clone(), running = statistics.clone();
    replica_->average->write(values);
    replica_->shards->gather(values, "average");
    if (replica_->average->has_statistics()) {
      statistics.assign(replica_->average->statistics());
    } else {
      statistics.assign(mean_statistics(*replica_, *objective_, data_.train, settings_, communicator_));
    }
    const EvaluationResult averaged = result();
    values.assign(trained);
    statistics.assign(running);
    return averaged;
  }

  // The loss of a step tells of the update before it: the newest one is looked at here, before it takes a
  // checkpoint's place.
  void require_finite() {
    const auto finite = [&](const Tensor& values) {
      return backend_->all_finite(values.dtype(), values.elements(), values.data());
    };
    bool all = finite(replica_->store.values());
    for (const OptimizerSlot& slot : replica_->optimizer->slots()) all = all && finite(slot.values);
    int64_t broken = all ? 0 : 1;  // on any worker: one that computes wrongly must not leave alone
    communicator_.all_reduce_max(&broken, 1, "finite")->wait();
    if (broken != 0) {
      fail_together(communicator_, ErrorKind::kNumeric,
                    fmt::format("step {}: training diverged: the update left parameters or optimizer state "
                                "that are not finite; "
                                "nothing was saved over",
                                position_.step));
    }
  }

  void save() {
    if (!leader()) {
      if (settings_.shard_optimizer) snapshot();
      return;
    }
    keeper_->metrics->flush();
    position_.metrics = keeper_->metrics->history();
    keeper_->store.save(position_.step, snapshot());
  }

  // Everything on disk on rank 0 before any worker leaves.
  void finish(TrainOutcome outcome) {
    run_agreed(
        communicator_,
        [&] {
          if (!leader()) return;
          keeper_->store.finish();
          keeper_->metrics->flush();
          const LossCurves curves = loss_curves(keeper_->metrics->history());
          write_text(settings_.output + "/loss.svg", loss_svg(curves, settings_.name + ": loss"));
          if (outcome == TrainOutcome::kFinished && options_.progress) {
            const std::string chart = loss_chart(curves, 60, 10);
            if (!chart.empty()) log_info("\n" + chart);
          }
          const std::string checkpoint = keeper_->store.path_of(position_.step);
          if (outcome == TrainOutcome::kStopped) {
            log_info(fmt::format("stopped{} at step {}; continue with --resume",
                                 *stop_.name() ? fmt::format(" by {}", stop_.name()) : "", position_.step));
          }
          log_info(fmt::format("checkpoint  {}\nmetrics     {}/metrics.jsonl\nloss plot   {}/loss.svg",
                               checkpoint, settings_.output, settings_.output));
        },
        "finish");
  }

  Configuration& configuration_;
  TrainOptions options_;
  const StopSignal& stop_;
  Communicator& communicator_;
  RunSettings settings_;
  std::optional<WorkerDevice> device_;
  Backend* backend_ = nullptr;
  RunData data_;
  BatchPlan batches_;
  MicroBatchRange owned_;
  std::string resolved_;
  std::vector<std::string> changes_;  // settings that a resumed run has changed
  std::unique_ptr<Replica> replica_;
  std::unique_ptr<Schedule> schedule_;
  std::optional<LossScaler> scaler_;
  std::optional<OutlierGuard> guard_;
  std::unique_ptr<Objective> objective_;
  std::unique_ptr<Keeper> keeper_;
  std::unique_ptr<GradientExchange> exchange_;
  RunPosition position_;
  size_t peak_bytes_ = 0;        // before the allocator's peak was reset last
  size_t activation_bytes_ = 0;  // the most of any micro-batch so far

  // The step's end, on the device.
  std::optional<StepControl> control_;
  bool arranged_ = false;  // the device decides about updates by itself
  int64_t row_size_ = 0;   // numbers of an update: of its segments, then of the average
  Tensor cotangent_;       // dL/d(losses) of the step
  double penalty_ = 0.0;   // what train.l2 adds to the loss of the step
  std::optional<InputQueue> inputs_;
  RecordedMemory recorded_memory_;  // of all recordings: they run one after the other
  std::map<std::pair<int, int64_t>, RecordedStep> recorded_;
  std::optional<IndexRange> input_range_, target_range_;  // of integers in steps that were issued
  std::vector<StepUnderWay> steps_;  // used in turn: step n, counted from 0, has the n-th
  StepUnderWay* current_ = nullptr;  // the one that was issued last
  size_t under_way_ = 0;             // steps whose reports have not been read, that one included
  int64_t updates_before_ = 0;       // the step that was issued last
  int64_t stopping_at_ = 0;          // the step after which a signal ends the run; 0: none
  int64_t saved_step_ = 0;
  // Since the last line of the metrics.
  StepTimes times_;
  int64_t interval_steps_ = 0, interval_samples_ = 0;
  Clock::time_point interval_start_;
  std::optional<Progress> progress_;
};

}  // namespace

TrainOutcome train(Configuration& configuration, const TrainOptions& options, const StopSignal& stop,
                   Communicator& communicator) {
  return Run(configuration, options, stop, communicator).go();
}

CheckpointEvaluation evaluate_checkpoint(Configuration& configuration, const std::string& checkpoint,
                                         Communicator& communicator, std::string& weights) {
  RunSettings settings;
  std::optional<WorkerDevice> device;
  std::unique_ptr<Replica> replica;
  std::unique_ptr<Objective> objective;
  RunData data;
  std::string plans;
  bool without_statistics = false;  // the mean of weights has none of its own
  run_agreed(
      communicator,
      [&] {
        settings = read_settings(configuration);
        set_threads(static_cast<int>(settings.threads));
        device.emplace(settings, communicator);
        data = read_run_data(settings);
        replica =
            std::make_unique<Replica>(configuration, settings, data.shape, device->backend(), communicator);
        Section schedule = configuration.section("schedule");
        make_schedule(schedule, settings.learning_rate, {});
        configuration.reject_unknown();
        objective =
            std::make_unique<Objective>(settings.loss, data.shape, settings.parameters(), device->backend());
        const State state = read_checkpoint(checkpoint);
        plans = state.plans;
        if (weights.empty()) weights = has_average(state) ? "averaged" : "trained";
        const bool averaged = weights == "averaged";
        if (averaged && !has_average(state)) {
          fail(ErrorKind::kUsage, checkpoint + ": --weights averaged: it has no averaged weights");
        }
        restore_parameters(*replica, state, averaged, checkpoint);
        for (const SettingChange& change : configuration_changes(
                 state.configuration, configuration.resolved(), configuration.at_default())) {
          if (defines_model(change.key) && !change.by_default) {
            fail(ErrorKind::kCheckpoint, fmt::format("{}: {}; an evaluation needs the model that was trained",
                                                     checkpoint, change.text));
          }
        }
        // The digest covers which samples are on which side of the split.
        const auto digest = state.scalars.find("/data/digest");
        if (communicator.rank() == 0 && settings.validation_fraction > 0.0 &&
            (digest == state.scalars.end() || digest->second != Scalar(data.digest))) {
          log_warning(
              fmt::format("{}: was trained on other data or another split of it (run.seed, "
                          "data.validation_fraction): samples evaluated here may have been trained on",
                          checkpoint));
        }
        const auto type = state.scalars.find("/average/type");
        without_statistics =
            averaged && type != state.scalars.end() && type->second == Scalar(std::string("swa"));
      },
      "evaluation set-up");
  device->connect();
  run_agreed(
      communicator, [&] { compare_workers(communicator, configuration.resolved(), data); }, "configuration");
  agree_on_plans(device->backend().plans(), communicator, {plans, false, {}}, {});
  const AutocastScope autocast(settings.compute);
  if (without_statistics) {
    Tensor statistics = replica->store.statistic_values();
    statistics.assign(mean_statistics(*replica, *objective, data.train, settings, communicator));
  }
  CheckpointEvaluation evaluation;
  evaluation.on_validation = data.validation.has_value();
  evaluation.classification = objective->classification();
  evaluation.result = evaluate(*replica, *objective, data.validation ? *data.validation : data.train,
                               settings.micro_batch_size, communicator);
  return evaluation;
}

}  // namespace lockstep
