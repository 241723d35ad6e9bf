// What the host and a queue tell each other without waiting: mailboxes, and recordings that are replayed.
#include <gtest/gtest.h>

#include <vector>

#include "device.h"

namespace lockstep::test {
namespace {

// n elements of the device's memory.
class Floats {
 public:
  Floats(Backend& backend, const std::vector<float>& values)
      : backend_(backend), bytes_(values.size() * sizeof(float)), data_(backend.allocate(bytes_)) {
    backend_.copy_from_host(data_, values.data(), bytes_);
  }
  ~Floats() { backend_.release(data_, bytes_); }
  Floats(const Floats&) = delete;
  Floats& operator=(const Floats&) = delete;
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

TEST(GpuQueues, AMailboxHoldsWhatWasThereWhenItWasAskedFor) {
  Backend& backend = test_backend();
  const Floats x(backend, {0.0f, 0.0f});
  const auto mailbox = backend.mailbox(2 * sizeof(float), 3);
  for (int step = 0; step < 10; ++step) {
    backend.fill(DType::kF32, 2, x.data(), step);
    mailbox->post(step % 3, x.data());
    if (step < 2) continue;
    const auto* found = static_cast<const float*>(mailbox->read((step - 2) % 3));
    EXPECT_EQ(found[0], static_cast<float>(step - 2));
    EXPECT_EQ(found[1], static_cast<float>(step - 2));
  }
}

TEST(GpuQueues, ARecordingRunsWhenItIsReplayedAndNotBefore) {
  Backend& backend = test_backend();
  const Floats x(backend, {1.0f, 2.0f}), y(backend, {10.0f, 10.0f}), z(backend, {0.0f, 0.0f});
  if (test_device() == "cpu") {
    EXPECT_FALSE(backend.begin_recording());
    return;
  }
  ASSERT_TRUE(backend.begin_recording());
  backend.accumulate(DType::kF32, 2, x.data(), y.data());
  // On the lane, between two waits.
  backend.lane().wait_for(backend);
  backend.lane().accumulate(DType::kF32, 2, y.data(), z.data());
  backend.wait_for(backend.lane());
  const auto recording = backend.end_recording();
  EXPECT_EQ(y.values(), (std::vector<float>{10.0f, 10.0f}));
  for (int i = 0; i < 3; ++i) recording->replay();
  backend.fill(DType::kF32, 1, x.data(), 100.0);
  recording->replay();
  EXPECT_EQ(y.values(), (std::vector<float>{113.0f, 18.0f}));
  EXPECT_EQ(z.values(), (std::vector<float>{11.0f + 12.0f + 13.0f + 113.0f, 12.0f + 14.0f + 16.0f + 18.0f}));
}

}  // namespace
}  // namespace lockstep::test
