// One row of each stratum, and the rest.
#include "lockstep/data/split.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "lockstep/core/error.h"

namespace lockstep {

namespace {

__extension__ using Wide = unsigned __int128;

// a * b / c of non-negative numbers, the result below 2^63. It is asked for several times a row: division of
// wide numbers is a loop, and few products need it.
int64_t scaled(int64_t a, int64_t b, int64_t c) {
  uint64_t product = 0;
  if (!__builtin_mul_overflow(static_cast<uint64_t>(a), static_cast<uint64_t>(b), &product))
    return static_cast<int64_t>(product / static_cast<uint64_t>(c));
  return static_cast<int64_t>(static_cast<Wide>(a) * static_cast<Wide>(b) / static_cast<Wide>(c));
}

// The row of [begin, end) that the stratum gives to validation.
int64_t picked(uint64_t key, int64_t stratum, int64_t begin, int64_t end) {
  const uint64_t draw = mix64(key + static_cast<uint64_t>(stratum) * 0x9E3779B97F4A7C15ull);
  return begin + static_cast<int64_t>((static_cast<Wide>(draw) * static_cast<uint64_t>(end - begin)) >> 64);
}

}  // namespace

Split::Split(int64_t n, double validation_fraction, uint64_t seed) : n_(n) {
  if (n < 0 || n >= int64_t{1} << 62)
    fail(ErrorKind::kInternal, fmt::format("split: n must be in [0, 2^62): got {}", n));
  if (!(validation_fraction >= 0.0 && validation_fraction < 1.0)) {
    fail(ErrorKind::kUsage,
         fmt::format("split: validation fraction must be in [0, 1): got {}", validation_fraction));
  }
  validation_ = std::llround(static_cast<double>(n) * validation_fraction);
  if (validation_fraction > 0.0 && (validation_ <= 0 || validation_ >= n)) {
    fail(ErrorKind::kUsage,
         fmt::format("split: a validation fraction of {} leaves a part of {} samples empty",
                     validation_fraction, n));
  }
  strata_ = std::min(validation_, n - validation_);
  const PhiloxKey key = philox_key(seed, RandomPurpose::kSplit);
  key_ = (static_cast<uint64_t>(key.k1) << 32) | key.k0;
}

int64_t Split::stratum_begin(int64_t stratum) const {
  return scaled(n_, stratum, strata_);
}

int64_t Split::picked_row(int64_t stratum) const {
  return picked(key_, stratum, stratum_begin(stratum), stratum_begin(stratum + 1));
}

int64_t Split::other_row(int64_t i) const {
  if (strata_ == 0) return i;
  // `begin - stratum` others stand before a stratum.
  int64_t stratum = scaled(i, strata_, n_ - strata_);
  int64_t begin = stratum_begin(stratum), end = stratum_begin(stratum + 1);
  while (stratum > 0 && begin - stratum > i) {
    end = begin;
    begin = stratum_begin(--stratum);
  }
  while (stratum + 1 < strata_ && end - (stratum + 1) <= i) {
    begin = end;
    end = stratum_begin(++stratum + 1);
  }
  const int64_t row = i + stratum;
  return row >= picked(key_, stratum, begin, end) ? row + 1 : row;
}

}  // namespace lockstep
