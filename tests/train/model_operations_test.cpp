// What MFU is made of.
#include "lockstep/train/model_operations.h"

#include <gtest/gtest.h>

namespace lockstep {
namespace {

class Silent : public Module {
 public:
  Tensor forward(const Tensor& x, ForwardContext&) const override { return x; }
};

class Telling final : public Silent {
 public:
  double operations() const override { return 1000.0; }
};

TEST(ModelOperations, AreThoseThatTheModelStatesOrSixAParameter) {
  ParameterStore store;
  store.declare_parameter("weight", {8, 16}, {});
  store.declare_parameter("bias", {16}, {});
  store.declare_parameter("heads", {2, 3, 4}, {});
  const ModelOperations counted = model_operations(Silent(), store, 10);
  EXPECT_EQ(counted.of_token, 6.0 * (8 * 16 + 24));
  EXPECT_NE(counted.formula.find("6 x 152 parameters"), std::string::npos) << counted.formula;
  EXPECT_EQ(model_operations(Telling(), store, 10).of_token, 300.0);
  EXPECT_EQ(model_operations(Telling(), store, 0).of_token, 0.0);
  store.declare_frozen("base", {8, 16}, true);
  const ModelOperations frozen = model_operations(Telling(), store, 10);
  EXPECT_EQ(frozen.of_token, 200.0);
  EXPECT_NE(frozen.formula.find("2 times"), std::string::npos) << frozen.formula;
}

// The dense figure: a peer's table has that with sparsity for one of them.
TEST(ModelOperations, PeaksAreOfKnownDevicesWithoutSparsity) {
  EXPECT_EQ(known_peak("cuda: NVIDIA H200, 139 GiB, CUDA 13.1", DType::kBF16), 989e12);
  EXPECT_EQ(known_peak("cuda: NVIDIA H100 80GB HBM3, 79 GiB", DType::kF16), 989e12);
  EXPECT_EQ(known_peak("cuda: NVIDIA H100 PCIe, 79 GiB", DType::kBF16), 756e12);
  EXPECT_EQ(known_peak("cuda: NVIDIA A100-SXM4-80GB, 79 GiB", DType::kBF16), 312e12);
  EXPECT_EQ(known_peak("cuda: NVIDIA H200, 139 GiB", DType::kF32), 0.0);
  EXPECT_EQ(known_peak("cpu: own kernels, AVX-512 with bf16", DType::kBF16), 0.0);
}

}  // namespace
}  // namespace lockstep
