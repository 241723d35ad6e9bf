// The reduction tree written out naively, and gradients whose sum depends on every association.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <random>
#include <span>
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

// n values of both signs over 20 binary orders of magnitude: practically any other order of summation rounds
// differently. Now and then a zero of either sign.
template <class T>
std::vector<T> rough_values(int64_t n, uint64_t seed) {
  std::mt19937_64 generator(seed);
  std::uniform_real_distribution<double> mantissa(1.0, 2.0);
  std::vector<T> values(static_cast<size_t>(n));
  for (T& value : values) {
    const uint64_t bits = generator();
    const double sign = (bits & 1) != 0 ? -1.0 : 1.0;
    value =
        static_cast<T>(sign * std::ldexp(mantissa(generator), static_cast<int>(bits >> 1 & 31) % 20 - 10));
    if ((bits >> 8 & 15) == 0) value = static_cast<T>(sign * 0.0);
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
