// Products, Cholesky and Householder QR.
#include "lockstep/minimize/dense.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "lockstep/core/thread_pool.h"
#include "lockstep/kernels/backend.h"

namespace lockstep {
namespace {

// c <- op(a) op(b)
void multiply_into(DenseMatrix& c, const DenseMatrix& a, const DenseMatrix& b, bool transpose_a,
                   bool transpose_b) {
  MatmulArguments arguments;
  arguments.dtype = arguments.output = DType::kF64;
  arguments.m = c.rows = transpose_a ? a.columns : a.rows;
  arguments.k = transpose_a ? a.rows : a.columns;
  arguments.n = c.columns = transpose_b ? b.rows : b.columns;
  arguments.transpose_a = transpose_a;
  arguments.transpose_b = transpose_b;
  c.elements.resize(static_cast<size_t>(c.rows * c.columns));
  arguments.a = a.elements.data();
  arguments.b = b.elements.data();
  arguments.c = c.elements.data();
  cpu_backend().matmul(arguments);
}

// Rows of a matrix that one tile of work goes through.
constexpr int64_t kRowGrain = 32;
// Columns whose reflections are gathered before the others are reflected, and those reflected one by one.
constexpr int64_t kQrPanel = 48, kAtOnce = 8;

// The upper triangular T with (I - 2 u_0 u_0') (I - 2 u_1 u_1') ... = I - U' T U of the rows of U.
DenseMatrix triangle_of(const DenseMatrix& u) {
  const DenseMatrix angles = product(u, u, false, true);
  DenseMatrix t(u.rows, u.rows);
  for (int64_t k = 0; k < u.rows; ++k) {
    for (int64_t i = 0; i < k; ++i) {
      double sum = 0.0;
      for (int64_t j = i; j < k; ++j) sum += t(i, j) * angles(k, j);
      t(i, k) = -2.0 * sum;
    }
    t(k, k) = 2.0;
  }
  return t;
}

// Householder's reductions of the columns that are rows begin to end of `panel`, of which the last ones are
// reflected when the first ones are done: row k becomes u of I - 2 u u', from element k on. What it has
// before that is column first + k of R from row `first` on.
void reflect(DenseMatrix& panel, int64_t begin, int64_t end, int64_t first, DenseMatrix& r) {
  if (end - begin > kAtOnce) {
    const int64_t middle = begin + (end - begin) / 2;
    reflect(panel, begin, middle, first, r);
    const DenseMatrix u = cut_out(panel, begin, middle - begin, 0, panel.columns);
    const DenseMatrix along = product(cut_out(panel, middle, end - middle, 0, panel.columns), u, false, true);
    const DenseMatrix change = product(product(along, triangle_of(u), false, false), u, false, false);
    for (int64_t j = middle; j < end; ++j) add_scaled(-1.0, change.row(j - middle), panel.row(j));
    reflect(panel, middle, end, first, r);
    return;
  }
  for (int64_t k = begin; k < end; ++k) {
    for (int64_t i = 0; i < k; ++i) r(first + i, first + k) = std::exchange(panel(k, i), 0.0);
    const auto at = static_cast<size_t>(k);
    const std::span<double> u = panel.row(k).subspan(at);
    const double size = norm(u);
    if (size < std::numeric_limits<double>::min()) {  // too few digits for a reflection that keeps lengths
      std::ranges::fill(u, 0.0);
      continue;
    }
    const double diagonal = u[0] > 0.0 ? -size : size;
    u[0] -= diagonal;
    const double length = norm(u);
    for (double& value : u) value /= length;
    for (int64_t j = k + 1; j < end; ++j) {
      const std::span<double> column = panel.row(j).subspan(at);
      add_scaled(-2.0 * dot(u, column), u, column);
    }
    r(first + k, first + k) = diagonal;
  }
}

}  // namespace

DenseMatrix transposed(const DenseMatrix& a) {
  constexpr int64_t kTile = 16;  // rows whose cache lines are in use at a time
  DenseMatrix result(a.columns, a.rows);
  parallel_ranges(a.columns, kTile, [&](int64_t begin, int64_t end) {
    for (int64_t i = 0; i < a.rows; ++i) {
      for (int64_t j = begin; j < end; ++j) result(j, i) = a(i, j);
    }
  });
  return result;
}

DenseMatrix cut_out(const DenseMatrix& a, int64_t row, int64_t rows, int64_t column, int64_t columns) {
  DenseMatrix part(rows, columns);
  for (int64_t i = 0; i < rows; ++i) {
    const auto from = a.row(row + i).subspan(static_cast<size_t>(column), static_cast<size_t>(columns));
    std::ranges::copy(from, part.row(i).begin());
  }
  return part;
}

DenseMatrix product(const DenseMatrix& a, const DenseMatrix& b, bool transpose_a, bool transpose_b) {
  DenseMatrix c(0, 0);
  multiply_into(c, a, b, transpose_a, transpose_b);
  return c;
}

RealVector multiply(const DenseMatrix& a, std::span<const double> x) {
  RealVector y(static_cast<size_t>(a.rows));
  for (int64_t i = 0; i < a.rows; ++i) y[static_cast<size_t>(i)] = dot(a.row(i), x);
  return y;
}

RealVector multiply_transposed(const DenseMatrix& a, std::span<const double> x) {
  RealVector y(static_cast<size_t>(a.columns));
  for (int64_t i = 0; i < a.rows; ++i) add_scaled(x[static_cast<size_t>(i)], a.row(i), y);
  return y;
}

RealVector column_squares(const DenseMatrix& a) {
  RealVector squares(static_cast<size_t>(a.columns));
  for (int64_t i = 0; i < a.rows; ++i) {
    for (size_t j = 0; j < squares.size(); ++j) squares[j] += a.row(i)[j] * a.row(i)[j];
  }
  return squares;
}

bool cholesky(DenseMatrix& a) {
  const int64_t n = a.rows;
  for (int64_t i = 0; i < n; ++i) {
    const double whole = a(i, i);
    for (int64_t j = 0; j <= i; ++j) {
      const auto length = static_cast<size_t>(j);
      const double rest = a(i, j) - dot(a.row(i).first(length), a.row(j).first(length));
      if (j < i) {
        a(i, j) = rest / a(j, j);
      } else {
        // A pivot of rounding errors alone says nothing about definiteness.
        if (!(rest > 4.0 * kEpsilon * std::fabs(whole)) || !std::isfinite(rest)) {
          return false;
        }
        a(i, i) = std::sqrt(rest);
      }
    }
  }
  return true;
}

void solve_cholesky(const DenseMatrix& l, std::span<double> x) {
  const int64_t n = l.rows;
  for (int64_t i = 0; i < n; ++i) {
    const auto length = static_cast<size_t>(i);
    x[length] = (x[length] - dot(l.row(i).first(length), x.first(length))) / l(i, i);
  }
  for (int64_t i = n - 1; i >= 0; --i) {
    const auto length = static_cast<size_t>(i);
    x[length] /= l(i, i);
    add_scaled(-x[length], l.row(i).first(length), x.first(length));
  }
}

QrFactors::QrFactors(DenseMatrix a) : reflectors_(a.columns, a.rows), r_(a.columns, a.columns) {
  const int64_t m = a.rows, n = a.columns;
  int64_t width = std::min(kQrPanel, n);
  // What is left to be reduced, without R's rows: the panel's columns in rows, and the columns behind.
  DenseMatrix panel = transposed(cut_out(a, 0, m, 0, width)), rest = cut_out(a, 0, m, width, n - width);
  DenseMatrix change(0, 0), next = std::move(a);
  for (int64_t first = 0; first < n; first += width) {
    width = panel.rows;
    reflect(panel, 0, width, first, r_);
    for (int64_t k = 0; k < width; ++k) {
      std::ranges::copy(panel.row(k), reflectors_.row(first + k).begin() + first);
    }
    const DenseMatrix u = std::move(panel);
    if (rest.columns == 0) break;
    // (I - U' T U)' of the columns behind.
    DenseMatrix along = product(triangle_of(u), product(u, rest, false, false), true, false);
    scale_by(-1.0, along.elements);
    multiply_into(change, u, along, true, false);
    for (int64_t i = 0; i < width; ++i) {
      for (int64_t j = 0; j < rest.columns; ++j) r_(first + i, first + width + j) = rest(i, j) + change(i, j);
    }
    panel = DenseMatrix(std::min(kQrPanel, rest.columns), rest.rows - width);
    next.rows = rest.rows - width;
    next.columns = rest.columns - panel.rows;
    next.elements.resize(static_cast<size_t>(next.rows * next.columns));
    parallel_ranges(next.rows, kRowGrain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const double *const before = rest.row(width + i).data(), *const by = change.row(width + i).data();
        double* const after = next.row(i).data();
        for (int64_t j = 0; j < panel.rows; ++j) panel(j, i) = before[j] + by[j];
        for (int64_t j = panel.rows; j < rest.columns; ++j) after[j - panel.rows] = before[j] + by[j];
      }
    });
    std::swap(rest, next);
  }
}

DenseMatrix product_of_reflections(const DenseMatrix& reflectors) {
  const int64_t m = reflectors.columns, n = reflectors.rows;
  DenseMatrix corner(0, 0), q(0, 0);
  for (DenseMatrix* const matrix : {&corner, &q}) matrix->elements.reserve(static_cast<size_t>(m * n));
  // The panels from one on leave all of I but the corner from its first element on alone. So the panel
  // before, of U = (U1, U2), makes of the corner C the larger one (I 0; 0 C) - U' T (U1, U2 C).
  for (int64_t first = (n - 1) / kQrPanel * kQrPanel; first >= 0; first -= kQrPanel) {
    const int64_t width = std::min(kQrPanel, n - first), behind = n - first - width;
    const DenseMatrix u = cut_out(reflectors, first, width, first, m - first);
    DenseMatrix along = cut_out(u, 0, width, 0, width + behind);
    if (behind > 0) {
      const DenseMatrix inner = product(cut_out(u, 0, width, width, m - first - width), corner, false, false);
      for (int64_t k = 0; k < width; ++k) std::ranges::copy(inner.row(k), along.row(k).begin() + width);
    }
    scale_by(-1.0, along.elements);
    multiply_into(q, u, product(triangle_of(u), along, false, false), true, false);
    for (int64_t i = 0; i < width; ++i) q(i, i) += 1.0;
    parallel_ranges(corner.rows, kRowGrain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        add_scaled(1.0, corner.row(i), q.row(width + i).subspan(static_cast<size_t>(width)));
      }
    });
    std::swap(corner, q);
  }
  return corner;
}

DenseMatrix QrFactors::q() const {
  return product_of_reflections(reflectors_);
}

RealVector QrFactors::reduced(RealVector b) const {
  for (int64_t k = 0; k < r_.rows; ++k) {
    const std::span<const double> u = reflectors_.row(k);
    add_scaled(-2.0 * dot(u, b), u, b);
  }
  b.resize(static_cast<size_t>(r_.rows));
  return b;
}

RealVector QrFactors::solve(RealVector b) const {
  RealVector x = reduced(std::move(b));
  for (int64_t i = r_.rows - 1; i >= 0; --i) {
    const auto at = static_cast<size_t>(i);
    const double behind = dot(r_.row(i).subspan(at + 1), std::span(x).subspan(at + 1));
    x[at] = (x[at] - behind) / r_(i, i);
  }
  return x;
}

}  // namespace lockstep
