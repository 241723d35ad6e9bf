// Permutations and row copies against index arithmetic.
#include <algorithm>
#include <numeric>

#include "kernels/arrays.h"
#include "lockstep/core/error.h"

namespace lockstep::test {
namespace {

template <class T>
void check_permute(const std::vector<int64_t>& extents, const std::vector<int>& permutation) {
  const int rank = static_cast<int>(extents.size());
  int64_t n = 1;
  std::vector<int64_t> strides(extents.size());
  for (int axis = rank - 1; axis >= 0; --axis) {
    strides[static_cast<size_t>(axis)] = n;
    n *= extents[static_cast<size_t>(axis)];
  }
  std::vector<T> x(static_cast<size_t>(n));
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<T>(i * 2654435761u + i / 251);
  const std::vector<T> y = on_any_threads([&] {
    std::vector<T> values(x.size());
    cpu_backend().permute(sizeof(T), rank, extents.data(), permutation.data(), x.data(), values.data());
    return values;
  });
  for (int64_t i = 0; i < n; ++i) {
    int64_t rest = i, from = 0;
    for (int axis = rank - 1; axis >= 0; --axis) {
      const size_t source = static_cast<size_t>(permutation[static_cast<size_t>(axis)]);
      from += rest % extents[source] * strides[source];
      rest /= extents[source];
    }
    ASSERT_EQ(y[static_cast<size_t>(i)], x[static_cast<size_t>(from)]) << "element " << i;
  }
}

template <class T>
void check_all_orders(const std::vector<int64_t>& extents) {
  std::vector<int> permutation(extents.size());
  std::iota(permutation.begin(), permutation.end(), 0);
  do {
    check_permute<T>(extents, permutation);
  } while (std::next_permutation(permutation.begin(), permutation.end()));
}

TEST(Permute, EveryOrderOfAxesInEveryElementSize) {
  const std::vector<std::vector<int64_t>> shapes = {
      {},        {7},          {1, 1},         {16, 16},        {33, 47},
      {5, 1, 9}, {16, 32, 48}, {3, 17, 1, 20}, {2, 3, 5, 4, 3}, {4, 0, 3}};
  for (const std::vector<int64_t>& shape : shapes) {
    check_all_orders<uint8_t>(shape);
    check_all_orders<uint16_t>(shape);
    check_all_orders<uint32_t>(shape);
    check_all_orders<uint64_t>(shape);
  }
}

TEST(Permute, LargeTransposesSplitIntoTiles) {
  check_permute<uint32_t>({1000, 301}, {1, 0});
  check_permute<uint64_t>({3, 400, 131}, {0, 2, 1});
  check_permute<uint32_t>({70'000, 3}, {1, 0});
  check_permute<uint32_t>({3, 70'000}, {1, 0});
}

TEST(Permute, OddElementSizesAreRefused) {
  const int64_t extents[] = {2, 2};
  const int permutation[] = {1, 0};
  char x[12] = {}, y[12] = {};
  EXPECT_THROW(cpu_backend().permute(3, 2, extents, permutation, x, y), Error);
}

TEST(CopyRows, MovesTheBlockAndNothingBetween) {
  for (int64_t rows : {int64_t{0}, int64_t{1}, int64_t{3}, int64_t{5000}}) {
    for (size_t bytes : {size_t{0}, size_t{4}, size_t{52}}) {
      const size_t x_row = 60, y_row = 56;
      std::vector<uint8_t> x(static_cast<size_t>(rows) * x_row + 1);
      for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<uint8_t>(i * 7 + 1);
      const std::vector<uint8_t> y = on_any_threads([&] {
        std::vector<uint8_t> values(static_cast<size_t>(rows) * y_row + 1, 0xEE);
        cpu_backend().copy_rows(rows, bytes, x.data(), x_row, values.data(), y_row);
        return values;
      });
      for (size_t i = 0; i < y.size(); ++i) {
        const size_t row = i / y_row, column = i % y_row;
        const bool inside = row < static_cast<size_t>(rows) && column < bytes;
        ASSERT_EQ(y[i], inside ? x[row * x_row + column] : 0xEE);
      }
    }
  }
}

}  // namespace
}  // namespace lockstep::test
