// Which samples make up a global batch: a function of (seed, epoch, position), computed without replaying
// history.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace lockstep {

enum class LastBatch { kDrop, kPad };

struct SamplerOptions {
  int64_t samples = 0;
  int64_t global_batch = 0;
  uint64_t seed = 0;
  bool shuffle = true;
  LastBatch last_batch = LastBatch::kDrop;
};

// The samples of one global batch. With kPad the last batch of an epoch is filled up with samples from the
// epoch's start; only the first `valid` count in the loss.
struct GlobalBatch {
  int64_t epoch = 0;
  int64_t position = 0;          // number of the batch in its epoch
  std::vector<int64_t> samples;  // global_batch rows of the data set
  int64_t valid = 0;
};

class Sampler {
 public:
  // Error (kUsage) when an epoch would hold no batch: no samples, or (kDrop) fewer than one global batch.
  explicit Sampler(const SamplerOptions& options);
  int64_t steps_per_epoch() const;
  // The batch of a step (0-based, over the whole run). Caches the epoch's permutation. Error (kInternal) when
  // step < 0.
  GlobalBatch batch(int64_t step);
  // The same into an existing batch, whose memory is reused.
  void batch(int64_t step, GlobalBatch& batch);
  // The permutation of an epoch: Fisher-Yates driven by Philox keyed by (seed, kShuffle), counter (position,
  // epoch).
  static std::vector<int64_t> permutation(uint64_t seed, int64_t epoch, int64_t samples);

 private:
  SamplerOptions options_;
  int64_t cached_epoch_ = -1;
  std::vector<int64_t> permutation_;
};

// Rows of [0, n) split into (train, validation) by a permutation keyed by (seed, kSplit); each part in
// ascending order. Validation gets n * fraction rows, rounded to nearest. Error (kUsage) when the fraction is
// not in [0, 1), or is positive and leaves one of the parts empty.
struct Split {
  std::vector<int64_t> train, validation;
};
Split split_rows(int64_t n, double validation_fraction, uint64_t seed);

}  // namespace lockstep
