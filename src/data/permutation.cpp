// The rounds of the bijection.
#include "lockstep/data/permutation.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "lockstep/core/error.h"

namespace lockstep {

namespace {

// A random function of the line, uniform in [0, bound): the output of SplitMix64 that starts at the key,
// `line` steps on, and of it the high word of the product (Lemire, "Fast random integer generation in an
// interval", 2019).
uint64_t distance(uint64_t key, uint64_t line, uint64_t bound) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<uint64_t>((static_cast<Wide>(mix64(key + line * 0x9E3779B97F4A7C15ull)) * bound) >> 64);
}

uint64_t add(uint64_t place, uint64_t distance, uint64_t bound) {
  const uint64_t sum = place + distance;
  return sum >= bound ? sum - bound : sum;
}

uint64_t subtract(uint64_t place, uint64_t distance, uint64_t bound) {
  return place >= distance ? place - distance : place + bound - distance;
}

// The least number whose square is not below n.
uint64_t side_of(uint64_t n) {
  auto side = static_cast<uint64_t>(std::sqrt(static_cast<double>(n)));
  while (side * side < n) ++side;
  while (side > 1 && (side - 1) * (side - 1) >= n) --side;
  return side;
}

// Moves cells along lines and columns in turn, in each round by far(round, their line or column).
template <size_t kCells, class Far>
void move(std::array<uint64_t, kCells>& cells, uint64_t lines_of_grid, uint64_t columns_of_grid,
          size_t rounds, const Far& far) {
  std::array<uint64_t, kCells> lines{}, columns{};
  for (size_t i = 0; i < kCells; ++i) {
    lines[i] = cells[i] / columns_of_grid;
    columns[i] = cells[i] % columns_of_grid;
  }
  for (size_t round = 0; round < rounds; round += 2) {
    for (size_t i = 0; i < kCells; ++i) {
      lines[i] = add(lines[i], far(round, columns[i]), lines_of_grid);
      columns[i] = add(columns[i], far(round + 1, lines[i]), columns_of_grid);
    }
  }
  for (size_t i = 0; i < kCells; ++i) cells[i] = lines[i] * columns_of_grid + columns[i];
}

}  // namespace

Permutation::Permutation(uint64_t seed, RandomPurpose purpose, int64_t stream, int64_t size) : size_(size) {
  if (size < 0 || size >= int64_t{1} << 62)
    fail(ErrorKind::kInternal, fmt::format("permutation: size must be in [0, 2^62): got {}", size));
  // An even number of lines: moving along a column of them is an odd permutation then, so that no half of the
  // orders is out of reach.
  const auto n = static_cast<uint64_t>(std::max<int64_t>(size, 1));
  lines_ = side_of(n);
  lines_ += lines_ % 2;
  columns_ = (n + lines_ - 1) / lines_;
  constexpr int64_t kSmall = 64;
  if (size < kSmall) rounds_ = kMostRounds;
  const PhiloxKey key = philox_key(seed, purpose);
  const auto low = static_cast<uint32_t>(stream),
             high = static_cast<uint32_t>(static_cast<uint64_t>(stream) >> 32);
  for (uint32_t round = 0; round < rounds_; round += 2) {
    const PhiloxBlock block = philox(key, {round, 0, low, high});
    keys_[round] = (static_cast<uint64_t>(block.r[0]) << 32) | block.r[1];
    keys_[round + 1] = (static_cast<uint64_t>(block.r[2]) << 32) | block.r[3];
  }
}

template <size_t kCells>
void Permutation::forward(std::array<uint64_t, kCells>& cells) const {
  move(cells, lines_, columns_, rounds_, [&](size_t round, uint64_t place) {
    return distance(keys_[round], place, round % 2 == 0 ? lines_ : columns_);
  });
}

uint64_t Permutation::backward(uint64_t cell) const {
  uint64_t line = cell / columns_, column = cell % columns_;
  for (size_t round = rounds_; round > 0; round -= 2) {
    column = subtract(column, distance(keys_[round - 1], line, columns_), columns_);
    line = subtract(line, distance(keys_[round - 2], column, lines_), lines_);
  }
  return line * columns_ + column;
}

int64_t Permutation::row(int64_t position) const {
  std::array<uint64_t, 1> cell{static_cast<uint64_t>(position)};
  do forward(cell);
  while (cell[0] >= static_cast<uint64_t>(size_));
  return static_cast<int64_t>(cell[0]);
}

int64_t Permutation::position(int64_t row) const {
  uint64_t cell = backward(static_cast<uint64_t>(row));
  while (cell >= static_cast<uint64_t>(size_)) cell = backward(cell);
  return static_cast<int64_t>(cell);
}

void Permutation::rows(int64_t first, std::span<int64_t> out) const {
  constexpr size_t kTogether = 4;
  int64_t position = first % size_;
  const auto next = [&] {
    const int64_t at = position;
    if (++position == size_) position = 0;
    return at;
  };
  // Of rows that are more than the distances of all rounds, as those of a whole epoch, each is looked up.
  const uint64_t stride = std::max(lines_, columns_);
  std::vector<uint64_t> table;
  if (out.size() >= stride && out.size() / stride >= rounds_) {
    table.resize(rounds_ * stride);
    for (size_t round = 0; round < rounds_; ++round) {
      const auto [places, bound] = round % 2 == 0 ? std::pair(columns_, lines_) : std::pair(lines_, columns_);
      for (uint64_t place = 0; place < places; ++place)
        table[round * stride + place] = distance(keys_[round], place, bound);
    }
  }
  size_t i = 0;
  for (; i + kTogether <= out.size(); i += kTogether) {
    std::array<uint64_t, kTogether> cells{};
    for (uint64_t& cell : cells) cell = static_cast<uint64_t>(next());
    if (table.empty()) {
      forward(cells);
    } else {
      move(cells, lines_, columns_, rounds_,
           [&](size_t round, uint64_t place) { return table[round * stride + place]; });
    }
    for (size_t k = 0; k < kTogether; ++k) {
      const auto cell = static_cast<int64_t>(cells[k]);
      out[i + k] = cell < size_ ? cell : row(cell);
    }
  }
  for (; i < out.size(); ++i) out[i] = row(next());
}

}  // namespace lockstep
