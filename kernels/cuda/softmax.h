// What softmax and cross-entropy need of a row: its maximum and the sum of e^(x - maximum).
#pragma once

#include "lockstep/kernels/cuda/rows.h"
#include "lockstep/kernels/math/elementary.h"

namespace lockstep {

template <class T>
struct Exponentials {
  T maximum, sum;
};

// A long row is read once only (Milakov and Gimelshein 2018): a lane's sum is scaled down whenever its
// maximum grows, and relative to 0 while everything seen is -infinity, where x - maximum is no number. With
// kKeep the values of a held row become e^(x - maximum). `shared`: room for 2 * kWarps numbers.
template <bool kKeep, class S, class Plan>
LOCKSTEP_DEVICE Exponentials<Accumulation<S>> row_exponentials(RowValues<S, 1, Plan>& row,
                                                               Accumulation<S>* shared) {
  using T = Accumulation<S>;
  using Rows = Team<Plan::kTeam>;
  constexpr int N = Plan::kLanes;
  constexpr T kLowest = -std::numeric_limits<T>::infinity();
  T maximum = kLowest, sum = 0;
  if constexpr (Plan::kHeld) {
    row.visit([&](int, typename Plan::Index, T(&x)[1][N]) {
      LOCKSTEP_UNROLL
      for (int j = 0; j < N; ++j) maximum = Larger::combine(maximum, x[0][j]);
    });
    maximum = Rows::template reduce<Larger>(maximum, shared);
    row.visit([&](int, typename Plan::Index, T(&x)[1][N]) {
      LOCKSTEP_UNROLL
      for (int j = 0; j < N; ++j) {
        const T value = math::exp_for<S>(x[0][j] - maximum);
        if constexpr (kKeep) x[0][j] = value;
        sum += value;
      }
    });
  } else {
    row.visit([&](int, typename Plan::Index, T(&x)[1][N]) {
      T larger = maximum;
      LOCKSTEP_UNROLL
      for (int j = 0; j < N; ++j) larger = Larger::combine(larger, x[0][j]);
      const T base = larger == kLowest ? T(0) : larger;
      sum *= math::exp_for<S>(maximum - base);
      LOCKSTEP_UNROLL
      for (int j = 0; j < N; ++j) sum += math::exp_for<S>(x[0][j] - base);
      maximum = larger;
    });
    const T own = maximum;
    maximum = Rows::template reduce<Larger>(own, shared);
    sum *= math::exp_for<S>(own - (maximum == kLowest ? T(0) : maximum));
  }
  sum = Rows::template reduce<Plus>(sum, shared + Rows::kWarps);
  return {maximum, sum};
}

// Writes e^(x - maximum) / sum of a row that row_exponentials<true> has seen.
template <class S, class Plan>
LOCKSTEP_DEVICE void write_probabilities(RowValues<S, 1, Plan>& row,
                                         const Exponentials<Accumulation<S>>& whole, S* y, bool vectors) {
  using T = Accumulation<S>;
  constexpr int N = Plan::kLanes;
  const T factor = T(1) / whole.sum;
  row.visit([&](int, typename Plan::Index i, T(&x)[1][N]) {
    T result[N];
    LOCKSTEP_UNROLL
    for (int j = 0; j < N; ++j) {
      result[j] = (Plan::kHeld ? x[0][j] : math::exp_for<S>(x[0][j] - whole.maximum)) * factor;
    }
    store_row(y + i, result, vectors);
  });
}

}  // namespace lockstep
