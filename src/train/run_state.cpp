// Moving a replica and the parts of its run into and out of checkpoints.
#include "lockstep/train/run_state.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <deque>
#include <span>
#include <string_view>

#include "lockstep/checkpoint/checkpoint.h"
#include "lockstep/core/error.h"
#include "lockstep/optim/parameter_groups.h"
#include "lockstep/optim/slot_layout.h"
#include "lockstep/train/agreement.h"
#include "lockstep/train/plan_agreement.h"

namespace lockstep {

namespace {

// Bytes of an array that are copied to the host at a time, to be digested.
constexpr int64_t kDigestedBytes = int64_t{4} << 20;

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
    add_parameters(add({replica.parameters_of_state(), {}}), "/parameters/", store);
    add_statistics(add({replica.statistics_of_state(), {}}), "/statistics/", store);
    replicated_ = parts_.size();
    slots_ = replica.optimizer->slots();
    for (const OptimizerSlot& slot : slots_) {
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
  const std::vector<OptimizerSlot>& slots() const { return slots_; }
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
  std::vector<OptimizerSlot> slots_;
  std::vector<StatePart> parts_;
  size_t replicated_ = 0;
};

StateArray description_of(const StatePart& part) {
  return {part.path, part.array->values.dtype(), part.shape, {}};
}

void copy(const StatePart& part, std::vector<std::byte>& bytes) {
  const Tensor values = part.view();
  if (values.elements() > 0) values.backend().copy_to_host(bytes.data(), values.data(), part.bytes());
}

// The same without a copy of it all, while the part stays as it is.
StateArray reference_to(const StatePart& part) {
  StateArray array = description_of(part);
  array.elsewhere = [values = part.view(), bytes = part.bytes()](std::vector<std::byte>& room) {
    if (&values.backend() == &cpu_backend())
      return std::span(static_cast<const std::byte*>(values.data()), bytes);
    if (room.size() < bytes) room.resize(bytes);
    if (bytes > 0) values.backend().copy_to_host(room.data(), values.data(), bytes);
    return std::span<const std::byte>(room).first(bytes);
  };
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

// In fp64, which holds every number of fp32.
void widen(StateArray& array) {
  if (array.dtype != DType::kF32) return;
  std::vector<float> narrow(array.bytes.size() / sizeof(float));
  std::memcpy(narrow.data(), array.bytes.data(), array.bytes.size());
  const std::vector<double> wide(narrow.begin(), narrow.end());
  array.bytes.resize(wide.size() * sizeof(double));
  std::memcpy(array.bytes.data(), wide.data(), array.bytes.size());
  array.dtype = DType::kF64;
}

// From worker 0 to all.
void broadcast_array(const StatePart& part, const State& found, Communicator& communicator) {
  std::vector<std::byte> bytes;
  if (communicator.rank() == 0) bytes = find_array(found, part.path)->bytes;
  bytes.resize(part.bytes());
  if (!bytes.empty()) communicator.broadcast(bytes.data(), bytes.size(), 0, part.path)->wait();
  load(part, bytes);
}

// A scalar of the checkpoint at `path`, or of the run that is to go on from it.
Scalar value_of(const State& state, const std::string& name, const std::string& path) {
  const auto it = state.scalars.find(name);
  if (it != state.scalars.end()) return it->second;
  if (name == "/optimizer/overlap") return int64_t{0};
  fail(ErrorKind::kCheckpoint, fmt::format("{}: has no {}", path, name));
}

void require_same(const std::string& name, const State& expected, const State& found,
                  const std::string& path) {
  const Scalar was = value_of(found, name, path), is = value_of(expected, name, path);
  if (was == is) return;
  fail(ErrorKind::kCheckpoint,
       fmt::format("{}: {}: the checkpoint has {}, this run has {}; a resumed run must keep it", path,
                   name.substr(1), text_of(was), text_of(is)));
}

}  // namespace

void put_numbers(State& state, const std::string& group, const std::map<std::string, double>& values) {
  for (const auto& [name, value] : values) state.scalars[group + name] = value;
}

std::map<std::string, double> take_numbers(const State& state, const std::string& group,
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

RunState::RunState(Replica& replica, const RunPlan& plan, std::string data_digest, std::string configuration,
                   std::vector<Checkpointed*> parts)
    : replica_(replica),
      plan_(plan),
      data_digest_(std::move(data_digest)),
      configuration_(std::move(configuration)),
      parts_(std::move(parts)) {}

State RunState::describe(int64_t step) const {
  State state;
  const StateLayout layout(replica_);
  for (const StatePart& part : layout.parts()) state.arrays.push_back(description_of(part));
  plan_.describe(step, state);
  state.scalars["/data/digest"] = data_digest_;
  state.scalars["/optimizer/type"] = replica_.optimizer->type();
  state.scalars["/optimizer/updates"] = replica_.optimizer->updates();
  if (replica_.average) state.scalars["/average/type"] = name_of(replica_.average->settings().type);
  for (const Checkpointed* part : parts_) part->describe(state);
  state.configuration = configuration_;
  return state;
}

int64_t RunState::bytes() const {
  size_t all = 0;
  for (const StateLayout layout(replica_); const StatePart& part : layout.parts()) all += part.bytes();
  return static_cast<int64_t>(all);
}

int64_t RunState::snapshot_bytes() const {
  size_t largest = 0;
  for (const StateLayout layout(replica_); const StatePart& part : layout.parts())
    largest = std::max(largest, part.bytes());
  return bytes() + static_cast<int64_t>(largest);
}

State RunState::capture(int64_t step, Snapshot kind, State room) const {
  State state = describe(step);
  state.plans = plans_of_run(replica_.store.backend().plans());
  const StateLayout layout(replica_);
  const bool everywhere = kind == Snapshot::kOnEveryWorker;
  const bool collects = everywhere || replica_.shards->collects();
  for (size_t i = 0; i < layout.parts().size(); ++i) {
    const StatePart& part = layout.parts()[i];
    StateArray& array = state.arrays[i];
    if (i < room.arrays.size()) array.bytes = std::move(room.arrays[i].bytes);
    const bool shared = !part.array->shares.empty();
    if (kind == Snapshot::kInPlace && collects && !shared) {
      array = reference_to(part);
      continue;
    }
    if (collects) array.bytes.resize(part.bytes());
    if (shared) {
      replica_.shards->collect(part.array->shares, part.array->values, part.range(), array.bytes.data(),
                               part.path, everywhere);
    } else if (collects) {
      copy(part, array.bytes);
    }
  }
  return state;
}

std::string RunState::digest(int64_t step, bool whole) const {
  const State state = describe(step);
  const StateLayout layout(replica_);
  const std::span<const StatePart> parts = whole ? std::span(layout.parts()) : layout.replicated();
  StateDigest digest(parts.size());
  std::vector<std::byte> room;
  for (size_t i = 0; i < parts.size(); ++i) {
    const StatePart& part = parts[i];
    const Tensor& values = part.array->values;
    const auto size = static_cast<int64_t>(size_of(values.dtype()));
    digest.begin(state.arrays[i]);
    const ElementRange all = part.range();
    for (int64_t begin = all.begin; begin < all.end; begin += kDigestedBytes / size) {
      const ElementRange piece{begin, std::min(all.end, begin + kDigestedBytes / size)};
      room.resize(static_cast<size_t>(piece.size() * size));
      if (part.array->shares.empty()) {
        const auto* const bytes = static_cast<const std::byte*>(values.data()) + begin * size;
        values.backend().copy_to_host(room.data(), bytes, room.size());
      } else {
        replica_.shards->collect(part.array->shares, values, piece, room.data(), part.path);
      }
      digest.add(room);
    }
  }
  return digest.end(state.scalars);
}

std::string RunState::replicated_digest(int64_t step) const {
  return digest(step, replica_.shards->workers() == 1);
}

void RunState::require_fit(const State& found, const std::string& path) const {
  const State expected = describe(0);
  // An overlap has tensors of its own.
  if (value_of(found, "/optimizer/type", path) == value_of(expected, "/optimizer/type", path)) {
    require_same("/optimizer/overlap", expected, found, path);
  }
  check_matches(expected, found, path);
}

int64_t RunState::restore(const State& found, const std::string& path) {
  require_fit(found, path);
  const State expected = describe(0);
  const bool older = found.version < 2;
  if (older && (plan_.sampler.shuffle || plan_.validation_fraction != 0.0)) {
    fail(ErrorKind::kCheckpoint,
         fmt::format("{}: checkpoint format {}: the order of samples and the rows held out for validation "
                     "have changed since, so that this run cannot go on with the samples it would have seen; "
                     "it can be evaluated, and a run with data.shuffle = false and "
                     "data.validation_fraction = 0 resumed",
                     path, found.version));
  }
  for (const char* name : {"/rng/algorithm", "/rng/seed", "/train/micro_batches", "/train/micro_batch_size",
                           "/data/samples", "/data/digest", "/data/shuffle", "/data/validation_fraction",
                           "/data/last_batch", "/optimizer/type"}) {
    // The older format has another digest, and no fraction.
    const std::string_view key = name;
    if (older && (key == "/data/digest" || key == "/data/validation_fraction")) continue;
    require_same(name, expected, found, path);
  }
  const int64_t step = integer_of(found, "/train/step", path);
  const int64_t updates = integer_of(found, "/optimizer/updates", path);
  for (Checkpointed* part : parts_) part->restore(found, path);
  replica_.optimizer->set_updates(updates);
  return step;
}

int64_t RunState::distribute(int64_t step, const State& found, const std::string& path,
                             Communicator& communicator) {
  State scalars = describe(step);
  broadcast_scalars(communicator, scalars);
  if (communicator.rank() > 0) step = restore(scalars, path);
  const StateLayout layout(replica_);
  for (const StatePart& part : layout.parts()) {
    if (part.array->shares.empty()) {
      broadcast_array(part, found, communicator);
      continue;
    }
    std::vector<std::byte> bytes;
    if (communicator.rank() == 0) bytes = find_array(found, part.path)->bytes;
    Tensor values = part.array->values;
    replica_.shards->distribute(part.array->shares, values, part.range(), bytes.data(), part.path);
  }
  replica_.optimizer->slots_restored(layout.slots());
  return step;
}

bool has_average(const State& state) {
  return std::ranges::any_of(state.arrays,
                             [](const StateArray& array) { return array.path.starts_with("/average/"); });
}

State weights_of(const State& found, bool averaged) {
  State wanted;
  // A mean of weights has no statistics of its own.
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
  return wanted;
}

void restore_parameters(Replica& replica, const State& found, bool averaged, const std::string& path,
                        Communicator& communicator, const std::vector<std::string>& without) {
  const StateLayout layout(replica);
  // "/parameters/NAME" or "/statistics/NAME"
  const auto stays = [&](const std::string& place) {
    const std::string name = place.substr(place.find('/', 1) + 1);
    return std::ranges::any_of(without,
                               [&](const std::string& pattern) { return matches_pattern(pattern, name); });
  };
  State wanted;
  run_agreed(
      communicator,
      [&] {
        if (communicator.rank() > 0) return;
        State expected;
        for (const StatePart& part : layout.replicated()) {
          if (!stays(part.path)) expected.arrays.push_back(description_of(part));
        }
        wanted = weights_of(found, averaged);
        std::erase_if(wanted.arrays, [&](const StateArray& array) { return stays(array.path); });
        if (replica.store.dtype() == DType::kF64) std::ranges::for_each(wanted.arrays, widen);
        check_matches(expected, wanted, path);
      },
      "weights");
  for (const StatePart& part : layout.replicated()) {
    if (!stays(part.path)) broadcast_array(part, wanted, communicator);
  }
}

}  // namespace lockstep
