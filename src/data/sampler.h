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
  // Samples that consecutive batches share, at most half a batch: the last ones of a batch are the first ones
  // of the next. An epoch's order is cut into pieces of global_batch - overlap samples, as without overlap
  // into batches (the last one is dropped or filled up when it is short); a batch is a piece and, behind it,
  // the first `overlap` samples of the next, which at an epoch's end is the next epoch's. So a sample is in
  // two batches where it is among the first `overlap` of its piece, else in one; those of the run's first
  // piece are in one.
  int64_t overlap = 0;

  // Samples from the beginning of a batch to that of the next: a piece.
  int64_t stride() const { return global_batch - overlap; }
};

// Samples of one global batch. With kPad the last batch of an epoch is filled up with samples from the
// epoch's start, which count nothing in the loss.
struct GlobalBatch {
  int64_t epoch = 0;
  int64_t position = 0;          // number of the batch in its epoch
  std::vector<int64_t> samples;  // rows of the data set
  int64_t valid = 0;             // how many of the whole batch count
};

class Sampler {
 public:
  // Errors: kUsage when an epoch would hold no batch: no samples, or (kDrop) fewer than one piece; kInternal
  // when the overlap is none of 0 to half a batch.
  explicit Sampler(const SamplerOptions& options);
  int64_t steps_per_epoch() const;
  // The batch of a step (0-based, over the whole run). Error (kInternal) when step < 0.
  GlobalBatch batch(int64_t step);
  // The `count` samples from `first` on of that batch, into an existing one, whose memory is reused.
  void batch(int64_t step, int64_t first, int64_t count, GlobalBatch& batch);
  // How many of the `count` samples from `first` on of that batch count: the first ones of them, unless they
  // are of two epochs.
  int64_t valid(int64_t step, int64_t first, int64_t count) const;

 private:
  // Calls part(epoch, position in its order, offset from `first`, samples) for what samples of a batch are of
  // one epoch.
  template <class Part>
  void for_epochs(int64_t step, int64_t first, int64_t count, const Part& part) const;

  SamplerOptions options_;
  int64_t epoch_ = -1;  // whose order this is:
  Permutation order_;
};

}  // namespace lockstep
