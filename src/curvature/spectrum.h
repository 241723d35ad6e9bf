// The spectrum of a symmetric matrix that is known by its products alone: the ends, the trace, the density.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "lockstep/core/dtype.h"
#include "lockstep/curvature/density.h"
#include "lockstep/curvature/lanczos.h"

namespace lockstep {

struct SpectrumOptions {
  int64_t steps = 64;             // of Lanczos' method, from each probe
  int64_t probes = 8;             // of the density; the first also gives the eigenvalues
  int64_t trace_products = 30;    // a third each: of the range, in the range, outside of it; 0: no trace
  uint64_t seed = 0;              // of the probes
  DType precision = DType::kF64;  // that products are computed in
};

struct Estimate {
  double value = 0.0, error = 0.0;
};

struct Spectrum {
  // What the first run has found, ascending; only the ends have converged as a rule. A has an eigenvalue
  // within the residual of each value: the method's own estimate, and what the outermost measured ones are
  // above theirs, which is how exact products are.
  std::vector<RitzValue> eigenvalues;
  // The outermost, with residuals that one more product each has measured.
  Estimate largest, smallest;
  // Hutch++ (Meyer, Musco, Musco and Woodruff 2021) with the standard error of its part outside of the
  // range; 0 where the range is everything, and not a number with a single sample of that part.
  std::optional<Estimate> trace;  // where products for it are asked for
  // Stochastic Lanczos quadrature (Ubaru, Chen and Saad 2017; Ghorbani, Krishnan and Xiao 2019).
  SpectralDensity density;
  int64_t products = 0;
  DType precision = DType::kF64;  // theirs

  // How far from 0 the smallest eigenvalue must be to have a sign: its residual, and in any case what
  // rounding of the products leaves of eigenvalues of this size.
  double margin() const;
  // "positive_definite": the smallest eigenvalue is above the margin; "indefinite": below minus that; else
  // "singular" as far as can be told.
  std::string definiteness() const;
  // largest / smallest; 0 unless positive definite.
  double condition() const;
};

// How many vectors of n numbers measure_spectrum holds at once, beside a few.
int64_t held_vectors(const SpectrumOptions& options, int64_t n);
// How many products it takes; fewer where a run ends early.
int64_t most_products(const SpectrumOptions& options, int64_t n);

// Probes are drawn by Philox from (seed, number, element): of any number of workers the same. Error (kUsage)
// for n < 1 or options below 1; Error (kNumeric) where a product is not finite.
Spectrum measure_spectrum(const SymmetricProduct& product, int64_t n, const SpectrumOptions& options);

// The eigenvalue of largest magnitude, by Lanczos' method until its residual is below 1e-3 of it or for
// `steps` steps. stream: another start for each.
Estimate largest_magnitude(const SymmetricProduct& product, int64_t n, int64_t steps, uint64_t seed,
                           uint32_t stream, int64_t& products);

// An eigenvalue with a measured residual, and its eigenvector (n) of length 1.
struct LeadingPair {
  Estimate value;
  RealVector vector;
};
// The `count` of largest magnitude, the largest first, by Lanczos' method until their residuals are below
// 1e-4 of them or for `steps` steps; fewer where n is, or steps are. Error (kNumeric) where a product is not
// finite.
std::vector<LeadingPair> leading_pairs(const SymmetricProduct& product, int64_t n, int64_t count,
                                       int64_t steps, uint64_t seed, int64_t& products);

}  // namespace lockstep
