// Dense algebra against closed forms and its own defining equations.
#include "lockstep/minimize/dense.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "lockstep/core/error.h"
#include "lockstep/core/thread_pool.h"

namespace lockstep {
namespace {

// Numbers in [-1, 1) of a linear congruential generator.
double next_number(uint64_t& state) {
  state = state * 6364136223846793005ULL + 1442695040888963407ULL;
  return static_cast<double>(state >> 11) * 0x1p-52 - 1.0;
}

DenseMatrix random_matrix(int64_t m, int64_t n, uint64_t seed) {
  DenseMatrix a(m, n);
  for (double& value : a.elements) value = next_number(seed);
  return a;
}

// A'A
DenseMatrix gram(const DenseMatrix& a) {
  DenseMatrix g(a.columns, a.columns);
  for (int64_t i = 0; i < a.columns; ++i) {
    for (int64_t j = 0; j < a.columns; ++j) {
      for (int64_t k = 0; k < a.rows; ++k) g(i, j) += a(k, i) * a(k, j);
    }
  }
  return g;
}

TEST(Vectors, SumInTheOrderOfLanesAndSegments) {
  // 2^53 swallows a 1 in its own lane and in no other.
  RealVector x(129, 0.0), one(129, 1.0);
  x[0] = 0x1p53;
  x[128] = 1.0;
  EXPECT_EQ(dot(x, one), 0x1p53);
  RealVector y(3 * 4096, 0.0), ones(3 * 4096, 1.0);
  y[0] = 0x1p53;
  y[4096] = -0x1p53;
  y[2 * 4096] = 1.0;
  EXPECT_EQ(dot(y, ones), 1.0);
  y[4096] = 1.0;
  y[2 * 4096] = -0x1p53;
  EXPECT_EQ(dot(y, ones), 0.0);
}

TEST(Vectors, NormsNeitherOverflowNorUnderflow) {
  EXPECT_DOUBLE_EQ(norm(RealVector{3e300, 4e300}), 5e300);
  EXPECT_DOUBLE_EQ(norm(RealVector{3e-300, 4e-300}), 5e-300);
  EXPECT_EQ(norm(RealVector{0.0, 0.0}), 0.0);
  EXPECT_TRUE(std::isnan(norm(RealVector{1.0, std::nan("")})));
}

TEST(Cholesky, SolvesAndNoticesWhatIsNotPositiveDefinite) {
  for (const int64_t n : {1, 2, 7, 40}) {
    DenseMatrix a = gram(random_matrix(n + 3, n, 5));
    const RealVector x = random_matrix(n, 1, 9).elements;
    RealVector b = multiply(a, x);
    ASSERT_TRUE(cholesky(a));
    solve_cholesky(a, b);
    for (size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(b[i], x[i], 1e-8);
  }
  DenseMatrix singular = gram(random_matrix(3, 5, 5));
  EXPECT_FALSE(cholesky(singular));
  DenseMatrix indefinite(2, 2);
  indefinite(0, 0) = 1.0;
  indefinite(1, 0) = indefinite(0, 1) = 2.0;
  indefinite(1, 1) = 1.0;
  EXPECT_FALSE(cholesky(indefinite));
  DenseMatrix nan(1, 1);
  nan(0, 0) = std::nan("");
  EXPECT_FALSE(cholesky(nan));
}

TEST(LeastSquares, LeaveResidualsOrthogonalToTheColumns) {
  for (const auto& [m, n] :
       std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {5, 5}, {9, 4}, {60, 17}, {200, 90}}) {
    const DenseMatrix a = random_matrix(m, n, 11);
    RealVector r = random_matrix(m, 1, 13).elements;
    const RealVector x = QrFactors(a).solve(r);
    add_scaled(-1.0, multiply(a, x), r);
    EXPECT_LT(largest(multiply_transposed(a, r)), 1e-12);
  }
  // Columns that normal equations cannot tell apart: 1 + 1e-9.
  DenseMatrix close(3, 2);
  close.elements = {1.0, 1.0, 1e-9, 0.0, 0.0, 1e-9};
  const RealVector x = QrFactors(close).solve({2.0, 1e-9, 1e-9});
  EXPECT_NEAR(x[0], 1.0, 1e-6);
  EXPECT_NEAR(x[1], 1.0, 1e-6);
}

// Sizes around those of panels and of what is reduced column by column, of a rank less than full, with
// columns of zeros, and of extreme elements.
TEST(QrFactors, GiveTheMatrixBackOnAnyNumberOfThreads) {
  std::vector<DenseMatrix> matrices;
  for (const auto& [m, n] : std::vector<std::pair<int64_t, int64_t>>{
           {1, 1}, {8, 8}, {9, 9}, {48, 48}, {49, 49}, {150, 70}, {97, 96}, {200, 200}, {300, 129}})
    matrices.push_back(random_matrix(m, n, 19));
  matrices.push_back(gram(random_matrix(69, 70, 29)));
  matrices.emplace_back(80, 80);
  for (int64_t i = 0; i < 80; ++i) matrices.back()(i, 75) = matrices.back()(i, 3) = static_cast<double>(i);
  for (const double unit : {1e-200, 1e200}) {
    matrices.push_back(random_matrix(100, 100, 31));
    scale_by(unit, matrices.back().elements);
  }
  matrices.push_back(random_matrix(60, 60, 37));
  for (int64_t i = 0; i < 60; ++i) matrices.back()(i, 0) = matrices.back()(i, 50) = 5e-324;
  for (const DenseMatrix& a : matrices) {
    const double scale = std::max(largest(a.elements), 1e-300);
    set_threads(1);
    const QrFactors alone(a);
    set_threads(3);
    const QrFactors factors(a);
    const DenseMatrix q = factors.q(), &r = factors.r();
    EXPECT_EQ(q.elements, alone.q().elements);
    EXPECT_EQ(r.elements, alone.r().elements);
    set_threads(1);
    ASSERT_TRUE(q.rows == a.rows && q.columns == a.columns && r.rows == a.columns && r.columns == a.columns);
    DenseMatrix inner = gram(q);
    for (int64_t i = 0; i < a.columns; ++i) inner(i, i) -= 1.0;
    EXPECT_LT(largest(inner.elements), 1e-13) << a.rows << " x " << a.columns;
    double off = 0.0;
    for (int64_t i = 0; i < a.rows; ++i) {
      for (int64_t j = 0; j < a.columns; ++j) {
        double sum = 0.0;
        for (int64_t k = 0; k <= j; ++k) sum += q(i, k) * r(k, j);
        off = std::max(off, std::fabs(sum - a(i, j)) / scale);
        if (i < a.columns && i > j) {
          ASSERT_EQ(r(i, j), 0.0);
        }
      }
    }
    EXPECT_LT(off, 1e-12) << a.rows << " x " << a.columns;
  }
}

TEST(SymmetricEigen, OfTheSecondDifference) {
  // tridiagonal (-1, 2, -1): 2 - 2 cos(k pi / (n + 1))
  const int64_t n = 100;
  DenseMatrix a(n, n);
  for (int64_t i = 0; i < n; ++i) {
    a(i, i) = 2.0;
    if (i > 0) a(i, i - 1) = a(i - 1, i) = -1.0;
  }
  const SymmetricEigen eigen = symmetric_eigen(a);
  for (int64_t k = 0; k < n; ++k) {
    const double expected = 2.0 - 2.0 * std::cos(static_cast<double>(k + 1) * std::numbers::pi / 101.0);
    EXPECT_NEAR(eigen.values[static_cast<size_t>(k)], expected, 1e-13);
  }
  EXPECT_NEAR(eigen.values.back() / eigen.values.front(), 4133.643, 1e-3);
}

TEST(SymmetricEigen, SatisfiesItsEquations) {
  std::vector<DenseMatrix> matrices;
  for (const int64_t n : {1, 2, 3, 30, 31, 32, 33, 34, 65, 150})
    matrices.push_back(gram(random_matrix(n, n, 3)));
  matrices.push_back(gram(random_matrix(4, 20, 17)));  // rank 4
  matrices.push_back(gram(random_matrix(4, 90, 17)));
  matrices.emplace_back(6, 6);  // zero
  matrices.emplace_back(70, 70);
  for (int64_t i = 0; i < 70; ++i) matrices.back()(i, i) = 1.0;
  DenseMatrix graded = gram(random_matrix(8, 8, 23));  // elements from 1e-12 to 1e12
  for (int64_t i = 0; i < 8; ++i) {
    for (int64_t j = 0; j < 8; ++j)
      graded(i, j) *= std::pow(10.0, static_cast<double>(i + j - 7) * 12.0 / 7.0);
  }
  matrices.push_back(graded);
  // Rows and columns of numbers that have lost most of their digits, as averages of nothing leave them.
  for (const double t : {5e-324, 2.5e-323, 2.5e-322, 1e-310}) {
    matrices.push_back(gram(random_matrix(24, 24, 29)));
    for (int64_t i = 0; i < 24; ++i) {
      for (int64_t j = 0; j < 24; ++j) {
        if (i % 4 == 3 || j % 4 == 3) matrices.back()(i, j) = t;
      }
    }
  }
  for (const DenseMatrix& a : matrices) {
    set_threads(3);
    const SymmetricEigen eigen = symmetric_eigen(a);
    set_threads(1);
    const SymmetricEigen alone = symmetric_eigen(a);
    EXPECT_EQ(eigen.values, alone.values);
    EXPECT_EQ(eigen.vectors.elements, alone.vectors.elements);
    const double scale = std::max(largest(eigen.values), 1e-300);
    for (int64_t i = 0; i < a.rows; ++i) {
      for (int64_t j = 0; j < a.rows; ++j) {
        double product = 0.0, inner = 0.0;
        for (int64_t k = 0; k < a.rows; ++k) {
          const double lambda = eigen.values[static_cast<size_t>(k)];
          product += eigen.vectors(i, k) * lambda * eigen.vectors(j, k);
          inner += eigen.vectors(k, i) * eigen.vectors(k, j);
        }
        EXPECT_NEAR(product / scale, a(i, j) / scale, 1e-13);
        EXPECT_NEAR(inner, i == j ? 1.0 : 0.0, 1e-13);
      }
      if (i > 0) {
        EXPECT_LE(eigen.values[static_cast<size_t>(i - 1)], eigen.values[static_cast<size_t>(i)]);
      }
    }
  }
  DenseMatrix bad(2, 2);
  bad(1, 0) = std::nan("");
  EXPECT_THROW(symmetric_eigen(bad), Error);
}

}  // namespace
}  // namespace lockstep
