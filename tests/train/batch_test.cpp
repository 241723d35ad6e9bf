// Batches on the device by name, and models that read more of them than their inputs.
#include "lockstep/train/batch.h"

#include <gtest/gtest.h>

#include "device.h"
#include "lockstep/core/error.h"
#include "lockstep/ops/elementwise.h"

namespace lockstep {
namespace {

TEST(Batch, HasTheFieldsOfTheSamplesInTheTypeOfTheModel) {
  MicroBatch samples(2, {{kInputsName, DType::kF32, {3}}, {kTargetsName, DType::kI32, {}}});
  samples.number = 5;
  for (size_t i = 0; i < 6; ++i) samples.values<float>(kInputsName)[i] = 0.5f * static_cast<float>(i);
  samples.values<int32_t>(kTargetsName)[1] = 7;
  const Batch batch = to_device(samples, DType::kF64, test_backend());
  EXPECT_EQ(batch.number, 5);
  EXPECT_EQ(batch.inputs().shape(), (Shape{2, 3}));
  EXPECT_EQ(batch.inputs().dtype(), DType::kF64);
  EXPECT_EQ(batch.inputs().to_vector<double>(), (std::vector<double>{0, 0.5, 1, 1.5, 2, 2.5}));
  EXPECT_EQ(batch.targets().to_vector<int32_t>(), (std::vector<int32_t>{0, 7}));
  EXPECT_FALSE(batch.weights().defined());
  samples.valid = 1;
  EXPECT_EQ(to_device(samples, DType::kF64, test_backend()).weights().to_vector<double>(),
            (std::vector<double>{1, 0}));
}

// Multiplies its inputs by a number a sample.
class Scaling final : public Module {
 public:
  Tensor forward(const Tensor& x, ForwardContext& context) const override {
    const Tensor& rates = context.batch->at("rates");
    return multiply(x, rates.view({rates.extent(0), 1}));
  }
};

TEST(Batch, ModelsReadItsTensorsByName) {
  Batch batch;
  batch.tensors.set(kInputsName, Tensor::from(Shape{2, 2}, std::vector<float>{1, 2, 3, 4}, test_backend()));
  ForwardContext context;
  try {
    forward(Scaling(), batch, context);
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "batch: has no 'rates': it has inputs");
  }
  batch.tensors.set("rates", Tensor::from(Shape{2}, std::vector<float>{2, -1}, test_backend()));
  EXPECT_EQ(forward(Scaling(), batch, context).to_vector<float>(), (std::vector<float>{2, 4, -3, -4}));
  EXPECT_EQ(context.batch, nullptr) << "which may be gone by the next call";
}

}  // namespace
}  // namespace lockstep
