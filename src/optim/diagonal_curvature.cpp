// Hands estimates out to parameters.
#include "lockstep/optim/diagonal_curvature.h"

namespace lockstep {

void DiagonalCurvatureOptimizer::take(const Tensor& estimate) {
  for (size_t i = 0; i < parameters(); ++i) {
    if (owns(i)) gather(i, estimate.view(entry(i).shape, entry(i).offset));
  }
}

}  // namespace lockstep
