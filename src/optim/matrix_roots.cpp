// Dense algebra between two trips to the host.
#include "lockstep/optim/matrix_roots.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <span>

#include "lockstep/core/available_memory.h"
#include "lockstep/core/error.h"
#include "lockstep/core/thread_pool.h"
#include "lockstep/kernels/math/portable.h"
#include "lockstep/minimize/dense.h"
#include "lockstep/optim/clip.h"

namespace lockstep {
namespace {

DenseMatrix on_host(const Tensor& matrix, int64_t n) {
  DenseMatrix result(0, 0);
  result.rows = result.columns = n;
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
  // V diag(powers) V' as S S', which is symmetric to the bit.
  RealVector factors;
  for (const double value : eigen.values) {
    factors.push_back(math::portable::power(value + raise, -0.5 * exponent));
  }
  DenseMatrix stretched = std::move(eigen.vectors);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) stretched(i, j) *= factors[static_cast<size_t>(j)];
  }
  DenseMatrix found = product(stretched, stretched, false, true);
  if (!all_finite(found.elements)) return false;
  root = std::move(found);
  return true;
}

// Calls function with the number of each task: on a thread each where all threads are busy so most of the
// time, else one after the other, on all threads.
template <class Task, class Function>
void each_task(std::span<const Task> tasks, const Function& function) {
  double largest = 0.0, all = 0.0;
  for (const RootTask& task : tasks) {
    const auto n = static_cast<double>(task.n);
    const double work = n * n * n;
    largest = std::max(largest, work);
    all += work;
  }
  if (all >= largest * thread_pool().threads()) {
    thread_pool().run(std::ssize(tasks), [&](int64_t tile) { function(static_cast<size_t>(tile)); });
  } else {
    for (size_t i = 0; i < tasks.size(); ++i) function(i);
  }
}

// Calls function with groups of tasks, one after the other: as many as an eighth of the memory that is left
// is enough for (other workers of the host may do the same), and at least one. Error (kUsage) where that one
// does not fit. No bit depends on the groups.
template <class Task, class Function>
void each_group(std::vector<Task>& tasks, const Function& function) {
  constexpr int64_t kCopies = 4;  // in fp64: the matrix, what becomes of it, and parts of both on the way
  const auto bytes = [](const RootTask& task) {
    return kCopies * task.n * task.n * static_cast<int64_t>(sizeof(double));
  };
  for (size_t first = 0, last = 0; first < tasks.size(); first = last) {
    int64_t all = bytes(tasks[last++]);
    require_memory(fmt::format("optimizer: a matrix of {0} x {0} in fp64 on the host", tasks[first].n), all,
                   ErrorKind::kUsage);
    const int64_t room = AvailableMemory().bytes() / 8;
    while (last < tasks.size() && all + bytes(tasks[last]) <= room) all += bytes(tasks[last++]);
    function(std::span(tasks).subspan(first, last - first));
  }
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
bool inverse_at_once(DenseMatrix& a) {
  if (!cholesky(a)) return false;
  const int64_t n = a.rows;
  DenseMatrix columns(n, n);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < i; ++j) {
      double sum = 0.0;
      for (int64_t k = j; k < i; ++k) sum += a(i, k) * columns(j, k);
      columns(j, i) = -sum / a(i, i);
    }
    columns(i, i) = 1.0 / a(i, i);
  }
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      double sum = 0.0;
      for (int64_t k = i; k < n; ++k) sum += columns(i, k) * columns(j, k);
      a(i, j) = a(j, i) = sum;
    }
  }
  return true;
}

// The same of halves: with T = A21 A11^-1 and the Schur complement S = A22 - T A21', which is positive
// definite where A is, A^-1 has the blocks A11^-1 + T' S^-1 T, -S^-1 T and S^-1. Nearly all of it is
// products.
bool inverse(DenseMatrix& a) {
  constexpr int64_t kAtOnce = 48;
  const int64_t n = a.rows, half = n / 2, rest = n - half;
  if (n <= kAtOnce) return inverse_at_once(a);
  DenseMatrix first = cut_out(a, 0, half, 0, half), last = cut_out(a, half, rest, half, rest);
  const DenseMatrix below = cut_out(a, half, rest, 0, half);
  if (!inverse(first)) return false;
  const DenseMatrix t = product(below, first, false, false);
  add_scaled(-1.0, product(t, below, false, true).elements, last.elements);
  if (!inverse(last)) return false;
  const DenseMatrix corner = product(last, t, false, false);  // -X21
  add_scaled(1.0, product(t, corner, true, false).elements, first.elements);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      a(i, j) = a(j, i) = i < half    ? first(i, j)
                          : j >= half ? last(i - half, j - half)
                                      : -corner(i - half, j);
    }
  }
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

void inverse_roots(std::vector<RootTask>& all, double scale, double exponent, double epsilon) {
  each_group(all, [&](std::span<RootTask> tasks) {
    std::vector<DenseMatrix> matrices, roots(tasks.size(), DenseMatrix(0, 0));
    for (const RootTask& task : tasks) matrices.push_back(on_host(task.matrix, task.n));
    std::vector<char> found(tasks.size(), 0);  // not bool: threads write neighbours
    each_task<RootTask>(tasks, [&](size_t i) {
      found[i] = inverse_root(std::move(matrices[i]), scale, exponent, epsilon, roots[i]) ? 1 : 0;
    });
    for (size_t i = 0; i < tasks.size(); ++i) {
      tasks[i].kept = found[i] == 0;
      keep_or_put(tasks[i], roots[i]);
    }
  });
}

void damped_inverses(std::vector<InverseTask>& all) {
  each_group(all, [&](std::span<InverseTask> tasks) {
    std::vector<DenseMatrix> matrices;
    for (const InverseTask& task : tasks) matrices.push_back(on_host(task.matrix, task.n));
    each_task<InverseTask>(tasks, [&](size_t i) {
      scale_by(tasks[i].scale, matrices[i].elements);
      for (int64_t j = 0; j < tasks[i].n; ++j) matrices[i](j, j) += tasks[i].damping;
      tasks[i].kept =
          !all_finite(matrices[i].elements) || !inverse(matrices[i]) || !all_finite(matrices[i].elements);
    });
    for (size_t i = 0; i < tasks.size(); ++i) keep_or_put(tasks[i], matrices[i]);
  });
}

void eigen_decompositions(std::vector<EigenTask>& all) {
  each_group(all, [&](std::span<EigenTask> tasks) {
    std::vector<DenseMatrix> matrices;
    for (const EigenTask& task : tasks) matrices.push_back(on_host(task.matrix, task.n));
    std::vector<SymmetricEigen> found(tasks.size(), {{}, DenseMatrix(0, 0)});
    each_task<EigenTask>(tasks, [&](size_t i) {
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
  });
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
  const DenseMatrix q = on_host(basis, n);
  DenseMatrix images = product(on_host(matrix, n), q, false, false);
  if (!all_finite(images.elements)) return result;
  RealVector estimates(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) estimates[static_cast<size_t>(j)] += q(i, j) * images(i, j);
  }
  std::stable_sort(result.order.begin(), result.order.end(), [&](int64_t i, int64_t j) {
    return estimates[static_cast<size_t>(i)] > estimates[static_cast<size_t>(j)];
  });
  RealVector row(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) {
    std::ranges::copy(images.row(i), row.begin());
    for (int64_t j = 0; j < n; ++j) {
      images(i, j) = row[static_cast<size_t>(result.order[static_cast<size_t>(j)])];
    }
  }
  result.basis = matrix.empty_like();
  put(QrFactors(std::move(images)).q(), result.basis);
  return result;
}

}  // namespace lockstep
