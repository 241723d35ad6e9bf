// Lanczos' method: the ends of a symmetric matrix's spectrum out of its products with vectors.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "lockstep/minimize/vectors.h"

namespace lockstep {

// A symmetric linear map A of R^n: out <- A v. The same vector gives the same bits.
using SymmetricProduct = std::function<void(const RealVector& v, RealVector& out)>;

// An orthonormal basis V of a Krylov space and the tridiagonal T = V' A V.
struct LanczosRun {
  RealVector diagonal;            // (k)
  RealVector below;               // (k): behind the last row too, |A v_k| outside of the space
  std::vector<RealVector> basis;  // (k) vectors of n
  // How many of the vectors the start alone spans: k, or as far as it went before its space was invariant
  // under A and another start was drawn.
  int64_t from_start = 0;
};

struct LanczosOptions {
  int64_t steps = 64;
  // Draws another start when the space is invariant: eigenvalues that have several eigenvectors are then
  // found as often as there is room. Empty: the run ends there.
  std::function<RealVector()> restart = {};
  // Asked after each step; true ends the run.
  std::function<bool(const LanczosRun& run)> enough = {};
};

// k = min(steps, n) steps, fewer when everything that can be reached is spanned. Each new vector is made
// orthogonal to all before it twice (full reorthogonalization: Parlett 1998, section 6.9). Error (kNumeric)
// naming the product that is not finite.
LanczosRun lanczos(const SymmetricProduct& product, RealVector start, const LanczosOptions& options);

// An eigenvalue of T as one of A: A has an eigenvalue within `residual` of `value`. weight: the square of
// the eigenvector's part along the start, a weight of Gauss' quadrature (Golub and Welsch 1969).
struct RitzValue {
  double value = 0.0, residual = 0.0, weight = 0.0;
};
// Of the first `rows` rows of T, ascending.
std::vector<RitzValue> ritz_values(const LanczosRun& run, int64_t rows);
// (n), of length 1: Ritz vector `index` of all of T.
RealVector ritz_vector(const LanczosRun& run, int64_t index);
// |A y - value y| of a Ritz vector, by one more product.
double measured_residual(const SymmetricProduct& product, const RitzValue& pair, const RealVector& vector);

}  // namespace lockstep
