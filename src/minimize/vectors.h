// Arithmetic of fp64 vectors in an order that depends on their length alone.
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace lockstep {

using RealVector = std::vector<double>;

// The distance from 1 to the next number: what a result near 1 may be off by.
inline constexpr double kEpsilon = std::numeric_limits<double>::epsilon();

// sum_i x_i y_i: element i is added to lane i mod 128 of its segment of 4096, lanes are combined by halves,
// segments in the order of the reduction tree.
double dot(std::span<const double> x, std::span<const double> y);
// |x|_2; neither overflows nor underflows where the result is a number of fp64.
double norm(std::span<const double> x);
// max_i |x_i|; NaN where an element is NaN.
double largest(std::span<const double> x);
// y <- y + a x
void add_scaled(double a, std::span<const double> x, std::span<double> y);
// x <- a x
void scale_by(double a, std::span<double> x);
RealVector negated(std::span<const double> x);
bool all_finite(std::span<const double> x);
// n numbers of which each is 1 or -1, independent of one another: probe `number` of those of a seed.
RealVector random_signs(uint64_t seed, uint32_t number, size_t n);

}  // namespace lockstep
