// Matrix products against plain double loops; and that no element depends on threads, tiling, batch or
// alignment.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "kernels/arrays.h"
#include "lockstep/core/error.h"
#include "lockstep/core/philox.h"
#include "lockstep/core/thread_pool.h"
#include "lockstep/kernels/backend.h"

namespace lockstep {
namespace {

using test::in_double;
using test::random_values;

double activated(Activation activation, double x) {
  switch (activation) {
    case Activation::kNone:
      return x;
    case Activation::kRelu:
      return x > 0 ? x : 0;
    case Activation::kGelu:
      return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
    case Activation::kGeluTanh:
      return 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x)));
  }
  return x;
}

class ThreadsGuard {
 public:
  ~ThreadsGuard() { set_threads(1); }
};

template <class T>
struct ProductCase {
  int64_t batch = 1, m = 1, n = 1, k = 1;
  bool transpose_a = false, transpose_b = false, bias = false;
  Activation activation = Activation::kNone;
  bool repeat_a = false, repeat_b = false;

  std::string name() const {
    return std::to_string(batch) + " of " + std::to_string(m) + "x" + std::to_string(k) + "x" +
           std::to_string(n) + (transpose_a ? " T" : " N") + (transpose_b ? "T" : "N") +
           (bias ? " bias" : "") + " activation " + std::to_string(static_cast<int>(activation));
  }
  MatmulArguments arguments(const T* a, const T* b, const Accumulation<T>* bias_values, T* c) const {
    MatmulArguments arguments;
    arguments.dtype = arguments.output = dtype_of<T>;
    arguments.batch = batch;
    arguments.m = m;
    arguments.n = n;
    arguments.k = k;
    arguments.transpose_a = transpose_a;
    arguments.transpose_b = transpose_b;
    arguments.a = a;
    arguments.b = b;
    arguments.c = c;
    arguments.batch_stride_a = repeat_a ? 0 : m * k;
    arguments.batch_stride_b = repeat_b ? 0 : k * n;
    arguments.bias = bias ? bias_values : nullptr;
    arguments.activation = activation;
    return arguments;
  }
};

template <class T>
struct Operands {
  std::vector<T> a, b;
  std::vector<Accumulation<T>> bias;
  explicit Operands(const ProductCase<T>& c)
      : a(random_values<T>(c.repeat_a ? c.m * c.k : c.batch * c.m * c.k, 1)),
        b(random_values<T>(c.repeat_b ? c.k * c.n : c.batch * c.k * c.n, 2)),
        bias(random_values<Accumulation<T>>(c.n, 3)) {}
};

// Runs the case and checks that nothing around c was written.
template <class T>
std::vector<T> computed(const ProductCase<T>& c, const Operands<T>& operands) {
  constexpr int64_t kGuard = 40;
  const T kMark = T(-12345);
  std::vector<T> guarded(static_cast<size_t>(c.batch * c.m * c.n + 2 * kGuard), kMark);
  T* const y = guarded.data() + kGuard;
  cpu_backend().matmul(c.arguments(operands.a.data(), operands.b.data(), operands.bias.data(), y));
  for (int64_t i = 0; i < kGuard; ++i) {
    EXPECT_EQ(guarded[static_cast<size_t>(i)], kMark) << c.name();
    EXPECT_EQ(guarded[guarded.size() - 1 - static_cast<size_t>(i)], kMark) << c.name();
  }
  return std::vector<T>(y, y + c.batch * c.m * c.n);
}

// In double, element p of row i at [i * k + p].
template <class T>
std::vector<double> rows_of(const std::vector<T>& x, int64_t rows, int64_t k, bool transposed) {
  std::vector<double> all = in_double(x);
  if (!transposed) return all;
  const int64_t size = rows * k;
  std::vector<double> turned(all.size());
  for (int64_t g = 0; g < static_cast<int64_t>(all.size()); g += size) {
    const double* const from = all.data() + g;
    double* to = turned.data() + g;
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t p = 0; p < k; ++p) *to++ = from[p * rows + i];
    }
  }
  return turned;
}

// The same, and checks every element against double loops.
template <class T>
std::vector<T> check(const ProductCase<T>& c) {
  const Operands<T> operands(c);
  const auto& [a, b, bias] = operands;
  const std::vector<T> y = computed(c, operands);
  const MatmulArguments arguments = c.arguments(a.data(), b.data(), bias.data(), nullptr);
  const double unit = std::numeric_limits<Accumulation<T>>::epsilon();
  // Rounding of the result to 16 bits: half a unit of the last of 8 or 11 digits.
  const double rounding = sizeof(T) != 2 ? 0.0 : dtype_of<T> == DType::kBF16 ? 0x1p-8 : 0x1p-11;
  int64_t wrong = 0;
  // Contiguous, for most of the time of these tests is spent in the innermost loop.
  const std::vector<double> rows = rows_of(a, c.m, c.k, c.transpose_a),
                            columns = rows_of(b, c.n, c.k, !c.transpose_b);
  for (int64_t g = 0; g < c.batch; ++g) {
    for (int64_t i = 0; i < c.m; ++i) {
      for (int64_t j = 0; j < c.n; ++j) {
        const double* x = rows.data() + g * arguments.batch_stride_a + i * c.k;
        const double* w = columns.data() + g * arguments.batch_stride_b + j * c.k;
        double sum = 0, magnitude = 0;
        for (int64_t p = 0; p < c.k; ++p) {
          const double term = *x++ * *w++;
          sum += term;
          magnitude += std::fabs(term);
        }
        if (c.bias) sum += static_cast<double>(bias[static_cast<size_t>(j)]);
        const double expected = activated(c.activation, sum);
        // A GELU in 16 bits is of the rounded sum; its slope is below 1.2.
        const double of_sum =
            c.activation == Activation::kGelu || c.activation == Activation::kGeluTanh ? 1.2 : 0.0;
        const double tolerance = unit * (4 + 0.5 * static_cast<double>(c.k)) * (magnitude + 1) +
                                 rounding * (std::abs(expected) + of_sum * std::abs(sum));
        const double got = static_cast<double>(y[static_cast<size_t>((g * c.m + i) * c.n + j)]);
        if (!(std::abs(got - expected) <= tolerance) && wrong++ == 0) {
          ADD_FAILURE() << c.name() << ": element (" << g << "," << i << "," << j << ") is " << got
                        << ", expected " << expected;
        }
      }
    }
  }
  EXPECT_EQ(wrong, 0) << c.name();
  return y;
}

template <class T>
class MatmulOf : public ::testing::Test {};
using Types = ::testing::Types<float, double, BFloat16, Float16>;
TYPED_TEST_SUITE(MatmulOf, Types);

TYPED_TEST(MatmulOf, AgreesWithDoubleLoopsForEveryShapeAroundTheTileEdges) {
  for (const int64_t m : {1, 2, 5, 13, 14, 15, 17, 33}) {
    for (const int64_t n : {1, 7, 8, 10, 15, 16, 17, 31, 32, 33, 49, 130}) {
      for (const int64_t k : {1, 3, 16, 65}) {
        for (int transposes = 0; transposes < 4; ++transposes) {
          ProductCase<TypeParam> c;
          c.m = m, c.n = n, c.k = k;
          c.transpose_a = transposes & 1, c.transpose_b = transposes & 2;
          c.bias = (m + n + k) % 2;
          check(c);
        }
      }
    }
  }
}

TYPED_TEST(MatmulOf, AgreesWithDoubleLoopsForRandomShapesBatchesAndEpilogues) {
  const PhiloxKey key = philox_key(11, RandomPurpose::kTest);
  for (uint32_t trial = 0; trial < 120; ++trial) {
    const PhiloxBlock r = philox(key, {trial, 0, 0, 0}), s = philox(key, {trial, 1, 0, 0});
    ProductCase<TypeParam> c;
    c.m = 1 + r.r[0] % 70, c.n = 1 + r.r[1] % 150, c.k = 1 + r.r[2] % 200, c.batch = 1 + r.r[3] % 3;
    c.transpose_a = s.r[0] & 1, c.transpose_b = s.r[0] & 2, c.bias = s.r[0] & 4;
    c.repeat_a = s.r[0] & 8, c.repeat_b = s.r[0] & 16;
    c.activation = static_cast<Activation>(s.r[1] % 3);
    check(c);
  }
}

TYPED_TEST(MatmulOf, AgreesWithDoubleLoopsAcrossSeveralBlocksOfEachExtent) {
  for (int transposes = 0; transposes < 4; ++transposes) {
    ProductCase<TypeParam> c;
    c.m = 83, c.n = 423, c.k = 811, c.bias = true, c.activation = Activation::kRelu;
    c.transpose_a = transposes & 1, c.transpose_b = transposes & 2;
    check(c);
  }
}

TYPED_TEST(MatmulOf, EmptyInnerExtentGivesTheActivatedBiasOrZero) {
  const std::vector<Accumulation<TypeParam>> bias = {-1, 2, 0.5};
  for (const bool with_bias : {false, true}) {
    ProductCase<TypeParam> c;
    c.m = 2, c.n = 3, c.k = 0, c.bias = with_bias, c.activation = Activation::kRelu;
    std::vector<TypeParam> y(6, TypeParam(9));
    cpu_backend().matmul(c.arguments(nullptr, nullptr, bias.data(), y.data()));
    for (size_t i = 0; i < 6; ++i) {
      EXPECT_EQ(y[i], with_bias ? std::max(TypeParam(bias[i % 3]), TypeParam(0)) : TypeParam(0));
    }
  }
}

TYPED_TEST(MatmulOf, EmptyOutputWritesNothing) {
  for (const auto& [batch, m, n] : {std::tuple{0, 3, 3}, {1, 0, 3}, {1, 3, 0}}) {
    ProductCase<TypeParam> c;
    c.batch = batch, c.m = m, c.n = n, c.k = 5;
    TypeParam y = TypeParam(9);
    cpu_backend().matmul(c.arguments(nullptr, nullptr, nullptr, &y));
    EXPECT_EQ(y, TypeParam(9));
  }
}

TYPED_TEST(MatmulOf, BitsAreTheSameForAnyNumberOfThreads) {
  const ThreadsGuard guard;
  for (int transposes = 0; transposes < 4; ++transposes) {
    for (const auto& [batch, m, n, k] :
         {std::tuple{1, 130, 333, 401}, {1, 300, 10, 800}, {5, 40, 70, 90}, {40, 9, 20, 80}}) {
      ProductCase<TypeParam> c;
      c.batch = batch, c.m = m, c.n = n, c.k = k, c.bias = true, c.activation = Activation::kGelu;
      c.transpose_a = transposes & 1, c.transpose_b = transposes & 2;
      const Operands<TypeParam> operands(c);
      set_threads(1);
      const std::vector<TypeParam> one = check(c);
      for (const int threads : {2, 3, 7}) {
        set_threads(threads);
        const std::vector<TypeParam> many = computed(c, operands);
        EXPECT_EQ(std::memcmp(one.data(), many.data(), one.size() * sizeof(TypeParam)), 0)
            << c.name() << " on " << threads;
      }
    }
  }
}

// The product of a matrix with its own transpose, of which half is computed, against that with a copy of it.
template <class In, class Out>
void expect_products_with_itself_like_those_with_a_copy() {
  const ThreadsGuard guard;
  for (const auto& [n, k] : {std::pair<int64_t, int64_t>{336, 97}, {337, 128}, {455, 400}, {700, 96}}) {
    const std::vector<In> a = random_values<In>(n * k, 1), copy = a;
    for (const bool transposed : {false, true}) {
      MatmulArguments arguments;
      arguments.dtype = dtype_of<In>, arguments.output = dtype_of<Out>;
      arguments.m = arguments.n = n, arguments.k = k;
      arguments.transpose_a = transposed, arguments.transpose_b = !transposed;
      std::vector<Out> expected(static_cast<size_t>(n * n));
      set_threads(1);
      arguments.a = a.data(), arguments.b = copy.data(), arguments.c = expected.data();
      cpu_backend().matmul(arguments);
      for (const int threads : {1, 2, 3, 7}) {
        set_threads(threads);
        std::vector<Out> got(expected.size(), Out(9));
        arguments.b = a.data(), arguments.c = got.data();
        cpu_backend().matmul(arguments);
        EXPECT_EQ(std::memcmp(expected.data(), got.data(), got.size() * sizeof(Out)), 0)
            << n << " x " << k << ", transposed " << transposed << ", on " << threads;
      }
    }
  }
}

TEST(Matmul, AMatrixWithItselfGivesTheBitsOfAProductWithItsCopy) {
  expect_products_with_itself_like_those_with_a_copy<float, float>();
  expect_products_with_itself_like_those_with_a_copy<double, double>();
  expect_products_with_itself_like_those_with_a_copy<BFloat16, float>();
  expect_products_with_itself_like_those_with_a_copy<BFloat16, BFloat16>();
  expect_products_with_itself_like_those_with_a_copy<Float16, float>();
}

// A row of the result is a function of its row of a and of b: it has the same bits in a batch of 1 and of
// 1000.
TYPED_TEST(MatmulOf, BitsOfARowDoNotDependOnTheOtherRows) {
  const int64_t m = 33, n = 2101, k = 811;  // several blocks of each, for one row too
  const std::vector<TypeParam> a = random_values<TypeParam>(m * k, 1), b = random_values<TypeParam>(k * n, 2);
  for (const bool transpose_b : {false, true}) {
    ProductCase<TypeParam> c;
    c.m = m, c.n = n, c.k = k, c.transpose_b = transpose_b;
    std::vector<TypeParam> all(static_cast<size_t>(m * n)), single(static_cast<size_t>(n));
    cpu_backend().matmul(c.arguments(a.data(), b.data(), nullptr, all.data()));
    c.m = 1;
    for (int64_t i = 0; i < m; ++i) {
      cpu_backend().matmul(c.arguments(a.data() + i * k, b.data(), nullptr, single.data()));
      ASSERT_EQ(std::memcmp(all.data() + i * n, single.data(), single.size() * sizeof(TypeParam)), 0)
          << "row " << i;
    }
  }
}

// The transposed forms multiply the same numbers in the same order.
TYPED_TEST(MatmulOf, BitsDoNotDependOnHowTheOperandsAreStored) {
  const int64_t m = 67, n = 203, k = 450;
  const std::vector<TypeParam> a = random_values<TypeParam>(m * k, 1), b = random_values<TypeParam>(k * n, 2);
  std::vector<TypeParam> at(a.size()), bt(b.size());
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t p = 0; p < k; ++p) at[static_cast<size_t>(p * m + i)] = a[static_cast<size_t>(i * k + p)];
  }
  for (int64_t p = 0; p < k; ++p) {
    for (int64_t j = 0; j < n; ++j) bt[static_cast<size_t>(j * k + p)] = b[static_cast<size_t>(p * n + j)];
  }
  std::vector<TypeParam> expected(static_cast<size_t>(m * n)), got(expected.size());
  ProductCase<TypeParam> c;
  c.m = m, c.n = n, c.k = k;
  cpu_backend().matmul(c.arguments(a.data(), b.data(), nullptr, expected.data()));
  for (int transposes = 1; transposes < 4; ++transposes) {
    c.transpose_a = transposes & 1, c.transpose_b = transposes & 2;
    cpu_backend().matmul(
        c.arguments((c.transpose_a ? at : a).data(), (c.transpose_b ? bt : b).data(), nullptr, got.data()));
    EXPECT_EQ(std::memcmp(expected.data(), got.data(), got.size() * sizeof(TypeParam)), 0) << transposes;
  }
}

TYPED_TEST(MatmulOf, BitsDoNotDependOnAlignment) {
  const int64_t m = 37, n = 75, k = 129;
  std::vector<TypeParam> expected;
  for (const int64_t shift : {0, 1, 3, 7}) {
    std::vector<TypeParam> a = random_values<TypeParam>(m * k, 1), b = random_values<TypeParam>(k * n, 2);
    a.insert(a.begin(), static_cast<size_t>(shift), TypeParam(0));
    b.insert(b.begin(), static_cast<size_t>(shift), TypeParam(0));
    std::vector<TypeParam> y(static_cast<size_t>(m * n + shift));
    ProductCase<TypeParam> c;
    c.m = m, c.n = n, c.k = k;
    cpu_backend().matmul(c.arguments(a.data() + shift, b.data() + shift, nullptr, y.data() + shift));
    y.erase(y.begin(), y.begin() + shift);
    if (shift == 0) expected = y;
    EXPECT_EQ(std::memcmp(expected.data(), y.data(), y.size() * sizeof(TypeParam)), 0) << "shift " << shift;
  }
}

// The argument that is stored is the product without the activation, and the result the elementwise kernel's
// of it.
TYPED_TEST(MatmulOf, StoresTheArgumentOfItsActivation) {
  using T = TypeParam;
  for (const Activation activation : {Activation::kRelu, Activation::kGelu, Activation::kGeluTanh}) {
    ProductCase<T> c;
    c.batch = 2, c.m = 9, c.n = 21, c.k = 30, c.bias = true;
    const int64_t elements = c.batch * c.m * c.n;
    const std::vector<T> a = random_values<T>(c.batch * c.m * c.k, 1),
                         b = random_values<T>(c.batch * c.k * c.n, 2);
    const std::vector<Accumulation<T>> bias = random_values<Accumulation<T>>(c.n, 3);
    const auto size = static_cast<size_t>(elements);
    std::vector<T> z(size), y(size), stored(size), fused(size);
    cpu_backend().matmul(c.arguments(a.data(), b.data(), bias.data(), z.data()));
    cpu_backend().unary(unary_of(activation), dtype_of<T>, elements, z.data(), y.data());
    c.activation = activation;
    MatmulArguments arguments = c.arguments(a.data(), b.data(), bias.data(), fused.data());
    arguments.argument = stored.data();
    cpu_backend().matmul(arguments);
    EXPECT_EQ(std::memcmp(stored.data(), z.data(), size * sizeof(T)), 0) << c.name();
    EXPECT_EQ(std::memcmp(fused.data(), y.data(), size * sizeof(T)), 0) << c.name();
  }
}

TYPED_TEST(MatmulOf, GoesThroughTheDerivativeOfAnActivation) {
  using T = TypeParam;
  for (const Activation activation : {Activation::kRelu, Activation::kGelu, Activation::kGeluTanh}) {
    ProductCase<T> c;
    c.m = 9, c.n = 21, c.k = 30, c.transpose_b = true;
    const int64_t elements = c.m * c.n;
    const std::vector<T> a = random_values<T>(c.m * c.k, 1), b = random_values<T>(c.k * c.n, 2),
                         at = random_values<T>(elements, 4);
    const auto size = static_cast<size_t>(elements);
    std::vector<T> plain(size), expected(size), fused(size);
    cpu_backend().matmul(c.arguments(a.data(), b.data(), nullptr, plain.data()));
    cpu_backend().unary_backward(unary_of(activation), dtype_of<T>, elements, at.data(), at.data(),
                                 plain.data(), expected.data());
    c.activation = activation;
    MatmulArguments arguments = c.arguments(a.data(), b.data(), nullptr, fused.data());
    arguments.derivative_at = at.data();
    cpu_backend().matmul(arguments);
    EXPECT_EQ(std::memcmp(fused.data(), expected.data(), size * sizeof(T)), 0) << c.name();
  }
}

TYPED_TEST(MatmulOf, SumsTheColumnsOfItsSecondOperand) {
  using T = TypeParam;
  using Wide = Accumulation<T>;
  for (const int64_t k : {0, 1, 5, 300}) {
    ProductCase<T> c;
    c.m = 4, c.n = 19, c.k = k, c.transpose_a = true;
    const std::vector<T> a = random_values<T>(c.m * k, 1), b = random_values<T>(k * c.n, 2);
    std::vector<T> y(static_cast<size_t>(c.m * c.n));
    std::vector<Wide> sums(static_cast<size_t>(c.n), Wide(7));
    MatmulArguments arguments = c.arguments(a.data(), b.data(), nullptr, y.data());
    arguments.column_sums = sums.data();
    cpu_backend().matmul(arguments);
    for (int64_t j = 0; j < c.n; ++j) {
      double sum = 0;
      for (int64_t p = 0; p < k; ++p) sum += static_cast<double>(b[static_cast<size_t>(p * c.n + j)]);
      EXPECT_NEAR(static_cast<double>(sums[static_cast<size_t>(j)]), sum,
                  std::numeric_limits<Wide>::epsilon() * static_cast<double>(k));
    }
  }
}

TEST(Matmul, RefusesWhatExcludesEachOther) {
  float numbers[4] = {1, 2, 3, 4};
  const auto refused = [&](const std::function<void(MatmulArguments&)>& change) {
    MatmulArguments arguments;
    arguments.m = arguments.n = arguments.k = 1;
    arguments.a = arguments.b = numbers;
    arguments.c = numbers + 1;
    change(arguments);
    try {
      cpu_backend().matmul(arguments);
      return false;
    } catch (const Error& error) {
      return error.kind() == ErrorKind::kInternal;
    }
  };
  EXPECT_FALSE(refused([&](MatmulArguments& a) { a.bias = numbers; }));
  EXPECT_TRUE(refused([&](MatmulArguments& a) { a.bias = numbers, a.column_sums = numbers + 2; }));
  EXPECT_TRUE(refused([&](MatmulArguments& a) { a.transpose_b = true, a.column_sums = numbers + 2; }));
  EXPECT_TRUE(refused([&](MatmulArguments& a) { a.batch = 2, a.column_sums = numbers + 2; }));
  EXPECT_TRUE(refused([&](MatmulArguments& a) { a.argument = numbers + 2; }));
  EXPECT_TRUE(refused([&](MatmulArguments& a) { a.derivative_at = numbers + 2; }));
  const auto gelu = [&](auto change) {
    return [&, change](MatmulArguments& a) {
      a.activation = Activation::kGelu;
      change(a);
    };
  };
  EXPECT_TRUE(refused(gelu([&](MatmulArguments& a) { a.derivative_at = numbers, a.bias = numbers; })));
  EXPECT_TRUE(
      refused(gelu([&](MatmulArguments& a) { a.derivative_at = numbers, a.argument = numbers + 2; })));
  EXPECT_FALSE(refused(gelu([&](MatmulArguments& a) { a.argument = numbers + 2, a.bias = numbers; })));
}

TYPED_TEST(MatmulOf, NotANumberReachesTheResultThroughEveryActivation) {
  const TypeParam nan(std::numeric_limits<float>::quiet_NaN());
  const std::vector<TypeParam> a = {nan, TypeParam(1)}, b = {TypeParam(1), TypeParam(1)};
  for (const Activation activation :
       {Activation::kNone, Activation::kRelu, Activation::kGelu, Activation::kGeluTanh}) {
    ProductCase<TypeParam> c;
    c.k = 2, c.activation = activation;
    TypeParam y(0);
    cpu_backend().matmul(c.arguments(a.data(), b.data(), nullptr, &y));
    EXPECT_TRUE(std::isnan(y));
  }
}

// Products inside of tiles of the pool, of shapes that use every scratch buffer, all at once.
TYPED_TEST(MatmulOf, ConcurrentProductsDoNotDisturbEachOther) {
  const ThreadsGuard guard;
  ProductCase<TypeParam> c;
  c.m = 50, c.n = 170, c.k = 400, c.transpose_b = true;
  const std::vector<TypeParam> a = random_values<TypeParam>(c.m * c.k, 1),
                               b = random_values<TypeParam>(c.k * c.n, 2);
  std::vector<TypeParam> expected(static_cast<size_t>(c.m * c.n));
  cpu_backend().matmul(c.arguments(a.data(), b.data(), nullptr, expected.data()));
  set_threads(4);
  std::vector<int> equal(64, 0);
  const auto hammer = [&](int64_t tile) {
    std::vector<TypeParam> y(expected.size());
    cpu_backend().matmul(c.arguments(a.data(), b.data(), nullptr, y.data()));
    equal[static_cast<size_t>(tile)] =
        std::memcmp(y.data(), expected.data(), y.size() * sizeof(TypeParam)) == 0;
  };
  thread_pool().run(32, hammer);
  // From a foreign thread as well, while the pool is busy: what a prefetch thread would do.
  std::thread foreign([&] {
    for (int64_t tile = 32; tile < 48; ++tile) hammer(tile);
  });
  for (int64_t tile = 48; tile < 64; ++tile) hammer(tile);
  foreign.join();
  for (size_t tile = 0; tile < equal.size(); ++tile) EXPECT_TRUE(equal[tile]) << tile;
}

template <class T>
class MatmulOf16Bits : public ::testing::Test {};
using HalfTypes = ::testing::Types<BFloat16, Float16>;
TYPED_TEST_SUITE(MatmulOf16Bits, HalfTypes);

// The gradient of an fp32 parameter: the sum as it is before it would be rounded to 16 bits.
TYPED_TEST(MatmulOf16Bits, AFloatResultIsTheSumBeforeItsRounding) {
  for (const auto& [m, n, k] : {std::tuple{5, 40, 7}, {30, 70, 1000}, {64, 64, 2048}}) {
    ProductCase<TypeParam> c;
    c.m = m, c.n = n, c.k = k, c.bias = true, c.transpose_a = true;
    const std::vector<TypeParam> a = random_values<TypeParam>(c.m * c.k, 1),
                                 b = random_values<TypeParam>(c.k * c.n, 2);
    const std::vector<float> bias = random_values<float>(c.n, 3);
    std::vector<TypeParam> rounded(static_cast<size_t>(m * n));
    std::vector<float> sums(rounded.size());
    MatmulArguments arguments = c.arguments(a.data(), b.data(), bias.data(), rounded.data());
    cpu_backend().matmul(arguments);
    arguments.output = DType::kF32;
    arguments.c = sums.data();
    cpu_backend().matmul(arguments);
    for (size_t i = 0; i < sums.size(); ++i) {
      ASSERT_EQ(TypeParam(sums[i]).bits, rounded[i].bits) << i;
      const int64_t row = static_cast<int64_t>(i) / n, column = static_cast<int64_t>(i) % n;
      double sum = static_cast<double>(bias[static_cast<size_t>(column)]), magnitude = std::abs(sum);
      for (int64_t p = 0; p < k; ++p) {
        const double term = static_cast<double>(a[static_cast<size_t>(p * m + row)]) *
                            static_cast<double>(b[static_cast<size_t>(p * n + column)]);
        sum += term;
        magnitude += std::abs(term);
      }
      ASSERT_NEAR(static_cast<double>(sums[i]), sum, 8 * 0x1p-23 * magnitude) << i;
    }
  }
}

TYPED_TEST(MatmulOf16Bits, SumsBeyondTheRangeOfTheOperandsDoNotOverflowOnTheWay) {
  // 100 products of 2^14 each, then as many of -2^14: fp16 would end at infinity, its sums in float at 0.
  std::vector<TypeParam> a(200, TypeParam(128)), b(200, TypeParam(128));
  std::fill(b.begin() + 100, b.end(), TypeParam(-128));
  ProductCase<TypeParam> c;
  c.k = 200;
  TypeParam y(1);
  cpu_backend().matmul(c.arguments(a.data(), b.data(), nullptr, &y));
  EXPECT_EQ(y, TypeParam(0));
}

TEST(Matmul, AResultOfAnotherTypeThanTheOperandsOrTheirSumsIsRefused) {
  MatmulArguments arguments;
  arguments.dtype = DType::kBF16;
  arguments.output = DType::kF16;
  EXPECT_THROW(cpu_backend().matmul(arguments), Error);
}

TEST(Matmul, IntegersAreRefusedByName) {
  MatmulArguments arguments;
  arguments.dtype = DType::kI32;
  try {
    cpu_backend().matmul(arguments);
    FAIL() << "accepted int32";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    EXPECT_NE(std::string(error.what()).find("matmul"), std::string::npos);
    EXPECT_NE(std::string(error.what()).find("int32"), std::string::npos);
  }
}

}  // namespace
}  // namespace lockstep
