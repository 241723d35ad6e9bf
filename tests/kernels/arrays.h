// Inputs, comparisons and thread settings that the kernel tests share.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <tuple>
#include <vector>

#include "lockstep/core/philox.h"
#include "lockstep/core/thread_pool.h"
#include "lockstep/kernels/backend.h"

namespace lockstep::test {

// Uniform in [low, high); what comes i-th is a function of (i, salt) alone.
template <class T>
std::vector<T> random_values(int64_t n, uint32_t salt, double low = -2.0, double high = 2.0) {
  // Most cases ask for what others had before: to draw it takes longer than many a kernel.
  static std::map<std::tuple<uint32_t, double, double>, std::vector<T>> drawn;
  std::vector<T>& longest = drawn[{salt, low, high}];
  const auto size = static_cast<size_t>(n);
  longest.reserve(size);
  const PhiloxKey key = philox_key(salt, RandomPurpose::kTest);
  for (size_t i = longest.size(); i < size; ++i) {
    const PhiloxBlock block = philox(key, {static_cast<uint32_t>(i), 0, 0, 0});
    longest.push_back(static_cast<T>(low + (high - low) * uniform_double(block.r[0], block.r[1])));
  }
  return std::vector<T>(longest.data(), longest.data() + size);
}

// Once, for references that read each element many times: without optimization a conversion is several calls.
template <class T>
std::vector<double> in_double(const std::vector<T>& values) {
  std::vector<double> wide(values.size());
  double* to = wide.data();
  for (const T& value : values) *to++ = static_cast<double>(value);
  return wide;
}

inline std::vector<int32_t> random_indices(int64_t n, uint32_t salt, int32_t bound) {
  std::vector<int32_t> indices;
  for (double value : random_values<double>(n, salt, 0.0, bound))
    indices.push_back(static_cast<int32_t>(value));
  return indices;
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  // memcmp takes no null pointer, not even for nothing.
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

// |actual - expected| <= units * (machine epsilon of T) * max(|expected|, scale), element by element.
template <class T>
void expect_close(const std::vector<T>& actual, const std::vector<double>& expected, double units,
                  double scale = 1.0) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    const double bound = units * std::numeric_limits<T>::epsilon() * std::fmax(std::fabs(expected[i]), scale);
    // An assertion for each of millions of elements takes longer than what they come from.
    if (std::fabs(static_cast<double>(actual[i]) - expected[i]) <= bound) continue;
    FAIL() << "element " << i << ": expected " << expected[i] << ", got " << actual[i] << ", bound " << bound;
  }
}

// Runs `compute` (which returns a vector) with one and with two threads and expects the same bits; returns
// them.
template <class Compute>
auto on_any_threads(const Compute& compute) {
  set_threads(1);
  const auto alone = compute();
  set_threads(2);
  const auto together = compute();
  set_threads(1);
  EXPECT_TRUE(same_bits(alone, together)) << "one and two threads differ";
  return alone;
}

// Fixture for tests that run in both precisions.
template <class T>
class Kernels : public ::testing::Test {
 protected:
  Backend& backend = cpu_backend();
  static constexpr DType kDType = dtype_of<T>;
};
using Precisions = ::testing::Types<float, double>;

}  // namespace lockstep::test
