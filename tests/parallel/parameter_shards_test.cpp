// Shares cover the array evenly; what workers do together about them gives the bits of one worker.
#include "lockstep/parallel/parameter_shards.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <string>

#include "comm/threaded_communicator.h"
#include "lockstep/core/error.h"
#include "lockstep/kernels/backend.h"
#include "parallel/reduction_oracle.h"

namespace lockstep::testing {
namespace {

std::vector<int64_t> loads(const std::vector<Share>& shares, int world_size) {
  std::vector<int64_t> load(static_cast<size_t>(world_size), 0);
  for (const Share& share : shares) load[static_cast<size_t>(share.owner)] += share.range.size();
  return load;
}

void expect_cover(const std::vector<Share>& shares, int64_t extent) {
  int64_t end = 0;
  for (const Share& share : shares) {
    ASSERT_EQ(share.range.begin, end);
    ASSERT_GT(share.range.size(), 0);
    end = share.range.end;
  }
  ASSERT_EQ(end, extent);
}

TEST(StripedShares, CoverTheArrayAndDifferByAStripeAtMost) {
  for (const int64_t extent :
       {int64_t{64}, int64_t{640}, int64_t{40'000}, int64_t{3'000'000}, int64_t{124'000'000}}) {
    for (int world_size = 1; world_size <= 9; ++world_size) {
      const std::vector<Share> shares = striped_shares(extent, world_size);
      expect_cover(shares, extent);
      const std::vector<int64_t> load = loads(shares, world_size);
      const int64_t stripe = shares.front().range.size();
      EXPECT_LE(*std::ranges::max_element(load) - *std::ranges::min_element(load), stripe);
      EXPECT_LE(stripe, (1 << 18) + Backend::kNormBlock);
      // Nobody has much more than the average.
      EXPECT_LE(*std::ranges::max_element(load), extent / world_size + extent / world_size / 8 + 64)
          << extent;
    }
  }
  EXPECT_TRUE(striped_shares(0, 3).empty());
}

TEST(WholeShares, NeverCutAParameterAndGiveTheLargestFirst) {
  const std::vector<int64_t> offsets = {0, 64, 192, 1192, 1256};
  const std::vector<Share> shares = whole_shares(offsets, 1856, 2);
  const std::vector<Share> expected = {
      {{0, 64}, 1}, {{64, 192}, 1}, {{192, 1192}, 0}, {{1192, 1256}, 1}, {{1256, 1856}, 1}};
  EXPECT_EQ(shares, expected);
  EXPECT_EQ(loads(whole_shares(offsets, 1856, 7), 7), (std::vector<int64_t>{1000, 600, 128, 64, 64, 0, 0}));
}

TEST(ParameterShards, RefusesSharesThatDoNotCover) {
  const auto self = make_self_communicator();
  const auto make = [&](std::vector<Share> shares) { ParameterShards(*self, std::move(shares)); };
  EXPECT_THROW(make({{{1, 5}, 0}}), Error);
  EXPECT_THROW(make({{{0, 5}, 0}, {{6, 8}, 0}}), Error);
  EXPECT_THROW(make({{{0, 5}, 1}}), Error);
  EXPECT_THROW(make({{{0, 5}, -1}}), Error);
  EXPECT_THROW(make({{{0, 0}, 0}}), Error);
  EXPECT_NO_THROW(make({}));
}

TEST(ParameterShards, MergesNeighbouringSharesOfAWorker) {
  const auto self = make_self_communicator();
  const ParameterShards shards(*self, {{{0, 5}, 0}, {{5, 8}, 0}});
  EXPECT_EQ(shards.mine(), (std::vector<ElementRange>{{0, 8}}));
  EXPECT_EQ(shards.extent(), 8);
}

// Shares that cut norm blocks in all ways: several cuts in one block, cuts at block ends, a block of three
// workers, an incomplete last block.
std::vector<std::pair<int, std::vector<Share>>> layouts() {
  const int64_t block = Backend::kNormBlock;
  std::vector<std::pair<int, std::vector<Share>>> all = {
      {3, {{{0, 5}, 2}, {{5, 70}, 0}, {{70, 71}, 1}, {{71, 3 * block}, 0}, {{3 * block, 3 * block + 9}, 1}}},
      {2, {{{0, block}, 1}, {{block, 2 * block - 1}, 0}, {{2 * block - 1, 5 * block + 100}, 1}}},
      {4, {{{0, 6 * block + 1}, 3}}},
      {1, {{{0, 4 * block + 17}, 0}}},
  };
  for (int world_size = 2; world_size <= 4; ++world_size) {
    all.push_back({world_size, striped_shares(40'000, world_size)});
    all.push_back({world_size, striped_shares(700'000, world_size)});
    all.push_back({world_size,
                   whole_shares(std::vector<int64_t>{0, 64, 5000, 5056, 20032, 31040}, 40'000, world_size)});
  }
  return all;
}

template <class T>
void expect_one_workers_sums(int world_size, const std::vector<Share>& shares) {
  const int64_t extent = shares.back().range.end;
  const std::vector<T> values = rough_values<T>(extent, 3);
  const auto self = make_self_communicator();
  const std::vector<double> expected =
      ParameterShards(*self, {{{0, extent}, 0}})
          .block_square_sums(Tensor::from(Shape{extent}, values, cpu_backend()))
          .template to_vector<double>();
  ASSERT_EQ(static_cast<int64_t>(expected.size()), (extent + Backend::kNormBlock - 1) / Backend::kNormBlock);
  run_threaded(world_size, [&](Communicator& communicator) {
    // Elements of other workers are not looked at.
    std::vector<T> own(values.size(), std::numeric_limits<T>::quiet_NaN());
    for (const Share& share : shares) {
      for (int64_t i = share.range.begin; share.owner == communicator.rank() && i < share.range.end; ++i) {
        own[static_cast<size_t>(i)] = values[static_cast<size_t>(i)];
      }
    }
    const ParameterShards shards(communicator, shares);
    Tensor array = Tensor::from(Shape{extent}, own, cpu_backend());
    EXPECT_TRUE(same_bits<double>(shards.block_square_sums(array).to_vector<double>(), expected))
        << world_size << " workers";
    shards.gather(array, "test");
    EXPECT_TRUE(same_bits<T>(array.to_vector<T>(), values)) << world_size << " workers";
  });
}

TEST(ParameterShards, NormBlocksAndGatheredArraysAreThoseOfOneWorker) {
  for (const auto& [world_size, shares] : layouts()) {
    expect_one_workers_sums<float>(world_size, shares);
    expect_one_workers_sums<double>(world_size, shares);
  }
}

TEST(ParameterShards, PartsTravelToWorkerZeroAndBackAndToAll) {
  for (const auto& [world_size, dealt] : layouts()) {
    const std::vector<Share>& shares = dealt;  // clang 14 captures no structured bindings
    const int64_t extent = shares.back().range.end;
    const std::vector<float> values = rough_values<float>(extent, 5);
    run_threaded(world_size, [&](Communicator& communicator) {
      std::vector<float> stored;
      for (const Share& share : shares) {
        if (share.owner != communicator.rank()) continue;
        stored.insert(stored.end(), values.begin() + share.range.begin, values.begin() + share.range.end);
      }
      const ParameterShards shards(communicator, shares);
      const auto length = static_cast<int64_t>(stored.size());
      const Tensor own = Tensor::from(Shape{length}, stored, cpu_backend());
      Tensor back = own.full_like(0.0);
      // In three slices that fit no share.
      std::vector<float> all(communicator.rank() == 0 ? values.size() : 0, 0.0f);
      std::vector<float> everywhere(values.size(), 0.0f);
      for (const ElementRange& range :
           {ElementRange{0, 3}, ElementRange{3, extent / 2}, ElementRange{extent / 2, extent}}) {
        auto* bytes =
            reinterpret_cast<std::byte*>(communicator.rank() == 0 ? all.data() + range.begin : nullptr);
        shards.collect(shares, own, range, bytes, "collect");
        shards.distribute(shares, back, range, bytes, "distribute");
        shards.collect(shares, own, range, reinterpret_cast<std::byte*>(everywhere.data() + range.begin),
                       "collect everywhere", true);
      }
      if (communicator.rank() == 0) {
        EXPECT_TRUE(same_bits<float>(all, values));
      }
      EXPECT_TRUE(same_bits<float>(back.to_vector<float>(), stored));
      EXPECT_TRUE(same_bits<float>(everywhere, values));
    });
  }
}

}  // namespace
}  // namespace lockstep::testing
