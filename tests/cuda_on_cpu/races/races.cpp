// Kernels with and without races, for the thread sanitizer: `cuda_on_cpu_races NAME` runs one of them.
//
// Only barriers order the threads of a block, and nothing orders blocks, so the sanitizer names the lines of
// a race whatever the order in which threads happened to run. Blocks are small: to the sanitizer every thread
// of theirs is a thread.
#include <cstdio>
#include <string_view>

#include "device_array.h"

namespace {

__global__ void neighbours_with_barrier(int* y) {
  CUDA_ON_CPU_SHARED(int, values, [64]);
  auto* const doubled = static_cast<int*>(cuda_on_cpu::dynamic_shared());
  for (int round = 0; round < 3; ++round) {
    values[threadIdx.x] = static_cast<int>(threadIdx.x) + round;
    __syncthreads();
    doubled[threadIdx.x] = 2 * values[63 - threadIdx.x];
    __syncthreads();
    y[blockIdx.x * 64 + threadIdx.x] = doubled[(threadIdx.x + 1) % 64];
  }
}

__global__ void neighbours_without_barrier(int* y) {
  CUDA_ON_CPU_SHARED(int, values, [64]);
  values[threadIdx.x] = static_cast<int>(threadIdx.x);
  y[blockIdx.x * 64 + threadIdx.x] = values[63 - threadIdx.x];
}

// The second barrier, before values are written again, is missing.
__global__ void rounds_with_one_barrier(int* y) {
  CUDA_ON_CPU_SHARED(int, values, [64]);
  for (int round = 0; round < 2; ++round) {
    values[threadIdx.x] = static_cast<int>(threadIdx.x) + round;
    __syncthreads();
    y[blockIdx.x * 64 + threadIdx.x] = values[63 - threadIdx.x];
  }
}

__global__ void lanes_with_syncwarp(int* y) {
  CUDA_ON_CPU_SHARED(int, values, [64]);
  values[threadIdx.x] = static_cast<int>(threadIdx.x);
  __syncwarp();
  y[blockIdx.x * 64 + threadIdx.x] = values[threadIdx.x ^ 5];
}

// A shuffle orders no memory.
__global__ void lanes_with_shuffle(int* y) {
  CUDA_ON_CPU_SHARED(int, values, [64]);
  values[threadIdx.x] = static_cast<int>(threadIdx.x);
  const int lane = __shfl_xor_sync(0xFFFFFFFFu, static_cast<int>(threadIdx.x), 5);
  y[blockIdx.x * 64 + threadIdx.x] = values[lane];
}

__global__ void blocks_write_one_number(int* y) {
  if (threadIdx.x == 0) y[0] = static_cast<int>(blockIdx.x);
}

// Numbers 0 and 5 have the same last digit.
__global__ void blocks_five_apart_write_one_number(int* y) {
  if (threadIdx.x == 0) y[blockIdx.x % 5] = static_cast<int>(blockIdx.x);
}

// What one block reads before its barriers another writes behind its own: those order no blocks.
__global__ void blocks_with_barriers_share_one_number(int* y) {
  CUDA_ON_CPU_SHARED(int, value, [1]);
  if (blockIdx.x == 0 && threadIdx.x == 0) value[0] = y[0];
  __syncthreads();
  if (blockIdx.x == 1 && threadIdx.x == 1) y[0] = 1;
  __syncthreads();
}

__global__ void blocks_count_atomically(int* y) {
  atomicAdd(&y[0], 1);
}

struct Kernel {
  std::string_view name;
  void (*function)(int*);
};
constexpr Kernel kKernels[] = {
    {"neighbours_with_barrier", neighbours_with_barrier},
    {"neighbours_without_barrier", neighbours_without_barrier},
    {"rounds_with_one_barrier", rounds_with_one_barrier},
    {"lanes_with_syncwarp", lanes_with_syncwarp},
    {"lanes_with_shuffle", lanes_with_shuffle},
    {"blocks_write_one_number", blocks_write_one_number},
    {"blocks_five_apart_write_one_number", blocks_five_apart_write_one_number},
    {"blocks_with_barriers_share_one_number", blocks_with_barriers_share_one_number},
    {"blocks_count_atomically", blocks_count_atomically},
};

}  // namespace

int main(int argc, char** argv) {
  for (const Kernel& kernel : kKernels) {
    if (argc != 2 || kernel.name != argv[1]) continue;
    cuda_on_cpu::DeviceArray<int> y(std::vector<int>(384));
    for (int launch = 0; launch < 2; ++launch) LAUNCH(kernel.function, 6, 64, 256, nullptr, y.data());
    y.to_host();
    std::puts("done");
    return 0;
  }
  std::fprintf(stderr, "usage: cuda_on_cpu_races KERNEL\n");
  return 2;
}
