// The basic residual block of two convolutions and a shortcut (He et al. 2016, "Deep residual learning").
#pragma once

#include <optional>

#include "lockstep/nn/batch_norm.h"
#include "lockstep/nn/convolution.h"
#include "lockstep/nn/layer.h"

namespace lockstep {

struct ResidualOptions {
  int64_t stride = 1;  // of the first convolution
  bool batch_norm = true;
  ActivationFunction activation = ActivationFunction::kRelu;
  Initializer::Kind initialization = Initializer::Kind::kHeNormal;
};

// A convolution that keeps the image's size at stride 1 (odd kernel, half of it padded), followed by batch
// norm (then without a bias, which the norm would cancel) or not.
class NormedConvolution final : public Module {
 public:
  NormedConvolution(int64_t inputs, int64_t outputs, int64_t kernel, int64_t stride,
                    const ResidualOptions& options, const ModuleBuilder& builder);
  Tensor forward(const Tensor& x, ForwardContext& context) const override;

 private:
  ConvolutionLayer convolution_;
  std::optional<BatchNormLayer> norm_;
};

// x (N,H,W,inputs) -> (N,OH,OW,outputs), OH = ceil(H/stride): activation(F(x) + shortcut(x)) where F is 3x3
// convolution, norm, activation, 3x3 convolution, norm. The shortcut is x, or a 1x1 convolution of that
// stride with norm where the shape changes.
class ResidualBlock final : public Module {
 public:
  ResidualBlock(int64_t inputs, int64_t outputs, const ResidualOptions& options,
                const ModuleBuilder& builder);
  Tensor forward(const Tensor& x, ForwardContext& context) const override;

 private:
  ActivationFunction activation_;
  NormedConvolution first_, second_;
  std::optional<NormedConvolution> projection_;
};

// (H,W,C) -> (ceil(H/stride),ceil(W/stride),channels).
LayerSpec residual_block_layer(int64_t channels, const ResidualOptions& options = {});
// Keys: channels, stride, batch_norm, activation, initialization.
LayerSpec read_residual_block(Section& keys);

}  // namespace lockstep
