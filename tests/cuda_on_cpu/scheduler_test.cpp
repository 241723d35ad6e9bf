// Threads, warps and barriers: correct kernels give the same results in every order, wrong ones are caught.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <numeric>
#include <string>

#include "device_array.h"

namespace cuda_on_cpu {
namespace {

const char* const kOrders[] = {"seed=0", "seed=1", "seed=2", "seed=3", "seed=4", "seed=5"};

__global__ void count_visits(int* visits, uint3* blocks) {
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  const unsigned threads = blockDim.x * blockDim.y * blockDim.z;
  visits[block * threads + thread] += 1;
  if (thread == 0) blocks[block] = blockIdx;
}

TEST(Scheduler, RunsEveryThreadOfEveryBlockOnce) {
  for (const char* order : kOrders) {
    const Configured configured(order);
    const dim3 grid(5, 3, 2), block(7, 3, 2);
    DeviceArray<int> visits(std::vector<int>(30 * 42));
    DeviceArray<uint3> blocks(30);
    LAUNCH(count_visits, grid, block, 0, nullptr, visits.data(), blocks.data());
    EXPECT_EQ(visits.to_host(), std::vector<int>(30 * 42, 1)) << order;
    const std::vector<uint3> seen = blocks.to_host();
    EXPECT_EQ(seen[29].x, 4u);
    EXPECT_EQ(seen[29].y, 2u);
    EXPECT_EQ(seen[29].z, 1u);
  }
}

// y[block] = sum of the block's 256 numbers: warps by shuffles, then their sums through shared memory.
template <bool kBarrier>
__global__ void block_sums(const float* x, float* y) {
  CUDA_ON_CPU_SHARED(float, warps, [8]);
  float sum = x[blockIdx.x * 256 + threadIdx.x];
  for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xFFFFFFFFu, sum, distance);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = sum;
  if (kBarrier) __syncthreads();
  float total = 0.0f;
  for (const float part : warps) total += part;
  if (threadIdx.x == 0) y[blockIdx.x] = total;
}

std::vector<float> numbers(size_t n) {
  std::vector<float> values(n);
  for (size_t i = 0; i < n; ++i) values[i] = static_cast<float>(i % 61) * 0.37f - 9.0f;
  return values;
}

std::vector<float> sums_in_order(const char* order, void (*kernel)(const float*, float*)) {
  const Configured configured(order);
  DeviceArray<float> x(numbers(64 * 256)), y(64);
  LAUNCH(kernel, 64, 256, 0, nullptr, x.data(), y.data());
  return y.to_host();
}

TEST(Scheduler, CorrectKernelGivesTheSameBitsInEveryOrder) {
  const std::vector<float> expected = sums_in_order("seed=0", block_sums<true>);
  const std::vector<float> x = numbers(64 * 256);
  for (size_t b = 0; b < 64; ++b) {
    EXPECT_NEAR(expected[b], std::accumulate(&x[b * 256], &x[b * 256] + 256, 0.0), 1e-3);
  }
  for (const char* order : kOrders) EXPECT_EQ(sums_in_order(order, block_sums<true>), expected) << order;
}

TEST(Scheduler, MissingBarrierShowsInEveryOrder) {
  const std::vector<float> expected = sums_in_order("seed=0", block_sums<true>);
  for (const char* order : kOrders) EXPECT_NE(sums_in_order(order, block_sums<false>), expected) << order;
}

// Reads what the neighbour wrote in the step before, with or without a barrier before writing again.
template <bool kBarrier>
__global__ void rotate(int* x) {
  CUDA_ON_CPU_SHARED(int, values, [64]);
  values[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  for (int step = 0; step < 10; ++step) {
    const int next = values[(threadIdx.x + 1) % 64];
    if (kBarrier) __syncthreads();
    values[threadIdx.x] = next;
    __syncthreads();
  }
  x[threadIdx.x] = values[threadIdx.x];
}

TEST(Scheduler, MissingSecondBarrierShowsInEveryOrder) {
  std::vector<int> before(64), after(64);
  for (int i = 0; i < 64; ++i) {
    before[static_cast<size_t>(i)] = i;
    after[static_cast<size_t>(i)] = (i + 10) % 64;
  }
  for (const char* order : kOrders) {
    const Configured configured(order);
    DeviceArray<int> right(before), wrong(before);
    LAUNCH(rotate<true>, 1, 64, 0, nullptr, right.data());
    EXPECT_EQ(right.to_host(), after) << order;
    LAUNCH(rotate<false>, 1, 64, 0, nullptr, wrong.data());
    EXPECT_NE(wrong.to_host(), after) << order;
  }
}

// ---- warps
// ---------------------------------------------------------------------------------------------------------

__global__ void shuffles(int* out) {
  const int lane = static_cast<int>(threadIdx.x);
  int* const mine = out + lane * 8;
  mine[0] = __shfl_sync(0xFFFFFFFFu, lane * 10, 5);
  mine[1] = __shfl_sync(0xFFFFFFFFu, lane * 10, 3, 8);
  mine[2] = __shfl_xor_sync(0xFFFFFFFFu, lane, 9);
  mine[3] = __shfl_down_sync(0xFFFFFFFFu, lane, 7);
  mine[4] = __shfl_down_sync(0xFFFFFFFFu, lane, 3, 8);
  mine[5] = __shfl_up_sync(0xFFFFFFFFu, lane, 2);
  mine[6] = static_cast<int>(__ballot_sync(0xFFFFFFFFu, lane % 3 == 0));
  const double wide = __shfl_xor_sync(0xFFFFFFFFu, 0.5 + lane, 31);
  mine[7] = static_cast<int>(wide * 2.0);
}

TEST(Warps, ShufflesAnswerTheLaneThatWasAskedFor) {
  unsigned thirds = 0;
  for (unsigned i = 0; i < 32; i += 3) thirds |= 1u << i;
  for (const char* order : kOrders) {
    const Configured configured(order);
    DeviceArray<int> out(32 * 8);
    LAUNCH(shuffles, 1, 32, 0, nullptr, out.data());
    const std::vector<int> got = out.to_host();
    for (int lane = 0; lane < 32; ++lane) {
      const int* const mine = &got[static_cast<size_t>(lane) * 8];
      EXPECT_EQ(mine[0], 50);
      EXPECT_EQ(mine[1], (lane / 8 * 8 + 3) * 10);
      EXPECT_EQ(mine[2], lane ^ 9);
      EXPECT_EQ(mine[3], lane + 7 < 32 ? lane + 7 : lane);
      EXPECT_EQ(mine[4], lane % 8 + 3 < 8 ? lane + 3 : lane);
      EXPECT_EQ(mine[5], lane >= 2 ? lane - 2 : lane);
      EXPECT_EQ(static_cast<unsigned>(mine[6]), thirds);
      EXPECT_EQ(mine[7], 1 + 2 * (31 - lane));
    }
  }
}

// Two halves of a warp in different branches, each with its own number of operations, then both together.
__global__ void halves(int* out) {
  int value = static_cast<int>(threadIdx.x);
  if (threadIdx.x < 16) {
    for (int i = 0; i < 3; ++i) value = __shfl_xor_sync(0x0000FFFFu, value, 1) + 1;
  } else {
    value = __shfl_xor_sync(0xFFFF0000u, value, 2) * 100;
  }
  __syncwarp();
  out[threadIdx.x] = __shfl_xor_sync(0xFFFFFFFFu, value, 16);
}

TEST(Warps, GroupsOfLanesGoOnIndependently) {
  for (const char* order : kOrders) {
    const Configured configured(order);
    DeviceArray<int> out(32);
    LAUNCH(halves, 1, 32, 0, nullptr, out.data());
    const std::vector<int> got = out.to_host();
    for (int lane = 0; lane < 16; ++lane) {
      EXPECT_EQ(got[static_cast<size_t>(lane)], ((lane + 16) ^ 2) * 100);
      EXPECT_EQ(got[static_cast<size_t>(lane) + 16], (lane ^ 1) + 3);
    }
  }
}

__global__ void short_warp(float* out) {
  out[threadIdx.x] = __shfl_sync(0xFFFFFFFFu, 1.0f, 31);
}

TEST(Warps, LanesThatDoNotExistAreNotWaitedForAndAnswerNaN) {
  DeviceArray<float> out(5);
  LAUNCH(short_warp, 1, 5, 0, nullptr, out.data());
  for (const float value : out.to_host()) EXPECT_TRUE(std::isnan(value));
}

__global__ void without_some_lanes(int* out) {
  if (threadIdx.x >= 30) return;
  out[threadIdx.x] = __shfl_sync(0xFFFFFFFFu, 1, 0);
}
__global__ void not_in_mask(int* out) {
  out[threadIdx.x] = __shfl_sync(0x1u, 1, 0);
}

TEST(WarpsDeathTest, MissingLanesAreAnError) {
  DeviceArray<int> out(32);
  EXPECT_DEATH(LAUNCH(without_some_lanes, 1, 32, 0, nullptr, out.data()),
               "kernel without_some_lanes, block \\(0,0,0\\): warp operation .* with missing lanes");
  EXPECT_DEATH(LAUNCH(not_in_mask, 1, 32, 0, nullptr, out.data()), "not in the mask");
}

// ---- barriers
// --------------------------------------------------------------------------------------------------------

__global__ void barrier_in_branches(int* out) {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  out[threadIdx.x] = 1;
}
__global__ void early_exit(int* out) {
  if (blockIdx.x == 2 && threadIdx.x == 40) return;
  __syncthreads();
  out[threadIdx.x] = 1;
}

TEST(BarriersDeathTest, DivergentBarriersAreAnError) {
  DeviceArray<int> out(64);
  EXPECT_DEATH(
      LAUNCH(barrier_in_branches, 1, 64, 0, nullptr, out.data()),
      "kernel barrier_in_branches, block \\(0,0,0\\): divergent __syncthreads: thread \\(0,0,0\\) waits at "
      "scheduler_test.cpp:[0-9]+, thread \\(32,0,0\\) at scheduler_test.cpp:[0-9]+");
  EXPECT_DEATH(LAUNCH(early_exit, 4, 64, 0, nullptr, out.data()),
               "kernel early_exit, block \\(2,0,0\\): __syncthreads at .* that 1 of 64 threads never reach");
}

// ---- shared memory
// -----------------------------------------------------------------------------------------------------

__global__ void read_before_write(float* out, int* all_bytes_set) {
  CUDA_ON_CPU_SHARED(float, fixed, [3][5]);
  CUDA_ON_CPU_SHARED(double, scalar, );
  auto* const dynamic = static_cast<float*>(dynamic_shared());
  if (threadIdx.x == 0) {
    out[blockIdx.x * 3] = fixed[2][4];
    out[blockIdx.x * 3 + 1] = static_cast<float>(scalar);
    out[blockIdx.x * 3 + 2] = dynamic[9];
    uint32_t word;
    std::memcpy(&word, &dynamic[9], sizeof(word));
    all_bytes_set[blockIdx.x] = word == 0xFFFFFFFFu;
  }
  __syncthreads();
  fixed[2][4] = 1.0f;
  scalar = 2.0;
  dynamic[9] = 3.0f;
}

TEST(SharedMemory, HoldsNaNWhenABlockBegins) {
  DeviceArray<float> out(12);
  DeviceArray<int> set(4);
  LAUNCH(read_before_write, 4, 33, 40, nullptr, out.data(), set.data());
  for (const float value : out.to_host()) EXPECT_TRUE(std::isnan(value));
  EXPECT_EQ(set.to_host(), std::vector<int>(4, 1));
}

__global__ void fill_dynamic(int* out, unsigned n) {
  auto* const dynamic = static_cast<int*>(dynamic_shared());
  for (unsigned i = threadIdx.x; i < n; i += blockDim.x) dynamic[i] = static_cast<int>(i);
  __syncthreads();
  out[threadIdx.x] = dynamic[threadIdx.x];
}
__global__ void large_static(int* out) {
  CUDA_ON_CPU_SHARED(int, values, [13000]);
  values[threadIdx.x] = 1;
  out[threadIdx.x] = values[threadIdx.x];
}

TEST(SharedMemoryDeathTest, AccessPastTheEndFaults) {
  DeviceArray<int> out(32);
  LAUNCH(fill_dynamic, 1, 32, 400, nullptr, out.data(), 100u);
  EXPECT_DEATH(LAUNCH(fill_dynamic, 1, 32, 400, nullptr, out.data(), 101u),
               "kernel fill_dynamic, block .* touches");
}

TEST(SharedMemoryDeathTest, MoreThanTheDeviceHasIsAnError) {
  DeviceArray<int> out(32);
  EXPECT_DEATH(LAUNCH(fill_dynamic, 1, 32, (48 << 10) + 4, nullptr, out.data(), 1u),
               "fill_dynamic: 49156 bytes");
  EXPECT_DEATH(LAUNCH(large_static, 1, 32, 0, nullptr, out.data()), "52000 bytes of static");
  EXPECT_NE(cudaFuncSetAttribute(fill_dynamic, cudaFuncAttributeMaxDynamicSharedMemorySize, (227 << 10) + 1),
            cudaSuccess);
  ASSERT_EQ(cudaFuncSetAttribute(fill_dynamic, cudaFuncAttributeMaxDynamicSharedMemorySize, 227 << 10),
            cudaSuccess);
  LAUNCH(fill_dynamic, 1, 32, 227 << 10, nullptr, out.data(), (227u << 10) / 4);
  EXPECT_EQ(out.to_host()[31], 31);
  cudaGetLastError();
}

// ---- launches
// ----------------------------------------------------------------------------------------------------------

__global__ void nothing() {}
__global__ void recurse(int* out, int depth) {
  volatile char frame[1024];
  frame[0] = static_cast<char>(depth);
  if (depth > 0) recurse(out, depth - 1);
  out[0] = frame[0];
}

TEST(LaunchDeathTest, WhatADeviceCannotRunIsAnErrorThatNamesTheKernel) {
  EXPECT_DEATH(LAUNCH(nothing, 1, 1025, 0, nullptr), "kernel nothing: block \\(1025,1,1\\)");
  EXPECT_DEATH(LAUNCH(nothing, 1, dim3(32, 33), 0, nullptr), "kernel nothing: block \\(32,33,1\\)");
  EXPECT_DEATH(LAUNCH(nothing, dim3(1, 65536), 1, 0, nullptr), "kernel nothing: grid \\(1,65536,1\\)");
  EXPECT_DEATH(LAUNCH(nothing, 0, 1, 0, nullptr), "kernel nothing: grid");
  DeviceArray<int> out(1);
  EXPECT_DEATH(LAUNCH(recurse, 1, 1, 0, nullptr, out.data(), 10000), "kernel recurse, .* a thread's stack");
}

__global__ void count_atomically(int* count, unsigned* largest, unsigned* seen) {
  atomicAdd(count, 1);
  atomicMax(largest, blockIdx.x * blockDim.x + threadIdx.x);
  atomicOr(seen, 1u << threadIdx.x % 32);
}

TEST(Launch, AtomicsCount) {
  DeviceArray<int> count(std::vector<int>{0});
  DeviceArray<unsigned> largest(std::vector<unsigned>{0}), seen(std::vector<unsigned>{0});
  LAUNCH(count_atomically, 10, 100, 0, nullptr, count.data(), largest.data(), seen.data());
  EXPECT_EQ(count.to_host()[0], 1000);
  EXPECT_EQ(largest.to_host()[0], 999u);
  EXPECT_EQ(seen.to_host()[0], 0xFFFFFFFFu);
}

TEST(SettingsDeathTest, UnknownEntriesAreErrors) {
  EXPECT_DEATH(configure("seeds=1"), "unknown entry: seeds=1");
  EXPECT_DEATH(configure("seed=x"), "not a whole number: seed=x");
  EXPECT_DEATH(configure("streams=fast"), "unknown entry: streams=fast");
}

}  // namespace
}  // namespace cuda_on_cpu
