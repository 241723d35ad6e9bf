// What optimizers that divide by the curvature along each axis ask of a run beside the gradient, and what
// they share.
#pragma once

#include <string>

#include "lockstep/optim/parameter_optimizer.h"

namespace lockstep {

// An estimate of the diagonal of a second derivative of the objective, of which the mean is right.
enum class DiagonalEstimate {
  // g o g of the gradient g of the summed losses with targets drawn from what the model predicts, over their
  // weight: of the Gauss-Newton matrix (Liu et al. 2023, "Sophia", algorithm 2, Gauss-Newton-Bartlett).
  kPredictedGradient,
  // z o H z with signs z drawn at random: of the Hessian (Hutchinson 1990; Bekas, Kokiopoulou and Saad 2007).
  kHutchinson
};

class DiagonalCurvature {
 public:
  virtual ~DiagonalCurvature() = default;
  virtual DiagonalEstimate estimate() const = 0;
  // Whether update number `update`, counted from 0, asks for one.
  virtual bool due(int64_t update) const = 0;
  // (parameter_extent), right for this worker's parameters; before each update that asks for it.
  virtual void take(const Tensor& estimate) = 0;
};

// One that asks for an estimate every `every` updates.
class DiagonalCurvatureOptimizer : public ParameterOptimizer, public DiagonalCurvature {
 public:
  DiagonalCurvatureOptimizer(std::string type, DiagonalEstimate estimate, int64_t every)
      : ParameterOptimizer(std::move(type)), estimate_(estimate), every_(every) {}

  DiagonalCurvature* diagonal_curvature() override { return this; }
  DiagonalEstimate estimate() const override { return estimate_; }
  bool due(int64_t update) const override { return update % every_ == 0; }
  void take(const Tensor& estimate) override;

 protected:
  // Of a parameter of this worker, in its shape.
  virtual void gather(size_t index, const Tensor& estimate) = 0;
  // Estimates up to the update under way, which its own belongs to.
  int64_t gathered() const { return updates() / every_ + 1; }

 private:
  DiagonalEstimate estimate_;
  int64_t every_;
};

}  // namespace lockstep
