// Products of few columns, as of a class head, are computed in ways of their own (by their transpose; with
// rows in the lanes; asking for rows ahead). Here they are held to the same columns within a product of many,
// which is computed the usual way: bit for bit.
#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "kernels/arrays.h"
#include "lockstep/core/thread_pool.h"
#include "lockstep/kernels/backend.h"

namespace lockstep {
namespace {

using test::random_values;

constexpr int64_t kManyColumns = 70;

// The first `columns` of rows that have kManyColumns numbers, or of as many rows where they are transposed.
template <class T>
std::vector<T> first_columns(const std::vector<T>& x, int64_t rows, int64_t columns, bool transposed) {
  if (transposed) return {x.begin(), x.begin() + columns * rows};
  std::vector<T> y;
  for (int64_t i = 0; i < rows; ++i) {
    y.insert(y.end(), x.begin() + i * kManyColumns, x.begin() + i * kManyColumns + columns);
  }
  return y;
}

struct Case {
  int64_t m, k;
  bool transpose_a, transpose_b, bias;
  Activation activation;
};

// In 16 bits the results are the sums, in float.
template <class T>
std::vector<Accumulation<T>> product(const Case& c, int64_t n, const std::vector<T>& a,
                                     const std::vector<T>& b, const std::vector<Accumulation<T>>& bias) {
  using Wide = Accumulation<T>;
  constexpr size_t kGuard = 40;
  std::vector<Wide> guarded(static_cast<size_t>(c.m * n) + 2 * kGuard, Wide(-12345));
  MatmulArguments arguments;
  arguments.dtype = dtype_of<T>;
  arguments.output = dtype_of<Wide>;
  arguments.m = c.m;
  arguments.n = n;
  arguments.k = c.k;
  arguments.transpose_a = c.transpose_a;
  arguments.transpose_b = c.transpose_b;
  arguments.a = a.data();
  arguments.b = b.data();
  arguments.c = guarded.data() + kGuard;
  arguments.bias = c.bias ? bias.data() : nullptr;
  arguments.activation = c.activation;
  cpu_backend().matmul(arguments);
  for (size_t i = 0; i < kGuard; ++i) {
    EXPECT_EQ(guarded[i], Wide(-12345));
    EXPECT_EQ(guarded[guarded.size() - 1 - i], Wide(-12345));
  }
  return {guarded.begin() + kGuard, guarded.end() - kGuard};
}

template <class T>
void compare(const Case& c, std::initializer_list<int64_t> columns) {
  const std::vector<T> a = random_values<T>(c.m * c.k, 1), b = random_values<T>(c.k * kManyColumns, 2);
  const std::vector<Accumulation<T>> bias = random_values<Accumulation<T>>(kManyColumns, 3);
  const auto many = product<T>(c, kManyColumns, a, b, bias);
  for (const int64_t n : columns) {
    const auto few = product<T>(c, n, a, first_columns(b, c.k, n, c.transpose_b), bias);
    const auto expected = first_columns(many, c.m, n, false);
    ASSERT_EQ(std::memcmp(few.data(), expected.data(), few.size() * sizeof(few[0])), 0)
        << c.m << "x" << c.k << "x" << n << (c.transpose_a ? " T" : " N") << (c.transpose_b ? "T" : "N")
        << (c.bias ? " bias" : "") << " activation " << static_cast<int>(c.activation);
  }
}

template <class T>
class NarrowProductOf : public ::testing::Test {};
using Types = ::testing::Types<float, double, BFloat16, Float16>;
TYPED_TEST_SUITE(NarrowProductOf, Types);

TYPED_TEST(NarrowProductOf, HasTheBitsOfItsColumnsAmongMany) {
  for (const int64_t m : {1, 13, 63, 64, 65, 300, 521}) {
    for (const int64_t k : {0, 1, 17, 385, 801}) {
      for (int transposes = 0; transposes < 4; ++transposes) {
        const auto activation = static_cast<Activation>((m + k + transposes) % 4);
        const Case c = {m, k, (transposes & 1) != 0, (transposes & 2) != 0, (m + k) % 3 != 0, activation};
        compare<TypeParam>(c, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 23, 24, 25});
      }
    }
  }
}

// Left operands that do not fit into a cache, in rows that begin anywhere in a line and in ones that are
// pages.
TYPED_TEST(NarrowProductOf, HasTheBitsOfItsColumnsAmongManyWhereTheLeftOperandIsLarge) {
  for (const int threads : {1, 2, 3, 8}) {
    set_threads(threads);
    for (const bool transpose_a : {false, true}) {
      for (const int64_t k : {1027, 2048}) {
        compare<TypeParam>({1301, k, transpose_a, false, !transpose_a, Activation::kNone},
                           {1, 7, 10, 16, 17});
      }
    }
  }
  set_threads(1);
}

}  // namespace
}  // namespace lockstep
