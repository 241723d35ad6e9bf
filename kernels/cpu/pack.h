// A few numbers that are computed with together: 64 bytes of T, one AVX-512 register or several smaller ones.
//
// The number of lanes is part of the numerics (it fixes the order in which sums are added), so it is 64 bytes
// on every processor. Single has the same interface for one number: tails use it and get the same bits an
// element.
#pragma once

#include <cstdint>
#include <cstring>

namespace lockstep {

template <class T>
struct Pack {
  static constexpr int64_t kLanes = 64 / sizeof(T);
  typedef T Raw __attribute__((vector_size(64)));
  Raw raw;

  static Pack load(const T* x) {
    Pack pack;
    std::memcpy(&pack.raw, x, 64);
    return pack;
  }
  static Pack repeat(T x) { return {x - Raw{}}; }
  void store(T* y) const { std::memcpy(y, &raw, 64); }

  friend Pack operator+(Pack a, Pack b) { return {a.raw + b.raw}; }
  friend Pack operator-(Pack a, Pack b) { return {a.raw - b.raw}; }
  friend Pack operator*(Pack a, Pack b) { return {a.raw * b.raw}; }
  // The larger; NaN when either is NaN.
  friend Pack larger(Pack a, Pack b) { return {((a.raw >= b.raw) | (a.raw != a.raw)) ? a.raw : b.raw}; }
};

template <class T>
struct Single {
  static constexpr int64_t kLanes = 1;
  T raw;

  static Single load(const T* x) { return {*x}; }
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

// Combines the lanes by halves: lane i with lane i + kLanes/2, and so on.
template <class Combine, class T>
T combine_lanes(Pack<T> pack) {
  T lanes[Pack<T>::kLanes];
  pack.store(lanes);
  for (int64_t half = Pack<T>::kLanes / 2; half >= 1; half /= 2) {
    for (int64_t i = 0; i < half; ++i) {
      lanes[i] = Combine::combine(Single<T>{lanes[i]}, Single<T>{lanes[i + half]}).raw;
    }
  }
  return lanes[0];
}

// Combines x[0..n) in a fixed order: blocks of 4096 one after the other; in a block, four packs of lanes run
// along it. Meant for n up to a few tens of thousands.
template <class Combine, class T>
T combine_row(const T* x, int64_t n) {
  using P = Pack<T>;
  constexpr int64_t kLanes = P::kLanes, kBlock = 4096;
  T total = Combine::template kStart<T>;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const T* block = x + begin;
    const int64_t count = n - begin < kBlock ? n - begin : kBlock;
    P p0 = P::repeat(Combine::template kStart<T>), p1 = p0, p2 = p0, p3 = p0;
    int64_t i = 0;
    for (; i + 4 * kLanes <= count; i += 4 * kLanes) {
      p0 = Combine::combine(p0, P::load(block + i));
      p1 = Combine::combine(p1, P::load(block + i + kLanes));
      p2 = Combine::combine(p2, P::load(block + i + 2 * kLanes));
      p3 = Combine::combine(p3, P::load(block + i + 3 * kLanes));
    }
    for (; i + kLanes <= count; i += kLanes) p0 = Combine::combine(p0, P::load(block + i));
    if (i < count) {
      T rest[kLanes];
      P::repeat(Combine::template kStart<T>).store(rest);
      std::memcpy(rest, block + i, static_cast<size_t>(count - i) * sizeof(T));
      p1 = Combine::combine(p1, P::load(rest));
    }
    const T sum =
        combine_lanes<Combine>(Combine::combine(Combine::combine(p0, p1), Combine::combine(p2, p3)));
    total = Combine::combine(Single<T>{total}, Single<T>{sum}).raw;
  }
  return total;
}

}  // namespace lockstep
