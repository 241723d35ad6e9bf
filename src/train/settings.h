// What the configuration says about a run, apart from the keys that models, optimizers and schedules read
// themselves.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lockstep/core/configuration.h"
#include "lockstep/core/dtype.h"
#include "lockstep/data/dataset.h"
#include "lockstep/data/sampler.h"
#include "lockstep/nn/lora.h"
#include "lockstep/optim/clip.h"
#include "lockstep/optim/loss_scaler.h"
#include "lockstep/optim/parameter_groups.h"
#include "lockstep/optim/weight_average.h"
#include "lockstep/parallel/gradient_exchange.h"
#include "lockstep/train/objective_options.h"
#include "lockstep/train/outlier_guard.h"

namespace lockstep {

// Random counters hold the step in 32 bits.
inline constexpr double kMostSteps = 4294967295.0;

struct RunSettings {
  // [run]
  std::string name = "run";
  uint64_t seed = 0;
  std::string output = "runs/run";
  double most_minutes = 0.0;  // 0: no limit
  // [data]
  DatasetOptions train_data;
  DatasetOptions validation_data;  // path empty: none, or split off by validation_fraction
  double validation_fraction = 0.0;
  bool normalize = false;  // features less their mean, divided by their deviation
  bool shuffle = true;
  LastBatch last_batch = LastBatch::kDrop;
  int64_t prefetch = 2;
  // [train]
  int64_t steps = 0;  // 0: given by epochs
  int64_t epochs = 0;
  int64_t micro_batches = 0;  // 0: 1, or the whole data set for full-batch optimizers
  int64_t micro_batch_size = 32;
  int64_t batch_tokens = 0;        // of a global batch of text, in place of micro_batches; 0: given by these
  double peak_tflops = 0.0;        // of a worker's device, what MFU is a share of; 0: that of a known one
  std::string recompute = "none";  // "cheap": of products' operands what norms and activations give; "block"
  int64_t recompute_every = 0;     // "block": layers of a run, 0 as 1
  size_t linearization_bytes = size_t{1} << 30;
  int64_t log_every = 10;
  int64_t evaluate_every = 0;
  std::string loss = "auto";
  double l2 = 0.0;
  ObjectiveOptions objective;
  std::string initial_weights;  // a checkpoint, what open_weights() takes, or empty: drawn
  std::vector<std::string> initial_weights_without, initial_weights_differ;
  std::string initial_adapter;  // a directory of PEFT, or empty: adapters are drawn
  // [lora]
  LoraOptions lora;
  // [optimizer]
  double learning_rate = 1e-3;
  bool decay_biases = true;
  std::vector<ParameterGroup> groups;
  // [clip]
  ClipSettings clip;
  // [average]
  AverageSettings average;
  // [precision]
  DType compute = DType::kF32;  // of matrix products and the activations between them
  DType parameters() const {
    return accumulation_type(compute);
  }  // and of gradients, statistics and optimizer state
  LossScaleSettings loss_scale;
  // [guard]
  GuardSettings guard;
  // [parallel]
  ReductionMode reduction = ReductionMode::kLockstep;
  int64_t bucket_bytes = 25 << 20;
  bool shard_optimizer = false;
  int64_t digest_every = 0;
  double timeout_seconds = 600.0;
  double start_timeout_seconds = 600.0;
  double set_up_timeout_seconds = 3600.0;
  bool share_gpu = false;
  std::string gpu_transport = "auto";  // auto, nccl, host
  // [checkpoint]
  int64_t checkpoint_every = 0;
  double checkpoint_every_minutes = 0.0;
  int64_t keep = 3;
  int64_t keep_every = 0;
  std::string
      keep_best;  // what of evaluations decides: "validation_loss", "validation_accuracy"; "": nothing
  double save_timeout_seconds = 3600.0;
  std::string after_save;  // a command with {} for the path
  bool recovery_point = false;
  int64_t replicas = 0;  // other hosts that get a copy of each checkpoint
  // [metrics]
  bool tensorboard = false;
  // [device]
  std::string device = "auto";  // auto, cpu, cuda
  bool cudnn = true;            // where there is one
  int64_t threads = 1;
  bool cuda_graph = false;
  bool tune = false;
};

// Reads every key above; Error (kUsage) for bad values and combinations.
RunSettings read_settings(Configuration& configuration);

// Every key of every section with the keys of every model, optimizer and schedule type: what `lockstep config
// --describe` shows.
std::vector<KeyDescription> described_keys();

}  // namespace lockstep
