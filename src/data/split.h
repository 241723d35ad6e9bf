// Which rows of a data set are held out for validation.
#pragma once

#include <cstdint>

#include "lockstep/core/philox.h"

namespace lockstep {

// Rows of [0, n) in two parts, computed row by row. The smaller part takes one random row of each of as many
// equal strata of the file, the other part the rest: a stratified sample, in which every row has the same
// chance (to one row in the size of a stratum). Both parts keep the order of the file.
class Split {
 public:
  // Validation gets n * validation_fraction rows, rounded to nearest. Error (kUsage) when the fraction is not
  // in [0, 1), or is positive and leaves one of the parts empty; (kInternal) when n is not in [0, 2^62).
  Split(int64_t n, double validation_fraction, uint64_t seed);

  int64_t train_size() const { return n_ - validation_; }
  int64_t validation_size() const { return validation_; }
  // The i-th row of a part, i in [0, its size).
  int64_t train_row(int64_t i) const { return validation_is_picked() ? other_row(i) : picked_row(i); }
  int64_t validation_row(int64_t i) const { return validation_is_picked() ? picked_row(i) : other_row(i); }

 private:
  bool validation_is_picked() const { return strata_ == validation_; }
  int64_t stratum_begin(int64_t stratum) const;
  int64_t picked_row(int64_t stratum) const;
  int64_t other_row(int64_t i) const;

  int64_t n_, validation_ = 0;
  int64_t strata_ = 0;  // the size of the smaller part
  uint64_t key_;
};

}  // namespace lockstep
