// Tensors as values: construction, views, transfers, and the allocator under them.
#include "lockstep/tensor/tensor.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "device.h"
#include "lockstep/core/error.h"
#include "lockstep/core/op_scope.h"

namespace lockstep {
namespace {

TEST(Tensor, RoundTripsThroughTheHostInEveryDtype) {
  const std::vector<double> values = {1.0, -2.0, 3.0, 0.0, 5.0, 6.0};
  const Tensor exact = Tensor::from({2, 3}, values, test_backend());
  EXPECT_EQ(exact.to_vector<double>(), values);
  EXPECT_EQ(exact.to_vector<int32_t>(), (std::vector<int32_t>{1, -2, 3, 0, 5, 6}));
  EXPECT_EQ(Tensor::from({6}, std::vector<float>{1, -2, 3, 0, 5, 6}, test_backend()).to_vector<double>(),
            values);
}

TEST(Tensor, RefusesAWrongNumberOfValues) {
  EXPECT_THROW(Tensor::from({2, 2}, std::vector<float>{1, 2, 3}, test_backend()), Error);
}

TEST(Tensor, IntegersFromTheHostKeepTheirRangeUntilTheyAreWritten) {
  Tensor indices = Tensor::from({3}, std::vector<int32_t>{4, -2, 7}, test_backend());
  ASSERT_TRUE(indices.index_range());
  EXPECT_EQ(indices.index_range()->least, -2);
  EXPECT_EQ(indices.index_range()->largest, 7);
  const Tensor view = indices.view({2}, 0);
  EXPECT_TRUE(view.index_range());
  indices.mutable_data();
  EXPECT_FALSE(indices.index_range());
  EXPECT_FALSE(view.index_range());
  EXPECT_FALSE(Tensor::from({1}, std::vector<float>{1}, test_backend()).index_range());
  EXPECT_FALSE(Tensor::zeros({1}, DType::kI32, test_backend()).index_range());
}

TEST(Tensor, MayLieInMemoryOfSomebodyElseWhichItKeeps) {
  const auto held = std::make_shared<std::vector<float>>(std::vector<float>{1, 2, 3, 4, 5, 6});
  const size_t before = allocator_statistics().bytes_in_use;
  {
    Tensor part =
        Tensor::over({held, reinterpret_cast<std::byte*>(held->data() + 2)}, {3}, DType::kF32, cpu_backend());
    EXPECT_EQ(allocator_statistics().bytes_in_use, before + 12);
    EXPECT_EQ(held.use_count(), 2);
    EXPECT_EQ(part.to_vector<float>(), (std::vector<float>{3, 4, 5}));
    const Tensor view = part.view({2}, 1);
    part.mutable_data_as<float>()[1] = 7.0f;
    EXPECT_EQ(view.to_vector<float>(), (std::vector<float>{7, 5}));
    EXPECT_EQ((*held)[3], 7.0f);
  }
  EXPECT_EQ(allocator_statistics().bytes_in_use, before);
  EXPECT_EQ(held.use_count(), 1);
}

TEST(Tensor, AnyAccessForWritingEndsAWatch) {
  Tensor values = Tensor::zeros({2, 3}, DType::kF32, test_backend());
  EXPECT_FALSE(values.unchanged()) << "nobody has looked yet";
  Tensor row = values.view({3}, 3);
  values.watch();
  (void)row.data();
  (void)row.clone();
  EXPECT_TRUE(values.unchanged() && row.unchanged());
  row.assign(row.full_like(1.0));
  EXPECT_FALSE(values.unchanged());
  row.watch();
  EXPECT_TRUE(values.unchanged());
  values.mutable_data();
  EXPECT_FALSE(values.unchanged());
}

TEST(Tensor, ViewsShareElementsAndClonesDoNot) {
  Tensor original = Tensor::zeros({2, 3}, DType::kF32, test_backend());
  Tensor row = original.view({3}, 3);
  const Tensor copy = original.clone();
  row.assign(Tensor::full({3}, DType::kF32, test_backend(), 7.0));
  EXPECT_EQ(original.to_vector<float>(), (std::vector<float>{0, 0, 0, 7, 7, 7}));
  EXPECT_EQ(copy.to_vector<float>(), std::vector<float>(6, 0.0f));
}

TEST(Tensor, RefusesViewsOutsideItsElements) {
  const Tensor x = Tensor::zeros({2, 3}, DType::kF32, test_backend());
  EXPECT_THROW(x.view({7}), Error);
  EXPECT_THROW(x.view({3}, 4), Error);
  EXPECT_THROW(x.view({1}, -1), Error);
}

TEST(Tensor, AssignNeedsTheSameShapeAndDtype) {
  Tensor x = Tensor::zeros({2, 3}, DType::kF32, test_backend());
  EXPECT_THROW(x.assign(Tensor::zeros({3, 2}, DType::kF32, test_backend())), Error);
  EXPECT_THROW(x.assign(Tensor::zeros({2, 3}, DType::kF64, test_backend())), Error);
}

TEST(Tensor, ItemNeedsExactlyOneElement) {
  EXPECT_EQ(Tensor::full({1, 1}, DType::kF32, test_backend(), 2.5).item(), 2.5);
  EXPECT_THROW(Tensor::zeros({2}, DType::kF32, test_backend()).item(), Error);
  EXPECT_THROW(Tensor().item(), Error);
}

TEST(Tensor, CanStandForElementsThatAreGone) {
  Tensor x = Tensor::full({2, 3}, DType::kF32, test_backend(), 1.0);
  Tensor link = x;
  link.drop_elements();
  EXPECT_TRUE(link.defined());
  EXPECT_FALSE(link.has_elements());
  EXPECT_EQ(link.shape(), x.shape());
  EXPECT_EQ(link.dtype(), DType::kF32);
  EXPECT_EQ(&link.backend(), &x.backend());
  EXPECT_TRUE(x.sole_owner()) << "it holds the memory";
  EXPECT_EQ(link.full_like(2.0).to_vector<float>(), std::vector<float>(6, 2.0f));
  EXPECT_EQ(link.view({6}).shape(), Shape{6});
  for (const std::function<void()>& read : std::vector<std::function<void()>>{
           [&] { link.data(); }, [&] { link.to_vector<float>(); }, [&] { link.clone(); },
           [&] { link.converted(DType::kF64); }, [&] { x.assign(link); }}) {
    try {
      read();
      ADD_FAILURE() << "no error";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kInternal);
    }
  }
  // Of one that never was, whoever reads it is to blame.
  for (const std::function<void()>& read :
       std::vector<std::function<void()>>{[] { Tensor().data(); }, [] { Tensor().backend(); }}) {
    try {
      read();
      ADD_FAILURE() << "no error";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUsage);
      EXPECT_STREQ(error.what(), "an undefined tensor is read");
    }
  }
  Tensor nothing;
  nothing.drop_elements();
  EXPECT_FALSE(nothing.defined());
}

TEST(Tensor, ArangeCounts) {
  EXPECT_EQ(Tensor::arange(4, DType::kF32, test_backend()).to_vector<float>(),
            (std::vector<float>{0.0f, 1.0f, 2.0f, 3.0f}));
  EXPECT_EQ(Tensor::arange(0, DType::kF64, test_backend()).shape(), Shape{0});
}

TEST(Tensor, MayHaveNoElements) {
  const Tensor none = Tensor::zeros({0, 4}, DType::kF32, test_backend());
  EXPECT_TRUE(none.defined());
  EXPECT_EQ(none.elements(), 0);
  EXPECT_TRUE(none.to_vector<float>().empty());
}

TEST(Allocator, BlocksAreAlignedAndLargeEnough) {
  // Around every size class boundary: each byte of every block must be writable without touching a neighbour.
  std::vector<Tensor> blocks;
  for (int64_t size = 1; size < 5000; size = size + 1 + size / 7) {
    for (int64_t n : {size - 1, size, size + 1}) {
      if (n < 1) continue;
      blocks.push_back(Tensor::full({n}, DType::kU8, test_backend(), static_cast<double>(n % 251)));
    }
  }
  for (const Tensor& block : blocks) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(block.data()) % 64, 0u);
    EXPECT_EQ(block.to_vector<uint8_t>(), std::vector<uint8_t>(static_cast<size_t>(block.elements()),
                                                               static_cast<uint8_t>(block.elements() % 251)));
  }
}

TEST(Allocator, CountsWhatIsHeldAndReusesWhatIsNot) {
  release_cached_memory();
  const size_t before = allocator_statistics().bytes_in_use;
  reset_allocator_peak();
  {
    const Tensor held = Tensor::zeros({1000}, DType::kF32, test_backend());
    EXPECT_GE(allocator_statistics().bytes_in_use, before + 4000);
  }
  EXPECT_EQ(allocator_statistics().bytes_in_use, before);
  EXPECT_GE(allocator_statistics().peak_bytes, before + 4000);
  EXPECT_LE(allocator_statistics().peak_bytes, before + 5120) << "rounding wastes more than a quarter";
  release_cached_memory();
  EXPECT_EQ(allocator_statistics().cached_bytes, 0u);
}

TEST(Allocator, SaysWhatIsHeldAndWhichSettingsHelpWhenThereIsNoRoom) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "the sanitizers' allocators end the process instead of refusing";
#else
  const Tensor held = Tensor::zeros({1000}, DType::kF32, cpu_backend());
  const size_t before = allocator_statistics().bytes_in_use;
  try {
    const Tensor none = Tensor::empty({int64_t{1} << 56}, DType::kF32, cpu_backend());
    FAIL() << "an allocation of 2^58 bytes succeeded";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    const std::string message = error.what();
    for (const char* part :
         {"no room for", "tensors hold", "train.micro_batch_size", "parallel.shard_optimizer"}) {
      EXPECT_NE(message.find(part), std::string::npos) << message;
    }
  }
  EXPECT_EQ(allocator_statistics().bytes_in_use, before) << "what was not given is not held";
#endif
}

TEST(Allocator, CountsAsFreeWhatLimitsOfTheProcessLeave) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "the sanitizers' own memory does not fit below a limit";
#else
  constexpr size_t kMost = size_t{64} << 20;
  const pid_t child = fork();
  if (child == 0) {
    int64_t pages = 0;
    std::ifstream("/proc/self/statm") >> pages;
    const auto most = static_cast<rlim_t>(pages * sysconf(_SC_PAGESIZE)) + kMost;
    const rlimit limit{most, most};
    setrlimit(RLIMIT_AS, &limit);
    _exit(cpu_backend().memory_room().free <= kMost ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
#endif
}

TEST(Allocator, NamesTheOpThatAskedWhenThereIsNoRoom) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "the sanitizers' allocators end the process instead of refusing";
#else
  const auto message = [] {
    try {
      Tensor::empty({int64_t{1} << 56}, DType::kF32, cpu_backend());
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  const std::string device = "memory: " + cpu_backend().description() + ": ";
  EXPECT_EQ(message().find(device + "no room for"), 0u) << message();
  {
    const OpScope outer("linear");
    EXPECT_EQ(message().find(device + "linear: no room for"), 0u) << message();
    {
      const OpScope inner("softmax", " (backward)");
      EXPECT_EQ(message().find(device + "softmax (backward): no room for"), 0u) << message();
    }
    EXPECT_EQ(message().find(device + "linear: no room for"), 0u) << message();
  }
  EXPECT_EQ(message().find(device + "no room for"), 0u) << message();
#endif
}

// On a device that is small enough to be filled up.
TEST(GpuMemory, WorkingMemoryOfKernelsTakesWhatIsCachedAndNamesTheDeviceWhenThatIsNotEnough) {
  Backend& backend = test_backend();
  constexpr size_t kMebibyte = size_t{1} << 20, kSmallDevice = 128 * kMebibyte;
  if (test_device() != "cuda" || backend.memory_room().total > kSmallDevice)
    GTEST_SKIP() << "needs a small GPU";
  constexpr int64_t kElements = int64_t{1} << 18;  // a mebibyte
  std::vector<Tensor> held;
  const auto fill_up = [&] {
    while (backend.memory_room().free >= 4 * kMebibyte)
      held.push_back(Tensor::zeros({kElements}, DType::kF32, backend));
  };
  const Tensor a = Tensor::full({2, 2}, DType::kF32, backend, 3.0);
  Tensor c = Tensor::zeros({2, 2}, DType::kF32, backend);
  const auto multiply = [&](Backend& queue) {
    MatmulArguments product;
    product.m = product.n = product.k = 2;
    product.a = product.b = a.data();
    product.c = c.mutable_data();
    queue.matmul(product);
    queue.synchronize();
    return c.to_vector<double>();
  };
  const std::vector<double> expected(4, 18.0);

  fill_up();
  held.clear();
  EXPECT_GT(allocator_statistics().cached_bytes, kMebibyte);
  EXPECT_EQ(multiply(backend), expected) << "its workspace was in the cache";
  EXPECT_LT(allocator_statistics().cached_bytes, kMebibyte);

  fill_up();
  try {
    const OpScope op("linear", " (backward)");
    multiply(backend.lane());
    ADD_FAILURE() << "a second workspace had room";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    const std::string message = error.what();
    for (const char* part :
         {"memory: GPU 0: linear (backward): no room for 32 MiB of workspace of matrix products", "are free",
          "train.micro_batch_size"})
      EXPECT_NE(message.find(part), std::string::npos) << message;
  }
  held.clear();
  EXPECT_EQ(multiply(backend.lane()), expected) << "after the failure everything works";
}

TEST(RecordedMemory, WhatARecordingTookOrSawFreedIsItsOwnUntilItEnds) {
  const char* allocator = std::getenv("LOCKSTEP_ALLOCATOR");
  if (allocator != nullptr && std::string(allocator) == "poison") {
    RecordedMemory memory;
    EXPECT_THROW(memory.begin(), Error);
    return;
  }
  const Shape shape{100'003};  // a size class of no other test
  const auto fresh = [&] { return Tensor::empty(shape, DType::kF32, test_backend()); };
  Tensor before = fresh();
  std::set<const void*> recorded = {before.data()};
  {
    RecordedMemory memory;
    memory.begin();
    {
      const Tensor a = fresh(), b = fresh();
      recorded.insert({a.data(), b.data()});
      EXPECT_EQ(recorded.size(), 3u);
    }
    before = {};
    const Tensor again = fresh(), kept = fresh();
    EXPECT_TRUE(recorded.contains(again.data()) && recorded.contains(kept.data())) << "used again inside";
    memory.end();
    std::vector<Tensor> others;
    for (int i = 0; i < 4; ++i) {
      others.push_back(fresh());
      EXPECT_FALSE(recorded.contains(others.back().data())) << i;
    }
  }
  std::vector<Tensor> others;
  std::set<const void*> found;
  for (int i = 0; i < 7; ++i) {
    others.push_back(fresh());
    found.insert(others.back().data());
  }
  for (const void* block : recorded) EXPECT_TRUE(found.contains(block)) << "given back";
}

}  // namespace
}  // namespace lockstep
