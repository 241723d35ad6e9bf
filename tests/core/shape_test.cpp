// Shapes: extents, products, axis numbering and broadcasting.
#include "lockstep/core/shape.h"

#include <gtest/gtest.h>

#include <vector>

#include "lockstep/core/dtype.h"
#include "lockstep/core/error.h"

namespace lockstep {
namespace {

TEST(Shape, CountsElements) {
  EXPECT_EQ(Shape().elements(), 1);
  EXPECT_EQ(Shape({}).rank(), 0);
  EXPECT_EQ(Shape({3, 4, 5}).elements(), 60);
  EXPECT_EQ(Shape({3, 0, 5}).elements(), 0);
  EXPECT_EQ(Shape({3, 4, 5}).elements(1, 3), 20);
  EXPECT_EQ(Shape({3, 4, 5}).elements(2, 2), 1);
  EXPECT_EQ(Shape({3, 4, 5}).last(), 5);
  EXPECT_EQ(Shape().last(), 1);
  EXPECT_EQ(Shape({int64_t{1} << 20, int64_t{1} << 20}).elements(), int64_t{1} << 40);
}

TEST(Shape, ComparesRankAndExtents) {
  EXPECT_EQ(Shape({2, 3}), Shape(std::vector<int64_t>{2, 3}));
  EXPECT_FALSE(Shape({2, 3}) == Shape({3, 2}));
  EXPECT_FALSE(Shape({2, 3}) == Shape({2, 3, 1}));
  EXPECT_FALSE(Shape() == Shape({1}));
}

TEST(Shape, PrintsAsATuple) {
  EXPECT_EQ(Shape({64, 128}).to_string(), "(64,128)");
  EXPECT_EQ(Shape({7}).to_string(), "(7)");
  EXPECT_EQ(Shape().to_string(), "()");
}

TEST(Shape, RefusesNegativeExtentsAndTooManyAxes) {
  EXPECT_THROW(Shape({2, -1}), Error);
  Shape shape{1, 2, 3, 4, 5, 6};
  EXPECT_EQ(shape.rank(), Shape::kMaxRank);
  EXPECT_THROW(shape.push_back(7), Error);
  EXPECT_EQ(shape, Shape({1, 2, 3, 4, 5, 6}));
}

TEST(Axis, CountsFromTheEndWhenNegative) {
  EXPECT_EQ(normalize_axis(0, 3), 0);
  EXPECT_EQ(normalize_axis(2, 3), 2);
  EXPECT_EQ(normalize_axis(-1, 3), 2);
  EXPECT_EQ(normalize_axis(-3, 3), 0);
  EXPECT_THROW(normalize_axis(3, 3), Error);
  EXPECT_THROW(normalize_axis(-4, 3), Error);
  EXPECT_THROW(normalize_axis(0, 0), Error);
}

TEST(Broadcast, AlignsAtTheEnd) {
  EXPECT_EQ(broadcast_shapes({2, 3}, {3}, "add"), Shape({2, 3}));
  EXPECT_EQ(broadcast_shapes({3}, {2, 3}, "add"), Shape({2, 3}));
  EXPECT_EQ(broadcast_shapes({2, 1}, {1, 3}, "add"), Shape({2, 3}));
  EXPECT_EQ(broadcast_shapes({}, {2, 3}, "add"), Shape({2, 3}));
  EXPECT_EQ(broadcast_shapes({0, 3}, {1, 3}, "add"), Shape({0, 3}));
  EXPECT_EQ(broadcast_shapes({1}, {0}, "add"), Shape({0}));
}

TEST(Broadcast, RefusalNamesBothShapes) {
  try {
    broadcast_shapes({2, 3}, {2}, "add");
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "add: shapes do not broadcast: (2,3) with (2)");
  }
  EXPECT_THROW(broadcast_shapes({0}, {2}, "add"), Error);
}

TEST(DType, SizesAndNames) {
  EXPECT_EQ(size_of(DType::kF64), 8u);
  EXPECT_EQ(size_of(DType::kI64), 8u);
  EXPECT_EQ(size_of(DType::kF32), 4u);
  EXPECT_EQ(size_of(DType::kI32), 4u);
  EXPECT_EQ(size_of(DType::kBF16), 2u);
  EXPECT_EQ(size_of(DType::kF16), 2u);
  EXPECT_EQ(size_of(DType::kU8), 1u);
  EXPECT_EQ(name_of(DType::kBF16), "bf16");
  EXPECT_TRUE(is_floating(DType::kF16));
  EXPECT_FALSE(is_floating(DType::kI64));
  EXPECT_EQ(dtype_of<double>, DType::kF64);
}

}  // namespace
}  // namespace lockstep
