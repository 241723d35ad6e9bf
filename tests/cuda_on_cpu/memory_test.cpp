// Device memory: what is out of bounds, freed, not written or not the host's is caught.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>

#include "device_array.h"

namespace cuda_on_cpu {
namespace {

__global__ void write_at(float* x, int64_t index) {
  x[index] = 1.0f;
}
__global__ void read_at(const float* x, int64_t index, float* y) {
  *y = x[index];
}

TEST(Memory, NewMemoryHoldsNaNAndIsAligned) {
  DeviceArray<float> x(100);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(x.data()) % 256, 0u);
  for (const float value : x.to_host()) EXPECT_TRUE(std::isnan(value));
}

TEST(MemoryDeathTest, AccessOutOfBoundsFaultsAndNamesTheBuffer) {
  const Configured configured("guard=1");
  DeviceArray<float> x(100), y(1);
  LAUNCH(write_at, 1, 1, 0, nullptr, x.data(), 99);
  EXPECT_DEATH(
      LAUNCH(write_at, 1, 1, 0, nullptr, x.data(), 100),
      "kernel write_at, block \\(0,0,0\\), thread \\(0,0,0\\) touches 0 bytes past the end of buffer [0-9]+ "
      "\\(400 bytes of device memory\\)");
  EXPECT_DEATH(LAUNCH(read_at, 1, 1, 0, nullptr, x.data(), 103, y.data()), "touches 12 bytes past the end");
  EXPECT_DEATH(LAUNCH(write_at, 1, 1, 0, nullptr, x.data(), -1000), "bytes before buffer");
}

TEST(MemoryDeathTest, BytesBetweenTheEndAndTheGuardAreCheckedWhenFreed) {
  const Configured configured("guard=1");
  float* x = nullptr;
  cudaMalloc(&x, 98 * sizeof(float));  // 8 bytes short of a multiple of 16
  EXPECT_DEATH(
      {
        LAUNCH(write_at, 1, 1, 0, nullptr, x, 99);
        cudaFree(x);
      },
      "wrote 4 bytes past the end of buffer");
  EXPECT_EQ(cudaFree(x), cudaSuccess);
}

TEST(MemoryDeathTest, UseAfterFreeFaults) {
  const Configured configured("guard=1");
  DeviceArray<float> y(1);
  float* x = nullptr;
  cudaMalloc(&x, 1000);
  cudaFree(x);
  EXPECT_DEATH(LAUNCH(read_at, 1, 1, 0, nullptr, x, 1, y.data()),
               "touches byte 4 of buffer [0-9]+, which was freed \\(1000 bytes");
  // Its address is not given to another buffer.
  DeviceArray<float> other(250);
  EXPECT_NE(other.data(), x);
}

TEST(Memory, AnyNumberOfGuardedBuffersCanComeAndGo) {
  const Configured configured("guard=1");
  void* pointer = nullptr;
  for (int i = 0; i < 70000; ++i) {
    ASSERT_EQ(cudaMalloc(&pointer, 64), cudaSuccess);
    ASSERT_EQ(cudaFree(pointer), cudaSuccess);
  }
}

TEST(MemoryDeathTest, HostMustNotTouchDeviceMemory) {
  for (const char* settings : {"host=forbid", "host=forbid,keys=0"}) {
    const Configured configured(settings);
    DeviceArray<float> x(std::vector<float>{1.0f, 2.0f}), y(1);
    EXPECT_DEATH(x.data()[1] = 3.0f, "host code touches byte 4 of buffer [0-9]+ outside kernels and copies");
    LAUNCH(read_at, 1, 1, 0, nullptr, x.data(), 1, y.data());
    EXPECT_EQ(y.to_host()[0], 2.0f);
    EXPECT_DEATH(static_cast<void>(*static_cast<volatile float*>(y.data())), "host code touches");
  }
}

TEST(Memory, CopiesBeyondABufferAreRefused) {
  DeviceArray<char> x(100);
  std::vector<char> host(200);
  EXPECT_EQ(cudaMemcpy(x.data() + 1, host.data(), 100, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpy(host.data(), x.data() + 1, 100, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpy(x.data(), host.data(), 10, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpy(host.data(), x.data(), 10, cudaMemcpyDeviceToDevice), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpy(x.data(), x.data() + 5, 10, cudaMemcpyDeviceToDevice), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemset(x.data(), 0, 101), cudaErrorInvalidValue);
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidValue);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
}

TEST(Memory, RowsAreCopiedWithTheirPitches) {
  std::vector<int> host(12);
  for (int i = 0; i < 12; ++i) host[static_cast<size_t>(i)] = i;
  DeviceArray<int> x(host), y(std::vector<int>(8, -1));
  // Columns 1 and 2 of (3, 4) into (3, 3) without its last element.
  EXPECT_EQ(cudaMemcpy2DAsync(y.data(), 12, x.data() + 1, 16, 8, 3, cudaMemcpyDeviceToDevice), cudaSuccess);
  EXPECT_EQ(y.to_host(), (std::vector<int>{1, 2, -1, 5, 6, -1, 9, 10}));
  EXPECT_EQ(cudaMemcpy2DAsync(y.data(), 16, x.data(), 16, 8, 3, cudaMemcpyDeviceToDevice),
            cudaErrorInvalidValue);
  cudaGetLastError();
}

TEST(Memory, DevicesRunOutOfMemory) {
  const Configured configured("memory_mb=1");
  void* first = nullptr;
  void* second = nullptr;
  size_t free_bytes = 0, total = 0;
  ASSERT_EQ(cudaMalloc(&first, 700 << 10), cudaSuccess);
  EXPECT_EQ(cudaMalloc(&second, 400 << 10), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaMemGetInfo(&free_bytes, &total), cudaSuccess);
  EXPECT_EQ(total, size_t{1} << 20);
  EXPECT_EQ(free_bytes, size_t{324} << 10);
  EXPECT_EQ(cudaFree(first), cudaSuccess);
  EXPECT_EQ(cudaMalloc(&second, 400 << 10), cudaSuccess);
  EXPECT_EQ(cudaFree(second), cudaSuccess);
  EXPECT_EQ(cudaFree(second), cudaErrorInvalidValue);
  cudaGetLastError();
}

TEST(Memory, PointersAreToldApart) {
  DeviceArray<int> device(10);
  int* pinned = nullptr;
  int pageable = 0;
  ASSERT_EQ(cudaMallocHost(&pinned, 100), cudaSuccess);
  cudaPointerAttributes attributes;
  cudaPointerGetAttributes(&attributes, device.data() + 9);
  EXPECT_EQ(attributes.type, cudaMemoryTypeDevice);
  cudaPointerGetAttributes(&attributes, pinned);
  EXPECT_EQ(attributes.type, cudaMemoryTypeHost);
  cudaPointerGetAttributes(&attributes, &pageable);
  EXPECT_EQ(attributes.type, cudaMemoryTypeUnregistered);
  EXPECT_EQ(cudaFree(pinned), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFreeHost(pinned), cudaSuccess);
  cudaGetLastError();
}

TEST(Devices, AreAsManyAsConfigured) {
  const Configured configured("devices=2");
  int count = 0;
  EXPECT_EQ(cudaGetDeviceCount(&count), cudaSuccess);
  EXPECT_EQ(count, 2);
  EXPECT_EQ(cudaSetDevice(2), cudaErrorInvalidDevice);
  EXPECT_EQ(cudaSetDevice(1), cudaSuccess);
  cudaDeviceProp properties;
  EXPECT_EQ(cudaGetDeviceProperties(&properties, 1), cudaSuccess);
  EXPECT_EQ(properties.major, 9);
  EXPECT_EQ(cudaSetDevice(0), cudaSuccess);
  configure("devices=0");
  EXPECT_EQ(cudaGetDeviceCount(&count), cudaErrorNoDevice);
  cudaGetLastError();
}

}  // namespace
}  // namespace cuda_on_cpu
