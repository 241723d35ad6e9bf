// The symmetric eigenproblem: Householder tridiagonalization and implicit QL.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "lockstep/core/error.h"
#include "lockstep/core/thread_pool.h"
#include "lockstep/minimize/dense.h"

namespace lockstep {
namespace {

// Columns whose reflections are gathered before the others are reflected.
constexpr int64_t kTridiagonalPanel = 32;
// Numbers below have too few digits to become a reflection or a rotation that keeps lengths; they are left
// out.
constexpr double kLeastNormal = std::numeric_limits<double>::min();

// Householder's reduction of the symmetric `a`, of which the lower triangle is read, to a tridiagonal matrix
// T with diagonal d and e[1..] below it. Returns Q, A = Q T Q'. From the last column to the first, so that
// what is left of a matrix without full rank comes first, where implicit_ql looks for small eigenvalues; rows
// and columns are numbered from the last one on here.
//   One column: with the unit vector u that makes the column's elements below the diagonal one number,
//   (I - 2 u u') A (I - 2 u u') = A - u w' - w u',  w = p - (u'p) u,  p = 2 A u
// A panel of columns is reduced from what the columns before it in the panel leave of it; what is behind then
// loses all its u w' + w u' in one product (Dongarra, Hammarling and Sorensen 1989).
DenseMatrix tridiagonalize(const DenseMatrix& a, RealVector& d, RealVector& e) {
  const int64_t n = a.rows;
  DenseMatrix rest(n, n), reflectors(n - 1, n - 1);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j <= i; ++j) rest(n - 1 - j, n - 1 - i) = rest(n - 1 - i, n - 1 - j) = a(i, j);
  }
  for (int64_t first = 0; first < n; first += kTridiagonalPanel) {
    const int64_t size = rest.rows, width = std::min(kTridiagonalPanel, size);
    // Rows u and behind them w; and w and u.
    DenseMatrix both(2 * width, size), other(2 * width, size);
    for (int64_t k = 0; k < width; ++k) {
      const auto behind = static_cast<size_t>(k + 1);
      RealVector column(rest.row(k).begin(), rest.row(k).end());
      for (int64_t i = 0; i < k; ++i) {
        add_scaled(-both(width + i, k), both.row(i), column);
        add_scaled(-both(i, k), both.row(width + i), column);
      }
      d[static_cast<size_t>(n - 1 - first - k)] = column[static_cast<size_t>(k)];
      if (k + 1 == size) break;
      const std::span<double> u = both.row(k), w = both.row(width + k);
      const std::span<double> below = u.subspan(behind);
      std::copy(column.begin() + k + 1, column.end(), below.begin());
      const double length = norm(below);
      if (length < kLeastNormal) {
        std::ranges::fill(below, 0.0);
        continue;
      }
      double& diagonal = e[static_cast<size_t>(n - 1 - first - k)];
      diagonal = below[0] > 0.0 ? -length : length;
      below[0] -= diagonal;
      const double shift = norm(below);
      for (double& value : below) value /= shift;
      std::ranges::copy(below, reflectors.row(first + k).begin() + first + k);

      DenseMatrix direction(1, size);
      std::ranges::copy(u, direction.elements.begin());
      const DenseMatrix image = product(direction, rest, false, false);
      std::ranges::copy(image.elements, w.begin());
      for (int64_t i = 0; i < k; ++i) {
        const double along_u = dot(both.row(i), u), along_w = dot(both.row(width + i), u);
        add_scaled(-along_w, both.row(i), w);
        add_scaled(-along_u, both.row(width + i), w);
      }
      std::fill(w.begin(), w.begin() + k + 1, 0.0);
      scale_by(2.0, w);
      add_scaled(-dot(u, w), u, w);
    }
    if (size == width) break;
    for (int64_t k = 0; k < width; ++k) {
      std::ranges::copy(both.row(k), other.row(width + k).begin());
      std::ranges::copy(both.row(width + k), other.row(k).begin());
    }
    const int64_t left = size - width;
    const DenseMatrix change = product(cut_out(both, 0, 2 * width, width, left),
                                       cut_out(other, 0, 2 * width, width, left), true, false);
    rest = cut_out(rest, width, left, width, left);
    add_scaled(-1.0, change.elements, rest.elements);
  }
  DenseMatrix q(n, n);
  q(n - 1, n - 1) = 1.0;
  const DenseMatrix corner = product_of_reflections(reflectors);
  for (int64_t i = 0; i < n - 1; ++i) std::ranges::reverse_copy(corner.row(n - 2 - i), q.row(i).begin());
  return q;
}

// sqrt(a^2 + b^2) without overflow.
double hypotenuse(double a, double b) {
  const double x = std::max(std::fabs(a), std::fabs(b)), y = std::min(std::fabs(a), std::fabs(b));
  return x == 0.0 ? 0.0 : x * std::sqrt(1.0 + (y / x) * (y / x));
}

// Columns i and i + 1 become c left - s right and s left + c right.
struct Rotation {
  int64_t left;
  double c, s;
};

// Rows of a matrix that are rotated at a time, as many vectors of the smallest kind as registers hold.
constexpr int64_t kStrip = 16;
using Pair [[gnu::vector_size(16)]] = double;
constexpr int64_t kPairs = kStrip / 2;

// The rotations one after the other, of a strip that holds its columns one behind the other. What two
// rotations in a row have in common, the column at the left of the first, stays in registers.
void rotate_strip(const std::vector<Rotation>& rotations, Pair* columns) {
  Pair held[kPairs] = {};
  int64_t at = -1;  // the column in `held`
  for (const Rotation& rotation : rotations) {
    if (at != rotation.left + 1) {
      if (at >= 0) std::copy(held, held + kPairs, columns + at * kPairs);
      std::copy_n(columns + (rotation.left + 1) * kPairs, kPairs, held);
    }
    at = rotation.left;
    const Pair c{rotation.c, rotation.c}, s{rotation.s, rotation.s};
    const Pair* const left = columns + at * kPairs;
    Pair* const right = columns + (at + 1) * kPairs;
#pragma GCC unroll 8
    for (int64_t i = 0; i < kPairs; ++i) {
      const Pair before = left[i];
      right[i] = s * before + c * held[i];
      held[i] = c * before - s * held[i];
    }
  }
  if (at >= 0) std::copy(held, held + kPairs, columns + at * kPairs);
}

// A matrix in strips, whose columns are rotated.
class Strips {
 public:
  explicit Strips(const DenseMatrix& z) : columns_(z.columns), strips_((z.rows + kStrip - 1) / kStrip) {
    elements_.resize(static_cast<size_t>(strips_ * columns_ * kPairs));
    for_rows(z.rows, [&](int64_t i, int64_t j, int64_t pair) {
      elements_[static_cast<size_t>(pair)][i % 2] = z(i, j);
    });
  }
  // The rotations of all rows, which are forgotten then.
  void rotate(std::vector<Rotation>& rotations) {
    thread_pool().run(strips_, [&](int64_t strip) {
      rotate_strip(rotations, elements_.data() + strip * columns_ * kPairs);
    });
    rotations.clear();
  }
  void copy_to(DenseMatrix& z) const {
    for_rows(z.rows, [&](int64_t i, int64_t j, int64_t pair) {
      z(i, j) = elements_[static_cast<size_t>(pair)][i % 2];
    });
  }

 private:
  template <class Function>
  void for_rows(int64_t rows, const Function& function) const {
    parallel_ranges(rows, kStrip, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        for (int64_t j = 0; j < columns_; ++j) {
          function(i, j, (i / kStrip * columns_ + j) * kPairs + i % kStrip / 2);
        }
      }
    });
  }

  int64_t columns_, strips_;
  std::vector<Pair> elements_;
};

// Eigenvalues and vectors of the tridiagonal matrix by implicit QL (Dubrulle, Martin and Wilkinson 1968,
// tql2), whose rotations are gathered, as many as a cache holds, before they turn the columns of z.
void implicit_ql(DenseMatrix& z, RealVector& d, RealVector& e) {
  constexpr size_t kGathered = 8192;
  const int64_t n = z.rows;
  std::vector<Rotation> rotations;
  Strips strips(z);
  const auto at = [](int64_t i) { return static_cast<size_t>(i); };
  std::rotate(e.begin(), e.begin() + 1, e.end());
  e[at(n - 1)] = 0.0;
  for (int64_t l = 0; l < n; ++l) {
    for (int sweep = 0;; ++sweep) {
      int64_t m = l;
      for (; m < n - 1; ++m) {
        const double scale = std::fabs(d[at(m)]) + std::fabs(d[at(m + 1)]);
        if (std::fabs(e[at(m)]) <= std::max(kEpsilon * scale, kLeastNormal)) break;
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
        rotations.push_back({i, c, s});
      }
      if (rotations.size() >= kGathered) strips.rotate(rotations);
      if (r == 0.0 && i >= l) continue;
      d[at(l)] -= p;
      e[at(l)] = g;
      e[at(m)] = 0.0;
    }
  }
  strips.rotate(rotations);
  strips.copy_to(z);
}

}  // namespace

SymmetricEigen symmetric_eigen(const DenseMatrix& a) {
  const int64_t n = a.rows;
  if (!all_finite(a.elements)) {
    fail(ErrorKind::kNumeric,
         fmt::format("symmetric_eigen: a matrix of {} rows has elements that are not finite", n));
  }
  RealVector d(static_cast<size_t>(n)), e(static_cast<size_t>(n));
  DenseMatrix z(0, 0);
  if (n > 0) {
    z = tridiagonalize(a, d, e);
    implicit_ql(z, d, e);
  }
  std::vector<size_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&d](size_t i, size_t j) { return d[i] < d[j]; });
  SymmetricEigen result{RealVector(static_cast<size_t>(n)), DenseMatrix(n, n)};
  for (int64_t j = 0; j < n; ++j) {
    result.values[static_cast<size_t>(j)] = d[order[static_cast<size_t>(j)]];
  }
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j)
      result.vectors(i, j) = z(i, static_cast<int64_t>(order[static_cast<size_t>(j)]));
  }
  return result;
}

}  // namespace lockstep
