// The 16-bit types: every bit pattern through the conversions, and every kernel that takes bf16 and fp16
// against double, within one rounding of the result (and the fp32 arithmetic before it).
#include <bit>
#include <cmath>
#include <functional>

#include "kernels/arrays.h"

namespace lockstep::test {
namespace {

template <class S>
class HalfPrecision : public Kernels<S> {
 protected:
  static constexpr bool kBrain = std::is_same_v<S, BFloat16>;
  static constexpr int kDigits = kBrain ? 8 : 11;
  static constexpr int kLowest = kBrain ? -133 : -24;  // exponent of the smallest subnormal

  // The number of the format nearest to x, ties to even, by its definition; NaN for NaN.
  static double nearest(double x) {
    if (std::isnan(x) || std::isinf(x) || x == 0) return x;
    const double unit = std::ldexp(1.0, std::max(std::ilogb(x) - kDigits + 1, kLowest));
    const double rounded = std::nearbyint(x / unit) * unit;
    const double beyond = kBrain ? 0x1p128 : 65536.0;
    return std::fabs(rounded) >= beyond ? std::copysign(INFINITY, x) : rounded;
  }
  static S of_bits(uint32_t bits) { return std::bit_cast<S>(static_cast<uint16_t>(bits)); }
  // The value of a bit pattern by the definition of the formats.
  static double value_of(uint32_t bits) {
    const int fraction_bits = kDigits - 1, exponent_bits = 15 - fraction_bits;
    const uint32_t fraction = bits & ((1u << fraction_bits) - 1), top = (1u << exponent_bits) - 1;
    const uint32_t exponent = (bits >> fraction_bits) & top;
    const double sign = (bits & 0x8000u) != 0 ? -1.0 : 1.0;
    if (exponent == top) return fraction == 0 ? sign * INFINITY : NAN;
    const double digits = exponent == 0 ? fraction : fraction + (1u << fraction_bits);
    return sign * std::ldexp(digits, kLowest + static_cast<int>(std::max(exponent, 1u)) - 1);
  }
  static std::vector<S> every_value() {
    std::vector<S> values(65536);
    for (uint32_t bits = 0; bits < 65536; ++bits) values[bits] = of_bits(bits);
    return values;
  }
  // |actual - expected| within half a unit of the format's last digit at the larger of |expected| and
  // `scale`, plus `units` units of fp32 there.
  static void expect_rounded(const std::vector<S>& actual, const std::vector<double>& expected, double units,
                             double scale = 0.0) {
    ASSERT_EQ(actual.size(), expected.size());
    for (size_t i = 0; i < actual.size(); ++i) {
      const double size = std::fmax(std::fabs(expected[i]), scale);
      const double digit = std::fmax(std::ldexp(size, 1 - kDigits), std::ldexp(1.0, kLowest));
      const double bound = 0.5 * digit + units * 0x1p-23 * size;
      ASSERT_LE(std::fabs(static_cast<double>(actual[i]) - expected[i]), bound)
          << "element " << i << ": expected " << expected[i] << ", got " << static_cast<double>(actual[i]);
    }
  }
  static std::vector<double> widened(const std::vector<S>& values) {
    return std::vector<double>(values.begin(), values.end());
  }
  template <class From, class To>
  std::vector<To> cast(const std::vector<From>& x) {
    std::vector<To> y(x.size());
    this->backend.cast(dtype_of<From>, dtype_of<To>, static_cast<int64_t>(x.size()), x.data(), y.data());
    return y;
  }
};
using HalfTypes = ::testing::Types<BFloat16, Float16>;
TYPED_TEST_SUITE(HalfPrecision, HalfTypes);

// Same number, sign of zero included; any NaN for NaN.
testing::AssertionResult same(double actual, double expected) {
  if (std::isnan(expected) ? std::isnan(actual)
                           : actual == expected && std::signbit(actual) == std::signbit(expected)) {
    return testing::AssertionSuccess();
  }
  return testing::AssertionFailure() << "expected " << expected << ", got " << actual;
}

TYPED_TEST(HalfPrecision, EveryBitPatternWidensToItsValueAndComesBackUnchanged) {
  using S = TypeParam;
  const std::vector<S> all = this->every_value();
  const std::vector<float> f32 = this->template cast<S, float>(all);
  const std::vector<double> f64 = this->template cast<S, double>(all);
  const std::vector<S> from_f32 = this->template cast<float, S>(f32);
  const std::vector<S> from_f64 = this->template cast<double, S>(f64);
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const double value = this->value_of(bits);
    ASSERT_TRUE(same(static_cast<double>(f32[bits]), value)) << bits;
    ASSERT_TRUE(same(f64[bits], value)) << bits;
    // NaN too: an element has the same bits in the vector body and in the tail of a cast.
    ASSERT_EQ(std::bit_cast<uint32_t>(f32[bits]), std::bit_cast<uint32_t>(static_cast<float>(all[bits])))
        << bits;
    ASSERT_EQ(from_f32[bits].bits, S(f32[bits]).bits) << bits;
    ASSERT_TRUE(same(static_cast<double>(from_f32[bits]), value)) << bits;
    ASSERT_TRUE(same(static_cast<double>(from_f64[bits]), value)) << bits;
  }
}

TYPED_TEST(HalfPrecision, CastsRoundOnceToNearestEvenAtAndBesideEveryHalfwayPoint) {
  using S = TypeParam;
  std::vector<double> x;
  std::vector<float> x32;
  for (uint32_t bits = 0; bits < 0x7FFF; ++bits) {
    const double low = this->value_of(bits), high = this->value_of(bits + 1);
    if (!std::isfinite(low)) break;
    const double middle =
        std::isfinite(high) ? 0.5 * (low + high) : low + 0.5 * (low - this->value_of(bits - 1));
    for (const double sign : {1.0, -1.0}) {
      for (const double value : {low, middle}) {
        for (const double toward : {-static_cast<double>(INFINITY), value, static_cast<double>(INFINITY)}) {
          x.push_back(sign * std::nextafter(value, toward));
          x32.push_back(static_cast<float>(sign) *
                        std::nextafterf(static_cast<float>(value), static_cast<float>(toward)));
        }
      }
    }
  }
  for (const double value : {0x1p-200, 0x1p200, 1e300, 0x1.fffffefffffffp127, 0x1p-1074}) {
    x.push_back(value);
    x.push_back(-value);
  }
  const std::vector<S> y = this->template cast<double, S>(x);
  for (size_t i = 0; i < x.size(); ++i) {
    ASSERT_TRUE(same(static_cast<double>(y[i]), this->nearest(x[i]))) << i << ": " << x[i];
  }
  const std::vector<S> y32 = this->template cast<float, S>(x32);
  for (size_t i = 0; i < x32.size(); ++i) {
    ASSERT_TRUE(same(static_cast<double>(y32[i]), this->nearest(static_cast<double>(x32[i])))) << i;
  }
}

TYPED_TEST(HalfPrecision, CastsFromAndToIntegersRoundAndSaturate) {
  using S = TypeParam;
  const std::vector<int64_t> x = {0,
                                  -1,
                                  255,
                                  257,
                                  2049,
                                  2051,
                                  65519,
                                  65520,
                                  (int64_t{1} << 60) + (int64_t{1} << 52) + 1,
                                  -(int64_t{1} << 60) - (int64_t{1} << 52) - 1};
  const std::vector<S> y = this->template cast<int64_t, S>(x);
  for (size_t i = 0; i + 2 < x.size(); ++i) {
    EXPECT_TRUE(same(static_cast<double>(y[i]), this->nearest(static_cast<double>(x[i])))) << x[i];
  }
  if (this->kBrain) {  // above the tie, where a double would show the tie
    EXPECT_EQ(static_cast<double>(y[8]), 0x1p60 + 0x1p53);
    EXPECT_EQ(static_cast<double>(y[9]), -0x1p60 - 0x1p53);
  }
  const std::vector<S> z = {S(2.5), S(-1.0), S(INFINITY), S(NAN), S(300.0)};
  EXPECT_EQ((this->template cast<S, uint8_t>(z)), (std::vector<uint8_t>{2, 0, 255, 0, 255}));
  EXPECT_EQ((this->template cast<S, int32_t>(z)), (std::vector<int32_t>{2, -1, 2147483647, 0, 300}));
}

// The GELUs have formulas of their own: elementary_test.cpp.
TYPED_TEST(HalfPrecision, UnariesOfEveryValueAreTheFloatResultRoundedOnce) {
  using S = TypeParam;
  const std::vector<S> all = this->every_value();
  const std::vector<float> wide = this->template cast<S, float>(all);
  for (const UnaryOp op :
       {UnaryOp::kNegate, UnaryOp::kExp, UnaryOp::kLog, UnaryOp::kSqrt, UnaryOp::kTanh, UnaryOp::kSigmoid,
        UnaryOp::kSoftplus, UnaryOp::kRelu, UnaryOp::kAbs, UnaryOp::kSquare, UnaryOp::kReciprocal,
        UnaryOp::kSign, UnaryOp::kErf, UnaryOp::kReluSquared}) {
    std::vector<float> exact(65536), exact_dx(65536);
    this->backend.unary(op, DType::kF32, 65536, wide.data(), exact.data());
    const std::vector<S> y = on_any_threads([&] {
      std::vector<S> result(65536);
      this->backend.unary(op, this->kDType, 65536, all.data(), result.data());
      return result;
    });
    for (size_t i = 0; i < y.size(); ++i) {
      ASSERT_TRUE(same(static_cast<double>(y[i]), this->nearest(static_cast<double>(exact[i]))))
          << "op " << static_cast<int>(op) << " of " << wide[i];
    }
    if (op == UnaryOp::kNegate || op == UnaryOp::kSign) continue;
    const std::vector<S> dy(65536, S(1.5));
    const std::vector<float> wide_dy(65536, 1.5f), wide_y = this->template cast<S, float>(y);
    std::vector<S> dx(65536);
    this->backend.unary_backward(op, DType::kF32, 65536, wide.data(), wide_y.data(), wide_dy.data(),
                                 exact_dx.data());
    this->backend.unary_backward(op, this->kDType, 65536, all.data(), y.data(), dy.data(), dx.data());
    for (size_t i = 0; i < y.size(); ++i) {
      ASSERT_TRUE(same(static_cast<double>(dx[i]), this->nearest(static_cast<double>(exact_dx[i]))))
          << "derivative of op " << static_cast<int>(op) << " at " << wide[i];
    }
  }
}

TYPED_TEST(HalfPrecision, BinariesScalingAndAccumulationRoundOnce) {
  using S = TypeParam;
  const int64_t rows = 300, columns = 131, n = rows * columns;
  const std::vector<S> a = random_values<S>(n, 1), b = random_values<S>(columns, 2, 0.5, 2.0);
  BroadcastPlan plan;
  plan.rank = 2;
  plan.extents[0] = rows;
  plan.extents[1] = plan.strides_a[0] = columns;
  plan.strides_a[1] = plan.strides_b[1] = 1;
  const auto expect = [&](const auto& run, const std::function<double(double, double)>& exact) {
    const std::vector<S> y = on_any_threads([&] {
      std::vector<S> result = a;
      run(result);
      return result;
    });
    for (size_t i = 0; i < y.size(); ++i) {
      const double value = exact(static_cast<double>(a[i]), static_cast<double>(b[i % columns]));
      ASSERT_TRUE(
          same(static_cast<double>(y[i]), this->nearest(static_cast<double>(static_cast<float>(value)))))
          << i;
    }
  };
  const std::pair<BinaryOp, std::function<double(double, double)>> ops[] = {
      {BinaryOp::kAdd, [](double x, double y) { return x + y; }},
      {BinaryOp::kMultiply, [](double x, double y) { return x * y; }},
      {BinaryOp::kDivide, [](double x, double y) { return x / y; }},
      {BinaryOp::kMaximum, [](double x, double y) { return std::fmax(x, y); }},
      {BinaryOp::kGreater, [](double x, double y) { return x > y ? 1.0 : 0.0; }},
  };
  for (const auto& [op, exact] : ops) {
    const BinaryOp current = op;
    expect([&](auto& y) { this->backend.binary(current, this->kDType, plan, a.data(), b.data(), y.data()); },
           exact);
  }
  expect([&](auto& y) { this->backend.scale_shift(this->kDType, n, a.data(), 0.75, 0.5, y.data()); },
         [](double x, double) { return x * 0.75 + 0.5; });
  expect([&](auto& y) { this->backend.accumulate(this->kDType, n, a.data(), y.data()); },
         [](double x, double) { return x + x; });
  expect([&](auto& y) { this->backend.fill(this->kDType, n, y.data(), 1.0 + 1.0 / 64); },
         [](double, double) { return 1.0 + 1.0 / 64; });
}

TYPED_TEST(HalfPrecision, SumsMeansAndMaximaAreTakenInFloatAndRoundedOnce) {
  using S = TypeParam;
  struct Extents {
    int64_t outer, extent, inner;
  };
  for (const Extents e :
       {Extents{1, 70'000, 1}, Extents{300, 77, 1}, Extents{1, 1000, 10}, Extents{3, 50, 130}}) {
    // All positive, so that the bound of a sum is relative.
    const std::vector<S> x = random_values<S>(e.outer * e.extent * e.inner, 3, 0.0, 0.5);
    for (const ReduceOp op : {ReduceOp::kSum, ReduceOp::kMean, ReduceOp::kMax}) {
      const std::vector<S> y = on_any_threads([&] {
        std::vector<S> result(static_cast<size_t>(e.outer * e.inner));
        this->backend.reduce(op, this->kDType, e.outer, e.extent, e.inner, x.data(), result.data());
        return result;
      });
      std::vector<double> expected(y.size());
      for (size_t i = 0; i < y.size(); ++i) {
        const int64_t o = static_cast<int64_t>(i) / e.inner, c = static_cast<int64_t>(i) % e.inner;
        for (int64_t r = 0; r < e.extent; ++r) {
          const double value = static_cast<double>(x[static_cast<size_t>((o * e.extent + r) * e.inner + c)]);
          expected[i] = op == ReduceOp::kMax ? std::fmax(expected[i], value) : expected[i] + value;
        }
        if (op == ReduceOp::kMean) expected[i] /= static_cast<double>(e.extent);
      }
      this->expect_rounded(y, expected, 32.0);
    }
    double total = 0, exact = 0;
    std::vector<double> sums(x.size() / Backend::kNormBlock + 1);
    this->backend.block_square_sums(this->kDType, static_cast<int64_t>(x.size()), x.data(), sums.data());
    for (const double sum : sums) total += sum;
    for (const S value : x) exact += static_cast<double>(value) * static_cast<double>(value);
    EXPECT_NEAR(total, exact, 1e-12 * exact);
  }
}

TYPED_TEST(HalfPrecision, OneInfinityOrNanAnywhereIsFound) {
  using S = TypeParam;
  std::vector<S> x = random_values<S>(70'001, 5);
  EXPECT_TRUE(this->backend.all_finite(this->kDType, 70'001, x.data()));
  for (const double value : {static_cast<double>(INFINITY), -static_cast<double>(INFINITY), std::nan("")}) {
    for (const size_t at : {size_t{0}, size_t{40'000}, size_t{70'000}}) {
      const S kept = x[at];
      x[at] = S(value);
      EXPECT_FALSE(this->backend.all_finite(this->kDType, 70'001, x.data())) << value << " at " << at;
      x[at] = kept;
    }
  }
}

TYPED_TEST(HalfPrecision, SoftmaxAndItsDerivativeAreWithinOneRounding) {
  using S = TypeParam;
  for (const int64_t columns : {10, 77, 3000}) {
    const int64_t rows = 9, n = rows * columns;
    const std::vector<S> x = random_values<S>(n, 6, -8.0, 8.0), dy = random_values<S>(n, 7);
    for (const bool log_form : {false, true}) {
      const auto run = [&](auto type, const auto& in, const auto& gradient, const auto* given) {
        using T = decltype(type);
        std::vector<T> y(static_cast<size_t>(n)), dx(y.size());
        this->backend.softmax(log_form, dtype_of<T>, rows, columns, in.data(), y.data());
        if (given != nullptr) y.assign(given->begin(), given->end());
        this->backend.softmax_backward(log_form, dtype_of<T>, rows, columns, y.data(), gradient.data(),
                                       dx.data());
        y.insert(y.end(), dx.begin(), dx.end());
        return y;
      };
      const std::vector<S> actual =
          on_any_threads([&] { return run(S{}, x, dy, static_cast<const std::vector<S>*>(nullptr)); });
      const std::vector<S> rounded(actual.begin(), actual.begin() + n);
      const std::vector<double> expected =
          run(double{}, this->widened(x), this->widened(dy), static_cast<const std::vector<S>*>(nullptr));
      const std::vector<double> derivative = run(double{}, this->widened(x), this->widened(dy), &rounded);
      this->expect_rounded(rounded, {expected.begin(), expected.begin() + n}, 8.0);
      this->expect_rounded({actual.begin() + n, actual.end()}, {derivative.begin() + n, derivative.end()},
                           64.0);
    }
  }
}

// `run(T{}, S-typed inputs as T, A{})` for layer and batch norm, whose statistics are in the accumulation
// type.
TYPED_TEST(HalfPrecision, NormalizationsKeepStatisticsInFloatAndRoundActivationsOnce) {
  using S = TypeParam;
  const int64_t rows = 500, columns = 48, n = rows * columns;
  const std::vector<S> x = random_values<S>(n, 8, -1.0, 3.0), dy = random_values<S>(n, 9);
  const std::vector<float> gamma = random_values<float>(columns, 10, 0.5, 1.5),
                           beta = random_values<float>(columns, 11);
  for (const bool layer : {true, false}) {
    const int64_t groups = layer ? rows : columns;
    // Forward result and dx in T; statistics, dgamma and dbeta in the type of gamma.
    const auto run = [&](const auto& in, const auto& gradient, const auto& scale, const auto& shift) {
      using T = typename std::decay_t<decltype(in)>::value_type;
      using A = typename std::decay_t<decltype(scale)>::value_type;
      std::vector<T> y(static_cast<size_t>(n)), dx(y.size());
      std::vector<A> mean(static_cast<size_t>(groups)), variance(mean.size()), rstd(mean.size());
      std::vector<A> dgamma(static_cast<size_t>(columns)), dbeta(dgamma.size());
      const DType dtype = dtype_of<T>;
      if (layer) {
        this->backend.norm({.dtype = dtype,
                            .narrow = dtype,
                            .rows = rows,
                            .columns = columns,
                            .gamma = scale.data(),
                            .epsilon = 1e-5},
                           in.data(), nullptr, shift.data(), nullptr, y.data(), mean.data(), rstd.data());
        this->backend.norm_backward(
            {.dtype = dtype, .narrow = dtype, .rows = rows, .columns = columns, .gamma = scale.data()},
            in.data(), mean.data(), rstd.data(), gradient.data(), nullptr, dx.data(), nullptr, dgamma.data(),
            dbeta.data());
      } else {
        this->backend.batch_norm(dtype, rows, columns, in.data(), scale.data(), shift.data(), 1e-5, y.data(),
                                 mean.data(), variance.data(), rstd.data());
        this->backend.batch_norm_backward(dtype, rows, columns, in.data(), scale.data(), mean.data(),
                                          rstd.data(), gradient.data(), dx.data(), dgamma.data(),
                                          dbeta.data());
      }
      y.insert(y.end(), dx.begin(), dx.end());
      for (const auto* part : {&variance, &rstd, &dgamma, &dbeta})
        mean.insert(mean.end(), part->begin(), part->end());
      return std::pair{y, mean};
    };
    const auto [y, statistics] = run(x, dy, gamma, beta);
    const std::vector<S> again = on_any_threads([&] { return run(x, dy, gamma, beta).first; });
    EXPECT_TRUE(same_bits(again, y));
    const auto [exact, exact_statistics] =
        run(this->widened(x), this->widened(dy), std::vector<double>(gamma.begin(), gamma.end()),
            std::vector<double>(beta.begin(), beta.end()));
    this->expect_rounded(y, exact, 16.0, 0.5);
    expect_close(statistics, exact_statistics, 64.0);
  }
}

TYPED_TEST(HalfPrecision, PoolingPicksExactlyAndSumsOverlapsBeforeRounding) {
  using S = TypeParam;
  PoolArguments p;
  p.n = 3, p.h = 9, p.w = 7, p.c = 21, p.kh = p.kw = 3, p.stride_h = 2, p.stride_w = 1, p.pad_h = p.pad_w = 1;
  p.oh = 5, p.ow = 7;
  const int64_t in = p.n * p.h * p.w * p.c, out = p.n * p.oh * p.ow * p.c;
  const std::vector<S> x = random_values<S>(in, 12), dy = random_values<S>(out, 13);
  const auto run = [&](const auto& values, const auto& gradient) {
    using T = typename std::decay_t<decltype(values)>::value_type;
    PoolArguments arguments = p;
    arguments.dtype = dtype_of<T>;
    std::vector<T> y(static_cast<size_t>(out)), dx(static_cast<size_t>(in)), mean(y), mean_dx(dx);
    std::vector<int32_t> indices(y.size());
    this->backend.max_pool(arguments, values.data(), y.data(), indices.data());
    std::vector<T> gathered(y.size());
    this->backend.max_pool_gather(arguments, indices.data(), values.data(), gathered.data());
    EXPECT_TRUE(same_bits(gathered, y));
    this->backend.max_pool_backward(arguments, indices.data(), gradient.data(), dx.data());
    this->backend.average_pool(arguments, values.data(), mean.data());
    this->backend.average_pool_backward(arguments, gradient.data(), mean_dx.data());
    for (const auto* part : {&dx, &mean, &mean_dx}) y.insert(y.end(), part->begin(), part->end());
    return y;
  };
  const std::vector<S> actual = on_any_threads([&] { return run(x, dy); });
  this->expect_rounded(actual, run(this->widened(x), this->widened(dy)), 4.0, 0.01);
}

TYPED_TEST(HalfPrecision, EmbeddingsCopyExactlyAndSumGradientsBeforeRounding) {
  using S = TypeParam;
  const int64_t rows = 6, count = 4000, width = 33;
  const std::vector<int32_t> indices = random_indices(count, 14, rows - 1);
  const std::vector<S> table = random_values<S>(rows * width, 15),
                       dy = random_values<S>(count * width, 16, 0.0, 1.0);
  std::vector<S> y(static_cast<size_t>(count * width));
  this->backend.embedding(this->kDType, count, width, table.data(), indices.data(), y.data());
  std::vector<double> expected(static_cast<size_t>(rows * width));
  for (size_t i = 0; i < y.size(); ++i) {
    const size_t at = static_cast<size_t>(indices[i / width]) * width + i % width;
    ASSERT_EQ(y[i].bits, table[at].bits);
    expected[at] += static_cast<double>(dy[i]);
  }
  const std::vector<S> dtable = on_any_threads([&] {
    std::vector<S> sums(expected.size());
    this->backend.embedding_backward(this->kDType, count, rows, width, indices.data(), dy.data(), false,
                                     sums.data());
    return sums;
  });
  this->expect_rounded(dtable, expected, 1000.0);
}

TYPED_TEST(HalfPrecision, DropoutDropsWhatItDropsInFloat) {
  using S = TypeParam;
  const int64_t n = 40'001;
  const RandomStream stream{{1, 2}, 3, 4, 5};
  std::vector<float> wide(static_cast<size_t>(n));
  this->backend.dropout_mask(DType::kF32, n, stream, 0.3, wide.data());
  const std::vector<S> mask = on_any_threads([&] {
    std::vector<S> values(static_cast<size_t>(n));
    this->backend.dropout_mask(this->kDType, n, stream, 0.3, values.data());
    return values;
  });
  for (size_t i = 0; i < mask.size(); ++i) {
    ASSERT_EQ(static_cast<double>(mask[i]), wide[i] == 0.0f ? 0.0 : this->nearest(1.0 / 0.7)) << i;
  }
}

}  // namespace
}  // namespace lockstep::test
