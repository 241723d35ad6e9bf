// Elementwise kernels round after every operation that their formulas round after, in vectors as in what is
// left of a loop: each element has the bits of the formula as it is compiled here, for a processor without
// fused multiply-adds.
#include <type_traits>

#include "kernels/arrays.h"
#include "lockstep/kernels/math/unary.h"

namespace lockstep::test {
namespace {

template <class S>
class Contraction : public ::testing::Test {
 protected:
  static std::vector<S> values(int64_t n, uint32_t salt, double low = -2.0, double high = 2.0) {
    const auto wide = random_values<Accumulation<S>>(n, salt, low, high);
    return std::vector<S>(wide.begin(), wide.end());
  }
};
using AllPrecisions = ::testing::Types<float, double, BFloat16, Float16>;
TYPED_TEST_SUITE(Contraction, AllPrecisions);

constexpr int64_t kMost = 300;
// Lengths around every number of lanes.
const std::vector<int64_t>& lengths() {
  static const std::vector<int64_t> lengths = [] {
    std::vector<int64_t> values;
    for (int64_t n = 1; n <= 70; ++n) values.push_back(n);
    for (const int64_t n : {127, 128, 129, 255, 256, 257, 300}) values.push_back(n);
    return values;
  }();
  return lengths;
}

TYPED_TEST(Contraction, UnariesAndTheirDerivativesHaveTheBitsOfTheirFormulas) {
  using S = TypeParam;
  using T = Accumulation<S>;
  const std::vector<S> x = this->values(kMost, 31, 0.05, 3.0), dy = this->values(kMost, 32);
  for (int index = 0; index <= static_cast<int>(UnaryOp::kErf); ++index) {
    const UnaryOp op = static_cast<UnaryOp>(index);
    for (const double sign : {1.0, -1.0}) {
      if (sign < 0 && (op == UnaryOp::kLog || op == UnaryOp::kSqrt)) continue;
      std::vector<S> at, y(kMost), dx(kMost);
      for (const S& value : x) at.push_back(S(T(sign) * T(value)));
      bool has_backward = false;
      math::visit_unary<S>(op, [&](auto functor) {
        using Op = decltype(functor);
        for (size_t i = 0; i < kMost; ++i) {
          y[i] = S(Op::value(T(at[i])));
          if constexpr (math::kHasBackward<Op>) {
            has_backward = true;
            dx[i] = S(Op::backward(T(at[i]), T(y[i]), T(dy[i])));
          }
        }
      });
      for (const int64_t n : lengths()) {
        const size_t count = static_cast<size_t>(n);
        std::vector<S> value(count), gradient(count);
        cpu_backend().unary(op, dtype_of<S>, n, at.data(), value.data());
        ASSERT_TRUE(same_bits(value, std::vector<S>(y.begin(), y.begin() + n)))
            << "op " << index << " of " << n;
        if (!has_backward) continue;
        cpu_backend().unary_backward(op, dtype_of<S>, n, at.data(), y.data(), dy.data(), gradient.data());
        ASSERT_TRUE(same_bits(gradient, std::vector<S>(dx.begin(), dx.begin() + n)))
            << "derivative of op " << index << " of " << n;
      }
    }
  }
}

TYPED_TEST(Contraction, AScaledAndShiftedElementIsRoundedTwice) {
  using S = TypeParam;
  using T = Accumulation<S>;
  const T scale = T(0.3), shift = T(-0.7);
  const std::vector<S> x = this->values(kMost, 33);
  for (const int64_t n : lengths()) {
    std::vector<S> y(static_cast<size_t>(n)), expected(static_cast<size_t>(n));
    cpu_backend().scale_shift(dtype_of<S>, n, x.data(), 0.3, -0.7, y.data());
    for (size_t i = 0; i < expected.size(); ++i) {
      const T product = T(x[i]) * scale;
      expected[i] = S(product + shift);
    }
    ASSERT_TRUE(same_bits(y, expected)) << n;
  }
}

}  // namespace
}  // namespace lockstep::test
