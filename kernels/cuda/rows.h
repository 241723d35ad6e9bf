// Rows that a warp or a block works on together: who has which elements, and what the team knows of them as a
// whole.
//
// Element i of a row belongs to lane (i / N) mod kTeam, N the elements of a vector, so that a row's sums have
// one order whatever its address and the number of blocks.
#pragma once

#include <cstdint>

#include "kernels/cuda/dialect.h"
#include "kernels/cuda/flat.h"

namespace lockstep {

// kTeam threads share a row: 32, a warp, several of them a block; or more, a block.
template <int kTeam>
struct Team {
  static constexpr int kThreads = kTeam == kWarp ? 256 : kTeam;  // of a block
  static constexpr int kRows = kThreads / kTeam;                 // of a block

  LOCKSTEP_DEVICE static int64_t row() {
    return static_cast<int64_t>(blockIdx.x) * kRows + static_cast<int64_t>(threadIdx.x) / kTeam;
  }
  LOCKSTEP_DEVICE static int lane() { return static_cast<int>(threadIdx.x) % kTeam; }

  // value of all lanes combined, on each of them. A block calls it for the two halves of `shared` in turn:
  // what one leaves there is read until the barrier of the other.
  template <class Op, class T>
  LOCKSTEP_DEVICE static T reduce(T value, T* shared) {
    if constexpr (kTeam == kWarp) {
      return warp_reduce<Op>(value);
    } else {
      return block_reduce<Op, kTeam>(value, shared);
    }
  }
};

// How the rows of a kernel are worked on: kVectors vectors of kLanes elements a lane, or 0 for rows too long
// to be held.
template <int kTeam_, int kVectors_, int kLanes_>
struct RowPlan {
  static constexpr int kTeam = kTeam_, kVectors = kVectors_, kLanes = kLanes_;
  static constexpr bool kHeld = kVectors > 0;
};

// What a team has of one row of each of kInputs arrays, as numbers to compute with: read once and held, or
// read again for each visit. Plan::kLanes divides the columns.
template <class S, int kInputs, class Plan>
struct RowValues {
  using T = Accumulation<S>;
  static constexpr int N = Plan::kLanes;

  FlatInput<S> rows[kInputs];
  int64_t columns;
  T values[Plan::kHeld ? Plan::kVectors : 1][kInputs][N];

  // Row `row` of the arrays; `vectors` when all of them begin at multiples of 16 bytes.
  LOCKSTEP_DEVICE RowValues(const S* const (&arrays)[kInputs], int64_t row, int64_t columns_, bool vectors)
      : columns(columns_) {
#pragma unroll
    for (int k = 0; k < kInputs; ++k) {
      rows[k] = {arrays[k] + row * columns, vectors ? Reading::kVectors : Reading::kElements};
    }
    if constexpr (Plan::kHeld) {
#pragma unroll
      for (int v = 0; v < Plan::kVectors; ++v) {
        if (first(v) < columns) read(first(v), values[v]);
      }
    }
  }

  // function(i, x) for the lane's vectors, x[k] the numbers of elements i to i + N - 1 of array k. What it
  // changes in x is there at the next visit where rows are held.
  template <class F>
  LOCKSTEP_DEVICE void visit(const F& function) {
    if constexpr (Plan::kHeld) {
#pragma unroll
      for (int v = 0; v < Plan::kVectors; ++v) {
        if (first(v) < columns) function(first(v), values[v]);
      }
    } else {
      for (int64_t i = first(0); i < columns; i += Plan::kTeam * N) {
        read(i, values[0]);
        function(i, values[0]);
      }
    }
  }

 private:
  LOCKSTEP_DEVICE static int64_t first(int vector) {
    return (vector * Plan::kTeam + Team<Plan::kTeam>::lane()) * N;
  }
  LOCKSTEP_DEVICE void read(int64_t i, T (&x)[kInputs][N]) const {
#pragma unroll
    for (int k = 0; k < kInputs; ++k) {
      const Vector<S, N> stored = rows[k].template load<N>(i);
#pragma unroll
      for (int j = 0; j < N; ++j) x[k][j] = widen(stored.lane[j]);
    }
  }
};

// y[j] = x[j] rounded, as one vector where y's address allows.
template <class S, int N>
LOCKSTEP_DEVICE void store_row(S* y, const Accumulation<S> (&x)[N], bool vectors) {
  Vector<S, N> stored;
#pragma unroll
  for (int j = 0; j < N; ++j) stored.lane[j] = rounded<S>(x[j]);
  if (vectors) {
    store_vector(y, stored);
  } else {
#pragma unroll
    for (int j = 0; j < N; ++j) y[j] = stored.lane[j];
  }
}

// Calls function(RowPlan{}) with the plan for rows of S with so many columns: held by a warp or a block as
// long as they fit 32 registers a lane, else read again. A function of the columns alone.
template <class S, class F>
void dispatch_rows(int64_t columns, const F& function) {
  constexpr int kFull = Vector<S>::kLanes;
  constexpr int kHeld = 128 / static_cast<int>(sizeof(Accumulation<S>));  // elements
  const auto with_lanes = [&](auto lanes) {
    constexpr int kLanes = decltype(lanes)::value;
    if (columns <= kWarp * kHeld / 4) return function(RowPlan<kWarp, kHeld / 4 / kLanes, kLanes>{});
    if (columns <= kWarp * kHeld) return function(RowPlan<kWarp, kHeld / kLanes, kLanes>{});
    if (columns <= 256 * kHeld) return function(RowPlan<256, kHeld / kLanes, kLanes>{});
    return function(RowPlan<512, 0, kLanes>{});
  };
  if (columns % kFull == 0) return with_lanes(std::integral_constant<int, kFull>{});
  return with_lanes(std::integral_constant<int, 1>{});
}

}  // namespace lockstep
