// The 16-bit floating-point types as values: stored in 16 bits, computed with as float.
//
// Conversions are integer arithmetic, so that a compiler turns loops over them into vector code and every
// processor gives the same bits: to nearest, ties to even, subnormals kept, overflow to infinity, NaN stays
// NaN (quiet).
#pragma once

#include <bit>
#include <cstdint>
#include <type_traits>

namespace lockstep {

// x in float, cut rather than rounded, with the last digit set where anything was cut ("round to odd", Boldo
// and Melquiond 2008): rounding the result to 16 bits then gives what rounding x once would.
constexpr float round_to_odd(float x) {
  return x;
}
constexpr float round_to_odd(double x) {
  const float nearest = static_cast<float>(x);
  const uint32_t bits = std::bit_cast<uint32_t>(nearest);
  if (static_cast<double>(nearest) == x || x != x || (bits & 1) != 0) return nearest;
  const bool beyond = (nearest > x) == (x > 0);
  return std::bit_cast<float>(beyond ? bits - 1 : bits + 1);
}
constexpr float round_to_odd(int64_t x) {
  // Beyond 2^53 a double does not hold x; one number between multiples of 4096 is as good as another.
  constexpr int64_t kExact = int64_t{1} << 53;
  if ((x > kExact || x < -kExact) && (x & 0xFFF) != 0) x = (x & ~int64_t{0xFFF}) | 0x800;
  return round_to_odd(static_cast<double>(x));
}

// bfloat16: the upper half of a float (8 exponent bits, 8 significant digits).
struct BFloat16 {
  uint16_t bits;

  BFloat16() = default;
  template <class N>
  requires std::is_floating_point_v<N>
  explicit constexpr BFloat16(N x) : bits(rounded(round_to_odd(x))) {}
  template <class N>
  requires std::is_integral_v<N>
  explicit constexpr BFloat16(N x) : bits(rounded(round_to_odd(static_cast<int64_t>(x)))) {}

  constexpr operator float() const { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

 private:
  static constexpr uint16_t rounded(float x) {
    const uint32_t word = std::bit_cast<uint32_t>(x);
    const uint32_t nearest = (word + 0x7FFFu + ((word >> 16) & 1u)) >> 16;
    const uint32_t quiet = (word >> 16) | 0x40u;
    return static_cast<uint16_t>((word & 0x7FFFFFFFu) > 0x7F800000u ? quiet : nearest);
  }
};

// IEEE 754 binary16 (5 exponent bits, 11 significant digits).
struct Float16 {
  uint16_t bits;

  Float16() = default;
  template <class N>
  requires std::is_floating_point_v<N>
  explicit constexpr Float16(N x) : bits(rounded(round_to_odd(x))) {}
  template <class N>
  requires std::is_integral_v<N>
  explicit constexpr Float16(N x) : bits(rounded(round_to_odd(static_cast<int64_t>(x)))) {}

  constexpr operator float() const {
    const uint32_t magnitude = bits & 0x7FFFu;
    const uint32_t normal = (magnitude << 13) + (112u << 23);
    const uint32_t special = (normal + (112u << 23)) | (magnitude > 0x7C00u ? 1u << 22 : 0u);
    // A subnormal is a whole number of 2^-24: the digits of 2^-14 + it, less 2^-14.
    const float subnormal = std::bit_cast<float>((magnitude << 13) + (113u << 23)) - 0x1p-14f;
    const uint32_t word = magnitude < 0x400u    ? std::bit_cast<uint32_t>(subnormal)
                          : magnitude < 0x7C00u ? normal
                                                : special;
    return std::bit_cast<float>(word | (static_cast<uint32_t>(bits & 0x8000u) << 16));
  }

 private:
  static constexpr uint16_t rounded(float x) {
    const uint32_t word = std::bit_cast<uint32_t>(x);
    const uint32_t magnitude = word & 0x7FFFFFFFu;
    const uint32_t normal = (magnitude - (112u << 23) + 0xFFFu + ((magnitude >> 13) & 1u)) >> 13;
    // Added to 1/2, a number below 2^-14 is rounded to a multiple of 2^-24 and counts in the last digits.
    const uint32_t small = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - (126u << 23);
    const uint32_t quiet = ((magnitude >> 13) & 0x3FFu) | 0x7E00u;
    uint32_t half = magnitude < (113u << 23) ? small : normal;
    half = magnitude >= 0x477FF000u ? 0x7C00u : half;  // 65520, half way from the largest number to 2^16
    half = magnitude > 0x7F800000u ? quiet : half;
    return static_cast<uint16_t>(half | ((word >> 16) & 0x8000u));
  }
};

}  // namespace lockstep
