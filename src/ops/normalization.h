// Differentiable layer norm (Ba et al. 2016), RMS norm and batch norm (Ioffe and Szegedy 2015).
//
// y has the type of x. Beside 16-bit x, gamma, beta and all statistics are computed with in fp32.
#pragma once

#include "lockstep/tensor/tensor.h"

namespace lockstep {

// Over the last axis: (x - mean)/sqrt(variance + epsilon) * gamma + beta, biased variance. gamma, beta: (last
// extent).
Tensor layer_norm(const Tensor& x, const Tensor& gamma, const Tensor& beta, double epsilon = 1e-5);

// Over the last axis: x / sqrt(mean of x^2 + epsilon) * gamma (Zhang and Sennrich 2019). gamma: (last
// extent).
Tensor rms_norm(const Tensor& x, const Tensor& gamma, double epsilon = 1e-5);

// As residual networks take them: sum = x + change, of the type of x, and the norm of that, rounded to the
// type in which products take it (autocast). Without a change, which may be undefined, the sum is x.
struct NormedSum {
  Tensor sum, y;
};
NormedSum add_layer_norm(const Tensor& x, const Tensor& change, const Tensor& gamma, const Tensor& beta,
                         double epsilon = 1e-5);
NormedSum add_rms_norm(const Tensor& x, const Tensor& change, const Tensor& gamma, double epsilon = 1e-5);

struct BatchNormResult {
  Tensor y;
  Tensor mean, variance;  // (C), of this micro-batch, biased, without history
};
// Over all axes but the last (channels): statistics of the micro-batch.
BatchNormResult batch_norm(const Tensor& x, const Tensor& gamma, const Tensor& beta, double epsilon = 1e-5);
// With given statistics (evaluation).
Tensor batch_norm_inference(const Tensor& x, const Tensor& gamma, const Tensor& beta, const Tensor& mean,
                            const Tensor& variance, double epsilon = 1e-5);

}  // namespace lockstep
