// Building a replica, and moving it into and out of checkpoints.
#include "train/replica.h"

#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <span>

#include "checkpoint/checkpoint.h"
#include "core/error.h"
#include "optim/slot_layout.h"
#include "tensor/storage.h"

namespace lockstep {

namespace {

// A flat array of the replica: whole on every worker, or in shares.
struct StoredArray {
  Tensor values;
  std::vector<Share> shares;  // empty: this worker has all of it, by itself
};

// What a checkpoint calls an array: elements of a stored one.
struct StatePart {
  std::string path;
  Shape shape;
  const StoredArray* array;
  int64_t offset;

  ElementRange range() const { return {offset, offset + shape.elements()}; }
  size_t bytes() const { return static_cast<size_t>(shape.elements()) * size_of(array->values.dtype()); }
  // Of an array that is not in shares.
  Tensor view() const { return array->values.view(shape, offset); }
};

// Everything that a checkpoint holds as arrays, in store order; views into the replica.
class StateLayout {
 public:
  explicit StateLayout(Replica& replica) {
    const ParameterStore& store = replica.store;
    const bool sharded = replica.shards->workers() > 1;
    add_parameters(add({store.values(), {}}), "/parameters/", store);
    add_statistics(add({store.statistic_values(), {}}), "/statistics/", store);
    replicated_ = parts_.size();
    for (const OptimizerSlot& slot : replica.optimizer->slots()) {
      const StoredArray& array =
          add({slot.values,
               sharded ? slot_shares(slot, store.parameters(), *replica.shards) : std::vector<Share>()});
      for (const SlotEntry& entry : slot_entries(slot, store.parameters())) {
        parts_.push_back(
            {fmt::format("/optimizer/{}/{}", slot.name, entry.parameter), entry.shape, &array, entry.offset});
      }
    }
    if (!replica.average) return;
    add_parameters(
        add({replica.average->values(), sharded ? replica.shards->shares() : std::vector<Share>()}),
        "/average/parameters/", store);
    if (!replica.average->has_statistics()) return;
    add_statistics(add({replica.average->statistics(), {}}), "/average/statistics/", store);
  }
  StateLayout(const StateLayout&) = delete;
  StateLayout& operator=(const StateLayout&) = delete;

  const std::vector<StatePart>& parts() const { return parts_; }
  // Parameters and statistics.
  std::span<const StatePart> replicated() const { return {parts_.data(), replicated_}; }

 private:
  const StoredArray& add(StoredArray array) { return arrays_.emplace_back(std::move(array)); }
  void add_parameters(const StoredArray& array, const std::string& group, const ParameterStore& store) {
    for (const ParameterEntry& entry : store.parameters()) {
      parts_.push_back({group + entry.name, entry.shape, &array, entry.offset});
    }
  }
  void add_statistics(const StoredArray& array, const std::string& group, const ParameterStore& store) {
    for (const StatisticEntry& entry : store.statistics()) {
      parts_.push_back({group + entry.name, entry.shape, &array, entry.offset});
    }
  }

  std::deque<StoredArray> arrays_;  // parts point into it
  std::vector<StatePart> parts_;
  size_t replicated_ = 0;
};

StateArray description_of(const StatePart& part) {
  return {part.path, part.array->values.dtype(), part.shape, {}};
}

StateArray copy_of(const StatePart& part) {
  StateArray array = description_of(part);
  array.bytes.resize(part.bytes());
  const Tensor values = part.view();
  if (values.elements() > 0) values.backend().copy_to_host(array.bytes.data(), values.data(), part.bytes());
  return array;
}

const StateArray* find_array(const State& state, const std::string& path) {
  const auto found =
      std::ranges::find_if(state.arrays, [&](const StateArray& array) { return array.path == path; });
  return found == state.arrays.end() ? nullptr : &*found;
}

void load(const StatePart& part, std::span<const std::byte> bytes) {
  Tensor values = part.view();
  if (!bytes.empty()) values.backend().copy_from_host(values.mutable_data(), bytes.data(), bytes.size());
}

std::string text_of(const Scalar& scalar) {
  if (const auto* integer = std::get_if<int64_t>(&scalar)) return std::to_string(*integer);
  if (const auto* real = std::get_if<double>(&scalar)) return fmt::format("{}", *real);
  return std::get<std::string>(scalar);
}

int64_t integer_of(const State& state, const std::string& name, const std::string& path) {
  const auto it = state.scalars.find(name);
  const int64_t* value = it == state.scalars.end() ? nullptr : std::get_if<int64_t>(&it->second);
  if (value == nullptr) fail(ErrorKind::kCheckpoint, fmt::format("{}: has no integer {}", path, name));
  return *value;
}

}  // namespace

Replica::Replica(Configuration& configuration, const RunSettings& settings, const DataShape& data,
                 Backend& backend, Communicator& communicator)
    : alone_(make_self_communicator()) {
  Section model_section = configuration.section("model");
  model = build_model(model_section, data, ModuleBuilder(store));
  Section optimizer_section = configuration.section("optimizer");
  optimizer = make_optimizer(optimizer_section);
  store.allocate(settings.parameters(), backend, settings.seed);
  const int64_t extent = store.parameter_extent();
  Communicator& sharing = settings.shard_optimizer ? communicator : *alone_;
  std::vector<int64_t> offsets;
  for (const ParameterEntry& entry : store.parameters()) offsets.push_back(entry.offset);
  const bool whole = optimizer->whole_parameters() || settings.clip.adaptive > 0.0;
  shards =
      std::make_unique<ParameterShards>(sharing, whole ? whole_shares(offsets, extent, sharing.world_size())
                                                       : striped_shares(extent, sharing.world_size()));
  const size_t before = allocator_statistics().bytes_in_use;
  optimizer->allocate(store.parameters(), extent, shards->mine(), settings.parameters(), backend);
  optimizer_bytes = allocator_statistics().bytes_in_use - before;
  if (settings.average.type != AverageSettings::Type::kNone) {
    average.emplace(settings.average, store.values(), shards->mine(), store.statistic_values());
  }
  segments = update_segments(store.parameters(), extent, settings.decay_biases, settings.groups);
  training = forward_context(store, true);
  training.recompute_every = settings.recompute_every;
  if (settings.parameters() != settings.compute)
    lowered.emplace(store, training.parameters, settings.compute);
}

void Replica::update(UpdateContext context) {
  Tensor parameters = store.values();
  // What comes from other workers comes without its copy.
  const bool together = lowered && optimizer->lowers() && shards->workers() == 1;
  context.parameters = parameters;
  context.segments = segments;
  if (together) context.lowered = lowered->values();
  optimizer->update(context);
  shards->gather(parameters, "parameters");
  if (!lowered) return;
  if (together) {
    lowered->take_as_current();
  } else if (context.verdict != nullptr) {
    // Within the step: when its recording is replayed, nobody asks whether parameters have changed.
    lowered->current();
  }
}

State capture_state(Replica& replica, const RunSettings& settings, const RunPosition& position,
                    int64_t samples, int64_t micro_batches, const std::string& schedule_type,
                    const std::string& configuration) {
  State state =
      describe_state(replica, settings, position, samples, micro_batches, schedule_type, configuration);
  const StateLayout layout(replica);
  const bool collects = replica.shards->collects();
  for (size_t i = 0; i < layout.parts().size(); ++i) {
    const StatePart& part = layout.parts()[i];
    StateArray& array = state.arrays[i];
    if (part.array->shares.empty()) {
      if (collects) array = copy_of(part);
      continue;
    }
    if (collects) array.bytes.resize(part.bytes());
    replica.shards->collect(part.array->shares, part.array->values, part.range(), array.bytes.data(),
                            part.path);
  }
  return state;
}

State capture_parameters(Replica& replica) {
  State state;
  const StateLayout layout(replica);
  for (const StatePart& part : layout.replicated()) state.arrays.push_back(copy_of(part));
  return state;
}

State describe_state(Replica& replica, const RunSettings& settings, const RunPosition& position,
                     int64_t samples, int64_t micro_batches, const std::string& schedule_type,
                     const std::string& configuration) {
  State state;
  const StateLayout layout(replica);
  for (const StatePart& part : layout.parts()) state.arrays.push_back(description_of(part));
  state.scalars["/train/step"] = position.step;
  state.scalars["/train/micro_batches"] = micro_batches;
  state.scalars["/train/micro_batch_size"] = settings.micro_batch_size;
  state.scalars["/rng/algorithm"] = std::string("philox4x32-10");
  state.scalars["/rng/seed"] = static_cast<int64_t>(settings.seed);
  state.scalars["/rng/step"] = position.step;
  state.scalars["/data/samples"] = samples;
  state.scalars["/data/shuffle"] = static_cast<int64_t>(settings.shuffle);
  state.scalars["/data/last_batch"] = std::string(settings.last_batch == LastBatch::kPad ? "pad" : "drop");
  state.scalars["/data/epoch"] = position.epoch;
  state.scalars["/data/position"] = position.position;
  state.scalars["/optimizer/type"] = replica.optimizer->type();
  state.scalars["/optimizer/updates"] = replica.optimizer->updates();
  state.scalars["/schedule/type"] = schedule_type;
  state.scalars["/schedule/update"] = replica.optimizer->updates();
  if (replica.average) state.scalars["/average/type"] = name_of(replica.average->settings().type);
  state.configuration = configuration;
  state.metrics = position.metrics;
  return state;
}

RunPosition restore_scalars(Replica& replica, const State& expected, const State& found,
                            const std::string& path) {
  check_matches(expected, found, path);
  // What decides which samples and draws the next steps use: a resumed run with other values would be another
  // run.
  for (const char* name :
       {"/rng/algorithm", "/rng/seed", "/train/micro_batches", "/train/micro_batch_size", "/data/samples",
        "/data/digest", "/data/shuffle", "/data/last_batch", "/optimizer/type"}) {
    const auto it = found.scalars.find(name);
    if (it == found.scalars.end()) fail(ErrorKind::kCheckpoint, fmt::format("{}: has no {}", path, name));
    if (it->second != expected.scalars.at(name)) {
      fail(ErrorKind::kCheckpoint,
           fmt::format("{}: {}: the checkpoint has {}, this run has {}; a resumed run must keep it", path,
                       name + 1, text_of(it->second), text_of(expected.scalars.at(name))));
    }
  }
  RunPosition position;
  position.step = integer_of(found, "/train/step", path);
  position.epoch = integer_of(found, "/data/epoch", path);
  position.position = integer_of(found, "/data/position", path);
  position.metrics = found.metrics;
  replica.optimizer->set_updates(integer_of(found, "/optimizer/updates", path));
  return position;
}

void restore_arrays(Replica& replica, const State& found, Communicator& communicator) {
  const bool reads = communicator.rank() == 0;
  const StateLayout layout(replica);
  for (const StatePart& part : layout.parts()) {
    std::vector<std::byte> bytes;
    if (reads) bytes = find_array(found, part.path)->bytes;
    if (!part.array->shares.empty()) {
      Tensor values = part.array->values;
      replica.shards->distribute(part.array->shares, values, part.range(), bytes.data(), part.path);
      continue;
    }
    bytes.resize(part.bytes());
    if (!bytes.empty()) communicator.broadcast(bytes.data(), bytes.size(), 0, part.path)->wait();
    load(part, bytes);
  }
}

bool has_average(const State& state) {
  return std::ranges::any_of(state.arrays,
                             [](const StateArray& array) { return array.path.starts_with("/average/"); });
}

void restore_parameters(Replica& replica, const State& found, bool averaged, const std::string& path) {
  const StateLayout layout(replica);
  State expected, wanted;
  for (const StatePart& part : layout.replicated()) expected.arrays.push_back(description_of(part));
  // The averages under the names of what they replace. A mean has no statistics of its own.
  const bool has_statistics = std::ranges::any_of(
      found.arrays, [](const StateArray& array) { return array.path.starts_with("/average/statistics/"); });
  for (const StateArray& array : found.arrays) {
    const bool parameter = array.path.starts_with("/parameters/"),
               statistic = array.path.starts_with("/statistics/");
    if ((parameter && !averaged) || (statistic && !(averaged && has_statistics)))
      wanted.arrays.push_back(array);
    if (!averaged || !array.path.starts_with("/average/")) continue;
    wanted.arrays.push_back(array);
    wanted.arrays.back().path = array.path.substr(std::string("/average").size());
  }
  check_matches(expected, wanted, path);
  for (const StatePart& part : layout.replicated()) load(part, find_array(wanted, part.path)->bytes);
}

}  // namespace lockstep
