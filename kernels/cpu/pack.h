// A few numbers that are computed with together: 64 bytes of T, one AVX-512 register or several smaller ones.
//
// The number of lanes is part of the numerics (it fixes the order in which sums are added), so it is 64 bytes
// on every processor. Single has the same interface for one number: tails use it and get the same bits an
// element. Both load from and store to 16-bit elements as well, rounding once.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "lockstep/core/dtype.h"

namespace lockstep {

template <class T>
struct Pack {
  static constexpr int64_t kLanes = 64 / sizeof(T);
  using Integer = std::conditional_t<sizeof(T) == 8, int64_t, int32_t>;  // as wide as T
  using Raw [[gnu::vector_size(64)]] = T;
  using Index [[gnu::vector_size(64)]] = Integer;
  Raw raw;

  template <class S>
  static Pack load(const S* x) {
    Pack pack;
    if constexpr (std::is_same_v<S, T>) {
      std::memcpy(&pack.raw, x, 64);
    } else {
      T lanes[kLanes];
#pragma omp simd
      for (int lane = 0; lane < kLanes; ++lane) lanes[lane] = T(x[lane]);
      std::memcpy(&pack.raw, lanes, 64);
    }
    return pack;
  }
  // The first `count` lanes from memory, the others `rest`.
  template <class S>
  static Pack load(const S* x, int64_t count, T rest) {
    if (count >= kLanes) return load(x);
    T lanes[kLanes];
#pragma omp simd
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane] = lane < count ? T(x[lane]) : rest;
    return load(lanes);
  }
  static Pack repeat(T x) {
    return {x - Raw{}};
  }
  template <class S>
  void store(S* y) const {
    if constexpr (std::is_same_v<S, T>) {
      std::memcpy(y, &raw, 64);
    } else {
      T lanes[kLanes];
      std::memcpy(lanes, &raw, 64);
#pragma omp simd
      for (int lane = 0; lane < kLanes; ++lane) y[lane] = S(lanes[lane]);
    }
  }
  // The first `count` lanes.
  template <class S>
  void store(S* y, int64_t count) const {
    if (count >= kLanes) return store(y);
    T lanes[kLanes];
    store(lanes);
    // GCC 12 makes of the loop, in fp64, an instruction that stores a part of a register under a mask: it
    // faults where the lanes that it leaves out lie on a page that is not there.
    if constexpr (std::is_same_v<S, double>) {
      std::memcpy(y, lanes, static_cast<size_t>(count) * sizeof(S));
      return;
    }
#pragma omp simd
    for (int lane = 0; lane < kLanes; ++lane) {
      if (lane < count) y[lane] = S(lanes[lane]);
    }
  }
  // Lane i of the result is lane (i + kDistance) mod kLanes.
  template <int kDistance>
  Pack rotate() const {
    return [this]<int... kLane>(std::integer_sequence<int, kLane...>) {
      return Pack{__builtin_shufflevector(raw, raw, ((kLane + kDistance) % int{kLanes})...)};
    }
    (std::make_integer_sequence<int, int{kLanes}>());
  }

  friend Pack operator+(Pack a, Pack b) {
    return {a.raw + b.raw};
  }
  friend Pack operator-(Pack a, Pack b) {
    return {a.raw - b.raw};
  }
  friend Pack operator*(Pack a, Pack b) {
    return {a.raw * b.raw};
  }
  friend Pack operator/(Pack a, Pack b) {
    return {a.raw / b.raw};
  }
  // The larger; NaN when either is NaN.
  friend Pack larger(Pack a, Pack b) {
    return {((a.raw >= b.raw) | (a.raw != a.raw)) ? a.raw : b.raw};
  }
};

template <class T>
struct Single {
  static constexpr int64_t kLanes = 1;
  T raw;

  template <class S>
  static Single load(const S* x) {
    return {T(*x)};
  }
  static Single repeat(T x) { return {x}; }
  void store(T* y) const { *y = raw; }

  friend Single operator+(Single a, Single b) { return {a.raw + b.raw}; }
  friend Single operator-(Single a, Single b) { return {a.raw - b.raw}; }
  friend Single operator*(Single a, Single b) { return {a.raw * b.raw}; }
  friend Single larger(Single a, Single b) { return a.raw >= b.raw || a.raw != a.raw ? a : b; }
};

// How a reduction combines two numbers, and what it starts from.
struct SumOf {
  template <class T>
  static constexpr T kStart = T(0);
  template <class P>
  static P combine(P a, P b) {
    return a + b;
  }
};
struct MaximumOf {
  template <class T>
  static constexpr T kStart = -__builtin_huge_val();
  template <class P>
  static P combine(P a, P b) {
    return larger(a, b);
  }
};

// The largest for softmax, where a NaN need not win here because it returns through the sum: one instruction.
struct LargestOf {
  template <class T>
  static constexpr T kStart = MaximumOf::kStart<T>;
  template <class P>
  static P combine(P a, P b) {
    return {a.raw > b.raw ? a.raw : b.raw};
  }
};

// Combines the lanes by halves: lane i with lane i + kLanes/2, and so on.
template <class Combine, class T, int kHalf = Pack<T>::kLanes / 2>
T combine_lanes(Pack<T> pack) {
  const Pack<T> halves = Combine::combine(pack, pack.template rotate<kHalf>());
  if constexpr (kHalf == 1) {
    return halves.raw[0];
  } else {
    return combine_lanes<Combine, T, kHalf / 2>(halves);
  }
}

// value(i) ... value(i + kLanes - 1), computed together.
template <class T, class Value>
[[gnu::always_inline]] inline Pack<T> evaluate_pack(int64_t i, const Value& value) {
  T lanes[Pack<T>::kLanes];
#pragma omp simd
  for (int lane = 0; lane < Pack<T>::kLanes; ++lane) lanes[lane] = value(i + lane);
  return Pack<T>::load(lanes);
}

// Combines n numbers in a fixed order: blocks of 4096 one after the other; in a block, four packs of lanes
// run along it. Meant for n up to a few tens of thousands. whole(i) is the pack of numbers i to i + kLanes,
// part(i, count) the last one, of `count` numbers and Combine's start. Each is asked for once.
template <class Combine, class T, class Whole, class Part>
[[gnu::flatten]] inline T combine_packs(int64_t n, const Whole& whole, const Part& part) {
  using P = Pack<T>;
  constexpr int64_t kLanes = P::kLanes, kBlock = 4096;
  constexpr T kStart = Combine::template kStart<T>;
  T total = kStart;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t end = n - begin < kBlock ? n : begin + kBlock;
    P p0 = P::repeat(kStart), p1 = p0, p2 = p0, p3 = p0;
    int64_t i = begin;
    for (; i + 4 * kLanes <= end; i += 4 * kLanes) {
      p0 = Combine::combine(p0, whole(i));
      p1 = Combine::combine(p1, whole(i + kLanes));
      p2 = Combine::combine(p2, whole(i + 2 * kLanes));
      p3 = Combine::combine(p3, whole(i + 3 * kLanes));
    }
    for (; i + kLanes <= end; i += kLanes) p0 = Combine::combine(p0, whole(i));
    if (i < end) p1 = Combine::combine(p1, part(i, end - i));
    const T sum =
        combine_lanes<Combine>(Combine::combine(Combine::combine(p0, p1), Combine::combine(p2, p3)));
    total = Combine::combine(Single<T>{total}, Single<T>{sum}).raw;
  }
  return total;
}

// value(0) ... value(n - 1), in that order. value is called once for each i and may store what it computes.
template <class Combine, class T, class Value>
[[gnu::flatten]] inline T combine_values(int64_t n, const Value& value) {
  return combine_packs<Combine, T>(
      n, [&value](int64_t i) { return evaluate_pack<T>(i, value); },
      [&value](int64_t i, int64_t count) {
        T lanes[Pack<T>::kLanes];
#pragma omp simd
        for (int lane = 0; lane < Pack<T>::kLanes; ++lane) {
          lanes[lane] = lane < static_cast<int>(count) ? value(i + lane) : Combine::template kStart<T>;
        }
        return Pack<T>::load(lanes);
      });
}

// The same of x[0] ... x[n - 1].
template <class Combine, class S>
Accumulation<S> combine_row(const S* x, int64_t n) {
  using T = Accumulation<S>;
  return combine_packs<Combine, T>(
      n, [x](int64_t i) { return Pack<T>::load(x + i); },
      [x](int64_t i, int64_t count) { return Pack<T>::load(x + i, count, Combine::template kStart<T>); });
}

}  // namespace lockstep
