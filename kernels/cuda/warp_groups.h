// Products on tensor cores, a group of four warps at a time: 64 rows of a left operand in registers by what
// lies in shared memory (PTX ISA, "wgmma.mma_async"), for GPUs of compute capability 9.0.
//
// All 128 threads of a block call each function together. Warp w has rows 16 w and on, in its lanes as in
// tensor_cores.h. Beside the instruction stands a plain body that finds the right operand's elements where a
// multiprocessor looks for them.
#pragma once

#include "lockstep/kernels/cuda/tensor_cores.h"

namespace lockstep {

// kRows rows of kWidth 16-bit numbers in panels of 64 columns, whose rows are 128 bytes: in row r lies the
// vector of 16 bytes number v as number v ^ r % 8, so that those of eight rows, one below the other, are in
// different banks ("128-Byte swizzling mode"). Panels begin at multiples of 1024 bytes.
template <int kRows, int kWidth>
struct SwizzledRows {
  static_assert(kRows % 8 == 0);
  static constexpr int kElements = (kWidth + 63) / 64 * 64 * kRows;

  // Of the first of 8 numbers.
  static constexpr int at(int row, int column) {
    return (column / 64 * kRows + row) * 64 + (column / 8 % 8 ^ row % 8) * 8;
  }
};

// A part of such rows that is a right operand ("Matrix Descriptor"): where it begins, in units of 16 bytes;
// from bit 32 on how far apart groups of eight rows are, likewise; from bit 62 on the mode.
class SharedOperand {
 public:
  LOCKSTEP_DEVICE explicit SharedOperand(const void* rows) {
    constexpr uint64_t kMode = 1, kUnused = 1;
    bits_ = kMode << 62 | uint64_t{kGroupBytes / 16} << 32 | kUnused << 16;
#if defined(__CUDA_ARCH__)
    bits_ |= (shared_address(rows) & 0x3FFFF) / 16;
#else
    first_ = reinterpret_cast<uintptr_t>(rows);
#endif
  }

  // From (row, column) on, row a multiple of 8, column of 16.
  template <class Rows>
  LOCKSTEP_DEVICE SharedOperand from(int row, int column) const {
    const int bytes = 2 * (Rows::at(row, column / 64 * 64) + column % 64);
    SharedOperand part = *this;
#if defined(__CUDA_ARCH__)
    part.bits_ += static_cast<uint64_t>(bytes / 16);
#else
    part.first_ += static_cast<uintptr_t>(bytes);
#endif
    return part;
  }

  LOCKSTEP_DEVICE uint64_t bits() const {
    return bits_;
  }
#if !defined(__CUDA_ARCH__)
  // Of a row and one of its 64 columns.
  template <class S>
  LOCKSTEP_DEVICE float element(int row, int column) const {
    const auto group_bytes = static_cast<uintptr_t>(bits_ >> 32 & 0x3FFF) * 16;
    uintptr_t address = first_ + static_cast<uintptr_t>(row / 8) * group_bytes +
                        static_cast<uintptr_t>(row % 8 * 128 + column * 2);
    address ^= (address >> 7 & 7) << 4;
    return widen(*reinterpret_cast<const S*>(address));
  }
#endif

 private:
  static constexpr int kGroupBytes = 8 * 128;

  uint64_t bits_;
#if !defined(__CUDA_ARCH__)
  uintptr_t first_;
#endif
};

// Whether columns of the right operand are rows in memory, or rows are.
enum class RightRows { kColumns, kRows };

#if defined(__CUDA_ARCH__)
#define LOCKSTEP_SUMS_OF(j) "+f"(sums[j][0]), "+f"(sums[j][1]), "+f"(sums[j][2]), "+f"(sums[j][3])
#define LOCKSTEP_MULTIPLY_32(type)                                                                         \
  asm volatile(                                                                                            \
      "{.reg .pred adds; setp.ne.b32 adds, %21, 0;"                                                        \
      "wgmma.mma_async.sync.aligned.m64n32k16.f32." type "." type                                          \
      " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15},"                           \
      " {%16, %17, %18, %19}, %20, adds, 1, 1, %22;}"                                                      \
      : LOCKSTEP_SUMS_OF(0), LOCKSTEP_SUMS_OF(1), LOCKSTEP_SUMS_OF(2), LOCKSTEP_SUMS_OF(3)                 \
      : "r"(left.words[0]), "r"(left.words[1]), "r"(left.words[2]), "r"(left.words[3]), "l"(right.bits()), \
        "r"(static_cast<int>(add)), "n"(kRight == RightRows::kRows ? 1 : 0))
#define LOCKSTEP_MULTIPLY_64(type)                                                                         \
  asm volatile(                                                                                            \
      "{.reg .pred adds; setp.ne.b32 adds, %37, 0;"                                                        \
      "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type                                          \
      " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20,"   \
      " %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31},"                                           \
      " {%32, %33, %34, %35}, %36, adds, 1, 1, %38;}"                                                      \
      : LOCKSTEP_SUMS_OF(0), LOCKSTEP_SUMS_OF(1), LOCKSTEP_SUMS_OF(2), LOCKSTEP_SUMS_OF(3),                \
        LOCKSTEP_SUMS_OF(4), LOCKSTEP_SUMS_OF(5), LOCKSTEP_SUMS_OF(6), LOCKSTEP_SUMS_OF(7)                 \
      : "r"(left.words[0]), "r"(left.words[1]), "r"(left.words[2]), "r"(left.words[3]), "l"(right.bits()), \
        "r"(static_cast<int>(add)), "n"(kRight == RightRows::kRows ? 1 : 0))
#endif

// sums = left right, or += where `add`: begins that, between begin_group_products and end_group_products.
// sums: of the first of kColumns columns, 32 or 64.
template <class S, int kColumns, RightRows kRight>
LOCKSTEP_DEVICE void add_group_product(const LeftTile& left, const SharedOperand& right, bool add,
                                       SumTile* sums) {
  static_assert(sizeof(S) == 2 && (kColumns == 32 || kColumns == 64));
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  if constexpr (std::is_same_v<S, BFloat16> && kColumns == 32) {
    LOCKSTEP_MULTIPLY_32("bf16");
  } else if constexpr (kColumns == 32) {
    LOCKSTEP_MULTIPLY_32("f16");
  } else if constexpr (std::is_same_v<S, BFloat16>) {
    LOCKSTEP_MULTIPLY_64("bf16");
  } else {
    LOCKSTEP_MULTIPLY_64("f16");
  }
#elif !defined(__CUDA_ARCH__)
  // Each lane shows the others what it has.
  const LeftTile* shown[kWarp];
  const LeftTile** const all =
      reinterpret_cast<const LeftTile**>(__shfl_sync(kAllLanes, reinterpret_cast<uintptr_t>(shown), 0));
  all[static_cast<int>(threadIdx.x) % kWarp] = &left;
  __syncwarp();
  float rows[2][16];
  for (int lane = 0; lane < 4; ++lane) {
    for (int w = 0; w < 4; ++w) {
      const auto pair = std::bit_cast<Vector<S, 2> >(all[tile_row() * 4 + lane]->words[w]);
      for (int e = 0; e < 2; ++e) rows[w % 2][w / 2 * 8 + 2 * lane + e] = widen(pair.lane[e]);
    }
  }
  __syncwarp();
  for (int j = 0; j < kColumns / 8; ++j) {
    for (int e = 0; e < 4; ++e) {
      const int column = 8 * j + tile_column() + e % 2;
      float sum = add ? sums[j][e] : 0.0f;
      for (int k = 0; k < 16; ++k) {
        const float element =
            kRight == RightRows::kRows ? right.element<S>(k, column) : right.element<S>(column, k);
        sum = std::fma(rows[e / 2][k], element, sum);
      }
      sums[j][e] = sum;
    }
  }
#endif
}
#undef LOCKSTEP_MULTIPLY_64
#undef LOCKSTEP_MULTIPLY_32
#undef LOCKSTEP_SUMS_OF

// What this thread has copied to shared memory is a right operand after the next __syncthreads().
LOCKSTEP_DEVICE void show_copies() {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}
// Keeps what the compiler does with registers on its side of this.
template <int kCount>
LOCKSTEP_DEVICE void pin([[maybe_unused]] SumTile (&sums)[kCount]) {
#if defined(__CUDA_ARCH__)
  LOCKSTEP_UNROLL
  for (SumTile& sum : sums) {
    LOCKSTEP_UNROLL
    for (float& number : sum) asm volatile("" : "+f"(number)::"memory");
  }
#endif
}
// Sums and left operands are as they are to be.
template <int kSums, int kLefts>
LOCKSTEP_DEVICE void begin_group_products(SumTile (&sums)[kSums],
                                          [[maybe_unused]] LeftTile (&lefts)[kLefts]) {
  pin(sums);
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  LOCKSTEP_UNROLL
  for (LeftTile& left : lefts) {
    LOCKSTEP_UNROLL
    for (uint32_t& word : left.words) asm volatile("" : "+r"(word)::"memory");
  }
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}
// Waits for all products; only then are there sums.
template <int kSums>
LOCKSTEP_DEVICE void end_group_products(SumTile (&sums)[kSums]) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile(
      "wgmma.commit_group.sync.aligned;"
      "wgmma.wait_group.sync.aligned 0;" ::
          : "memory");
#endif
  pin(sums);
}

}  // namespace lockstep
