// A sharded optimizer takes the steps of the whole one, bit for bit: norm, clipping, update, look-ahead and
// state.
#include <gtest/gtest.h>

#include <cstring>

#include "comm/threaded_communicator.h"
#include "lockstep/core/error.h"
#include "lockstep/core/philox.h"
#include "lockstep/optim/clip.h"
#include "lockstep/optim/slot_layout.h"
#include "optim/problems.h"
#include "optim/updating_types.h"

namespace lockstep::testing {
namespace {

// Parameters whose gaps and sizes put cuts inside and between norm blocks; two groups of settings.
const std::vector<ParameterEntry> kShardedParameters = {
    {.name = "embedding", .shape = {100, 60}, .offset = 0, .initializer = {}},
    {.name = "gain", .shape = {7}, .offset = 6016, .initializer = {}},
    {.name = "filters", .shape = {16, 3, 3, 20}, .offset = 6080, .initializer = {}},
    {.name = "scalar", .shape = {}, .offset = 8960, .initializer = {}},
    {.name = "out", .shape = {60, 50}, .offset = 9024, .initializer = {}},
};
constexpr int64_t kShardedExtent = 12032;
const std::vector<UpdateSegment> kSegments = {
    {.begin = 0, .end = 6080},
    {.begin = 6080, .end = 9024, .learning_rate_factor = 0.5, .weight_decay = false},
    {.begin = 9024, .end = kShardedExtent}};

std::vector<float> values_of(uint32_t stream) {
  std::vector<float> values(kShardedExtent, 0.0f);
  const PhiloxKey key = philox_key(23, RandomPurpose::kTest);
  for (const ParameterEntry& entry : kShardedParameters) {
    for (int64_t i = entry.offset; i < entry.offset + entry.shape.elements(); ++i) {
      values[static_cast<size_t>(i)] =
          uniform_float(philox(key, {static_cast<uint32_t>(i), stream}).r[0]) - 0.5f;
    }
  }
  return values;
}

// What four steps, one of them skipped, leave on every worker: norms, parameters, and on worker 0 the state.
struct Result {
  std::vector<double> norms;
  std::vector<float> parameters;
  std::vector<std::vector<float>> state;
  int64_t state_elements = 0;  // stored on this worker
};

Result walk(const std::string& toml, const ClipSettings& clip, Communicator& communicator) {
  const std::unique_ptr<Optimizer> optimizer = optimizer_from(toml);
  const int world_size = communicator.world_size();
  std::vector<int64_t> offsets;
  std::vector<double> loads;
  for (const ParameterEntry& entry : kShardedParameters) {
    offsets.push_back(entry.offset);
    loads.push_back(optimizer->load(entry));
  }
  const bool whole = optimizer->whole_parameters() || clip.adaptive > 0.0;
  const ParameterShards shards(communicator, whole ? whole_shares(offsets, kShardedExtent, world_size, loads)
                                                   : striped_shares(kShardedExtent, world_size));
  optimizer->allocate(kShardedParameters, kShardedExtent, shards.mine(), DType::kF32, cpu_backend());

  Result result;
  Tensor parameters = Tensor::from(Shape{kShardedExtent}, values_of(0), cpu_backend());
  for (uint32_t step = 0; step < 4; ++step) {
    if (optimizer->before_gradient(parameters, 0.1, kSegments)) shards.gather(parameters, "look-ahead");
    if (step == 2) {
      if (optimizer->cancel_gradient(parameters)) shards.gather(parameters, "cancelled");
      continue;
    }
    // The gradient depends on all parameters, and is known where it is owned.
    const std::vector<float> noise = values_of(step + 1), theta = parameters.to_vector<float>();
    std::vector<float> values(kShardedExtent, NAN);
    for (const ElementRange& range : shards.mine()) {
      for (int64_t i = range.begin; i < range.end; ++i) {
        const auto at = static_cast<size_t>(i), other = static_cast<size_t>((i + 6016) % kShardedExtent);
        values[at] = noise[at] == 0.0f ? 0.0f : noise[at] + 0.25f * theta[at] - 0.125f * theta[other];
      }
    }
    Tensor gradients = Tensor::from(Shape{kShardedExtent}, values, cpu_backend());
    const double norm = global_norm(gradients, shards, 0.25);
    result.norms.push_back(norm);
    const double scale = clip_gradients(clip, gradients, parameters, kShardedParameters, shards, 0.25, norm);
    result.norms.push_back(scale);
    optimizer->update({.parameters = parameters,
                       .gradients = gradients,
                       .gradient_scale = scale,
                       .learning_rate = 0.1,
                       .segments = kSegments});
    shards.gather(parameters, "parameters");
  }
  result.parameters = parameters.to_vector<float>();
  for (const OptimizerSlot& slot : optimizer->slots()) {
    const std::vector<Share> shares = slot_shares(slot, kShardedParameters, shards);
    result.state_elements += slot.values.elements();
    for (const SlotEntry& entry : slot_entries(slot, kShardedParameters)) {
      std::vector<float> part(static_cast<size_t>(entry.shape.elements()));
      shards.collect(shares, slot.values, {entry.offset, entry.offset + entry.shape.elements()},
                     reinterpret_cast<std::byte*>(part.data()), slot.name);
      result.state.push_back(std::move(part));
    }
  }
  return result;
}

class ShardedUpdate : public ::testing::TestWithParam<std::string> {};

TEST_P(ShardedUpdate, IsTheWholeOneBitForBitOnAnyNumberOfWorkers) {
  const std::string toml = "type = '" + GetParam() + "'";
  for (const ClipSettings& clip : {ClipSettings{}, ClipSettings{.global_norm = 1.0},
                                   ClipSettings{.global_norm = 1.0, .value = 0.1, .adaptive = 0.1}}) {
    const auto self = make_self_communicator();
    const Result whole = walk(toml, clip, *self);
    ASSERT_EQ(whole.norms.size(), 6u);
    for (int world_size = 2; world_size <= 4; ++world_size) {
      std::atomic<int64_t> elements = 0, most = 0;
      run_threaded(world_size, [&](Communicator& communicator) {
        const Result sharded = walk(toml, clip, communicator);
        EXPECT_EQ(sharded.norms, whole.norms);
        EXPECT_EQ(
            std::memcmp(sharded.parameters.data(), whole.parameters.data(), kShardedExtent * sizeof(float)),
            0);
        elements += sharded.state_elements;
        if (communicator.rank() == 0) {
          most = sharded.state_elements;
          EXPECT_EQ(sharded.state, whole.state);
        }
      });
      EXPECT_EQ(elements, whole.state_elements) << "every element of the state is on one worker";
      // Striped or with the embedding, which is half of everything, or with the filters, whose factors are.
      EXPECT_LE(most, whole.state_elements * 6 / 10);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Optimizers, ShardedUpdate, ::testing::ValuesIn(testing::updating_types()),
                         [](const auto& test) { return test.param; });

TEST(ShardedUpdate, RefusesToOwnAPartOfAParameterThatMustBeWhole) {
  const std::unique_ptr<Optimizer> lamb = optimizer_from("type = 'lamb'");
  try {
    lamb->allocate(kShardedParameters, kShardedExtent, {{64, 9024}}, DType::kF32, cpu_backend());
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInternal);
    EXPECT_NE(std::string(error.what()).find("whole of embedding"), std::string::npos) << error.what();
  }
}

TEST(ShardedUpdate, WhatIsDecomposedIsDealtOutByItsCube) {
  const auto owners = [](const std::string& toml) {
    const std::unique_ptr<Optimizer> optimizer = optimizer_from(toml);
    std::vector<double> loads;
    std::vector<int> found;
    const std::vector<ParameterEntry> parameters = {
        {.name = "long", .shape = {64, 1}, .offset = 0, .initializer = {}},
        {.name = "square", .shape = {16, 16}, .offset = 64, .initializer = {}},
        {.name = "other", .shape = {12, 12}, .offset = 320, .initializer = {}}};
    for (const ParameterEntry& entry : parameters) loads.push_back(optimizer->load(entry));
    for (const Share& share : whole_shares(std::vector<int64_t>{0, 64, 320}, 512, 2, loads))
      found.push_back(share.owner);
    return found;
  };
  EXPECT_EQ(owners("type = 'muon'"), (std::vector<int>{1, 0, 1}));
  EXPECT_EQ(owners("type = 'soap'"), (std::vector<int>{0, 1, 1}));
  EXPECT_EQ(owners("type = 'shampoo'"), (std::vector<int>{0, 1, 1}));
  // Of blocks of 4 the long one has the least work.
  EXPECT_EQ(owners("type = 'shampoo'\nblock = 4"), (std::vector<int>{1, 0, 1}));
  EXPECT_EQ(owners("type = 'soap'\nadamw = ['long']"), (std::vector<int>{1, 0, 1}));
}

}  // namespace
}  // namespace lockstep::testing
