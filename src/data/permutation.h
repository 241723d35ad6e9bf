// A random order of [0, n) that is computed, not stored: a keyed bijection.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "lockstep/core/philox.h"

namespace lockstep {

// The numbers are laid out on a grid of about sqrt(n) by sqrt(n) (a Feistel network over the integers modulo
// its sides: Black and Rogaway, "Ciphers with arbitrary finite domains", 2002). In each round all cells of a
// line move on along it by a distance that is a random function of the line, lines and columns in turn; cells
// beyond n are walked through until one of [0, n) comes. Both directions cost O(1), whatever n is.
class Permutation {
 public:
  // A function of (seed, purpose, stream) and size, which is below 2^62.
  Permutation(uint64_t seed, RandomPurpose purpose, int64_t stream, int64_t size);

  int64_t size() const { return size_; }
  // The row that stands at a position, both in [0, size).
  int64_t row(int64_t position) const;
  // Where a row stands: the inverse of row().
  int64_t position(int64_t row) const;
  // The rows at out.size() positions from `first` on; the order begins again behind its end.
  void rows(int64_t first, std::span<int64_t> out) const;

 private:
  // Measured: the 5040 orders of 7 rows are equally frequent from 24 rounds on; of 64 rows and more, which
  // two rows stand at two positions, and at one in two epochs, from 6 rounds on.
  static constexpr int kMostRounds = 24, kRounds = 10;

  // Of each cell. A round waits for the one before it, and for none of another cell.
  template <size_t kCells>
  void forward(std::array<uint64_t, kCells>& cells) const;
  uint64_t backward(uint64_t cell) const;

  int64_t size_;
  uint64_t lines_ = 2, columns_ = 1;
  size_t rounds_ = kRounds;
  std::array<uint64_t, kMostRounds> keys_{};
};

}  // namespace lockstep
