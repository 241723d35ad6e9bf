// The objective over one global batch as a sum of squares, for Levenberg-Marquardt.
#pragma once

#include <cstdint>

#include "lockstep/train/pass_problem.h"

namespace lockstep {

// Of regression, whose loss is the mean squared error: L = |r|^2 / 2 with
//   r = sqrt(2 w_i / (w d)) (o_ij - t_ij)  over targets i of d numbers, w_i their weights, w = sum w_i
// and sqrt(l2) theta behind it where there is train.l2. Values are |r|^2 / 2. Of the Jacobian a worker
// computes the rows of its own micro-batches, a forward tangent a parameter, and holds those of all; of its
// squares alone, a backward sweep a number of the outputs, and holds a vector.
class LeastSquaresPass final : public PassProblem {
 public:
  // Error (kUsage) where the loss is no mean of squares, and for models with running statistics.
  LeastSquaresPass(GradientPass& pass, Replica& replica, const RunSettings& settings);

  double value(const RealVector& x) override;
  double value_and_gradient(const RealVector& x, RealVector& gradient) override;
  void gauss_newton_diagonal(const RealVector& x, RealVector& out) override;
  int64_t residual_count() const override;
  void residuals(const RealVector& x, RealVector& r, DenseMatrix* jacobian) override;

 private:
  // What residuals are made of, at the parameters that are set: of each micro-batch, in order, what its
  // targets weigh, output less target and, where they are asked for, the outputs' derivatives, a parameter
  // after the other.
  struct Gathered {
    RealVector all;
    std::vector<const double*> parts;  // where each begins in it
  };
  Gathered gathered(bool with_derivatives);

  int64_t rows_;  // numbers of the model's outputs in a micro-batch
  double l2_;
};

}  // namespace lockstep
