// Convolution layer.
#include "lockstep/nn/convolution.h"

#include <fmt/format.h>

#include "lockstep/nn/initialization.h"
#include "lockstep/ops/convolution.h"

namespace lockstep {

ConvolutionLayer::ConvolutionLayer(int64_t inputs, int64_t outputs, const ConvolutionOptions& options,
                                   const ModuleBuilder& builder)
    : stride_(options.stride), padding_(options.padding), activation_(options.activation) {
  // Every output sees kernel^2 * inputs values, every input reaches kernel^2 * outputs (He et al. 2015,
  // section 2.2).
  const int64_t window = options.kernel * options.kernel;
  weight_ = builder.parameter("weight", {outputs, options.kernel, options.kernel, inputs},
                              {options.initialization, window * inputs, window * outputs});
  if (options.bias) bias_ = builder.parameter("bias", {outputs}, {});
}

Tensor ConvolutionLayer::forward(const Tensor& x, ForwardContext& context) const {
  const Tensor bias = bias_ < 0 ? Tensor() : context.parameter(bias_);
  return activate(activation_,
                  convolution(x, context.parameter(weight_), bias, {stride_, stride_, padding_, padding_}));
}

LayerSpec convolution_layer(int64_t channels, const ConvolutionOptions& options) {
  return {"convolution", [channels, options](const Shape& input, const ModuleBuilder& builder) -> Layer {
            if (options.padding >= options.kernel) {
              throw RefusedOption(
                  "convolution", "padding",
                  fmt::format("must be less than kernel = {}, got {}", options.kernel, options.padding));
            }
            const Shape output = window_output("convolution", input, options.kernel, options.stride,
                                               options.padding, channels);
            return {std::make_unique<ConvolutionLayer>(input[2], channels, options, builder), output};
          }};
}

LayerSpec read_convolution(Section& keys) {
  const int64_t channels =
      keys.integer("channels", std::nullopt, kSize, "convolution: channels that leave the layer");
  ConvolutionOptions options;
  options.kernel =
      keys.integer("kernel", options.kernel, kSize, "convolution: height and width of the window");
  options.stride = keys.integer("stride", options.stride, kSize, "convolution: step of the window");
  options.padding = keys.integer("padding", options.padding, kNonNegative,
                                 "convolution: zeros around the image; less than kernel");
  options.activation = read_activation(keys, options.activation);
  options.bias = keys.boolean("bias", options.bias, "adds a learned bias");
  options.initialization = read_initialization(keys, options.initialization);
  return convolution_layer(channels, options);
}

Shape window_output(const char* layer, const Shape& image, int64_t kernel, int64_t stride, int64_t padding,
                    int64_t channels) {
  require_image(layer, image);
  require_option(layer, "kernel", static_cast<double>(kernel), kSize);
  require_option(layer, "stride", static_cast<double>(stride), kSize);
  require_option(layer, "padding", static_cast<double>(padding), kNonNegative);
  require_option(layer, "channels", static_cast<double>(channels), kSize);
  const int64_t height = image[0] + 2 * padding, width = image[1] + 2 * padding;
  if (kernel > height || kernel > width) {
    throw RefusedOption(layer, "kernel",
                        fmt::format("a {0}x{0} window does not fit into {1} with padding {2}", kernel,
                                    image.to_string(), padding));
  }
  return {(height - kernel) / stride + 1, (width - kernel) / stride + 1, channels};
}

}  // namespace lockstep
