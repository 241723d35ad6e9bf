// Inverses, inverse roots and eigenbases of the symmetric matrices that preconditioners gather: in fp64, on
// the host, whatever the type and the device of the tensors. On all threads, in an order that does not depend
// on them. Of many at once as many are on the host as a share of the memory that is left has room for; Error
// (kUsage) where there is none for one.
#pragma once

#include <vector>

#include "lockstep/tensor/tensor.h"

namespace lockstep {

// Whether |g|^2, and with it every element of g g', is a number of g's type.
bool square_is_finite(const Tensor& g);

// root <- (scale A + epsilon I)^-exponent of the positive semidefinite A; eigenvalues that rounding has made
// negative are raised, all by as much. Where A has an element that is not finite, or no eigenvalues are
// found, root stays as it was, and becomes I where it was nothing yet (0).
struct RootTask {
  Tensor matrix, root;  // (n, n), or any shape of so many elements
  int64_t n = 0;
  bool kept = false;  // becomes true where the root stayed
};
void inverse_roots(std::vector<RootTask>& tasks, double scale, double exponent, double epsilon);

// root <- (scale A + damping I)^-1 by Cholesky. As above where A has an element that is not finite, or the
// sum is not positive definite.
struct InverseTask : RootTask {
  double scale = 1.0, damping = 0.0;
};
void damped_inverses(std::vector<InverseTask>& tasks);

// scale A = Q diag(values) Q': root <- Q, eigenvectors in columns, and values (n), 0 where rounding has made
// them negative. Where none are found both stay, and become I and 1 where they were nothing yet.
struct EigenTask : RootTask {
  Tensor values;
  double scale = 1.0;
};
void eigen_decompositions(std::vector<EigenTask>& tasks);

// The eigenvectors of A in columns, by descending eigenvalues; I where there are none to be found.
Tensor eigenbasis(const Tensor& matrix);

// One step of orthogonal iteration from `basis`, whose columns are first put in the order of descending
// q' A q: order[j] is the column that comes to stand at j. A that is not finite leaves the basis as it is.
struct RefinedBasis {
  Tensor basis;
  std::vector<int64_t> order;
};
RefinedBasis refined_basis(const Tensor& matrix, const Tensor& basis);

}  // namespace lockstep
