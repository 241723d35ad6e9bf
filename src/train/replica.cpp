// Building and updating a replica.
#include "lockstep/train/replica.h"

#include <fmt/format.h>

#include <algorithm>

#include "lockstep/core/error.h"
#include "lockstep/nn/lora.h"
#include "lockstep/optim/layer_curvature.h"
#include "lockstep/tensor/storage.h"
#include "lockstep/train/curved_layers.h"

namespace lockstep {
namespace {

// The exchange of gradients knows each by where it begins.
template <class Entry>
void require_elements(const char* what, const std::vector<Entry>& entries) {
  for (const Entry& entry : entries) {
    if (entry.shape.elements() == 0)
      fail(ErrorKind::kUsage,
           fmt::format("model: {} {} has no elements: shape {}", what, entry.name, entry.shape.to_string()));
  }
}

}  // namespace

Replica::Replica(const TrainingJob& job, const DataShape& data, Backend& backend, Communicator& communicator)
    : alone_(make_self_communicator()) {
  const RunSettings& settings = job.settings;
  if (!job.model) fail(ErrorKind::kUsage, "model: the job has none");
  if (!job.optimizer) fail(ErrorKind::kUsage, "optimizer: the job has none");
  compute = settings.compute;
  if (settings.lora.rank > 0) {
    LoraPlan plan(settings.lora);
    model = job.model(data, ModuleBuilder(store, "", &plan));
    plan.require_fit(store);
  } else {
    model = job.model(data, ModuleBuilder(store));
  }
  if (model == nullptr) fail(ErrorKind::kUsage, "model: the program's function has made none");
  require_elements("parameter", store.parameters());
  require_elements("statistic", store.statistics());
  optimizer = job.optimizer();
  if (optimizer == nullptr) fail(ErrorKind::kUsage, "optimizer: the program's function has made none");
  store.allocate(settings.parameters(), backend, settings.seed);
  training = forward_context(store, true);
  training.recompute_every = settings.recompute == "block" ? std::max<int64_t>(1, settings.recompute_every)
                                                           : settings.recompute_every;
  if (LayerCurvature* const layers = optimizer->layer_curvature(); layers != nullptr)
    layers->set_layers(find_layers(*model, store, data, training), store.parameters());
  const int64_t extent = store.parameter_extent();
  Communicator& sharing = settings.shard_optimizer ? communicator : *alone_;
  std::vector<int64_t> offsets;
  std::vector<double> loads;
  for (size_t i = 0; i < store.parameters().size(); ++i) {
    const ParameterEntry& entry = store.parameters()[i];
    if (optimizer->joins_previous(i)) {
      loads.back() += optimizer->load(entry);
      continue;
    }
    offsets.push_back(entry.offset);
    loads.push_back(optimizer->load(entry));
  }
  const bool whole = optimizer->whole_parameters() || settings.clip.adaptive > 0.0;
  shards = std::make_unique<ParameterShards>(
      sharing, whole ? whole_shares(offsets, extent, sharing.world_size(), loads)
                     : striped_shares(extent, sharing.world_size()));
  const size_t before = allocator_statistics().bytes_in_use;
  optimizer->allocate(store.parameters(), extent, shards->mine(), settings.parameters(), backend);
  optimizer_bytes = allocator_statistics().bytes_in_use - before;
  if (settings.average.type != AverageSettings::Type::kNone) {
    average.emplace(settings.average, store.values(), shards->mine(), store.statistic_values());
  }
  segments = update_segments(store.parameters(), extent, settings.decay_biases, settings.groups);
  if (settings.parameters() != settings.compute)
    lowered.emplace(store, training.parameters, settings.compute);
}

void Replica::freeze(size_t place, const Tensor& values) {
  store.freeze(place, values);
  training.frozen[place] = values;
}

Tensor Replica::parameters_of_state() const {
  if (trained.defined()) return trained;
  const Tensor origin = optimizer->origin();
  return origin.defined() ? origin : store.values();
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

}  // namespace lockstep
