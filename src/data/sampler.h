// Which samples make up a global batch: a function of (seed, epoch, position), computed without replaying
// history and without an array of the order.
#pragma once

#include <cstdint>
#include <vector>

#include "lockstep/data/permutation.h"

namespace lockstep {

enum class LastBatch { kDrop, kPad };

struct SamplerOptions {
  int64_t samples = 0;
  int64_t global_batch = 0;
  uint64_t seed = 0;
  bool shuffle = true;
  LastBatch last_batch = LastBatch::kDrop;
};

// Samples of one global batch. With kPad the last batch of an epoch is filled up with samples from the
// epoch's start; only the first `valid` of the whole batch count in the loss.
struct GlobalBatch {
  int64_t epoch = 0;
  int64_t position = 0;          // number of the batch in its epoch
  std::vector<int64_t> samples;  // rows of the data set
  int64_t valid = 0;
};

class Sampler {
 public:
  // Error (kUsage) when an epoch would hold no batch: no samples, or (kDrop) fewer than one global batch.
  explicit Sampler(const SamplerOptions& options);
  int64_t steps_per_epoch() const;
  // The batch of a step (0-based, over the whole run). Error (kInternal) when step < 0.
  GlobalBatch batch(int64_t step);
  // The `count` samples from `first` on of that batch, into an existing one, whose memory is reused.
  void batch(int64_t step, int64_t first, int64_t count, GlobalBatch& batch);

 private:
  SamplerOptions options_;
  int64_t epoch_ = -1;  // whose order this is:
  Permutation order_;
};

}  // namespace lockstep
