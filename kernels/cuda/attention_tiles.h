// What a block of threads does in the kernels of attention on tensor cores: rows to and from shared memory,
// products with them, masks.
#pragma once

#include <limits>
#include <type_traits>

#include "lockstep/kernels/cuda/attention.h"
#include "lockstep/kernels/cuda/tensor_cores.h"
#include "lockstep/kernels/cuda/warp_groups.h"

namespace lockstep::tensor_attention {

constexpr int kWarps = 4, kThreads = kWarps * kWarp;
constexpr int64_t kLargestSize = 128;
constexpr float kLog2E = 1.44269504f;

// Rows that lie kStride elements apart.
template <int kRows, int kStride>
struct PaddedRows {
  static constexpr int kElements = kRows * kStride;

  static constexpr int at(int row, int column) { return row * kStride + column; }
};

// How a block works on heads of up to kWidth numbers: kTiles x 16 own rows a warp, kOthers others' rows at a
// time, multiplied by each warp, or by all of them together. Sums, scores and operands of a thread are to fit
// into 255 registers, two blocks into a multiprocessor.
template <Multiplier kMultiplier_, int kWidth_, int kTiles_, int kOthers_>
struct Plan {
  static constexpr Multiplier kMultiplier = kMultiplier_;
  static constexpr int kWidth = kWidth_, kTiles = kTiles_, kOthers = kOthers_;
  static constexpr int kWarpRows = 16 * kTiles, kOwn = kWarps * kWarpRows;
  static constexpr int kStride = kWidth + 8;   // from own row to row in shared memory
  static constexpr int kSteps = kWidth / 16;   // of a product along a row
  static constexpr int kColumns = kWidth / 8;  // tiles of columns of a row
  static constexpr int kScores = kOthers / 8;  // and of a row of scores
  using OwnRows = PaddedRows<kOwn, kStride>;
  using OtherRows = std::conditional_t<kMultiplier == Multiplier::kFourWarps, SwizzledRows<kOthers, kWidth>,
                                       PaddedRows<kOthers, kStride>>;
  // Panels of swizzled rows begin behind one or two arrays of own rows.
  static_assert(kMultiplier == Multiplier::kOneWarp || (kTiles == 1 && OwnRows::kElements * 2 % 1024 == 0));
};

// Shared memory of a kernel with so many arrays of own rows; of others' there are two, twice.
template <class P>
constexpr size_t shared_bytes(int own_arrays) {
  return sizeof(uint16_t) * (static_cast<size_t>(own_arrays * P::OwnRows::kElements) +
                             static_cast<size_t>(4 * P::OtherRows::kElements));
}

// 2^x, 0 where that is no normal number; on a device within 2^-22 of itself (PTX ISA, "ex2").
LOCKSTEP_DEVICE float power_of_two(float x) {
#if defined(__CUDA_ARCH__)
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return x < -126.0f ? 0.0f : std::exp2(x);
#endif
}

LOCKSTEP_DEVICE int warp_row() {
  return static_cast<int>(threadIdx.x) / kWarp * 16;
}

// Of queries or keys: they are few enough.
LOCKSTEP_DEVICE int positions(int64_t count) {
  return static_cast<int>(count);
}

// `count` rows of one head, `stride` elements apart.
template <class S>
struct HeadRows {
  S* first;
  int64_t stride;
  int count;

  LOCKSTEP_DEVICE HeadRows from(int row) const { return {first + row * stride, stride, count - row}; }
  LOCKSTEP_DEVICE HeadRows of_head_at(int elements) const { return {first + elements, stride, count}; }
};
template <class S>
LOCKSTEP_DEVICE HeadRows<S> query_rows(const AttentionArguments& a, S* array, int64_t head, int64_t stride) {
  return {array + head_begin(a, a.heads, head, a.queries, stride), stride, positions(a.queries)};
}
template <class S>
LOCKSTEP_DEVICE HeadRows<S> key_rows(const AttentionArguments& a, S* array, int64_t head, int64_t stride) {
  return {array + head_begin(a, a.kv_heads, head, a.keys, stride), stride, positions(a.keys)};
}

// Begins to copy kRows rows to shared memory; what is behind the last row or number of a head becomes zero.
template <class P, class Rows, class S>
LOCKSTEP_DEVICE void begin_copy_of_rows(const HeadRows<const S>& rows, int size, S* shared) {
  constexpr int kRows = std::is_same_v<Rows, typename P::OwnRows> ? P::kOwn : P::kOthers;
  constexpr int kVectors = P::kWidth / 8;
  static_assert(kRows * kVectors % kThreads == 0);
  const int thread = computed_again(static_cast<int>(threadIdx.x));
  LOCKSTEP_UNROLL
  for (int begin = 0; begin < kRows * kVectors; begin += kThreads) {
    const int i = begin + thread;
    const int row = i / kVectors, column = i % kVectors * 8;
    const bool exists = row < rows.count && column < size;
    begin_copy(shared + Rows::at(row, column), exists ? rows.first + row * rows.stride + column : rows.first,
               exists);
  }
}

// Waits for the rows that the block has begun to copy, but for those of the newest group of copies.
template <class P>
LOCKSTEP_DEVICE void await_rows() {
  await_copies<1>();
  if constexpr (P::kMultiplier == Multiplier::kFourWarps) show_copies();
  __syncthreads();
}

// What a warp has summed, times a factor for each of a thread's rows, to where its own rows are, through
// shared memory that held them.
template <class P, class S>
LOCKSTEP_DEVICE void store_own_rows(const SumTile (&sums)[P::kTiles][P::kColumns],
                                    const float (&factors)[P::kTiles][2], const HeadRows<S>& rows, int size,
                                    S* shared) {
  // Where a block had no tile to walk over, what was to be its own rows may not have arrived yet.
  await_copies<0>();
  __syncthreads();
  S* const own = shared + warp_row() * P::kTiles * P::kStride;
  LOCKSTEP_UNROLL
  for (int m = 0; m < P::kTiles; ++m) {
    LOCKSTEP_UNROLL
    for (int j = 0; j < P::kColumns; ++j) {
      LOCKSTEP_UNROLL
      for (int half = 0; half < 2; ++half) {
        const float factor = factors[m][half];
        S* const pair = own + (16 * m + 8 * half + tile_row()) * P::kStride + 8 * j + tile_column();
        *reinterpret_cast<Vector<S, 2>*>(pair) = std::bit_cast<Vector<S, 2>>(
            rounded_pair<S>(sums[m][j][2 * half] * factor, sums[m][j][2 * half + 1] * factor));
      }
    }
  }
  __syncwarp();
  constexpr int kVectors = P::kWidth / 8;
  const int first = warp_row() * P::kTiles;
  for (int i = static_cast<int>(threadIdx.x) % kWarp; i < P::kWarpRows * kVectors; i += kWarp) {
    const int row = i / kVectors, column = i % kVectors * 8;
    if (first + row < rows.count && column < size) {
      store_vector(rows.first + (first + row) * rows.stride + column,
                   load_vector<8>(own + row * P::kStride + column));
    }
  }
}

// sums = the warp's own rows times the others' transposed.
template <class P, class S>
LOCKSTEP_DEVICE void multiply_rows(const S* own, const S* others, SumTile (&sums)[P::kTiles][P::kScores]) {
  const TileReader<S, Operand::kLeft, P::kStride> lefts(own + warp_row() * P::kTiles * P::kStride);
  if constexpr (P::kMultiplier == Multiplier::kFourWarps) {
    const SharedOperand right(others);
    LeftTile left[P::kSteps];
    LOCKSTEP_UNROLL
    for (int step = 0; step < P::kSteps; ++step) left[step] = lefts.left(0, 16 * step);
    begin_group_products(sums[0], left);
    LOCKSTEP_UNROLL
    for (int step = 0; step < P::kSteps; ++step) {
      add_group_product<S, P::kOthers, RightRows::kColumns>(
          left[step], right.template from<typename P::OtherRows>(0, 16 * step), step > 0, sums[0]);
    }
    end_group_products(sums[0]);
  } else {
    LOCKSTEP_UNROLL
    for (int m = 0; m < P::kTiles; ++m) {
      LOCKSTEP_UNROLL
      for (int j = 0; j < P::kScores; ++j) sums[m][j][0] = sums[m][j][1] = sums[m][j][2] = sums[m][j][3] = 0;
    }
    const TileReader<S, Operand::kRightTransposed, P::kStride> rights(others);
    constexpr int kAtOnce = P::kScores < 4 ? P::kScores : 4;
    LOCKSTEP_UNROLL_BY(2)
    for (int step = 0; step < P::kSteps; ++step) {
      LeftTile left[P::kTiles];
      LOCKSTEP_UNROLL
      for (int m = 0; m < P::kTiles; ++m) left[m] = lefts.left(16 * m, 16 * step);
      LOCKSTEP_UNROLL
      for (int j = 0; j < P::kScores; j += kAtOnce) {
        RightTile right[kAtOnce];
        LOCKSTEP_UNROLL
        for (int i = 0; i < kAtOnce; i += 2) rights.right(8 * (j + i), 16 * step, right[i], right[i + 1]);
        add_tile_products<S>(left, right, j, sums);
      }
    }
  }
}

// sums += weights, rounded, times the others' rows.
template <class P, class S>
LOCKSTEP_DEVICE void add_weighted_rows(const SumTile (&weights)[P::kTiles][P::kScores], const S* others,
                                       SumTile (&sums)[P::kTiles][P::kColumns]) {
  // Of 16 others' rows.
  const auto rounded = [&](int m, int step) {
    LeftTile left;
    LOCKSTEP_UNROLL
    for (int w = 0; w < 4; ++w) {
      const SumTile& pair = weights[m][2 * step + w / 2];
      left.words[w] = rounded_pair<S>(pair[w % 2 * 2], pair[w % 2 * 2 + 1]);
    }
    return left;
  };
  if constexpr (P::kMultiplier == Multiplier::kFourWarps) {
    const SharedOperand right(others);
    LeftTile left[P::kScores / 2];
    LOCKSTEP_UNROLL
    for (int step = 0; step < P::kScores / 2; ++step) left[step] = rounded(0, step);
    begin_group_products(sums[0], left);
    LOCKSTEP_UNROLL
    for (int step = 0; step < P::kScores / 2; ++step) {
      const SharedOperand rows = right.template from<typename P::OtherRows>(16 * step, 0);
      add_group_product<S, 64, RightRows::kRows>(left[step], rows, true, sums[0]);
      if constexpr (P::kWidth > 64) {
        add_group_product<S, P::kWidth - 64, RightRows::kRows>(
            left[step], right.template from<typename P::OtherRows>(16 * step, 64), true, sums[0] + 8);
      }
    }
    end_group_products(sums[0]);
  } else {
    const TileReader<S, Operand::kRight, P::kStride> rights(others);
    LOCKSTEP_UNROLL
    for (int step = 0; step < P::kScores / 2; ++step) {
      LeftTile left[P::kTiles];
      LOCKSTEP_UNROLL
      for (int m = 0; m < P::kTiles; ++m) left[m] = rounded(m, step);
      LOCKSTEP_UNROLL
      for (int j = 0; j < P::kColumns; j += 4) {
        RightTile right[4];
        LOCKSTEP_UNROLL
        for (int i = 0; i < 4; i += 2) rights.right(16 * step, 8 * (j + i), right[i], right[i + 1]);
        add_tile_products<S>(left, right, j, sums);
      }
    }
  }
}

// The keys that a query sees: from the first on, up to the one before `end`.
struct Span {
  int first, end;

  LOCKSTEP_DEVICE bool holds(int key) const { return first <= key && key < end; }
};
LOCKSTEP_DEVICE Span seen_by(const AttentionArguments& a, const int32_t* first_keys, int query) {
  const int queries = positions(a.queries), keys = positions(a.keys);
  if (query >= queries) return {0, 0};
  const int end = a.causal ? query + (keys - queries) + 1 : keys;
  return {first_key_of(first_keys, query), end < keys ? end : keys};
}
// Whether every one of `queries` queries sees every one of `keys` keys.
LOCKSTEP_DEVICE bool all_seen(const AttentionArguments& a, const int32_t* first_keys, int query, int queries,
                              int key, int keys) {
  return query + queries <= positions(a.queries) && key + keys <= seen_by(a, first_keys, query).end &&
         seen_by(a, first_keys, query + queries - 1).first <= key;
}

// Scores of keys that a query does not see become -infinity: their weights are 0. Of own rows of queries, the
// thread's first, and a tile of keys; and of own rows of keys, the thread's first, and a tile of queries.
constexpr float kHidden = -std::numeric_limits<float>::infinity();
template <class P>
LOCKSTEP_DEVICE void hide_keys(const AttentionArguments& a, const int32_t* first_keys, int first_query,
                               int key, SumTile (&scores)[P::kTiles][P::kScores]) {
  LOCKSTEP_UNROLL
  for (int m = 0; m < P::kTiles; ++m) {
    LOCKSTEP_UNROLL
    for (int half = 0; half < 2; ++half) {
      const Span seen = seen_by(a, first_keys, first_query + 16 * m + 8 * half);
      LOCKSTEP_UNROLL
      for (int j = 0; j < P::kScores; ++j) {
        LOCKSTEP_UNROLL
        for (int e = 0; e < 2; ++e) {
          if (!seen.holds(key + 8 * j + tile_column() + e)) scores[m][j][2 * half + e] = kHidden;
        }
      }
    }
  }
}
template <class P>
LOCKSTEP_DEVICE void hide_from_queries(const AttentionArguments& a, const int32_t* first_keys, int query,
                                       int first_key, SumTile (&scores)[P::kTiles][P::kScores]) {
  LOCKSTEP_UNROLL
  for (int j = 0; j < P::kScores; ++j) {
    LOCKSTEP_UNROLL
    for (int e = 0; e < 2; ++e) {
      const Span seen = seen_by(a, first_keys, query + 8 * j + tile_column() + e);
      LOCKSTEP_UNROLL
      for (int m = 0; m < P::kTiles; ++m) {
        LOCKSTEP_UNROLL
        for (int half = 0; half < 2; ++half) {
          if (!seen.holds(first_key + 16 * m + 8 * half)) scores[m][j][2 * half + e] = kHidden;
        }
      }
    }
  }
}

}  // namespace lockstep::tensor_attention
