// Convolution layer over images.
#pragma once

#include "lockstep/nn/activation.h"
#include "lockstep/nn/layer.h"

namespace lockstep {

struct ConvolutionOptions {
  int64_t kernel = 3, stride = 1, padding = 0;  // of both axes
  ActivationFunction activation = ActivationFunction::kNone;
  Initializer::Kind initialization = Initializer::Kind::kHeNormal;
  bool bias = true;
};

// x (N,H,W,inputs) -> (N,OH,OW,outputs); weight (outputs,kernel,kernel,inputs), bias (outputs), initially
// zero.
class ConvolutionLayer final : public Module {
 public:
  ConvolutionLayer(int64_t inputs, int64_t outputs, const ConvolutionOptions& options,
                   const ModuleBuilder& builder);
  Tensor forward(const Tensor& x, ForwardContext& context) const override;

 private:
  int64_t stride_, padding_;
  ActivationFunction activation_;
  int weight_;
  int bias_ = -1;
};

// (H,W,C) -> (OH,OW,channels).
LayerSpec convolution_layer(int64_t channels, const ConvolutionOptions& options = {});
// Keys: channels, kernel, stride, padding, activation, bias, initialization.
LayerSpec read_convolution(Section& keys);

// Shape (OH,OW,channels) of windows that slide over an image (H,W,C): OH = (H + 2 padding - kernel)/stride +
// 1, rounded down. Refuses what is no image, sizes out of range, and a window that does not fit into the
// padded image.
Shape window_output(const char* layer, const Shape& image, int64_t kernel, int64_t stride, int64_t padding,
                    int64_t channels);

}  // namespace lockstep
