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
  if (options.overlap < 0 || 2 * options.overlap > options.global_batch) {
    fail(ErrorKind::kInternal, fmt::format("sampler: an overlap must be from 0 to half a batch of {}: got {}",
                                           options.global_batch, options.overlap));
  }
  if (steps_per_epoch() == 0) {
    fail(ErrorKind::kUsage,
         fmt::format("sampler: a global batch of {} samples{} does not fit into a data set of {}: "
                     "take smaller batches or last_batch = \"pad\"",
                     options.global_batch,
                     options.overlap > 0 ? fmt::format(", {} of the next one's aside,", options.overlap) : "",
                     options.samples));
  }
}

int64_t Sampler::steps_per_epoch() const {
  const int64_t whole = options_.samples / options_.stride();
  const bool remainder = options_.samples % options_.stride() != 0;
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
  batch.valid = valid(step, 0, options_.global_batch);
  batch.samples.resize(static_cast<size_t>(count));
  for_epochs(step, first, count, [&](int64_t epoch, int64_t start, int64_t offset, int64_t samples) {
    const std::span<int64_t> rows =
        std::span(batch.samples).subspan(static_cast<size_t>(offset), static_cast<size_t>(samples));
    if (!options_.shuffle) {
      for (int64_t& row : rows) row = start++ % options_.samples;
      return;
    }
    if (epoch_ != epoch) {
      order_ = Permutation(options_.seed, RandomPurpose::kShuffle, epoch, options_.samples);
      epoch_ = epoch;
    }
    order_.rows(start, rows);
  });
}

int64_t Sampler::valid(int64_t step, int64_t first, int64_t count) const {
  int64_t result = 0;
  for_epochs(step, first, count, [&](int64_t, int64_t start, int64_t, int64_t samples) {
    result += std::clamp<int64_t>(options_.samples - start, 0, samples);
  });
  return result;
}

template <class Part>
void Sampler::for_epochs(int64_t step, int64_t first, int64_t count, const Part& part) const {
  const int64_t steps = steps_per_epoch(), length = steps * options_.stride();
  int64_t epoch = step / steps, start = step % steps * options_.stride() + first;
  for (int64_t offset = 0; offset < count;) {
    epoch += start / length;
    start %= length;
    const int64_t samples = std::min(count - offset, length - start);
    part(epoch, start, offset, samples);
    offset += samples;
    start += samples;
  }
}

}  // namespace lockstep
