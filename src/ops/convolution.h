// Differentiable convolution and pooling over (N, H, W, C) activations. Types are those of matmul.h.
#pragma once

#include "lockstep/tensor/tensor.h"

namespace lockstep {

struct Window {
  int64_t stride_h = 1, stride_w = 1, pad_h = 0, pad_w = 0;
};

// x (N,H,W,C), weights (O,KH,KW,C), bias (O) or undefined -> (N,OH,OW,O), OH = (H + 2 pad_h - KH)/stride_h
// + 1.
Tensor convolution(const Tensor& x, const Tensor& weights, const Tensor& bias, const Window& window);

// x (N,H,W,C) -> (N,OH,OW,C). The first maximum of a window receives the derivative; padding never wins.
Tensor max_pool(const Tensor& x, int64_t kh, int64_t kw, const Window& window);
// Mean over the whole window; padding counts as zeros.
Tensor average_pool(const Tensor& x, int64_t kh, int64_t kw, const Window& window);

}  // namespace lockstep
