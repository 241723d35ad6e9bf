// Residual block.
#include "lockstep/nn/residual_block.h"

#include "lockstep/nn/initialization.h"
#include "lockstep/ops/elementwise.h"

namespace lockstep {

namespace {

ConvolutionOptions same_size(int64_t kernel, int64_t stride, const ResidualOptions& options) {
  ConvolutionOptions convolution;
  convolution.kernel = kernel;
  convolution.stride = stride;
  convolution.padding = kernel / 2;
  convolution.bias = !options.batch_norm;
  convolution.initialization = options.initialization;
  return convolution;
}

}  // namespace

NormedConvolution::NormedConvolution(int64_t inputs, int64_t outputs, int64_t kernel, int64_t stride,
                                     const ResidualOptions& options, const ModuleBuilder& builder)
    : convolution_(inputs, outputs, same_size(kernel, stride, options), builder.scope("convolution")) {
  if (options.batch_norm) norm_.emplace(outputs, BatchNormOptions{}, builder.scope("norm"));
}

Tensor NormedConvolution::forward(const Tensor& x, ForwardContext& context) const {
  Tensor y = convolution_.forward(x, context);
  return norm_ ? norm_->forward(y, context) : y;
}

ResidualBlock::ResidualBlock(int64_t inputs, int64_t outputs, const ResidualOptions& options,
                             const ModuleBuilder& builder)
    : activation_(options.activation),
      first_(inputs, outputs, 3, options.stride, options, builder.scope("first")),
      second_(outputs, outputs, 3, 1, options, builder.scope("second")) {
  if (options.stride != 1 || inputs != outputs) {
    projection_.emplace(inputs, outputs, 1, options.stride, options, builder.scope("projection"));
  }
}

Tensor ResidualBlock::forward(const Tensor& x, ForwardContext& context) const {
  const Tensor inner = activate(activation_, first_.forward(x, context));
  const Tensor shortcut = projection_ ? projection_->forward(x, context) : x;
  return activate(activation_, add(second_.forward(inner, context), shortcut));
}

LayerSpec residual_block_layer(int64_t channels, const ResidualOptions& options) {
  return {"residual_block", [channels, options](const Shape& input, const ModuleBuilder& builder) -> Layer {
            const Shape output = window_output("residual_block", input, 3, options.stride, 1, channels);
            return {std::make_unique<ResidualBlock>(input[2], channels, options, builder), output};
          }};
}

LayerSpec read_residual_block(Section& keys) {
  const int64_t channels =
      keys.integer("channels", std::nullopt, kSize, "residual_block: channels that leave the block");
  ResidualOptions options;
  options.stride =
      keys.integer("stride", options.stride, kSize, "residual_block: step of the first convolution");
  options.batch_norm =
      keys.boolean("batch_norm", options.batch_norm, "residual_block: batch norm after every convolution");
  options.activation = read_activation(keys, options.activation);
  options.initialization = read_initialization(keys, options.initialization);
  return residual_block_layer(channels, options);
}

}  // namespace lockstep
