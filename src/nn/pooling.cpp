// Pooling layers.
#include "lockstep/nn/pooling.h"

#include <fmt/format.h>

#include "lockstep/nn/convolution.h"
#include "lockstep/ops/convolution.h"
#include "lockstep/ops/reduction.h"

namespace lockstep {

namespace {

Window window_of(const PoolOptions& options) {
  return {options.stride, options.stride, options.padding, options.padding};
}

template <class PoolLayer>
Layer make_pool(Section& keys, const char* name, const Shape& input) {
  PoolOptions options;
  options.kernel = keys.integer("kernel", 2, kSize, "pools: height and width of the window");
  options.stride = keys.integer("stride", 2, kSize, "pools: step of the window");
  options.padding =
      keys.integer("padding", 0, kNonNegative, "pools: border around the image; at most half of kernel");
  require_image(keys, name, input);
  // With more, a window could lie in the padding altogether and have no maximum.
  if (options.padding > options.kernel / 2) {
    keys.reject("padding",
                fmt::format("must be at most half of kernel = {}, got {}", options.kernel, options.padding));
  }
  const Shape output = window_output(keys, input, options.kernel, options.stride, options.padding, input[2]);
  return {std::make_unique<PoolLayer>(options), output};
}

}  // namespace

Tensor MaxPoolLayer::forward(const Tensor& x, ForwardContext&) const {
  return max_pool(x, options_.kernel, options_.kernel, window_of(options_));
}

Tensor AveragePoolLayer::forward(const Tensor& x, ForwardContext&) const {
  return average_pool(x, options_.kernel, options_.kernel, window_of(options_));
}

Tensor GlobalAveragePoolLayer::forward(const Tensor& x, ForwardContext&) const {
  return mean(x, {1, 2});
}

Layer make_max_pool(Section& keys, const Shape& input, const ModuleBuilder&) {
  return make_pool<MaxPoolLayer>(keys, "max_pool", input);
}

Layer make_average_pool(Section& keys, const Shape& input, const ModuleBuilder&) {
  return make_pool<AveragePoolLayer>(keys, "average_pool", input);
}

Layer make_global_average_pool(Section& keys, const Shape& input, const ModuleBuilder&) {
  require_image(keys, "global_average_pool", input);
  return {std::make_unique<GlobalAveragePoolLayer>(), {input[2]}};
}

}  // namespace lockstep
