// One run of the gradient exchange on one worker of any communicator, compared with the oracle bit for bit.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <span>
#include <vector>

#include "lockstep/parallel/gradient_exchange.h"
#include "parallel/reduction_oracle.h"

namespace lockstep::testing {

struct ExchangeCase {
  int64_t micro_batches = 1;
  std::vector<int64_t> slices = {0};  // offsets
  int64_t extent = 1;
  int64_t bucket_bytes = 25 << 20;
  ReductionMode mode = ReductionMode::kLockstep;
  uint64_t seed = 1;
  int steps = 2;
  bool shuffle_adds = true;  // else from the end of the array, as a backward sweep does
  int64_t gap = 0;  // elements at the end of every slice that add() does not bring; they must stay zero
  std::vector<Share> shares;  // as in ExchangeOptions
};

// What the workers of a case bring and what they must get, the same for all: made once, outside of the
// workers. Buckets, shares, mode and the order of adds change nothing of it.
template <class T>
struct ExchangeData {
  std::vector<std::vector<std::vector<T>>> gradients;  // of step, micro-batch; zero in the gaps
  std::vector<std::vector<T>> sums;                    // of step
  std::vector<std::vector<double>> magnitudes;         // of step: sums of the absolute values

  explicit ExchangeData(const ExchangeCase& c) {
    for (int step = 0; step < c.steps; ++step) {
      gradients.push_back(
          rough_gradients<T>(c.micro_batches, c.extent, c.seed + 7919 * static_cast<uint64_t>(step)));
      for (size_t i = 0; i < c.slices.size(); ++i) {
        const int64_t end = i + 1 < c.slices.size() ? c.slices[i + 1] : c.extent;
        for (auto& gradient : gradients.back()) {
          std::fill(gradient.begin() + std::max(c.slices[i] + 1, end - c.gap), gradient.begin() + end, T{0});
        }
      }
      sums.push_back(tree_sum_of_vectors(gradients.back()));
      std::vector<double>& magnitude = magnitudes.emplace_back(static_cast<size_t>(c.extent));
      for (const auto& gradient : gradients.back()) {
        for (size_t i = 0; i < magnitude.size(); ++i)
          magnitude[i] += std::abs(static_cast<double>(gradient[i]));
      }
    }
  }
};

// Runs the steps on this worker and expects the result of each to equal the oracle (in library mode: nearly).
template <class T>
void check_exchange(Communicator& communicator, Backend& backend, const ExchangeCase& c,
                    const ExchangeData<T>& data) {
  ExchangeOptions options;
  options.micro_batches = c.micro_batches;
  options.mode = c.mode;
  options.bucket_bytes = c.bucket_bytes;
  options.shares = c.shares;
  GradientExchange exchange(communicator, backend, dtype_of<T>, c.extent, c.slices, options);
  const MicroBatchRange owned =
      owned_micro_batches(c.micro_batches, communicator.rank(), communicator.world_size());
  // Each worker adds in an order of its own.
  std::mt19937_64 shuffle(c.seed * 31 + static_cast<uint64_t>(communicator.rank()));
  for (int step = 0; step < c.steps; ++step) {
    const auto& gradients = data.gradients[static_cast<size_t>(step)];
    const std::vector<T>& expected = data.sums[static_cast<size_t>(step)];
    exchange.begin_step();
    for (int64_t m = owned.begin; m < owned.end; ++m) {
      exchange.begin_micro_batch(m);
      std::vector<size_t> order(c.slices.size());
      for (size_t i = 0; i < order.size(); ++i) order[i] = order.size() - 1 - i;
      if (c.shuffle_adds) std::shuffle(order.begin(), order.end(), shuffle);
      for (const size_t i : order) {
        const int64_t begin = c.slices[i], end = i + 1 < c.slices.size() ? c.slices[i + 1] : c.extent;
        const int64_t n = std::max<int64_t>(1, end - begin - c.gap);
        Tensor slice = Tensor::from(
            Shape{n},
            std::span<const T>(gradients[static_cast<size_t>(m)].data() + begin, static_cast<size_t>(n)),
            backend);
        // Some are written where they are to lie.
        if (Tensor room = exchange.room(begin, Shape{n}); room.defined() && (shuffle() & 1) != 0) {
          room.assign(slice);
          slice = room;
        }
        exchange.add(begin, n, slice.data());
      }
      exchange.end_micro_batch();
    }
    exchange.finish();
    auto found = exchange.result().to_vector<T>();
    for (const Share& share : c.shares) {
      // Of what belongs to others nothing is promised.
      if (share.owner == communicator.rank()) continue;
      std::copy(expected.begin() + share.range.begin, expected.begin() + share.range.end,
                found.begin() + share.range.begin);
    }
    if (c.mode == ReductionMode::kLockstep) {
      ASSERT_TRUE(same_bits<T>(found, expected))
          << "M " << c.micro_batches << ", W " << communicator.world_size() << ", rank "
          << communicator.rank();
    } else {
      ASSERT_EQ(found.size(), expected.size());
      for (size_t i = 0; i < found.size(); ++i) {
        ASSERT_NEAR(found[i], expected[i],
                    data.magnitudes[static_cast<size_t>(step)][i] * std::numeric_limits<T>::epsilon() *
                        static_cast<double>(c.micro_batches));
      }
    }
  }
}

}  // namespace lockstep::testing
