// A backend whose kernels are timed computes what the one behind it does, and counts every call.
#include "lockstep/kernels/timed_backend.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "device.h"
#include "kernels/arrays.h"

namespace lockstep::test {
namespace {

class Numbers {
 public:
  Numbers(Backend& backend, const std::vector<float>& values)
      : backend_(backend), bytes_(values.size() * sizeof(float)), data_(backend.allocate(bytes_)) {
    backend_.copy_from_host(data_, values.data(), bytes_);
  }
  ~Numbers() { backend_.release(data_, bytes_); }
  Numbers(const Numbers&) = delete;
  Numbers& operator=(const Numbers&) = delete;
  void* data() const { return data_; }
  std::vector<float> values() const {
    std::vector<float> values(bytes_ / sizeof(float));
    backend_.copy_to_host(values.data(), data_, bytes_);
    return values;
  }

 private:
  Backend& backend_;
  size_t bytes_;
  void* data_;
};

// A product, its bias gradient's way, and an addition that it waits for on the lane.
std::vector<float> computed(Backend& backend) {
  const Numbers a(backend, random_values<float>(6 * 8, 1)), b(backend, random_values<float>(8 * 16, 2)),
      c(backend, std::vector<float>(6 * 16)), sum(backend, std::vector<float>(6 * 16, 1.0f));
  MatmulArguments product;
  product.m = 6, product.n = 16, product.k = 8;
  product.a = a.data();
  product.b = b.data();
  product.c = c.data();
  backend.matmul(product);
  backend.matmul(product);
  backend.lane().wait_for(backend);
  backend.lane().accumulate(DType::kF32, 6 * 16, c.data(), sum.data());
  backend.wait_for(backend.lane());
  backend.accumulate(DType::kF32, 6 * 16, c.data(), sum.data());
  return sum.values();
}

TEST(GpuTimedBackend, ComputesTheSameAndCountsCallsOnEveryQueue) {
  TimedBackend timed(test_backend());
  const std::vector<float> expected = computed(test_backend());
  EXPECT_TRUE(same_bits(computed(timed), expected));
  EXPECT_TRUE(timed.times().empty());
  for (int round = 1; round <= 2; ++round) {
    timed.start();
    EXPECT_TRUE(same_bits(computed(timed), expected));
    timed.stop();
    EXPECT_TRUE(same_bits(computed(timed), expected));
    const std::vector<KernelTime> times = timed.times();
    ASSERT_EQ(times.size(), 2u);
    EXPECT_EQ(times[0].name, "matmul fp32 6x16x8");
    EXPECT_EQ(times[0].calls, 2 * round);
    EXPECT_EQ(times[0].work.operations, 2.0 * 6 * 16 * 8);
    EXPECT_EQ(times[0].work.bytes, 4.0 * (6 * 8 + 8 * 16 + 6 * 16));
    EXPECT_EQ(times[0].work.operands, DType::kF32);
    EXPECT_EQ(times[1].name, "accumulate fp32 96");
    EXPECT_EQ(times[1].calls, 2 * round);
    EXPECT_EQ(times[1].work.bytes, 3.0 * 4 * 96);
    EXPECT_EQ(times[1].work.operations, 0.0);
    for (const KernelTime& time : times) EXPECT_GT(time.seconds, 0.0) << time.name;
  }
}

}  // namespace
}  // namespace lockstep::test
