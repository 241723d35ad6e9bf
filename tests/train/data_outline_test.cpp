// What checkpoints keep of data comes back as it was.
#include "lockstep/train/data_outline.h"

#include <gtest/gtest.h>

#include "data/rejection.h"
#include "lockstep/core/error.h"

namespace lockstep {
namespace {

TEST(DataOutline, ComesBackFromItsText) {
  DataOutline outline;
  outline.shape = {{8, 8, 1}, DType::kI32, 3, 1, {5}};
  outline.columns = {{"a \"quoted\" name", "b = 1", "\xc3\xbc"}, "kind\\of"};
  outline.class_names = {"x", "y", "#z"};
  outline.statistics = {{0.1, -1e-300, 3.0}, {1.0 / 3.0, 0.0, 1e20}};
  outline.vocabulary = "tokenizer 00ff, nothing before";
  const DataOutline found = DataOutline::parse(outline.text(), "step-1.h5");
  EXPECT_EQ(found.shape.sample, outline.shape.sample);
  EXPECT_EQ(found.shape.input, outline.shape.input);
  EXPECT_EQ(found.shape.classes, 3);
  EXPECT_EQ(found.shape.targets, 1);
  EXPECT_EQ(found.shape.positions, outline.shape.positions);
  EXPECT_EQ(found.columns, outline.columns);
  EXPECT_EQ(found.class_names, outline.class_names);
  EXPECT_EQ(found.statistics.mean, outline.statistics.mean);
  EXPECT_EQ(found.statistics.deviation, outline.statistics.deviation);
  EXPECT_EQ(found.vocabulary, outline.vocabulary);
  const DataOutline plain =
      DataOutline::parse(DataOutline{{{4}, DType::kF32, 0, 2}, {}, {}, {}}.text(), "s.h5");
  EXPECT_EQ(plain.shape.positions.rank(), 0);
  EXPECT_EQ(plain.shape.targets, 2);
  EXPECT_TRUE(plain.statistics.mean.empty());
  EXPECT_TRUE(plain.vocabulary.empty());
}

TEST(DataOutline, AnotherTextIsRefused) {
  using testing::expect_rejection;
  expect_rejection(ErrorKind::kCheckpoint, {"step-1.h5", "sample"},
                   [] { DataOutline::parse("[data]\n", "step-1.h5"); });
  expect_rejection(ErrorKind::kCheckpoint, {"step-1.h5", "later"},
                   [] { DataOutline::parse(DataOutline().text() + "later = 1\n", "step-1.h5"); });
}

}  // namespace
}  // namespace lockstep
