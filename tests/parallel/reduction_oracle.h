// The reduction tree written out naively, and gradients whose sum depends on every association.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <span>
#include <type_traits>
#include <vector>

namespace lockstep::testing {

// Largest power of two below n, by search.
inline int64_t left_leaves(int64_t n) {
  int64_t k = 1;
  while (2 * k < n) k *= 2;
  return k;
}

// Sums leaf(m), m in [begin, end), over the tree.
template <class T>
T tree_sum(int64_t begin, int64_t end, const std::function<T(int64_t)>& leaf,
           const std::function<T(T, T)>& plus) {
  if (end - begin == 1) return leaf(begin);
  const int64_t middle = begin + left_leaves(end - begin);
  return plus(tree_sum<T>(begin, middle, leaf, plus), tree_sum<T>(middle, end, leaf, plus));
}

template <class T>
std::vector<T> tree_sum_of_vectors(const std::vector<std::vector<T>>& leaves) {
  return tree_sum<std::vector<T>>(
      0, static_cast<int64_t>(leaves.size()), [&](int64_t m) { return leaves[static_cast<size_t>(m)]; },
      [](std::vector<T> a, std::vector<T> b) {
        for (size_t i = 0; i < a.size(); ++i) a[i] += b[i];
        return a;
      });
}

// splitmix64 (Steele, Lea, Flood 2014): 64 random bits from a counter.
inline uint64_t random_bits(uint64_t counter) {
  uint64_t z = counter * 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

// n values of both signs over 16 binary orders of magnitude with random mantissas, put together bit by bit:
// practically any other order of summation rounds differently. Now and then a zero of either sign.
template <class T>
std::vector<T> rough_values(int64_t n, uint64_t seed) {
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  constexpr int kMantissaBits = std::numeric_limits<T>::digits - 1;
  constexpr Bits kBias = std::numeric_limits<T>::max_exponent - 1;
  std::vector<T> values(static_cast<size_t>(n));
  for (size_t i = 0; i < values.size(); ++i) {
    const uint64_t random = random_bits(seed << 32 ^ i);
    const auto sign = static_cast<Bits>(static_cast<Bits>(random & 1) << (8 * sizeof(T) - 1));
    const Bits exponent = kBias - 8 + static_cast<Bits>(random >> 1 & 15);
    const auto mantissa = static_cast<Bits>(random >> 9 & ((Bits{1} << kMantissaBits) - 1));
    const Bits magnitude = (random >> 5 & 15) == 0 ? 0 : exponent << kMantissaBits | mantissa;
    values[i] = std::bit_cast<T>(static_cast<Bits>(sign | magnitude));
  }
  return values;
}

template <class T>
std::vector<std::vector<T>> rough_gradients(int64_t micro_batches, int64_t n, uint64_t seed) {
  std::vector<std::vector<T>> gradients;
  for (int64_t m = 0; m < micro_batches; ++m) {
    gradients.push_back(rough_values<T>(n, seed * 1000003 + static_cast<uint64_t>(m)));
  }
  return gradients;
}

// Equal bit for bit: tells -0 from +0.
template <class T>
bool same_bits(std::span<const T> a, std::span<const T> b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size_bytes()) == 0);
}

}  // namespace lockstep::testing
