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
LayerSpec pool_layer(const char* name, const PoolOptions& options) {
  return {name, [name, options](const Shape& input, const ModuleBuilder&) -> Layer {
            // With more, a window could lie in the padding altogether and have no maximum.
            if (options.padding > options.kernel / 2) {
              throw RefusedOption(name, "padding",
                                  fmt::format("must be at most half of kernel = {}, got {}", options.kernel,
                                              options.padding));
            }
            const int64_t channels = input.rank() > 0 ? input.last() : 0;
            const Shape output =
                window_output(name, input, options.kernel, options.stride, options.padding, channels);
            return {std::make_unique<PoolLayer>(options), output};
          }};
}

PoolOptions read_pool(Section& keys) {
  PoolOptions options;
  options.kernel = keys.integer("kernel", options.kernel, kSize, "pools: height and width of the window");
  options.stride = keys.integer("stride", options.stride, kSize, "pools: step of the window");
  options.padding = keys.integer("padding", options.padding, kNonNegative,
                                 "pools: border around the image; at most half of kernel");
  return options;
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

LayerSpec max_pool_layer(const PoolOptions& options) {
  return pool_layer<MaxPoolLayer>("max_pool", options);
}

LayerSpec average_pool_layer(const PoolOptions& options) {
  return pool_layer<AveragePoolLayer>("average_pool", options);
}

LayerSpec read_max_pool(Section& keys) {
  return max_pool_layer(read_pool(keys));
}

LayerSpec read_average_pool(Section& keys) {
  return average_pool_layer(read_pool(keys));
}

LayerSpec global_average_pool_layer() {
  return {"global_average_pool", [](const Shape& input, const ModuleBuilder&) -> Layer {
            require_image("global_average_pool", input);
            return {std::make_unique<GlobalAveragePoolLayer>(), {input[2]}};
          }};
}

}  // namespace lockstep
