// Norms of sums, and their derivatives with what else belongs to a gradient: the bits of the passes that they
// stand for, one by one.
#include <gtest/gtest.h>

#include "kernels/parity.h"

namespace lockstep::test {
namespace {

template <class S_, class R_>
struct TypePair {
  using S = S_;  // of what is normed
  using R = R_;  // of changes and results
};

template <class Pair>
class GpuNorms : public ::testing::Test {};
using Pairs =
    ::testing::Types<TypePair<double, double>, TypePair<float, float>, TypePair<BFloat16, BFloat16>,
                     TypePair<Float16, Float16>, TypePair<float, BFloat16>, TypePair<float, Float16>>;
TYPED_TEST_SUITE(GpuNorms, Pairs);

struct NormExtents {
  int64_t rows, columns;
};
// Held by a warp and by blocks of a GPU, too long to be held, of whole vectors and odd ones, for which blocks
// of all sizes share a kernel.
constexpr NormExtents kNormExtents[] = {{1, 1},   {5, 7},    {37, 64},  {9, 768},  {6, 1000},
                                        {7, 501}, {3, 3001}, {3, 4001}, {3, 4099}, {3, 20000}};

template <class To, class From>
std::vector<To> converted(const std::vector<From>& values) {
  std::vector<To> result(values.size());
  cpu_backend().cast(dtype_of<From>, dtype_of<To>, std::ssize(values), values.data(), result.data());
  return result;
}

template <class Pair>
void compare(const NormExtents& e, int64_t shift, NormArguments::Kind kind) {
  using S = typename Pair::S;
  using R = typename Pair::R;
  using T = Accumulation<S>;
  constexpr DType kWide = dtype_of<S>, kNarrow = dtype_of<R>;
  const bool layer = kind == NormArguments::Kind::kLayer;
  const int64_t n = e.rows * e.columns;
  Backend& backend = test_backend();
  const auto x = random_values<S>(n, 1, -1.0, 4.0), others = random_values<S>(n, 2);
  const auto change = random_values<R>(n, 3), dy = random_values<R>(n, 4);
  const auto gamma = random_values<T>(e.columns, 5), beta = random_values<T>(e.columns, 6);
  const auto mean = random_values<T>(e.rows, 7), rstd = random_values<T>(e.rows, 8, 0.5, 1.0);
  const auto run = [&](auto call) {
    Arrays arrays(backend, shift);
    NormArguments a{.kind = kind, .dtype = kWide, .narrow = kNarrow, .rows = e.rows, .columns = e.columns};
    a.gamma = arrays.input(gamma);
    call(arrays, a);
    backend.synchronize();
    return arrays.results();
  };
  const auto expect_same = [](const auto& found, const auto& expected) {
    ASSERT_EQ(found.size(), expected.size());
    for (size_t i = 0; i < found.size(); ++i)
      EXPECT_EQ(found[i].values, expected[i].values) << "result " << i;
  };

  // x + change, its norm in the wide type, and that rounded.
  const auto forward = run([&](Arrays& arrays, NormArguments a) {
    T* const center = layer ? arrays.output<T>(e.rows) : nullptr;
    S* const sum = arrays.output<S>(n);
    R* const y = arrays.output<R>(n);
    T* const inverse = arrays.output<T>(e.rows);
    backend.norm(a, arrays.input(x), arrays.input(change), layer ? arrays.input(beta) : nullptr, sum, y,
                 center, inverse);
  });
  expect_same(forward, run([&](Arrays& arrays, NormArguments a) {
                T* const center = layer ? arrays.output<T>(e.rows) : nullptr;
                S* const sum = arrays.in_out(x);
                R* const y = arrays.output<R>(n);
                T* const inverse = arrays.output<T>(e.rows);
                if constexpr (std::is_same_v<S, R>) {
                  backend.accumulate(kWide, n, arrays.input(change), sum);
                } else {
                  backend.add_narrow(kNarrow, n, sum, arrays.input(change), sum);
                }
                Arrays between(backend, shift);
                S* const wide = between.output<S>(n);
                a.narrow = kWide;
                backend.norm(a, sum, nullptr, layer ? arrays.input(beta) : nullptr, nullptr, wide, center,
                             inverse);
                backend.cast(kWide, kNarrow, n, wide, y);
                backend.synchronize();
              }));

  // What comes through the norm, added to the rest, and that in the narrow type.
  const auto split = run([&](Arrays& arrays, NormArguments a) {
    S* const dx = arrays.in_out(others);
    R* const copy = std::is_same_v<S, R> ? nullptr : arrays.output<R>(n);
    T* const dgamma = arrays.output<T>(e.columns);
    T* const dbeta = layer ? arrays.output<T>(e.columns) : nullptr;
    Arrays between(backend, shift);
    S* const own = between.output<S>(n);
    a.narrow = kWide;
    backend.norm_backward(a, arrays.input(x), layer ? arrays.input(mean) : nullptr, arrays.input(rstd),
                          arrays.input(converted<S>(dy)), nullptr, own, nullptr, dgamma, dbeta);
    backend.accumulate(kWide, n, own, dx);
    if (copy != nullptr) backend.cast(kWide, kNarrow, n, dx, copy);
    backend.synchronize();
  });
  for (const bool in_place : {false, true}) {
    SCOPED_TRACE(in_place ? "in place" : "apart");
    expect_same(run([&](Arrays& arrays, NormArguments a) {
                  S* const dx = in_place ? arrays.in_out(others) : arrays.output<S>(n);
                  R* const copy = std::is_same_v<S, R> ? nullptr : arrays.output<R>(n);
                  T* const dgamma = arrays.output<T>(e.columns);
                  T* const dbeta = layer ? arrays.output<T>(e.columns) : nullptr;
                  backend.norm_backward(a, arrays.input(x), layer ? arrays.input(mean) : nullptr,
                                        arrays.input(rstd), arrays.input(dy),
                                        in_place ? dx : arrays.input(others), dx, copy, dgamma, dbeta);
                }),
                split);
  }
}

TYPED_TEST(GpuNorms, HaveTheBitsOfTheirPartsOneByOne) {
  for (const NormExtents& e : kNormExtents) {
    for (const int64_t shift : {0, 1}) {
      for (const auto kind : {NormArguments::Kind::kLayer, NormArguments::Kind::kRms}) {
        SCOPED_TRACE(std::to_string(e.rows) + "," + std::to_string(e.columns) + " behind " +
                     std::to_string(shift) + (kind == NormArguments::Kind::kRms ? ", rms" : ""));
        compare<TypeParam>(e, shift, kind);
      }
    }
  }
}

}  // namespace
}  // namespace lockstep::test
