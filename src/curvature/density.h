// How the eigenvalues of a matrix are spread: a density out of quadrature nodes, and its pictures.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "lockstep/minimize/vectors.h"

namespace lockstep {

// The measure sum_j weights_j delta(x - nodes_j), which stochastic Lanczos quadrature puts in the place of
// (1/n) sum_i delta(x - lambda_i), and the same with each point widened to a normal distribution.
struct SpectralDensity {
  RealVector nodes, weights;  // nodes ascend; weights sum to 1
  double width = 0.0;         // standard deviation that points are widened to
  RealVector at, values;      // the density on a grid that its integral (by trapezoids) is 1 over
  // Sum of the weights of nodes below -margin.
  double share_below(double margin) const;
};

// From the weighted points, in any order: width and grid are chosen by their range, a width of 1/80 of it.
SpectralDensity widened(std::vector<std::pair<double, double>> points);

// A complete SVG document: the density on a logarithmic axis over eigenvalues.
std::string density_svg(const SpectralDensity& density, const std::string& title);
// Lines of characters, a bin of eigenvalues each, with its share of them on a logarithmic scale.
std::string density_sketch(const SpectralDensity& density, int rows, int columns);

}  // namespace lockstep
