// Elementwise kernels, casts, fills and copies against plain loops.
#include <functional>

#include "kernels/arrays.h"
#include "lockstep/core/error.h"

namespace lockstep::test {
namespace {

template <class T>
class Elementwise : public Kernels<T> {};
TYPED_TEST_SUITE(Elementwise, Precisions);

constexpr UnaryOp kDifferentiable[] = {
    UnaryOp::kTanh, UnaryOp::kSigmoid, UnaryOp::kSoftplus, UnaryOp::kRelu,       UnaryOp::kGelu,
    UnaryOp::kExp,  UnaryOp::kLog,     UnaryOp::kSqrt,     UnaryOp::kSquare,     UnaryOp::kReciprocal,
    UnaryOp::kAbs,  UnaryOp::kErf,     UnaryOp::kGeluTanh, UnaryOp::kReluSquared};

// Sizes around the lanes, the tile and the streaming threshold.
constexpr int64_t kSizes[] = {0, 1, 7, 16, 17, 1000, 32768, 32769, 100'003};

TEST(ElementwiseDerivative, EveryUnaryBackwardIsTheCentralDifferenceOfItsForward) {
  Backend& backend = cpu_backend();
  const std::vector<double> x = random_values<double>(500, 1, 0.1, 3.0);
  const std::vector<double> dy = random_values<double>(500, 2);
  for (UnaryOp op : kDifferentiable) {
    for (double sign : {1.0, -1.0}) {
      if (sign < 0 && (op == UnaryOp::kLog || op == UnaryOp::kSqrt)) continue;
      std::vector<double> at(x), up(x), down(x), y(500), y_up(500), y_down(500), dx(500);
      const double h = 1e-6;
      for (size_t i = 0; i < at.size(); ++i) {
        at[i] *= sign;
        up[i] = at[i] + h;
        down[i] = at[i] - h;
      }
      backend.unary(op, DType::kF64, 500, at.data(), y.data());
      backend.unary(op, DType::kF64, 500, up.data(), y_up.data());
      backend.unary(op, DType::kF64, 500, down.data(), y_down.data());
      backend.unary_backward(op, DType::kF64, 500, at.data(), y.data(), dy.data(), dx.data());
      for (size_t i = 0; i < at.size(); ++i) {
        const double numeric = dy[i] * (y_up[i] - y_down[i]) / (2 * h);
        ASSERT_NEAR(dx[i], numeric, 2e-7 * std::max(1.0, std::fabs(numeric)))
            << "op " << static_cast<int>(op) << " at " << at[i];
      }
    }
  }
}

TEST(ElementwiseDerivative, FloatBackwardAgreesWithDouble) {
  Backend& backend = cpu_backend();
  const std::vector<double> x = random_values<double>(1003, 1, 0.1, 3.0), dy = random_values<double>(1003, 2);
  const std::vector<float> xf(x.begin(), x.end()), dyf(dy.begin(), dy.end());
  const std::vector<double> exact_x(xf.begin(), xf.end()), exact_dy(dyf.begin(), dyf.end());
  for (UnaryOp op : kDifferentiable) {
    std::vector<double> y(x.size()), dx(x.size());
    std::vector<float> yf(x.size()), dxf(x.size());
    backend.unary(op, DType::kF64, 1003, exact_x.data(), y.data());
    backend.unary_backward(op, DType::kF64, 1003, exact_x.data(), y.data(), exact_dy.data(), dx.data());
    backend.unary(op, DType::kF32, 1003, xf.data(), yf.data());
    backend.unary_backward(op, DType::kF32, 1003, xf.data(), yf.data(), dyf.data(), dxf.data());
    expect_close(dxf, dx, 16.0);
  }
}

TEST(ElementwiseDerivative, IsZeroAtTheKinksOfReluAndAbs) {
  const double x = 0.0, y = 0.0, dy = 3.0;
  for (UnaryOp op : {UnaryOp::kRelu, UnaryOp::kAbs}) {
    double dx = -1.0;
    cpu_backend().unary_backward(op, DType::kF64, 1, &x, &y, &dy, &dx);
    EXPECT_EQ(dx, 0.0);
  }
}

TEST(ElementwiseDerivative, OpsWithoutADerivativeAreRefusedByName) {
  double value = 1.0, dx = 0.0;
  EXPECT_THROW(cpu_backend().unary_backward(UnaryOp::kSign, DType::kF64, 1, &value, &value, &value, &dx),
               Error);
}

TYPED_TEST(Elementwise, SimpleUnariesAreExactAndIndependentOfSizeAndThreads) {
  using T = TypeParam;
  for (int64_t n : kSizes) {
    const std::vector<T> x = random_values<T>(n, 9);
    const auto run = [&](UnaryOp op) {
      return on_any_threads([&] {
        std::vector<T> y(x.size());
        this->backend.unary(op, this->kDType, n, x.data(), y.data());
        return y;
      });
    };
    const auto expect = [&](UnaryOp op, const std::function<T(T)>& exact) {
      const std::vector<T> y = run(op);
      for (size_t i = 0; i < y.size(); ++i) ASSERT_EQ(y[i], exact(x[i])) << i;
    };
    expect(UnaryOp::kNegate, [](T v) { return -v; });
    expect(UnaryOp::kRelu, [](T v) { return v > 0 ? v : T(0); });
    expect(UnaryOp::kReluSquared, [](T v) { return v > 0 ? v * v : T(0); });
    expect(UnaryOp::kAbs, [](T v) { return std::fabs(v); });
    expect(UnaryOp::kSquare, [](T v) { return v * v; });
    expect(UnaryOp::kReciprocal, [](T v) { return 1 / v; });
    expect(UnaryOp::kSign, [](T v) { return v > 0 ? T(1) : (v < 0 ? T(-1) : T(0)); });
  }
}

TYPED_TEST(Elementwise, LargeOutputsWrittenPastTheCacheHaveTheSameElements) {
  using T = TypeParam;
  const int64_t n =
      (int64_t{17} << 20) / static_cast<int64_t>(sizeof(T)) + 13;  // beyond the streaming threshold
  const std::vector<T> x = random_values<T>(n, 4);
  const std::vector<T> y = on_any_threads([&] {
    std::vector<T> values(x.size() + 1);
    this->backend.scale_shift(this->kDType, n, x.data(), 2.0, -1.0,
                              values.data() + 1);  // an unaligned output
    return values;
  });
  for (size_t i = 0; i < x.size(); ++i) ASSERT_EQ(y[i + 1], x[i] * T(2) - T(1)) << i;
}

TYPED_TEST(Elementwise, NanPassesThroughReluMaximumAndMinimum) {
  using T = TypeParam;
  const T nan = std::numeric_limits<T>::quiet_NaN();
  const std::vector<T> a = {nan, 1, 2}, b = {1, nan, 3};
  BroadcastPlan plan;
  plan.rank = 1;
  plan.extents[0] = 3;
  plan.strides_a[0] = plan.strides_b[0] = 1;
  for (BinaryOp op : {BinaryOp::kMaximum, BinaryOp::kMinimum}) {
    std::vector<T> y(3);
    this->backend.binary(op, this->kDType, plan, a.data(), b.data(), y.data());
    EXPECT_TRUE(std::isnan(y[0]));
    EXPECT_TRUE(std::isnan(y[1]));
    EXPECT_EQ(y[2], op == BinaryOp::kMaximum ? T(3) : T(2));
  }
  std::vector<T> y(3);
  this->backend.unary(UnaryOp::kRelu, this->kDType, 3, a.data(), y.data());
  EXPECT_TRUE(std::isnan(y[0]));
}

// A plan out of the broadcast of shapes, without merging axes, and its evaluation by index arithmetic.
struct Broadcast {
  std::vector<int64_t> extents, strides_a, strides_b;
};
const Broadcast kBroadcasts[] = {
    {{}, {}, {}},
    {{5}, {1}, {1}},
    {{37}, {1}, {0}},
    {{37}, {0}, {1}},
    {{37}, {0}, {0}},
    {{33, 10}, {10, 1}, {0, 1}},
    {{33, 10}, {10, 1}, {1, 0}},
    {{33, 10}, {0, 1}, {1, 0}},
    {{3, 40'000}, {40'000, 1}, {0, 1}},
    {{5000, 17}, {17, 1}, {1, 0}},
    {{4, 3, 5, 7}, {105, 35, 7, 1}, {7, 0, 0, 1}},
    {{2, 3, 2, 3, 2, 5}, {180, 60, 30, 10, 5, 1}, {0, 5, 0, 15, 0, 1}},
    {{6, 4}, {1, 6}, {4, 1}},  // a transposed operand: any stride works
    {{0, 4}, {4, 1}, {4, 1}},
};

TYPED_TEST(Elementwise, BinariesFollowTheBroadcastPlan) {
  using T = TypeParam;
  const std::pair<BinaryOp, std::function<T(T, T)>> ops[] = {
      {BinaryOp::kAdd, [](T a, T b) { return a + b; }},
      {BinaryOp::kSubtract, [](T a, T b) { return a - b; }},
      {BinaryOp::kMultiply, [](T a, T b) { return a * b; }},
      {BinaryOp::kDivide, [](T a, T b) { return a / b; }},
      {BinaryOp::kMaximum, [](T a, T b) { return a > b ? a : b; }},
      {BinaryOp::kMinimum, [](T a, T b) { return a < b ? a : b; }},
      {BinaryOp::kEqual, [](T a, T b) { return T(a == b); }},
      {BinaryOp::kGreater, [](T a, T b) { return T(a > b); }},
      {BinaryOp::kGreaterEqual, [](T a, T b) { return T(a >= b); }},
  };
  std::vector<T> a = random_values<T>(120'000, 21), b = random_values<T>(120'000, 22);
  for (size_t i = 0; i < a.size(); i += 3) b[i] = a[i];  // ties
  for (const Broadcast& broadcast : kBroadcasts) {
    BroadcastPlan plan;
    plan.rank = static_cast<int>(broadcast.extents.size());
    int64_t n = 1;
    for (int axis = 0; axis < plan.rank; ++axis) {
      const size_t i = static_cast<size_t>(axis);
      plan.extents[axis] = broadcast.extents[i];
      plan.strides_a[axis] = broadcast.strides_a[i];
      plan.strides_b[axis] = broadcast.strides_b[i];
      n *= broadcast.extents[i];
    }
    for (const auto& [op, exact] : ops) {
      const BinaryOp current = op;
      const std::vector<T> y = on_any_threads([&] {
        std::vector<T> values(static_cast<size_t>(n));
        this->backend.binary(current, this->kDType, plan, a.data(), b.data(), values.data());
        return values;
      });
      for (int64_t i = 0; i < n; ++i) {
        int64_t rest = i, offset_a = 0, offset_b = 0;
        for (int axis = plan.rank - 1; axis >= 0; --axis) {
          offset_a += rest % plan.extents[axis] * plan.strides_a[axis];
          offset_b += rest % plan.extents[axis] * plan.strides_b[axis];
          rest /= plan.extents[axis];
        }
        ASSERT_EQ(y[static_cast<size_t>(i)],
                  exact(a[static_cast<size_t>(offset_a)], b[static_cast<size_t>(offset_b)]))
            << "op " << static_cast<int>(op) << " element " << i;
      }
    }
  }
}

TYPED_TEST(Elementwise, AccumulateAddsInPlace) {
  using T = TypeParam;
  for (int64_t n : kSizes) {
    const std::vector<T> x = random_values<T>(n, 1), start = random_values<T>(n, 2);
    const std::vector<T> y = on_any_threads([&] {
      std::vector<T> sum = start;
      this->backend.accumulate(this->kDType, n, x.data(), sum.data());
      return sum;
    });
    for (size_t i = 0; i < y.size(); ++i) ASSERT_EQ(y[i], start[i] + x[i]);
  }
}

TYPED_TEST(Elementwise, FillSetsEveryElementAndNoOther) {
  using T = TypeParam;
  for (int64_t n : kSizes) {
    std::vector<T> y(static_cast<size_t>(n) + 2, T(-7));
    this->backend.fill(this->kDType, n, y.data() + 1, 2.5);
    EXPECT_EQ(y.front(), T(-7));
    EXPECT_EQ(y.back(), T(-7));
    for (size_t i = 1; i + 1 < y.size(); ++i) ASSERT_EQ(y[i], T(2.5));
  }
}

TEST(Cast, RoundsToNearestEvenAndSaturatesIntegers) {
  const double inf = std::numeric_limits<double>::infinity();
  const std::vector<double> x = {0.5, 1.5, 2.5,  -0.5, -1.5,  254.5, 255.4, 300,
                                 -1,  3e9, -3e9, 1e19, -1e19, inf,   -inf,  NAN};
  std::vector<uint8_t> u8(x.size());
  std::vector<int32_t> i32(x.size());
  std::vector<int64_t> i64(x.size());
  const int64_t n = static_cast<int64_t>(x.size());
  cpu_backend().cast(DType::kF64, DType::kU8, n, x.data(), u8.data());
  cpu_backend().cast(DType::kF64, DType::kI32, n, x.data(), i32.data());
  cpu_backend().cast(DType::kF64, DType::kI64, n, x.data(), i64.data());
  const int32_t high = std::numeric_limits<int32_t>::max(), low = std::numeric_limits<int32_t>::min();
  const int64_t wide_high = std::numeric_limits<int64_t>::max(),
                wide_low = std::numeric_limits<int64_t>::min();
  EXPECT_EQ(u8, (std::vector<uint8_t>{0, 2, 2, 0, 0, 254, 255, 255, 0, 255, 0, 255, 0, 255, 0, 0}));
  EXPECT_EQ(i32,
            (std::vector<int32_t>{0, 2, 2, 0, -2, 254, 255, 300, -1, high, low, high, low, high, low, 0}));
  EXPECT_EQ(i64, (std::vector<int64_t>{0, 2, 2, 0, -2, 254, 255, 300, -1, 3000000000, -3000000000, wide_high,
                                       wide_low, wide_high, wide_low, 0}));
  const std::vector<double> fine = {1.0 + 0x1p-24, 1.0 + 3 * 0x1p-24, 1e300, 0x1p-150};
  std::vector<float> f32(4);
  cpu_backend().cast(DType::kF64, DType::kF32, 4, fine.data(), f32.data());
  EXPECT_EQ(f32, (std::vector<float>{1.0f, 1.0f + 0x1p-22f, INFINITY, 0.0f}));
}

TEST(Cast, IntegersConvertToFloatingAndToEachOther) {
  const std::vector<int64_t> x = {-5, 0, 255, 256, int64_t{1} << 40};
  std::vector<double> f64(5);
  std::vector<int32_t> i32(5);
  std::vector<uint8_t> u8(5);
  cpu_backend().cast(DType::kI64, DType::kF64, 5, x.data(), f64.data());
  cpu_backend().cast(DType::kI64, DType::kI32, 5, x.data(), i32.data());
  cpu_backend().cast(DType::kI64, DType::kU8, 5, x.data(), u8.data());
  EXPECT_EQ(f64, (std::vector<double>{-5, 0, 255, 256, 1099511627776.0}));
  EXPECT_EQ(i32, (std::vector<int32_t>{-5, 0, 255, 256, std::numeric_limits<int32_t>::max()}));
  EXPECT_EQ(u8, (std::vector<uint8_t>{0, 0, 255, 255, 255}));
}

TEST(Memory, BlocksAreAlignedAndCopiesExact) {
  Backend& backend = cpu_backend();
  EXPECT_EQ(backend.allocate(0), nullptr);
  for (size_t bytes : {size_t{1}, size_t{63}, size_t{3} << 20, size_t{20} << 20}) {
    auto* a = static_cast<unsigned char*>(backend.allocate(bytes));
    auto* b = static_cast<unsigned char*>(backend.allocate(bytes));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(a) % 64, 0u);
    for (size_t i = 0; i < bytes; ++i) a[i] = static_cast<unsigned char>(i * 31 + 7);
    backend.copy(b, a, bytes);
    EXPECT_EQ(std::memcmp(a, b, bytes), 0);
    backend.release(a, bytes);
    backend.release(b, bytes);
  }
}

TEST(Memory, ARequestBeyondTheMachineIsAnsweredWithNothing) {
  EXPECT_EQ(cpu_backend().allocate(std::numeric_limits<size_t>::max() - 10), nullptr);
  EXPECT_EQ(cpu_backend().allocate(size_t{1} << 60), nullptr);
}

TEST(DTypes, AnIntegerArrayIsRefusedNamingOpAndType) {
  int32_t values[4] = {};
  try {
    cpu_backend().scale_shift(DType::kI32, 4, values, 1.0, 0.0, values);
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    EXPECT_STREQ(error.what(), "scale_shift: dtype int32 is not supported");
  }
}

}  // namespace
}  // namespace lockstep::test
