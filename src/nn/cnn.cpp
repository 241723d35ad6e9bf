// Residual convolutional network.
#include "lockstep/nn/cnn.h"

#include <fmt/format.h>

#include "lockstep/nn/chain.h"
#include "lockstep/nn/dropout.h"
#include "lockstep/nn/initialization.h"
#include "lockstep/nn/linear.h"
#include "lockstep/nn/pooling.h"
#include "lockstep/nn/residual_block.h"

namespace lockstep {

CnnOptions read_cnn(Section& model) {
  CnnOptions options;
  options.channels = model.integers("channels", options.channels, kSize, "cnn: channels of each stage");
  options.strides =
      model.integers("strides", options.strides, kSize, "cnn: step of the first block of each stage");
  options.blocks = model.integer("blocks", options.blocks, kSize, "cnn: residual blocks a stage");
  options.batch_norm =
      model.boolean("batch_norm", options.batch_norm, "cnn: batch norm after every convolution");
  options.activation = read_activation(model, options.activation);
  options.dropout = read_dropout(model, "dropout", options.dropout);
  options.initialization = read_initialization(model, options.initialization);
  return options;
}

std::unique_ptr<Module> make_cnn(const CnnOptions& options, const DataShape& data,
                                 const ModuleBuilder& builder) {
  const std::vector<int64_t>&channels = options.channels, &strides = options.strides;
  for (const int64_t extent : channels) require_option("cnn", "channels", static_cast<double>(extent), kSize);
  for (const int64_t stride : strides) require_option("cnn", "strides", static_cast<double>(stride), kSize);
  require_option("cnn", "blocks", static_cast<double>(options.blocks), kSize);
  require_dropout("cnn", "dropout", options.dropout);
  require_real_inputs("cnn", data);
  if (data.sample.rank() != 3) {
    throw RefusedOption(
        "cnn", "type",
        fmt::format("cnn: data must be (H,W,C), got samples of shape {}", data.sample.to_string()));
  }
  if (channels.empty()) throw RefusedOption("cnn", "channels", "must name at least one stage, got []");
  if (strides.size() != channels.size()) {
    throw RefusedOption("cnn", "strides",
                        fmt::format("must give one stride for each of the {} stages in channels, got {}",
                                    channels.size(), strides.size()));
  }

  auto chain = std::make_unique<Chain>();
  ResidualOptions block_options{1, options.batch_norm, options.activation, options.initialization};
  int64_t width = channels[0];
  chain->append("stem (convolution)", std::make_unique<NormedConvolution>(
                                          data.sample[2], width, 3, 1, block_options, builder.scope("stem")));
  chain->append("stem (activation)", std::make_unique<ActivationLayer>(options.activation));
  for (size_t stage = 0; stage < channels.size(); ++stage) {
    for (int64_t block = 0; block < options.blocks; ++block) {
      block_options.stride = block == 0 ? strides[stage] : 1;
      const ModuleBuilder scope = builder.scope(fmt::format("stages.{}.{}", stage, block));
      chain->append(scope.prefix() + " (residual block)",
                    std::make_unique<ResidualBlock>(width, channels[stage], block_options, scope));
      width = channels[stage];
    }
  }
  chain->append("global average pool", std::make_unique<GlobalAveragePoolLayer>());
  if (options.dropout > 0.0) chain->append("dropout", std::make_unique<DropoutLayer>(options.dropout));
  LinearOptions head;
  head.initialization = options.initialization;
  chain->append("output (linear)",
                std::make_unique<LinearLayer>(width, data.outputs(), head, builder.scope("output")));
  return chain;
}

}  // namespace lockstep
