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

// Puts what was found, unless the task keeps what it had. Returns whether that was nothing, and is I now.
bool keep_or_put(const RootTask& task, const DenseMatrix& found) {
  if (!task.kept) {
    put(found, task.root);
    return false;
  }
  const std::vector<double> before = task.root.converted(DType::kF64).to_vector<double>();
  if (std::ranges::any_of(before, [](double element) { return element != 0.0; })) return false;
  put(identity(task.n), task.root);
  return true;
}

// A^-1 of the positive definite A = L L': X = L^-1 row by row, its columns kept in rows of `columns`, then
// X' X.
bool inverse(DenseMatrix& a) {
  if (!all_finite(a.elements) || !cholesky(a)) return false;
  const int64_t n = a.rows;
  DenseMatrix columns(n, n);
  const auto part = [](std::span<const double> row, int64_t begin, int64_t end) {
    return row.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
  };
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < i; ++j)
      columns(j, i) = -dot(part(a.row(i), j, i), part(columns.row(j), j, i)) / a(i, i);
    columns(i, i) = 1.0 / a(i, i);
  }
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j <= i; ++j)
      a(i, j) = a(j, i) = dot(part(columns.row(i), i, n), part(columns.row(j), i, n));
  }
  return all_finite(a.elements);
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
  std::vector<DenseMatrix> matrices, roots(tasks.size(), DenseMatrix(0, 0));
  for (const RootTask& task : tasks) matrices.push_back(on_host(task.matrix, task.n));
  std::vector<char> found(tasks.size(), 0);  // not bool: threads write neighbours
  thread_pool().run(std::ssize(tasks), [&](int64_t tile) {
    const auto i = static_cast<size_t>(tile);
    found[i] = inverse_root(std::move(matrices[i]), scale, exponent, epsilon, roots[i]) ? 1 : 0;
  });
  for (size_t i = 0; i < tasks.size(); ++i) {
    tasks[i].kept = found[i] == 0;
    keep_or_put(tasks[i], roots[i]);
  }
}

void damped_inverses(std::vector<InverseTask>& tasks) {
  std::vector<DenseMatrix> matrices;
  for (const InverseTask& task : tasks) matrices.push_back(on_host(task.matrix, task.n));
  thread_pool().run(std::ssize(tasks), [&](int64_t tile) {
    const auto i = static_cast<size_t>(tile);
    scale_by(tasks[i].scale, matrices[i].elements);
    for (int64_t j = 0; j < tasks[i].n; ++j) matrices[i](j, j) += tasks[i].damping;
    tasks[i].kept = !inverse(matrices[i]);
  });
  for (size_t i = 0; i < tasks.size(); ++i) keep_or_put(tasks[i], matrices[i]);
}

void eigen_decompositions(std::vector<EigenTask>& tasks) {
  std::vector<DenseMatrix> matrices;
  for (const EigenTask& task : tasks) matrices.push_back(on_host(task.matrix, task.n));
  std::vector<SymmetricEigen> found(tasks.size(), {{}, DenseMatrix(0, 0)});
  thread_pool().run(std::ssize(tasks), [&](int64_t tile) {
    const auto i = static_cast<size_t>(tile);
    scale_by(tasks[i].scale, matrices[i].elements);
    tasks[i].kept = !decompose(matrices[i], found[i]);
  });
  for (size_t i = 0; i < tasks.size(); ++i) {
    if (keep_or_put(tasks[i], found[i].vectors)) {
      tasks[i].values.assign(tasks[i].values.full_like(1.0));
    } else if (!tasks[i].kept) {
      DenseMatrix values(1, tasks[i].n);
      values.elements = std::move(found[i].values);
      for (double& value : values.elements) value = std::max(value, 0.0);
      put(values, tasks[i].values);
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
