// Philox against the published known answers, and the mapping from seeds and bits to keys and reals.
#include "lockstep/core/philox.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

namespace lockstep {
namespace {

void expect_block(const PhiloxBlock& block, uint32_t r0, uint32_t r1, uint32_t r2, uint32_t r3) {
  EXPECT_EQ(block.r[0], r0);
  EXPECT_EQ(block.r[1], r1);
  EXPECT_EQ(block.r[2], r2);
  EXPECT_EQ(block.r[3], r3);
}

// The philox4x32-10 rows of the Random123 distribution's known-answer file.
TEST(Philox, GivesTheKnownAnswers) {
  constexpr uint32_t ones = 0xffffffffu;
  expect_block(philox({0, 0}, {0, 0, 0, 0}), 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8);
  expect_block(philox({ones, ones}, {ones, ones, ones, ones}), 0x408f276d, 0x41c83b0e, 0xa20bc7c6,
               0x6d5451fd);
  expect_block(philox({0xa4093822, 0x299f31d0}, {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}), 0xd16cfe09,
               0x94fdcceb, 0x5001e420, 0x24126ea1);
}

TEST(Philox, UniformsStayBelowOneAndKeepTheirBits) {
  EXPECT_EQ(uniform_float(0), 0.0f);
  EXPECT_EQ(uniform_float(0xffffffffu), 1.0f - std::ldexp(1.0f, -24));
  EXPECT_EQ(uniform_float(0x80000000u), 0.5f);
  EXPECT_EQ(uniform_double(0, 0), 0.0);
  EXPECT_EQ(uniform_double(0xffffffffu, 0xffffffffu), 1.0 - std::ldexp(1.0, -53));
  EXPECT_EQ(uniform_double(0x80000000u, 0), 0.5);
  EXPECT_EQ(uniform_double(0, 1u << 11), std::ldexp(1.0, -53));
}

TEST(Philox, DrawsAreUniform) {
  // Mean and variance of 4 * 2^16 draws within 5 standard errors of 1/2 and 1/12.
  double sum = 0.0, squares = 0.0;
  constexpr uint32_t kBlocks = 1u << 16;
  for (uint32_t i = 0; i < kBlocks; ++i) {
    for (const uint32_t word : philox(philox_key(7, RandomPurpose::kTest), {i, 0, 0, 0}).r) {
      const double u = static_cast<double>(uniform_float(word)) - 0.5;
      sum += u;
      squares += u * u;
    }
  }
  constexpr double n = 4.0 * kBlocks;
  EXPECT_NEAR(sum / n, 0.0, 5.0 * std::sqrt(1.0 / 12.0 / n));
  EXPECT_NEAR(squares / n, 1.0 / 12.0, 5.0 * std::sqrt(1.0 / 180.0 / n));
}

TEST(Philox, KeysDifferBySeedAndPurpose) {
  std::set<std::pair<uint32_t, uint32_t>> keys;
  for (uint64_t seed = 0; seed < 1000; ++seed) {
    for (const RandomPurpose purpose : {RandomPurpose::kInitialization, RandomPurpose::kShuffle,
                                        RandomPurpose::kDropout, RandomPurpose::kSplit}) {
      const PhiloxKey key = philox_key(seed, purpose);
      keys.emplace(key.k0, key.k1);
    }
  }
  EXPECT_EQ(keys.size(), 4000u);
}

// Checkpoints and shared runs depend on these numbers: a change of the mapping must not go unnoticed.
// Reference: SplitMix64's published first output for state 0, and FNV-1a's published 64-bit values.
TEST(Philox, MixingIsTheOnePublished) {
  EXPECT_EQ(mix64(0), 0xe220a8397b1dcdafull);
  EXPECT_EQ(stable_hash(""), 0xcbf29ce484222325ull);
  EXPECT_EQ(stable_hash("a"), 0xaf63dc4c8601ec8cull);
  EXPECT_EQ(stable_hash("foobar"), 0x85944171f73967e8ull);
}

}  // namespace
}  // namespace lockstep
