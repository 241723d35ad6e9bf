// Cholesky, Householder QR; Householder tridiagonalization and implicit QL for the symmetric eigenproblem.
#include "lockstep/minimize/dense.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "lockstep/core/error.h"

namespace lockstep {
namespace {

// Householder's reduction of the symmetric `z` to a tridiagonal matrix with diagonal d and, behind it, e[1..]
// below it; z becomes the orthogonal transformation (Martin, Reinsch and Wilkinson 1968, tred2).
void tridiagonalize(DenseMatrix& z, RealVector& d, RealVector& e) {
  const int64_t n = z.rows;
  const auto at = [](int64_t i) { return static_cast<size_t>(i); };
  for (int64_t i = n - 1; i > 0; --i) {
    double h = 0.0, unit = 0.0;
    for (int64_t k = 0; k < i; ++k) unit += std::fabs(z(i, k));
    if (i == 1 || unit == 0.0) {
      e[at(i)] = z(i, i - 1);
    } else {
      for (int64_t k = 0; k < i; ++k) {
        z(i, k) /= unit;
        h += z(i, k) * z(i, k);
      }
      const double f = z(i, i - 1);
      const double g = f >= 0.0 ? -std::sqrt(h) : std::sqrt(h);
      e[at(i)] = unit * g;
      h -= f * g;
      z(i, i - 1) = f - g;
      double sum = 0.0;
      for (int64_t j = 0; j < i; ++j) {
        z(j, i) = z(i, j) / h;
        double product = 0.0;
        for (int64_t k = 0; k <= j; ++k) product += z(j, k) * z(i, k);
        for (int64_t k = j + 1; k < i; ++k) product += z(k, j) * z(i, k);
        e[at(j)] = product / h;
        sum += e[at(j)] * z(i, j);
      }
      const double half = sum / (h + h);
      for (int64_t j = 0; j < i; ++j) {
        const double a = z(i, j);
        const double b = e[at(j)] - half * a;
        e[at(j)] = b;
        for (int64_t k = 0; k <= j; ++k) z(j, k) -= a * e[at(k)] + b * z(i, k);
      }
    }
    d[at(i)] = h;
  }
  d[0] = 0.0;
  e[0] = 0.0;
  for (int64_t i = 0; i < n; ++i) {
    if (d[at(i)] != 0.0) {
      for (int64_t j = 0; j < i; ++j) {
        double product = 0.0;
        for (int64_t k = 0; k < i; ++k) product += z(i, k) * z(k, j);
        for (int64_t k = 0; k < i; ++k) z(k, j) -= product * z(k, i);
      }
    }
    d[at(i)] = z(i, i);
    z(i, i) = 1.0;
    for (int64_t j = 0; j < i; ++j) z(j, i) = z(i, j) = 0.0;
  }
}

// sqrt(a^2 + b^2) without overflow.
double hypotenuse(double a, double b) {
  const double x = std::max(std::fabs(a), std::fabs(b)), y = std::min(std::fabs(a), std::fabs(b));
  return x == 0.0 ? 0.0 : x * std::sqrt(1.0 + (y / x) * (y / x));
}

// Eigenvalues and vectors of the tridiagonal matrix by implicit QL (Dubrulle, Martin and Wilkinson 1968,
// tql2), the vectors applied to the rows of z, which lie in memory as they are walked through.
void implicit_ql(DenseMatrix& z, RealVector& d, RealVector& e) {
  const int64_t n = z.rows;
  const auto at = [](int64_t i) { return static_cast<size_t>(i); };
  std::rotate(e.begin(), e.begin() + 1, e.end());
  e[at(n - 1)] = 0.0;
  for (int64_t l = 0; l < n; ++l) {
    for (int sweep = 0;; ++sweep) {
      int64_t m = l;
      for (; m < n - 1; ++m) {
        const double scale = std::fabs(d[at(m)]) + std::fabs(d[at(m + 1)]);
        if (std::fabs(e[at(m)]) <= kEpsilon * scale) break;
      }
      if (m == l) break;
      if (sweep == 60) fail(ErrorKind::kNumeric, "symmetric_eigen: no convergence after 60 sweeps");
      double g = (d[at(l + 1)] - d[at(l)]) / (2.0 * e[at(l)]);
      double r = hypotenuse(g, 1.0);
      g = d[at(m)] - d[at(l)] + e[at(l)] / (g + (g >= 0.0 ? r : -r));
      double s = 1.0, c = 1.0, p = 0.0;
      int64_t i = m - 1;
      for (; i >= l; --i) {
        const double f = s * e[at(i)], b = c * e[at(i)];
        r = hypotenuse(f, g);
        e[at(i + 1)] = r;
        if (r == 0.0) {
          d[at(i + 1)] -= p;
          e[at(m)] = 0.0;
          break;
        }
        s = f / r;
        c = g / r;
        g = d[at(i + 1)] - p;
        r = (d[at(i)] - g) * s + 2.0 * c * b;
        p = s * r;
        d[at(i + 1)] = g + p;
        g = c * r - b;
        double *const upper = &z(i, 0), *const lower = &z(i + 1, 0);
        for (int64_t k = 0; k < n; ++k) {
          const double right = lower[k], left = upper[k];
          lower[k] = s * left + c * right;
          upper[k] = c * left - s * right;
        }
      }
      if (r == 0.0 && i >= l) continue;
      d[at(l)] -= p;
      e[at(l)] = g;
      e[at(m)] = 0.0;
    }
  }
}

}  // namespace

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
  RealVector w(static_cast<size_t>(n));
  for (int64_t k = 0; k < n; ++k) {
    const std::span<double> u = reflectors_.row(k);
    for (int64_t i = k; i < m; ++i) u[static_cast<size_t>(i)] = a(i, k);
    const double size = norm(u);
    if (size == 0.0) continue;
    double& first = u[static_cast<size_t>(k)];
    const double diagonal = first > 0.0 ? -size : size;
    first -= diagonal;
    const double length = norm(u);
    for (double& value : u) value /= length;
    std::fill(w.begin(), w.end(), 0.0);
    for (int64_t i = k; i < m; ++i) add_scaled(u[static_cast<size_t>(i)], a.row(i), w);
    for (int64_t i = k; i < m; ++i) add_scaled(-2.0 * u[static_cast<size_t>(i)], w, a.row(i));
    a(k, k) = diagonal;
  }
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = i; j < n; ++j) r_(i, j) = a(i, j);
  }
}

DenseMatrix QrFactors::q() const {
  DenseMatrix q(reflectors_.columns, reflectors_.rows);
  RealVector w(static_cast<size_t>(q.columns));
  for (int64_t k = q.columns - 1; k >= 0; --k) {
    q(k, k) = 1.0;
    const std::span<const double> u = reflectors_.row(k);
    std::fill(w.begin(), w.end(), 0.0);
    for (int64_t i = k; i < q.rows; ++i) add_scaled(u[static_cast<size_t>(i)], q.row(i), w);
    for (int64_t i = k; i < q.rows; ++i) add_scaled(-2.0 * u[static_cast<size_t>(i)], w, q.row(i));
  }
  return q;
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

SymmetricEigen symmetric_eigen(const DenseMatrix& a) {
  const int64_t n = a.rows;
  if (!all_finite(a.elements)) {
    fail(ErrorKind::kNumeric,
         fmt::format("symmetric_eigen: a matrix of {} rows has elements that are not finite", n));
  }
  DenseMatrix z = a;
  RealVector d(static_cast<size_t>(n)), e(static_cast<size_t>(n));
  if (n > 0) {
    tridiagonalize(z, d, e);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < i; ++j) std::swap(z(i, j), z(j, i));
    }
    implicit_ql(z, d, e);
  }
  std::vector<size_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&d](size_t i, size_t j) { return d[i] < d[j]; });
  SymmetricEigen result{RealVector(static_cast<size_t>(n)), DenseMatrix(n, n)};
  for (int64_t j = 0; j < n; ++j) {
    const size_t from = order[static_cast<size_t>(j)];
    result.values[static_cast<size_t>(j)] = d[from];
    for (int64_t i = 0; i < n; ++i) result.vectors(i, j) = z(static_cast<int64_t>(from), i);
  }
  return result;
}

}  // namespace lockstep
