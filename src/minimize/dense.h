// Dense algebra in fp64: products, Cholesky, Householder QR and the symmetric eigenproblem. One order of
// operations, whatever the number of threads: the bits of a result depend on its input alone.
#pragma once

#include <cstdint>
#include <span>

#include "lockstep/minimize/vectors.h"

namespace lockstep {

// (rows, columns), row-major, initially zero.
struct DenseMatrix {
  DenseMatrix(int64_t rows_, int64_t columns_)
      : rows(rows_), columns(columns_), elements(static_cast<size_t>(rows_ * columns_)) {}
  double& operator()(int64_t i, int64_t j) { return elements[static_cast<size_t>(i * columns + j)]; }
  double operator()(int64_t i, int64_t j) const { return elements[static_cast<size_t>(i * columns + j)]; }
  std::span<double> row(int64_t i) {
    return std::span(elements).subspan(static_cast<size_t>(i * columns), static_cast<size_t>(columns));
  }
  std::span<const double> row(int64_t i) const {
    return std::span(elements).subspan(static_cast<size_t>(i * columns), static_cast<size_t>(columns));
  }

  int64_t rows, columns;
  RealVector elements;
};

DenseMatrix transposed(const DenseMatrix& a);
// The elements in `rows` rows from `row` on and `columns` columns from `column` on.
DenseMatrix cut_out(const DenseMatrix& a, int64_t row, int64_t rows, int64_t column, int64_t columns);
// op(a) op(b) by the CPU's kernel; op transposes where asked.
DenseMatrix product(const DenseMatrix& a, const DenseMatrix& b, bool transpose_a, bool transpose_b);
RealVector multiply(const DenseMatrix& a, std::span<const double> x);             // A x
RealVector multiply_transposed(const DenseMatrix& a, std::span<const double> x);  // A' x
RealVector column_squares(const DenseMatrix& a);                                  // the diagonal of A' A

// A = L L': the lower triangle of `a` becomes L. False where A is not numerically positive definite; what is
// in `a` is then of no use.
bool cholesky(DenseMatrix& a);
// x <- (L L')^-1 x
void solve_cholesky(const DenseMatrix& l, std::span<double> x);

// The first n columns (m, n) of (I - 2 u_0 u_0') (I - 2 u_1 u_1') ..., u_i the rows of `reflectors` (n, m),
// of which row i begins with i zeros.
DenseMatrix product_of_reflections(const DenseMatrix& reflectors);

// Householder QR of A (m, n), m >= n, in panels of columns whose reflections I - U' T U are products
// (Schreiber and Van Loan 1989).
class QrFactors {
 public:
  explicit QrFactors(DenseMatrix a);
  // (n, n), upper triangular.
  const DenseMatrix& r() const { return r_; }
  // (m, n), orthonormal columns.
  DenseMatrix q() const;
  // The first n elements of Q' b, b (m).
  RealVector reduced(RealVector b) const;
  // The x that minimizes |A x - b|. A has full rank; else the result is not finite.
  RealVector solve(RealVector b) const;

 private:
  DenseMatrix reflectors_;  // (n, m): row k is u of I - 2 u u', from element k on
  DenseMatrix r_;
};

// A V = V diag(values) of the symmetric A, of which only the lower triangle is read; values ascend, column j
// of `vectors` is the j-th eigenvector. Error (kNumeric) where an element is not finite.
struct SymmetricEigen {
  RealVector values;
  DenseMatrix vectors;
};
SymmetricEigen symmetric_eigen(const DenseMatrix& a);

}  // namespace lockstep
