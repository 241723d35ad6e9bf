// Sample order as a pure function of (seed, epoch, position).
#include "lockstep/data/sampler.h"

#include <fmt/format.h>

#include <algorithm>

#include "lockstep/core/error.h"

namespace lockstep {

Sampler::Sampler(const SamplerOptions& options)
    : options_(options), order_(options.seed, RandomPurpose::kShuffle, 0, options.samples) {
  if (options.global_batch < 1) {
    fail(ErrorKind::kUsage,
         fmt::format("sampler: global batch must hold at least one sample: got {}", options.global_batch));
  }
  if (options.samples < 1) fail(ErrorKind::kUsage, "sampler: data set holds no samples");
  if (steps_per_epoch() == 0) {
    fail(ErrorKind::kUsage,
         fmt::format("sampler: a global batch of {} samples does not fit into a data set of {}: "
                     "take smaller batches or last_batch = \"pad\"",
                     options.global_batch, options.samples));
  }
}

int64_t Sampler::steps_per_epoch() const {
  const int64_t whole = options_.samples / options_.global_batch;
  const bool remainder = options_.samples % options_.global_batch != 0;
  return whole + (options_.last_batch == LastBatch::kPad && remainder ? 1 : 0);
}

GlobalBatch Sampler::batch(int64_t step) {
  GlobalBatch result;
  batch(step, 0, options_.global_batch, result);
  return result;
}

void Sampler::batch(int64_t step, int64_t first, int64_t count, GlobalBatch& batch) {
  if (step < 0) fail(ErrorKind::kInternal, fmt::format("sampler: step must not be negative: got {}", step));
  batch.epoch = step / steps_per_epoch();
  batch.position = step % steps_per_epoch();
  const int64_t start = batch.position * options_.global_batch;
  batch.valid = std::min(options_.global_batch, options_.samples - start);
  batch.samples.resize(static_cast<size_t>(count));
  if (!options_.shuffle) {
    for (int64_t i = 0; i < count; ++i)
      batch.samples[static_cast<size_t>(i)] = (start + first + i) % options_.samples;
    return;
  }
  if (epoch_ != batch.epoch) {
    order_ = Permutation(options_.seed, RandomPurpose::kShuffle, batch.epoch, options_.samples);
    epoch_ = batch.epoch;
  }
  order_.rows(start + first, batch.samples);
}

}  // namespace lockstep
