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

std::unique_ptr<Module> make_cnn(Section& model, const DataShape& data, const ModuleBuilder& builder) {
  const std::vector<int64_t> channels =
      model.integers("channels", std::vector<int64_t>{16, 32, 64}, kSize, "cnn: channels of each stage");
  const std::vector<int64_t> strides = model.integers("strides", std::vector<int64_t>{1, 2, 2}, kSize,
                                                      "cnn: step of the first block of each stage");
  const int64_t blocks = model.integer("blocks", 1, kSize, "cnn: residual blocks a stage");
  ResidualOptions options;
  options.batch_norm = model.boolean("batch_norm", true, "cnn: batch norm after every convolution");
  options.activation = read_activation(model, "relu");
  const double dropout = read_dropout(model, "dropout", 0.0);
  options.initialization = read_initialization(model);
  require_real_inputs(model, data);
  if (data.sample.rank() != 3) {
    model.reject("type",
                 fmt::format("cnn: data must be (H,W,C), got samples of shape {}", data.sample.to_string()));
  }
  if (channels.empty()) model.reject("channels", "must name at least one stage, got []");
  if (strides.size() != channels.size()) {
    model.reject("strides", fmt::format("must give one stride for each of the {} stages in channels, got {}",
                                        channels.size(), strides.size()));
  }

  auto chain = std::make_unique<Chain>();
  int64_t width = channels[0];
  chain->append("stem (convolution)", std::make_unique<NormedConvolution>(data.sample[2], width, 3, 1,
                                                                          options, builder.scope("stem")));
  chain->append("stem (activation)", std::make_unique<ActivationLayer>(options.activation));
  for (size_t stage = 0; stage < channels.size(); ++stage) {
    for (int64_t block = 0; block < blocks; ++block) {
      options.stride = block == 0 ? strides[stage] : 1;
      const ModuleBuilder scope = builder.scope(fmt::format("stages.{}.{}", stage, block));
      chain->append(scope.prefix() + " (residual block)",
                    std::make_unique<ResidualBlock>(width, channels[stage], options, scope));
      width = channels[stage];
    }
  }
  chain->append("global average pool", std::make_unique<GlobalAveragePoolLayer>());
  if (dropout > 0.0) chain->append("dropout", std::make_unique<DropoutLayer>(dropout));
  LinearOptions head;
  head.initialization = options.initialization;
  chain->append("output (linear)",
                std::make_unique<LinearLayer>(width, data.outputs(), head, builder.scope("output")));
  return chain;
}

}  // namespace lockstep
