// Sample order as a pure function of (seed, epoch, position).
#include "data/sampler.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "core/error.h"
#include "core/philox.h"

namespace lockstep {

namespace {

// x uniform in [0, 2^64) to [0, bound): the high word of the product (Lemire, "Fast random integer generation
// in an interval", 2019) without the rejection step; the bias is below bound / 2^64, and every draw costs the
// same.
int64_t scale_to(uint64_t x, int64_t bound) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<int64_t>((static_cast<Wide>(x) * static_cast<uint64_t>(bound)) >> 64);
}

// Fisher-Yates from the end. One Philox block holds two 64-bit draws, so block i / 2 serves positions i and i
// - 1; its counter is (i / 2, stream), each as two words.
void shuffle_rows(PhiloxKey key, int64_t stream, int64_t n, std::vector<int64_t>& rows) {
  rows.resize(static_cast<size_t>(n));
  std::iota(rows.begin(), rows.end(), int64_t{0});
  const auto low = [](int64_t value) { return static_cast<uint32_t>(value); };
  const auto high = [](int64_t value) { return static_cast<uint32_t>(static_cast<uint64_t>(value) >> 32); };
  PhiloxBlock block{};
  int64_t drawn = -1;
  for (int64_t i = n - 1; i > 0; --i) {
    if (i / 2 != drawn) {
      drawn = i / 2;
      block = philox(key, {low(drawn), high(drawn), low(stream), high(stream)});
    }
    const size_t word = (i % 2 == 0) ? 0 : 2;
    const uint64_t draw = (static_cast<uint64_t>(block.r[word]) << 32) | block.r[word + 1];
    std::swap(rows[static_cast<size_t>(i)], rows[static_cast<size_t>(scale_to(draw, i + 1))]);
  }
}

}  // namespace

Sampler::Sampler(const SamplerOptions& options) : options_(options) {
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
  batch(step, result);
  return result;
}

void Sampler::batch(int64_t step, GlobalBatch& batch) {
  if (step < 0) fail(ErrorKind::kInternal, fmt::format("sampler: step must not be negative: got {}", step));
  batch.epoch = step / steps_per_epoch();
  batch.position = step % steps_per_epoch();
  const int64_t first = batch.position * options_.global_batch;
  batch.valid = std::min(options_.global_batch, options_.samples - first);
  batch.samples.resize(static_cast<size_t>(options_.global_batch));
  if (!options_.shuffle) {
    for (int64_t i = 0; i < options_.global_batch; ++i) {
      batch.samples[static_cast<size_t>(i)] = (first + i) % options_.samples;
    }
    return;
  }
  if (cached_epoch_ != batch.epoch) {
    shuffle_rows(philox_key(options_.seed, RandomPurpose::kShuffle), batch.epoch, options_.samples,
                 permutation_);
    cached_epoch_ = batch.epoch;
  }
  for (int64_t i = 0; i < options_.global_batch; ++i) {
    batch.samples[static_cast<size_t>(i)] = permutation_[static_cast<size_t>((first + i) % options_.samples)];
  }
}

std::vector<int64_t> Sampler::permutation(uint64_t seed, int64_t epoch, int64_t samples) {
  std::vector<int64_t> rows;
  shuffle_rows(philox_key(seed, RandomPurpose::kShuffle), epoch, samples, rows);
  return rows;
}

Split split_rows(int64_t n, double validation_fraction, uint64_t seed) {
  if (!(validation_fraction >= 0.0 && validation_fraction < 1.0)) {
    fail(ErrorKind::kUsage,
         fmt::format("split: validation fraction must be in [0, 1): got {}", validation_fraction));
  }
  const int64_t held_out = std::llround(static_cast<double>(n) * validation_fraction);
  if (validation_fraction > 0.0 && (held_out == 0 || held_out == n)) {
    fail(ErrorKind::kUsage,
         fmt::format("split: a validation fraction of {} leaves a part of {} samples empty",
                     validation_fraction, n));
  }
  std::vector<int64_t> rows;
  shuffle_rows(philox_key(seed, RandomPurpose::kSplit), 0, n, rows);
  Split split;
  split.validation.assign(rows.begin(), rows.begin() + held_out);
  split.train.assign(rows.begin() + held_out, rows.end());
  std::sort(split.validation.begin(), split.validation.end());
  std::sort(split.train.begin(), split.train.end());
  return split;
}

}  // namespace lockstep
