// Building a replica, and moving it into and out of checkpoints.
#include "train/replica.h"

#include <fmt/format.h>

#include "checkpoint/checkpoint.h"
#include "core/error.h"

namespace lockstep {

namespace {

StateArray array_of(const std::string& path, const Tensor& values) {
  StateArray array{path, values.dtype(), values.shape(), std::vector<std::byte>(values.bytes())};
  if (values.elements() > 0) values.backend().copy_to_host(array.bytes.data(), values.data(), values.bytes());
  return array;
}

struct NamedTensor {
  std::string path;
  Tensor values;
};

std::vector<NamedTensor> parameter_tensors(const Replica& replica) {
  std::vector<NamedTensor> tensors;
  const ParameterStore& store = replica.store;
  for (size_t i = 0; i < store.parameters().size(); ++i) {
    tensors.push_back({"/parameters/" + store.parameters()[i].name, store.parameter(static_cast<int>(i))});
  }
  for (size_t i = 0; i < store.statistics().size(); ++i) {
    tensors.push_back({"/statistics/" + store.statistics()[i].name, store.statistic(static_cast<int>(i))});
  }
  return tensors;
}

// Everything that a checkpoint holds as arrays, in store order; views into the replica.
std::vector<NamedTensor> state_tensors(Replica& replica) {
  std::vector<NamedTensor> tensors = parameter_tensors(replica);
  for (const OptimizerSlot& slot : replica.optimizer->slots()) {
    const auto push = [&](const std::string& parameter, const Shape& shape, int64_t offset) {
      tensors.push_back(
          {fmt::format("/optimizer/{}/{}", slot.name, parameter), slot.values.view(shape, offset)});
    };
    for (const SlotEntry& entry : slot.entries) push(entry.parameter, entry.shape, entry.offset);
    if (!slot.entries.empty()) continue;
    for (const ParameterEntry& entry : replica.store.parameters())
      push(entry.name, entry.shape, entry.offset);
  }
  return tensors;
}

void load(std::vector<NamedTensor>& tensors, const State& found) {
  for (NamedTensor& tensor : tensors) {
    for (const StateArray& array : found.arrays) {
      if (array.path != tensor.path) continue;
      if (tensor.values.elements() > 0) {
        tensor.values.backend().copy_from_host(tensor.values.mutable_data(), array.bytes.data(),
                                               array.bytes.size());
      }
      break;
    }
  }
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
                 Backend& backend) {
  Section model_section = configuration.section("model");
  model = build_model(model_section, data, ModuleBuilder(store));
  Section optimizer_section = configuration.section("optimizer");
  optimizer = make_optimizer(optimizer_section);
  store.allocate(settings.parameters(), backend, settings.seed);
  optimizer->allocate(store.parameters(), store.parameter_extent(), settings.parameters(), backend);
  segments =
      update_segments(store.parameters(), store.parameter_extent(), settings.decay_biases, settings.groups);
  training = forward_context(store, true);
  training.recompute_every = settings.recompute_every;
}

State capture_state(Replica& replica, const RunSettings& settings, const RunPosition& position,
                    int64_t samples, int64_t micro_batches, const std::string& schedule_type,
                    const std::string& configuration) {
  State state;
  for (const NamedTensor& tensor : state_tensors(replica))
    state.arrays.push_back(array_of(tensor.path, tensor.values));
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
  state.configuration = configuration;
  state.metrics = position.metrics;
  return state;
}

RunPosition restore_state(Replica& replica, const State& expected, const State& found,
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
  const int64_t updates = integer_of(found, "/optimizer/updates", path);
  std::vector<NamedTensor> tensors = state_tensors(replica);
  load(tensors, found);
  replica.optimizer->set_updates(updates);
  return position;
}

void restore_parameters(Replica& replica, const State& found, const std::string& path) {
  std::vector<NamedTensor> tensors = parameter_tensors(replica);
  State expected;
  for (const NamedTensor& tensor : tensors) {
    expected.arrays.push_back({tensor.path, tensor.values.dtype(), tensor.values.shape(), {}});
  }
  State parameters;
  for (const StateArray& array : found.arrays) {
    if (array.path.rfind("/optimizer/", 0) != 0)
      parameters.arrays.push_back({array.path, array.dtype, array.shape, {}});
  }
  check_matches(expected, parameters, path);
  load(tensors, found);
}

}  // namespace lockstep
