// Dense algebra between two trips to the host.
#include "lockstep/optim/matrix_roots.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "lockstep/core/error.h"
#include "lockstep/core/thread_pool.h"
#include "lockstep/kernels/math/portable.h"
#include "lockstep/minimize/dense.h"
#include "lockstep/optim/clip.h"

namespace lockstep {
namespace {

DenseMatrix on_host(const Tensor& matrix, int64_t n) {
  DenseMatrix result(n, n);
  result.elements = matrix.converted(DType::kF64).to_vector<double>();
  return result;
}

void put(const DenseMatrix& from, Tensor to) {
  to.assign(Tensor::from(to.shape(), from.elements, to.backend()).converted(to.dtype()));
}

DenseMatrix identity(int64_t n) {
  DenseMatrix result(n, n);
  for (int64_t i = 0; i < n; ++i) result(i, i) = 1.0;
  return result;
}

DenseMatrix transposed(const DenseMatrix& a) {
  DenseMatrix result(a.columns, a.rows);
  for (int64_t i = 0; i < a.rows; ++i) {
    for (int64_t j = 0; j < a.columns; ++j) result(j, i) = a(i, j);
  }
  return result;
}

// Eigenvalues and vectors; false where there are none to be found.
bool decompose(const DenseMatrix& a, SymmetricEigen& eigen) {
  if (!all_finite(a.elements)) return false;
  try {
    eigen = symmetric_eigen(a);
  } catch (const Error&) {  // no convergence
    return false;
  }
  return all_finite(eigen.values) && all_finite(eigen.vectors.elements);
}

bool inverse_root(DenseMatrix a, double scale, double exponent, double epsilon, DenseMatrix& root) {
  scale_by(scale, a.elements);
  SymmetricEigen eigen{{}, DenseMatrix(0, 0)};
  if (!decompose(a, eigen)) return false;
  const int64_t n = a.rows;
  const double raise = epsilon - std::min(eigen.values[0], 0.0);
  RealVector powers;
  for (const double value : eigen.values) powers.push_back(math::portable::power(value + raise, -exponent));
  DenseMatrix stretched = eigen.vectors;
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) stretched(i, j) *= powers[static_cast<size_t>(j)];
  }
  DenseMatrix found(n, n);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j <= i; ++j) found(i, j) = found(j, i) = dot(stretched.row(i), eigen.vectors.row(j));
  }
  if (!all_finite(found.elements)) return false;
  root = std::move(found);
  return true;
}

}  // namespace

bool square_is_finite(const Tensor& g) {
  const double length = global_norm(g, g.elements(), 1.0);
  // Half of the largest number: what the type makes of a sum of squares is larger by rounding.
  const double most =
      0.5 * (g.dtype() == DType::kF64 ? std::numeric_limits<double>::max()
                                      : static_cast<double>(std::numeric_limits<float>::max()));
  return length * length < most;
}

void inverse_roots(std::vector<RootTask>& tasks, double scale, double exponent, double epsilon) {
  std::vector<DenseMatrix> matrices, roots;
  for (const RootTask& task : tasks) {
    matrices.push_back(on_host(task.matrix, task.n));
    roots.push_back(on_host(task.root, task.n));
  }
  std::vector<char> found(tasks.size(), 0);  // not bool: threads write neighbours
  thread_pool().run(std::ssize(tasks), [&](int64_t tile) {
    const auto i = static_cast<size_t>(tile);
    found[i] = inverse_root(std::move(matrices[i]), scale, exponent, epsilon, roots[i]) ? 1 : 0;
  });
  for (size_t i = 0; i < tasks.size(); ++i) {
    tasks[i].kept = found[i] == 0;
    if (found[i] != 0) {
      put(roots[i], tasks[i].root);
    } else if (roots[i](0, 0) == 0.0) {
      put(identity(tasks[i].n), tasks[i].root);
    }
  }
}

Tensor eigenbasis(const Tensor& matrix) {
  const int64_t n = matrix.shape()[0];
  SymmetricEigen eigen{{}, DenseMatrix(0, 0)};
  DenseMatrix basis = identity(n);
  if (decompose(on_host(matrix, n), eigen)) {
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) basis(i, j) = eigen.vectors(i, n - 1 - j);
    }
  }
  Tensor result = matrix.empty_like();
  put(basis, result);
  return result;
}

RefinedBasis refined_basis(const Tensor& matrix, const Tensor& basis) {
  const int64_t n = matrix.shape()[0];
  RefinedBasis result{basis, std::vector<int64_t>(static_cast<size_t>(n))};
  std::iota(result.order.begin(), result.order.end(), int64_t{0});
  const DenseMatrix a = on_host(matrix, n), rows = transposed(on_host(basis, n));
  // A q of each column q, the columns in rows.
  DenseMatrix images(n, n);
  thread_pool().run(n, [&](int64_t j) {
    const RealVector image = multiply(a, rows.row(j));
    std::copy(image.begin(), image.end(), images.row(j).begin());
  });
  if (!all_finite(images.elements)) return result;
  RealVector estimates;
  for (int64_t j = 0; j < n; ++j) estimates.push_back(dot(rows.row(j), images.row(j)));
  std::stable_sort(result.order.begin(), result.order.end(), [&](int64_t i, int64_t j) {
    return estimates[static_cast<size_t>(i)] > estimates[static_cast<size_t>(j)];
  });
  DenseMatrix iterated(n, n);
  for (int64_t j = 0; j < n; ++j) {
    for (int64_t i = 0; i < n; ++i) iterated(i, j) = images(result.order[static_cast<size_t>(j)], i);
  }
  result.basis = matrix.empty_like();
  put(QrFactors(std::move(iterated)).q(), result.basis);
  return result;
}

}  // namespace lockstep
