// Who is named when a model does not fit into memory: the layer in the forward pass, the op in the backward
// sweep.
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "device.h"
#include "lockstep/autodiff/derivatives.h"
#include "lockstep/autodiff/node.h"
#include "lockstep/core/error.h"
#include "lockstep/nn/chain.h"
#include "lockstep/nn/linear.h"
#include "lockstep/tensor/storage.h"

namespace lockstep {
namespace {

const std::string kNoError = "no error";

std::string usage_error(const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    return error.kind() == ErrorKind::kUsage ? error.what() : std::string("wrong kind: ") + error.what();
  }
  return kNoError;
}

// More than any machine has.
Tensor too_much() {
  return Tensor::empty({int64_t{1} << 56}, DType::kF32, cpu_backend());
}

// The identity, whose derivative asks for too much.
class GreedyNode final : public Node {
 public:
  const char* name() const override { return "greedy"; }
  Saved saved() const override { return Saved::nothing(); }
  void vjp(const Tensor&, const Tensor&, InputGradients& result) const override { result[0] = too_much(); }
  Tensor jvp(const Tensor&, std::span<const Tensor> tangents) const override { return tangents[0]; }
};

class GreedyLayer final : public Module {
 public:
  Tensor forward(const Tensor&, ForwardContext&) const override { return too_much(); }
};

class IdentityLayer final : public Module {
 public:
  Tensor forward(const Tensor& x, ForwardContext&) const override { return x; }
};

TEST(Memory, NamesTheLayerThatDoesNotFit) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "the sanitizers' allocators end the process instead of refusing";
#endif
  Chain chain;
  chain.append("hidden.0 (identity)", std::make_unique<IdentityLayer>());
  chain.append("hidden.1 (greedy)", std::make_unique<GreedyLayer>());
  const Tensor x = Tensor::zeros({2, 3}, DType::kF32, cpu_backend());
  ForwardContext context;
  const auto message = usage_error([&] { chain.forward(x, context); });
  EXPECT_NE(message.find(": hidden.1 (greedy): no room for"), std::string::npos) << message;
}

TEST(Memory, NamesTheOpWhoseDerivativeDoesNotFit) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "the sanitizers' allocators end the process instead of refusing";
#endif
  const Tensor x = variable(Tensor::zeros({2, 3}, DType::kF32, cpu_backend()), 0);
  const Tensor y = record<GreedyNode>(x.clone(), {&x});
  const auto message = usage_error([&] { backward(y, y.full_like(1.0), [](const Leaf&, Tensor) {}); });
  EXPECT_NE(message.find(": greedy (backward): no room for"), std::string::npos) << message;
  const auto after = usage_error([] { too_much(); });
  EXPECT_EQ(after.find("greedy"), std::string::npos) << "the name outlived the sweep: " << after;
}

// On a device that is small enough to be filled up.
TEST(GpuMemory, NamesLayerAndOpWhereTheModelFillsTheDevice) {
  constexpr size_t kMebibyte = size_t{1} << 20, kSmallDevice = 128 * kMebibyte;
  Backend& backend = test_backend();
  if (test_device() != "cuda" || backend.memory_room().total > kSmallDevice)
    GTEST_SKIP() << "needs a small GPU";
  ParameterStore store;
  Chain chain;
  constexpr int64_t kWidth = 256, kRows = 1024;  // activations of a mebibyte
  for (int64_t i = 0; i < 2; ++i) {
    const std::string name = "hidden." + std::to_string(i);
    chain.append(name + " (linear)",
                 std::make_unique<LinearLayer>(kWidth, kWidth, LinearOptions{}, ModuleBuilder(store, name)));
  }
  store.allocate(DType::kF32, backend, 1);
  const Tensor x = Tensor::zeros({kRows, kWidth}, DType::kF32, backend);
  const auto forward = [&] {
    ForwardContext context = forward_context(store, true);
    return chain.forward(x, context);
  };
  std::vector<Tensor> held;
  // With blocks as large as a gradient of a weight, those that are cached among them.
  const auto fill_up = [&] {
    while (usage_error([&] {
             held.push_back(Tensor::zeros({kWidth, kWidth}, DType::kF32, backend));
           }) == kNoError) {
    }
  };

  const Tensor y = forward();
  fill_up();
  const auto in_sweep = usage_error([&] { backward(y, y, [](const Leaf&, Tensor) {}); });
  EXPECT_NE(in_sweep.find(": linear (backward): no room for "), std::string::npos) << in_sweep;
  held.clear();
  release_cached_memory();
  fill_up();
  const auto in_forward = usage_error(forward);
  EXPECT_NE(in_forward.find(": hidden.0 (linear): no room for 1.0 MiB"), std::string::npos) << in_forward;
}

}  // namespace
}  // namespace lockstep
