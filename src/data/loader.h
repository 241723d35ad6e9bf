// Micro-batches in host memory, gathered ahead of time by a background thread.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "lockstep/data/data_source.h"
#include "lockstep/data/sampler.h"

namespace lockstep {

// One micro-batch: micro_batch_size samples, rows copied out of the data set one behind the other. Of the
// four arrays those are filled that the data set has.
struct MicroBatch {
  int64_t number = 0;  // its number in the global batch
  int64_t size = 0;    // micro_batch_size
  int64_t valid = 0;   // samples that count; the rest is padding at the end
  std::vector<float> inputs_f32;
  std::vector<int32_t> inputs_i32;
  std::vector<int32_t> labels;
  std::vector<float> targets;

  // Makes room for `samples` samples of a source.
  void resize(int64_t samples, const DataDescription& description);
  SampleBuffers buffers();
};

struct StepBatch {
  int64_t step = 0, epoch = 0, position = 0;
  int64_t valid = 0;                      // of the whole global batch
  std::vector<MicroBatch> micro_batches;  // those that this worker owns
};

// Gathers the worker's micro-batches of consecutive steps in a background thread, at least `depth` steps
// ahead: small steps are gathered further ahead (a fixed amount of memory), so that short training steps
// rarely have to wake the thread. After construction nothing is allocated.
class Loader {
 public:
  // The micro-batches [first_micro_batch, last_micro_batch) of the global batches from first_step on. The
  // source must outlive the loader. Where it waits for a disk, the rows of coming steps are asked for ahead.
  // Errors: kUsage as Sampler, and when global_batch is no multiple of micro_batch_size; kInternal when the
  // range or the number of samples does not fit.
  Loader(const DataSource& source, const SamplerOptions& sampler, int64_t micro_batch_size,
         int64_t first_micro_batch, int64_t last_micro_batch, int64_t first_step, int64_t depth = 2);
  ~Loader();
  // The batch of the next step, in order. Rethrows what the background thread threw. The reference stays
  // valid until the following call; buffers are reused.
  const StepBatch& next();
  int64_t steps_per_epoch() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lockstep
