// Conjugate gradients, one direction after the other.
#pragma once

#include <cmath>
#include <functional>
#include <utility>

#include "lockstep/minimize/vectors.h"

namespace lockstep {

// On A p = -g, from p = 0 (Hestenes and Stiefel 1952; with a preconditioner M Nocedal and Wright 2006,
// algorithm 5.3). For each direction: set ad to A d, ask curves(), then advance() by the step or by another
// one, or end with p.
struct ConjugateGradients {
  using Preconditioner = std::function<RealVector(RealVector r)>;  // M^-1 r
  explicit ConjugateGradients(
      const RealVector& g, Preconditioner m = [](RealVector given) { return given; })
      : p(g.size()), r(g), precondition(std::move(m)), d(negated(precondition(g))), rz(-dot(r, d)) {}

  // Whether d'A d is positive and finite.
  bool curves() {
    curvature = dot(d, ad);
    step = rz / curvature;
    return curvature > 0.0 && std::isfinite(curvature);
  }
  // Goes along d and makes the next direction. Returns r'M^-1 r.
  double advance() {
    add_scaled(step, d, p);
    add_scaled(step, ad, r);
    const RealVector z = precondition(r);
    const double before = std::exchange(rz, dot(r, z));
    scale_by(rz / before, d);
    add_scaled(-1.0, z, d);
    return rz;
  }

  RealVector p, r;  // so far; A p + g
  Preconditioner precondition;
  RealVector d, ad;
  double rz, curvature = 0.0, step = 0.0;  // r'M^-1 r, d'A d; their quotient
};

}  // namespace lockstep
