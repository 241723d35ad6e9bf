// The gradients of logits that are made beside the losses have the bits of the two passes that they stand
// for.
#include <gtest/gtest.h>

#include "kernels/parity.h"

namespace lockstep::test {
namespace {

template <class S>
class GpuCrossEntropyGradient : public ::testing::Test {};
using Types = ::testing::Types<double, float, BFloat16, Float16>;
TYPED_TEST_SUITE(GpuCrossEntropyGradient, Types);

TYPED_TEST(GpuCrossEntropyGradient, HasTheBitsOfBothPasses) {
  using S = TypeParam;
  using T = Accumulation<S>;
  constexpr DType kWide = dtype_of<T>;
  struct Extents {
    int64_t rows, columns;
  };
  // Of one register, of a cache's buffer, held by a team of a GPU and not, of whole vectors and odd ones.
  for (const Extents& e :
       {Extents{1, 1}, {5, 3}, {9, 16}, {3, 257}, {4, 1024}, {3, 1027}, {2, 30004}, {2, 30001}}) {
    for (const int64_t shift : {0, 3}) {
      for (const bool weighted : {false, true}) {
        SCOPED_TRACE(std::to_string(e.rows) + "," + std::to_string(e.columns) + " behind " +
                     std::to_string(shift));
        const int64_t n = e.rows * e.columns;
        auto logits = random_values<T>(n, 1, -8.0, 8.0);
        logits[0] = std::numeric_limits<T>::max();  // all others become nothing
        const auto weights = random_values<T>(e.rows, 2, 0.0, 2.0), dlosses = random_values<T>(e.rows, 3);
        const auto labels = random_indices(e.rows, 4, static_cast<int32_t>(e.columns));
        Backend& backend = test_backend();
        const auto run = [&](auto call) {
          Arrays arrays(backend, shift);
          const T* const x = arrays.input(logits);
          const T* const w = weighted ? arrays.input(weights) : nullptr;
          call(arrays, x, arrays.input(labels), w, arrays.input(dlosses), arrays.template output<T>(e.rows),
               arrays.template output<S>(n));
          return arrays.results();
        };
        const auto found =
            run([&](Arrays&, const T* x, const int32_t* label, const T* w, const T* dloss, T* losses, S* dx) {
              backend.cross_entropy_gradient(dtype_of<S>, e.rows, e.columns, x, label, w, dloss, losses, dx);
            });
        const auto expected =
            run([&](Arrays&, const T* x, const int32_t* label, const T* w, const T* dloss, T* losses, S* dx) {
              Arrays between(backend, 0);
              T* const wide = between.output<T>(n);
              backend.cross_entropy(kWide, e.rows, e.columns, x, label, w, losses, wide);
              backend.cross_entropy_backward(kWide, e.rows, e.columns, wide, label, w, dloss, wide);
              backend.cast(kWide, dtype_of<S>, n, wide, dx);
              backend.synchronize();
            });
        ASSERT_EQ(found.size(), 2u);
        for (size_t i = 0; i < 2; ++i) EXPECT_EQ(found[i].values, expected[i].values) << i;
      }
    }
  }
}

}  // namespace
}  // namespace lockstep::test
