// Rows that a warp or a block works on together: who has which elements, and what the team knows of them as a
// whole.
//
// Element i of a row belongs to lane (i / N) mod kTeam, N the elements of a vector, so that a row's sums have
// one order whatever its address and the number of blocks.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "lockstep/kernels/cuda/dialect.h"
#include "lockstep/kernels/cuda/flat.h"

namespace lockstep {

inline constexpr int kAnyBlock = 0;

// kTeam threads share a row: 32, a warp, several of them a block; or more, a block; or kAnyBlock, a block of
// as many as it is launched with, at most 512: one kernel for all of them.
template <int kTeam>
struct Team {
  static constexpr int kMost = kTeam == kAnyBlock ? 512 : kTeam;
  static constexpr int kThreads = kTeam == kWarp ? 256 : kMost;        // of a block, at most
  static constexpr int kRows = kTeam == kWarp ? kThreads / kWarp : 1;  // of a block
  static constexpr int kWarps = kMost / kWarp;

  LOCKSTEP_DEVICE static int64_t row() {
    return static_cast<int64_t>(blockIdx.x) * kRows + (kRows > 1 ? static_cast<int>(threadIdx.x) / kWarp : 0);
  }
  LOCKSTEP_DEVICE static int lanes() { return kTeam == kAnyBlock ? static_cast<int>(blockDim.x) : kTeam; }
  LOCKSTEP_DEVICE static int lane() {
    return kRows > 1 ? static_cast<int>(threadIdx.x) % kWarp : static_cast<int>(threadIdx.x);
  }

  // What all lanes have, combined, on each of them: one number, or an array of them in place. A block calls
  // it for the two halves of `shared` in turn: what one leaves there is read until the barrier of the other.
  template <class Op, class T>
  LOCKSTEP_DEVICE static T reduce(T value, T* shared) {
    if constexpr (kTeam != kAnyBlock) {
      return block_reduce<Op, kTeam>(value, shared);
    } else {
      value = warp_reduce<Op>(value);
      if (lane() % kWarp == 0) shared[lane() / kWarp] = value;
      __syncthreads();
      value = shared[0];
      for (int warp = 1; warp < lanes() / kWarp; ++warp) value = Op::combine(value, shared[warp]);
      return value;
    }
  }
  template <class Op, int K, class T>
  LOCKSTEP_DEVICE static void reduce(T (&values)[K], T* shared) {
    if constexpr (kTeam != kAnyBlock) {
      block_reduce<Op, kTeam>(values, shared);
    } else if (lanes() == kMost) {
      block_reduce<Op, kMost>(values, shared);
    } else {  // as block_reduce combines fewer than 16 warps
      constexpr int kEach = kWarp / K;
      const T own = warp_reduce_transposed<Op>(values);
      if (lane() % kEach == 0) shared[lane() / kEach] = own;
      __syncthreads();
      LOCKSTEP_UNROLL
      for (int k = 0; k < K; ++k) values[k] = shared[k];
      for (int warp = 1; warp < lanes() / kWarp; ++warp) {
        LOCKSTEP_UNROLL
        for (int k = 0; k < K; ++k) values[k] = Op::combine(values[k], shared[warp * K + k]);
      }
    }
  }
};

// How the rows of a kernel are worked on: kVectors vectors of kLanes elements a lane, or 0 for rows too long
// to be held; kResident threads at least that a multiprocessor has room for.
template <int kTeam_, int kVectors_, int kLanes_, int kResident>
struct RowPlan {
  static constexpr int kTeam = kTeam_, kVectors = kVectors_, kLanes = kLanes_;
  static constexpr int kBlocks = kResident / Team<kTeam>::kThreads;  // for __launch_bounds__
  static constexpr bool kHeld = kVectors > 0;
  using Index = std::conditional_t<kHeld, int, int64_t>;  // of an element in a row
  int threads = Team<kTeam>::kThreads;                    // of a block

  bool fits(int64_t columns) const {
    return columns <= (kTeam == kWarp ? kWarp : threads) * kVectors * kLanes;
  }
};

// What a team has of one row of each of kInputs arrays, as numbers to compute with: read once and held, or
// read again for each visit. Plan::kLanes divides the columns, which are at least one.
//
// Loads stand together, free of branches but for one around all of them: a load that is not alone in its
// block of instructions waits for the one before it.
template <class S, int kInputs, class Plan>
struct RowValues {
  using T = Accumulation<S>;
  using Index = typename Plan::Index;
  static constexpr int N = Plan::kLanes;

  const S* rows[kInputs];
  Index columns;
  bool vectors;
  T values[Plan::kHeld ? Plan::kVectors : 1][kInputs][N];

  // Row `row` of the arrays; `vectors` when all of them begin at multiples of 16 bytes.
  LOCKSTEP_DEVICE RowValues(const S* const (&arrays)[kInputs], int64_t row, int64_t columns_, bool vectors_)
      : columns(static_cast<Index>(columns_)), vectors(N > 1 && vectors_) {
    LOCKSTEP_UNROLL
    for (int k = 0; k < kInputs; ++k) rows[k] = arrays[k] + row * columns_;
    if constexpr (Plan::kHeld) {
      if (vectors) {
        hold<true>();
      } else {
        hold<false>();
      }
    }
  }

  // function(v, i, x) for the lane's vectors, v their number, x[k] the numbers of elements i to i + N - 1 of
  // array k. What it changes in x is there at the next visit where rows are held; where they are not, v is 0.
  template <class F>
  LOCKSTEP_DEVICE void visit(const F& function) {
    if constexpr (Plan::kHeld) {
      LOCKSTEP_UNROLL
      for (int v = 0; v < Plan::kVectors; ++v) {
        if (first(v) < columns) function(v, first(v), values[v]);
      }
    } else if (vectors) {
      sweep<true>(function);
    } else {
      sweep<false>(function);
    }
  }

  // Adds the row `others` to the one that is held; sums are rounded to S.
  template <class R>
  LOCKSTEP_DEVICE void add(const R* others) {
    static_assert(Plan::kHeld && kInputs == 1);
    if (vectors) {
      add_loaded<true>(others);
    } else {
      add_loaded<false>(others);
    }
  }

 private:
  struct Stored {
    Vector<S, N> arrays[kInputs];
  };

  LOCKSTEP_DEVICE static Index first(int vector) {
    return (vector * Team<Plan::kTeam>::lanes() + Team<Plan::kTeam>::lane()) * N;
  }
  template <bool kWhole>
  LOCKSTEP_DEVICE Stored load(Index i) const {
    Stored stored;
    LOCKSTEP_UNROLL
    for (int k = 0; k < kInputs; ++k) stored.arrays[k] = load_elements<kWhole, N>(rows[k] + i);
    return stored;
  }
  LOCKSTEP_DEVICE static void widen_all(const Stored& stored, T (&x)[kInputs][N]) {
    LOCKSTEP_UNROLL
    for (int k = 0; k < kInputs; ++k) widen_vector(stored.arrays[k], x[k]);
  }
  // Lanes without a vector read the last one.
  template <bool kWhole>
  LOCKSTEP_DEVICE void hold() {
    Stored stored[Plan::kVectors];
    LOCKSTEP_UNROLL
    for (int v = 0; v < Plan::kVectors; ++v) {
      stored[v] = load<kWhole>(first(v) < columns ? first(v) : columns - N);
    }
    LOCKSTEP_UNROLL
    for (int v = 0; v < Plan::kVectors; ++v) widen_all(stored[v], values[v]);
  }
  template <bool kWhole, class R>
  LOCKSTEP_DEVICE void add_loaded(const R* others) {
    Vector<R, N> stored[Plan::kVectors];
    LOCKSTEP_UNROLL
    for (int v = 0; v < Plan::kVectors; ++v) {
      stored[v] = load_elements<kWhole, N>(others + (first(v) < columns ? first(v) : columns - N));
    }
    LOCKSTEP_UNROLL
    for (int v = 0; v < Plan::kVectors; ++v) {
      T own[N];
      widen_vector(stored[v], own);
      LOCKSTEP_UNROLL
      for (int j = 0; j < N; ++j) own[j] = values[v][0][j] + own[j];
      widen_vector(rounded_vector<S>(own), values[v][0]);
    }
  }
  template <bool kWhole, class F>
  LOCKSTEP_DEVICE void sweep(const F& function) {
    constexpr int kAhead = 4;
    const Index step = Team<Plan::kTeam>::lanes() * N;
    Index i = first(0);
    for (; i + (kAhead - 1) * step < columns; i += kAhead * step) {
      Stored stored[kAhead];
      LOCKSTEP_UNROLL
      for (int a = 0; a < kAhead; ++a) stored[a] = load<kWhole>(i + a * step);
      LOCKSTEP_UNROLL
      for (int a = 0; a < kAhead; ++a) {
        widen_all(stored[a], values[0]);
        function(0, i + a * step, values[0]);
      }
    }
    for (; i < columns; i += step) {
      widen_all(load<kWhole>(i), values[0]);
      function(0, i, values[0]);
    }
  }
};

// x[j] = from[j], to[j] = x[j]: N numbers, in vectors where the address is said to allow it.
template <int N, class S>
LOCKSTEP_DEVICE void load_numbers(const S* from, bool vectors, Accumulation<S> (&x)[N]) {
  constexpr int kPiece = N < Vector<S>::kLanes ? N : Vector<S>::kLanes;
  LOCKSTEP_UNROLL
  for (int j = 0; j < N; j += kPiece) {
    const Vector<S, kPiece> piece =
        vectors ? load_elements<true, kPiece>(from + j) : load_elements<false, kPiece>(from + j);
    LOCKSTEP_UNROLL
    for (int l = 0; l < kPiece; ++l) x[j + l] = widen(piece.lane[l]);
  }
}
template <int N, class T>
LOCKSTEP_DEVICE void store_numbers(T* to, bool vectors, const T (&x)[N]) {
  constexpr int kPiece = N < Vector<T>::kLanes ? N : Vector<T>::kLanes;
  LOCKSTEP_UNROLL
  for (int j = 0; j < N; j += kPiece) {
    Vector<T, kPiece> piece;
    LOCKSTEP_UNROLL
    for (int l = 0; l < kPiece; ++l) piece.lane[l] = x[j + l];
    if (vectors) {
      store_vector(to + j, piece);
    } else {
      LOCKSTEP_UNROLL
      for (int l = 0; l < kPiece; ++l) to[j + l] = piece.lane[l];
    }
  }
}

// y[j] = x[j] rounded, as one vector where y's address allows.
template <class S, int N>
LOCKSTEP_DEVICE void store_row(S* y, const Accumulation<S> (&x)[N], bool vectors) {
  const Vector<S, N> stored = rounded_vector<S>(x);
  if (vectors) {
    store_vector(y, stored);
  } else {
    LOCKSTEP_UNROLL
    for (int j = 0; j < N; ++j) y[j] = stored.lane[j];
  }
}

// Calls function(plan), a RowPlan, with that for rows of S with so many columns, a function of the columns
// alone, for a kernel that reads so many arrays.
//
// The team is the smallest that holds the row: every lane then has several loads under way, and few combine
// their sums. A lane holds 64 bytes of one array, 32 of each of two; on an H200, rows of 16-bit elements take
// up to a quarter longer with half of that. 64 registers are enough for it, room for 1024 threads. Longer
// rows are held at twice as much a lane, and the longest read again, with room for half as many threads. So
// are doubles, whose functions fill the registers. Where rows do not consist of whole vectors, each element
// costs the registers of an address as well: a lane has eight, or four doubles, with room for half as many
// threads where a warp is the team. Those rows, and doubles, share one kernel for all teams of a block:
// compilers have fewer to make where speed matters least.
template <class S, int kArrays = 1, class F>
void dispatch_rows(int64_t columns, const F& function) {
  constexpr int kFull = Vector<S>::kLanes, kBytes = static_cast<int>(sizeof(Accumulation<S>));
  const auto with_lanes = [&]<int kLanes>(std::integral_constant<int, kLanes>) {
    constexpr int kMost = kLanes > 1 ? 64 / kArrays / static_cast<int>(sizeof(S)) : 32 / kBytes;
    constexpr int kFew = std::min(8, kMost), kLoose = 512, kTight = kBytes == 8 ? kLoose : 1024;
    const auto holds = [&](auto plan) {
      const bool fits = plan.fits(columns);
      if (fits) function(plan);
      return fits;
    };
    constexpr int kOfWarp = kLanes > 1 ? kTight : kLoose;
    constexpr bool kEachTeam = kLanes > 1 && kBytes < 8;
    // Teams between the powers of two, so that no more than a third of the lanes are idle.
    const auto one_holds = [&]<int... kTeams>(std::integer_sequence<int, kTeams...>) {
      return (holds(RowPlan<(kEachTeam ? kTeams : kAnyBlock), kMost / kLanes, kLanes, kTight>{kTeams}) ||
              ...);
    };
    const bool held = holds(RowPlan<32, kFew / kLanes, kLanes, kOfWarp>{}) ||
                      holds(RowPlan<32, kMost / kLanes, kLanes, kOfWarp>{}) ||
                      one_holds(std::integer_sequence<int, 64, 96, 128, 192, 256, 384, 512>{}) ||
                      holds(RowPlan<512, 2 * kMost / kLanes, kLanes, kLoose>{});
    if (!held) function(RowPlan<512, 0, kLanes, kLoose>{});
  };
  if (columns % kFull == 0) return with_lanes(std::integral_constant<int, kFull>{});
  with_lanes(std::integral_constant<int, 1>{});
}

}  // namespace lockstep
