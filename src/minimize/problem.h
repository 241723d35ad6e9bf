// What a minimizer sees of a function: its value, gradient and products with second derivatives, in fp64.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <span>

#include "lockstep/autodiff/derivatives.h"
#include "lockstep/minimize/dense.h"
#include "lockstep/minimize/vectors.h"

namespace lockstep {

// A function f of n numbers. Asked twice at the same x, it answers with the same bits. Values and gradients
// may be non-finite: a minimizer stays away from such points.
class Problem {
 public:
  virtual ~Problem() = default;
  virtual int64_t size() const = 0;

  virtual double value(const RealVector& x) = 0;
  // gradient is resized to (n).
  virtual double value_and_gradient(const RealVector& x, RealVector& gradient) = 0;
  // out <- H(x) v, H the second derivative. Error (kUsage) where the problem has none.
  virtual void hessian_product(const RealVector& x, const RealVector& v, RealVector& out);
  // out <- G(x) v, G the Gauss-Newton matrix, positive semidefinite. Least squares have J'J by themselves;
  // Error (kUsage) where there is none.
  virtual void gauss_newton_product(const RealVector& x, const RealVector& v, RealVector& out);
  // out (n) <- the diagonal of G(x). Least squares have it by themselves; Error (kUsage) where there is none.
  virtual void gauss_newton_diagonal(const RealVector& x, RealVector& out);

  // Of least squares, f(x) = |r(x)|^2 / 2: the number of residuals; 0 for any other function.
  virtual int64_t residual_count() const { return 0; }
  // r (m) and, unless null, its derivative J (m, n). Error (kUsage) where residual_count() is 0.
  virtual void residuals(const RealVector& x, RealVector& r, DenseMatrix* jacobian);

  // Share of a value below which differences between values are made of rounding.
  virtual double resolution() const { return std::numeric_limits<double>::epsilon(); }

  // Moves x to the nearest point at which the problem can be asked: parameters of fp32 are not all of fp64.
  virtual void place(RealVector& x) const { (void)x; }
};

// From plain functions; those that are left empty are missing.
struct CallbackProblem final : public Problem {
  using Value = std::function<double(const RealVector& x)>;
  // gradient: (n), to be filled in. Returns f.
  using Gradient = std::function<double(const RealVector& x, RealVector& gradient)>;
  using Product = std::function<void(const RealVector& x, const RealVector& v, RealVector& out)>;

  CallbackProblem(int64_t size_, Gradient gradient_, Product hessian_ = {}, Value value_ = {})
      : n(size_),
        gradient(std::move(gradient_)),
        hessian(std::move(hessian_)),
        only_value(std::move(value_)) {}
  int64_t size() const override { return n; }
  double value(const RealVector& x) override;
  double value_and_gradient(const RealVector& x, RealVector& g) override;
  void hessian_product(const RealVector& x, const RealVector& v, RealVector& out) override;

  int64_t n;
  Gradient gradient;
  Product hessian;
  Value only_value;
};

// Residuals and their derivative from a plain function, as Problem::residuals().
class LeastSquaresProblem final : public Problem {
 public:
  using Residuals = std::function<void(const RealVector& x, RealVector& r, DenseMatrix* jacobian)>;
  LeastSquaresProblem(int64_t size, int64_t residual_count, Residuals residuals)
      : size_(size), count_(residual_count), residuals_(std::move(residuals)) {}
  int64_t size() const override { return size_; }
  int64_t residual_count() const override { return count_; }
  double value(const RealVector& x) override;
  double value_and_gradient(const RealVector& x, RealVector& gradient) override;
  void residuals(const RealVector& x, RealVector& r, DenseMatrix* jacobian) override {
    residuals_(x, r, jacobian);
  }

 private:
  int64_t size_, count_;
  Residuals residuals_;
};

// A scalar function of one fp64 tensor (n), written in ops; derivatives by autodiff.
class FunctionProblem final : public Problem {
 public:
  using Scalar = std::function<Tensor(const Tensor& x)>;
  FunctionProblem(int64_t size, Scalar function, Backend& backend);
  int64_t size() const override { return size_; }
  double value(const RealVector& x) override;
  double value_and_gradient(const RealVector& x, RealVector& gradient) override;
  void hessian_product(const RealVector& x, const RealVector& v, RealVector& out) override;

 private:
  Tensor tensor(const RealVector& x) const;
  int64_t size_;
  Function function_;
  Backend& backend_;
  std::optional<SecondDerivative> second_;  // for products at one point
  RealVector second_at_;
};

}  // namespace lockstep
