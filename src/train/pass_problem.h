// The objective over one global batch as a problem for minimizers: data-parallel line searches, quasi-Newton
// and Newton methods, trust regions.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>

#include "lockstep/minimize/minimizer.h"
#include "lockstep/train/gradient_pass.h"
#include "lockstep/train/replica.h"

namespace lockstep {

// Every call is collective. All workers see the same bits, whatever their number, so that a minimizer, which
// decides by them alone, takes the same steps on each: as many trials, as many products. A worker holds all
// of a minimizer's vectors, in fp64 and on the host.
class PassProblem : public Problem {
 public:
  // Of the batch that the pass is given by set_batch(). Both must outlive the object.
  PassProblem(GradientPass& pass, Replica& replica);

  // Called before every evaluation, on every worker; what it throws, it has to throw on all.
  void set_before_each(std::function<void()> before_each) { before_each_ = std::move(before_each); }

  // The elements of all parameters, one parameter behind the other in the order of the store, without its
  // gaps.
  int64_t size() const override { return size_; }
  double value(const RealVector& x) override;
  double value_and_gradient(const RealVector& x, RealVector& gradient) override;
  // Error (kUsage) in 16-bit precision.
  void hessian_product(const RealVector& x, const RealVector& v, RealVector& out) override;
  void gauss_newton_product(const RealVector& x, const RealVector& v, RealVector& out) override;
  // Rounds to the type of the parameters.
  void place(RealVector& x) const override;
  double resolution() const override;

  // What the samples of the newest value or gradient weigh together; 0: none counts.
  double weight() const { return weight_; }
  // At the x of the newest gradient; none where batches share nothing.
  const std::optional<SharedGradients>& shared() const { return shared_; }

  // The replica's parameters.
  RealVector parameters() const { return packed(replica_.store.values()); }
  // Sets them; every call above leaves them at its x, which need not be where a minimizer has stayed.
  void set_parameters(const RealVector& x);

 protected:
  GradientPass& pass() { return pass_; }
  const GradientPass& pass() const { return pass_; }
  Replica& replica() { return replica_; }
  Tensor flat(const RealVector& x) const;
  // What every evaluation begins with.
  void go_to(const RealVector& x);
  void set_weight(double weight) { weight_ = weight; }
  RealVector packed(const Tensor& flat) const;

 private:
  double loss_of(const GradientPass::Value& value);
  using PassProduct = void (GradientPass::*)(const Tensor&, Tensor&, GradientPass::Linearization*);
  void multiply(const RealVector& x, const RealVector& v, RealVector& out, PassProduct product,
                GradientPass::Linearization& kept);

  GradientPass& pass_;
  Replica& replica_;
  int64_t size_ = 0;
  double weight_ = 0.0;
  std::optional<SharedGradients> shared_;
  // Of products with the Hessian and with the Gauss-Newton matrix at kept_at_.
  GradientPass::Linearization hessian_, gauss_newton_;
  RealVector kept_at_;
  std::function<void()> before_each_;
};

}  // namespace lockstep
