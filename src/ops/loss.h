// Differentiable softmax family and losses, in forms that hold at the extremes of the number range.
//
// Losses return one value a sample; trainers sum them and divide once, after the sum over the global batch.
// 16-bit logits, predictions and targets are widened: losses of them are fp32, and so are the weights of
// samples. `weights` (B) multiplies each sample's loss; undefined means all 1.
#pragma once

#include "lockstep/tensor/tensor.h"

namespace lockstep {

Tensor softmax(const Tensor& x);                              // over the last axis
Tensor log_softmax(const Tensor& x);                          // over the last axis
Tensor log_sum_exp(const Tensor& x, bool keep_axis = false);  // over the last axis: m + log sum exp(x - m)

// logits (B, classes), labels (B) int32 in [0, classes) -> (B): -log softmax(logits)[label].
Tensor cross_entropy(const Tensor& logits, const Tensor& labels, const Tensor& weights = {});
// logits (B) or (B,1), targets of the same shape in [0, 1] -> (B): softplus(z) - y z, the
// negative log-likelihood -y log sigma(z) - (1 - y) log(1 - sigma(z)) of logistic regression (Cox 1958).
Tensor logistic_loss(const Tensor& logits, const Tensor& targets, const Tensor& weights = {});
// predictions and targets (B, ...) -> (B): mean over the other axes of the squared difference.
Tensor mean_squared_error(const Tensor& predictions, const Tensor& targets, const Tensor& weights = {});

}  // namespace lockstep
