// A small run without processes: a replica of a few parameters and its batches, for tests of the trainer's
// parts.
#pragma once

#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "device.h"
#include "lockstep/core/philox.h"
#include "lockstep/train/gradient_pass.h"
#include "lockstep/train/objective.h"
#include "lockstep/train/replica.h"
#include "lockstep/train/run_plan.h"

namespace lockstep::testing {

// Reproducible values in [-1, 1).
inline std::vector<double> values_of(int64_t count, uint32_t stream) {
  std::vector<double> values(static_cast<size_t>(count));
  const PhiloxKey key = philox_key(11, RandomPurpose::kTest);
  for (size_t i = 0; i < values.size(); ++i) {
    const PhiloxBlock block = philox(key, {static_cast<uint32_t>(i), stream, 0, 0});
    values[i] = 2.0 * uniform_double(block.r[0], block.r[1]) - 1.0;
  }
  return values;
}

struct SmallRunOptions {
  std::string model = "type = \"mlp\"\nhidden = [5]\nactivation = \"tanh\"\n";
  std::string optimizer = "type = \"sgd\"\n";
  DataShape data{{4}, DType::kF32, 3};
  int64_t micro_batches = 4, micro_batch_size = 3;
  int64_t overlap = 0;        // of micro-batches
  RunSettings settings = {};  // compute, clip, guard, ...
};

// Samples with inputs in [-1, 1) and labels (or targets), the same for every worker.
class SmallRun {
 public:
  SmallRun(const SmallRunOptions& options, Communicator& communicator)
      : configuration_(Configuration::parse("[model]\n" + options.model + "[optimizer]\n" + options.optimizer,
                                            "test.toml", {})),
        settings_(options.settings),
        data_(options.data) {
    settings_.micro_batches = options.micro_batches;
    settings_.micro_batch_size = options.micro_batch_size;
    settings_.steps = 100;
    settings_.bucket_bytes = 64;  // several buckets
    replica = std::make_unique<Replica>(read_training_job(configuration_, settings_), data_, test_backend(),
                                        communicator);
    // Batches that share something are not all there is.
    const int64_t distinct = options.micro_batches + (options.overlap > 0 ? 1 : 0);
    plan = plan_run(settings_, distinct * options.micro_batch_size, false, "", 0, options.overlap);
    owned = plan.owned(communicator.rank(), communicator.world_size());
    objective.emplace("auto", data_, settings_.parameters(), test_backend(), settings_.objective);
    pass.emplace(*replica, *objective, plan, settings_, communicator);
  }

  const RunSettings& settings() const { return settings_; }

  // Micro-batch m of the global batch `step`. weights: of its targets; empty: all count.
  Batch batch(int64_t m, int64_t step = 0, const std::vector<double>& weights = {}) const {
    const int64_t size = plan.micro_batch_size, width = data_.sample.elements();
    const auto stream = static_cast<uint32_t>(1000 * step + m);
    const DType dtype = settings_.parameters();
    const auto floating = [&](const Shape& shape, const std::vector<double>& values) {
      return Tensor::from(shape, values, test_backend()).converted(dtype);
    };
    Batch result;
    result.number = m;
    result.valid = size;
    result.tensors.set(kInputsName, floating({size, width}, values_of(size * width, stream)));
    const Shape shape = objective->loss_shape(size);
    const std::vector<double> draws = values_of(shape.elements() * data_.targets, stream + 500);
    if (data_.classes > 0) {
      std::vector<int32_t> labels;
      for (int64_t i = 0; i < shape.elements(); ++i) {
        const double draw = draws[static_cast<size_t>(i)];
        labels.push_back(static_cast<int32_t>((0.5 * draw + 0.5) * static_cast<double>(data_.classes)));
      }
      result.tensors.set(kTargetsName, Tensor::from(shape, labels, test_backend()));
    } else {
      result.tensors.set(kTargetsName, floating({size, data_.targets}, draws));
    }
    if (!weights.empty()) result.tensors.set(kWeightsName, floating(shape, weights));
    return result;
  }

  // This worker's part of a global batch.
  void set_batch(int64_t step = 0) {
    batches.clear();
    for (int64_t m = owned.begin; m < owned.end; ++m) batches.push_back(batch(m, step));
    pass->set_batch(batches, step);
  }

  std::vector<double> parameters() const { return replica->store.values().to_vector<double>(); }
  void set_parameters(const std::vector<double>& values) {
    Tensor store = replica->store.values();
    store.assign(Tensor::from(store.shape(), values, test_backend()).converted(store.dtype()));
  }

  std::unique_ptr<Replica> replica;
  RunPlan plan;
  MicroBatchRange owned;
  std::optional<Objective> objective;
  std::optional<GradientPass> pass;
  std::vector<Batch> batches;

 private:
  Configuration configuration_;
  RunSettings settings_;
  DataShape data_;
};

}  // namespace lockstep::testing
