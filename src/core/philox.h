// Counter-based random numbers: Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
// SC 2011).
//
// A draw is a pure function of a key (seed, purpose) and a counter (step, sample or micro-batch, op ordinal,
// element): never of a rank, a device, a thread or of what was drawn before.
#pragma once

#include <cstdint>
#include <string_view>

#if defined(__CUDACC__)
#define LOCKSTEP_HOST_DEVICE __host__ __device__
#else
#define LOCKSTEP_HOST_DEVICE
#endif

namespace lockstep {

enum class RandomPurpose : uint32_t {
  kInitialization = 1,
  kShuffle = 2,
  kDropout = 3,
  kSplit = 4,
  kGeneration = 20,
  kProbes = 21,
  kPredictions = 22,
  kSigns = 23,
  kTest = 99
};

struct PhiloxKey {
  uint32_t k0 = 0, k1 = 0;
};

struct PhiloxCounter {
  uint32_t c0 = 0, c1 = 0, c2 = 0, c3 = 0;
};

struct PhiloxBlock {
  uint32_t r[4];
};

LOCKSTEP_HOST_DEVICE inline PhiloxBlock philox(PhiloxKey key, PhiloxCounter counter) {
  constexpr uint32_t kMultiplier0 = 0xD2511F53u, kMultiplier1 = 0xCD9E8D57u;
  constexpr uint32_t kWeyl0 = 0x9E3779B9u, kWeyl1 = 0xBB67AE85u;
  uint32_t c0 = counter.c0, c1 = counter.c1, c2 = counter.c2, c3 = counter.c3;
  uint32_t k0 = key.k0, k1 = key.k1;
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = static_cast<uint64_t>(kMultiplier0) * c0;
    const uint64_t p1 = static_cast<uint64_t>(kMultiplier1) * c2;
    const uint32_t n0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    const uint32_t n2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<uint32_t>(p1);
    c3 = static_cast<uint32_t>(p0);
    c0 = n0;
    c2 = n2;
    k0 += kWeyl0;
    k1 += kWeyl1;
  }
  return {{c0, c1, c2, c3}};
}

// Bits to a float in [0, 1): 24 bits, every value a multiple of 2^-24.
LOCKSTEP_HOST_DEVICE inline float uniform_float(uint32_t bits) {
  return static_cast<float>(bits >> 8) * (1.0f / 16777216.0f);
}

// Two words to a double in [0, 1): 53 bits.
LOCKSTEP_HOST_DEVICE inline double uniform_double(uint32_t high, uint32_t low) {
  const uint64_t bits = (static_cast<uint64_t>(high) << 32) | low;
  return static_cast<double>(bits >> 11) * (1.0 / 9007199254740992.0);
}

// SplitMix64 finalizer (Steele et al. 2014): spreads seed and purpose over the key.
constexpr uint64_t mix64(uint64_t x) {
  x += 0x9E3779B97F4A7C15ull;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

constexpr PhiloxKey philox_key(uint64_t seed, RandomPurpose purpose) {
  const uint64_t mixed = mix64(mix64(seed) ^ static_cast<uint64_t>(purpose));
  return {static_cast<uint32_t>(mixed), static_cast<uint32_t>(mixed >> 32)};
}

// FNV-1a: a stable number for a parameter name, so that its initial values do not depend on what was declared
// before it.
constexpr uint64_t stable_hash(std::string_view text) {
  uint64_t hash = 0xCBF29CE484222325ull;
  for (char c : text) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001B3ull;
  return hash;
}

}  // namespace lockstep
