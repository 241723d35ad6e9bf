// Between packed fp64 vectors on the host and the flat arrays of a replica.
#include "lockstep/train/pass_problem.h"

#include <algorithm>
#include <limits>

namespace lockstep {

PassProblem::PassProblem(GradientPass& pass, Replica& replica) : pass_(pass), replica_(replica) {
  for (const ParameterEntry& entry : replica.store.parameters()) size_ += entry.shape.elements();
}

RealVector PassProblem::packed(const Tensor& flat) const {
  const std::vector<double> all = flat.converted(DType::kF64).to_vector<double>();
  RealVector result;
  result.reserve(static_cast<size_t>(size_));
  for (const ParameterEntry& entry : replica_.store.parameters()) {
    const auto begin = all.begin() + entry.offset;
    result.insert(result.end(), begin, begin + entry.shape.elements());
  }
  return result;
}

Tensor PassProblem::flat(const RealVector& x) const {
  const Tensor values = replica_.store.values();
  std::vector<double> all(static_cast<size_t>(values.elements()), 0.0);
  auto from = x.begin();
  for (const ParameterEntry& entry : replica_.store.parameters()) {
    const auto to = from + entry.shape.elements();
    std::copy(from, to, all.begin() + entry.offset);
    from = to;
  }
  return Tensor::from(values.shape(), all, values.backend()).converted(values.dtype());
}

void PassProblem::set_parameters(const RealVector& x) {
  Tensor values = replica_.store.values();
  values.assign(flat(x));
}

void PassProblem::go_to(const RealVector& x) {
  if (before_each_) before_each_();
  if (kept_at_ != x) hessian_ = gauss_newton_ = {};
  set_parameters(x);
}

void PassProblem::place(RealVector& x) const {
  if (replica_.store.dtype() != DType::kF64) x = packed(flat(x));
}

double PassProblem::resolution() const {
  return replica_.store.dtype() == DType::kF64 ? std::numeric_limits<double>::epsilon()
                                               : std::numeric_limits<float>::epsilon();
}

double PassProblem::loss_of(const GradientPass::Value& value) {
  weight_ = value.weight;
  return value.loss;
}

double PassProblem::value(const RealVector& x) {
  go_to(x);
  return loss_of(pass_.value());
}

double PassProblem::value_and_gradient(const RealVector& x, RealVector& gradient) {
  go_to(x);
  Tensor g = replica_.store.values().empty_like();
  const double loss = loss_of(pass_.value_and_gradient(g));
  gradient = packed(g);
  if (pass_.shares()) {
    const GradientPass::Shared found = pass_.shared_gradients();
    const auto vector = [&](const Tensor& mean) { return mean.defined() ? packed(mean) : RealVector(); };
    shared_ = {pass_.step(), vector(found.before), vector(found.after), pass_.l2()};
  }
  return loss;
}

void PassProblem::multiply(const RealVector& x, const RealVector& v, RealVector& out, PassProduct product,
                           GradientPass::Linearization& kept) {
  go_to(x);
  kept_at_ = x;
  Tensor result = replica_.store.values().empty_like();
  (pass_.*product)(flat(v), result, &kept);
  out = packed(result);
}

void PassProblem::hessian_product(const RealVector& x, const RealVector& v, RealVector& out) {
  multiply(x, v, out, &GradientPass::hessian_product, hessian_);
}

void PassProblem::gauss_newton_product(const RealVector& x, const RealVector& v, RealVector& out) {
  multiply(x, v, out, &GradientPass::gauss_newton_product, gauss_newton_);
}

}  // namespace lockstep
