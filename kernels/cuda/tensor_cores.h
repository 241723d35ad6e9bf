// Products on tensor cores, a warp at a time: tiles of 16-bit numbers in the registers of its lanes, sums in
// fp32 (PTX ISA, "mma.m16n8k16" and "ldmatrix").
//
// Of a tile of 8 columns lane l has row l / 4 and the columns 2 (l % 4) and one more, as the halves of a
// word. All 32 lanes of a warp call each function together. Beside each instruction stands a plain body with
// the same elements in the same lanes; its sums are rounded after every product, a tensor core's are not.
#pragma once

#include "lockstep/kernels/cuda/dialect.h"

namespace lockstep {

// 16 rows of 16: rows l/4 and l/4 + 8 of columns 0-7, then the same of columns 8-15.
struct LeftTile {
  uint32_t words[4];
};
// 16 rows of 8: in column l/4 the rows 2 (l % 4) and one more, then those 8 below.
struct RightTile {
  uint32_t words[2];
};
// 16 rows of 8, fp32: two of row l/4, two of row l/4 + 8.
using SumTile = float[4];

LOCKSTEP_DEVICE int tile_row() {
  return static_cast<int>(threadIdx.x) % kWarp / 4;
}
LOCKSTEP_DEVICE int tile_column() {
  return static_cast<int>(threadIdx.x) % 4 * 2;
}

// Two numbers, rounded, as the halves of a word.
template <class S>
LOCKSTEP_DEVICE uint32_t rounded_pair(float low, float high) {
  const float both[2] = {low, high};
  return std::bit_cast<uint32_t>(rounded_vector<S, 2>(both));
}

#if defined(__CUDA_ARCH__)
LOCKSTEP_DEVICE uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}
#endif

// What 16 x 16 numbers in memory become: a left operand; two right operands side by side; or two whose
// columns are rows in memory.
enum class Operand { kLeft, kRight, kRightTransposed };

// Operands out of shared memory, in which rows lie kStride elements apart and begin at multiples of 16 bytes.
// Rows an odd number of 16 bytes apart are in different banks. What lies there must have been brought by
// begin_copy(): the compiler does not know that plain stores are read.
template <class S, Operand kOperand, int kStride>
class TileReader {
 public:
  // `first` of the numbers that there are.
  LOCKSTEP_DEVICE explicit TileReader(const S* first) {
#if defined(__CUDA_ARCH__)
    // Each lane points at a row of 8 numbers: lanes 0-7 of the matrix that becomes the first word, and so on.
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    const int row = kOperand == Operand::kRightTransposed ? lane / 16 * 8 + lane % 8 : lane % 16;
    const int column = kOperand == Operand::kRightTransposed ? lane / 8 % 2 * 8 : lane / 16 * 8;
    address_ = static_cast<uint32_t>(
        computed_again(static_cast<int>(shared_address(first + row * kStride + column))));
#else
    first_ = first;
#endif
  }

  // Of the numbers from (row, column) on.
  LOCKSTEP_DEVICE void read(int row, int column, uint32_t (&words)[4]) const {
#if defined(__CUDA_ARCH__)
    const uint32_t address = address_ + static_cast<uint32_t>((row * kStride + column) * 2);
    if constexpr (kOperand == Operand::kRight) {
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                   : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                   : "r"(address));
    } else {
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                   : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                   : "r"(address));
    }
#else
    const S* const tile = first_ + row * kStride + column;
    for (int word = 0; word < 4; ++word) {
      const int low = word % 2 * 8, high = word / 2 * 8;
      Vector<S, 2> pair;
      for (int e = 0; e < 2; ++e) {
        if constexpr (kOperand == Operand::kLeft) {
          pair.lane[e] = tile[(tile_row() + low) * kStride + high + tile_column() + e];
        } else if constexpr (kOperand == Operand::kRight) {
          pair.lane[e] = tile[(tile_column() + e + low) * kStride + high + tile_row()];
        } else {
          pair.lane[e] = tile[(tile_row() + high) * kStride + low + tile_column() + e];
        }
      }
      words[word] = std::bit_cast<uint32_t>(pair);
    }
#endif
  }
  LOCKSTEP_DEVICE LeftTile left(int row, int column) const {
    static_assert(kOperand == Operand::kLeft);
    LeftTile left;
    read(row, column, left.words);
    return left;
  }
  LOCKSTEP_DEVICE void right(int row, int column, RightTile& first, RightTile& second) const {
    static_assert(kOperand != Operand::kLeft);
    uint32_t words[4];
    read(row, column, words);
    first = {{words[0], words[1]}};
    second = {{words[2], words[3]}};
  }

 private:
#if defined(__CUDA_ARCH__)
  uint32_t address_;
#else
  const S* first_;
#endif
};

// sums[i][first + j] += left[i] right[j].
template <class S, int kLeft, int kRight, int kSums>
LOCKSTEP_DEVICE void add_tile_products(const LeftTile (&left)[kLeft], const RightTile (&right)[kRight],
                                       int first, SumTile (&sums)[kLeft][kSums]) {
  static_assert(sizeof(S) == 2);
#if defined(__CUDA_ARCH__)
  LOCKSTEP_UNROLL
  for (int i = 0; i < kLeft; ++i) {
    LOCKSTEP_UNROLL
    for (int j = 0; j < kRight; ++j) {
      float(&sum)[4] = sums[i][first + j];
      const uint32_t(&a)[4] = left[i].words, (&b)[2] = right[j].words;
      if constexpr (std::is_same_v<S, BFloat16>) {
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
            "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
      } else {
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
            "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
      }
    }
  }
#else
  // Each lane shows the others what it has.
  struct Operands {
    float left[kLeft][8], right[kRight][4];
  } own;
  const auto widen_word = [](uint32_t word, float* to) {
    const auto pair = std::bit_cast<Vector<S, 2> >(word);
    to[0] = widen(pair.lane[0]);
    to[1] = widen(pair.lane[1]);
  };
  for (int i = 0; i < kLeft; ++i) {
    for (int w = 0; w < 4; ++w) widen_word(left[i].words[w], own.left[i] + 2 * w);
  }
  for (int j = 0; j < kRight; ++j) {
    for (int w = 0; w < 2; ++w) widen_word(right[j].words[w], own.right[j] + 2 * w);
  }
  const Operands* shown[kWarp];
  const Operands** const all =
      reinterpret_cast<const Operands**>(__shfl_sync(kAllLanes, reinterpret_cast<uintptr_t>(shown), 0));
  all[static_cast<int>(threadIdx.x) % kWarp] = &own;
  __syncwarp();
  for (int k = 0; k < 16; ++k) {
    const int quarter = k % 8 / 2, half = k / 8, part = k % 2;  // lane, word and half of it that k is in
    for (int i = 0; i < kLeft; ++i) {
      const float(&x)[8] = all[tile_row() * 4 + quarter]->left[i];
      for (int j = 0; j < kRight; ++j) {
        for (int e = 0; e < 4; ++e) {
          const float(&b)[4] = all[(tile_column() + e % 2) * 4 + quarter]->right[j];
          float& sum = sums[i][first + j][e];
          sum = std::fma(x[half * 4 + e / 2 * 2 + part], b[half * 2 + part], sum);
        }
      }
    }
  }
  __syncwarp();
#endif
}

// ---- copies to shared memory that run while the thread goes on

// 16 bytes, or as many zeros where there is nothing to copy; `from` is a valid address all the same.
template <class S>
LOCKSTEP_DEVICE void begin_copy(S* shared, const S* from, bool exists) {
#if defined(__CUDA_ARCH__)
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(from),
               "r"(exists ? 16 : 0)
               : "memory");
#else
  store_vector(shared, exists ? load_vector<16 / sizeof(S)>(from) : Vector<S>{});
#endif
}
// Ends a group of copies.
LOCKSTEP_DEVICE void end_copy_group() {
#if defined(__CUDA_ARCH__)
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
// Waits for this thread's copies, but for those of the newest kGroups groups.
template <int kGroups>
LOCKSTEP_DEVICE void await_copies() {
#if defined(__CUDA_ARCH__)
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
#endif
}

}  // namespace lockstep
