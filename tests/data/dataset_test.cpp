// What holds for data sets of any format: choosing the reader, options that make no sense, picking rows.
#include "data/dataset.h"

#include <gtest/gtest.h>

#include "data/rejection.h"
#include "hdf5/scratch_directory.h"

namespace lockstep {
namespace {

using testing::expect_rejection;
using testing::overwrite;
using testing::ScratchDirectory;

TEST(Dataset, SubsetPicksRowsInTheGivenOrder) {
  Dataset data;
  data.source = "made up";
  data.sample_shape = {2};
  data.inputs_f32 = {0, 1, 10, 11, 20, 21};
  data.classes = 3;
  data.labels = {0, 1, 2};
  data.class_names = {"a", "b", "c"};
  data.attribution = {{"licence", "CC0"}};
  const Dataset part = data.subset({2, 0, 2});
  EXPECT_EQ(part.size(), 3);
  EXPECT_EQ(part.inputs_f32, (std::vector<float>{20, 21, 0, 1, 20, 21}));
  EXPECT_EQ(part.labels, (std::vector<int32_t>{2, 0, 2}));
  EXPECT_EQ(part.classes, 3);
  EXPECT_EQ(part.class_names, data.class_names);
  EXPECT_EQ(part.attribution, data.attribution);
  EXPECT_EQ(part.sample_shape, data.sample_shape);
  EXPECT_EQ(data.subset({}).size(), 0);
  expect_rejection(ErrorKind::kInternal, {"made up", "3"}, [&] { data.subset({0, 3}); });
  expect_rejection(ErrorKind::kInternal, {"made up", "-1"}, [&] { data.subset({-1}); });
}

TEST(Dataset, SubsetPicksTokensAndTargets) {
  Dataset data;
  data.sample_shape = {1};
  data.input_dtype = DType::kI32;
  data.inputs_i32 = {7, 8, 9};
  data.target_width = 2;
  data.targets = {0, 1, 2, 3, 4, 5};
  const Dataset part = data.subset({1});
  EXPECT_EQ(part.input_dtype, DType::kI32);
  EXPECT_EQ(part.inputs_i32, (std::vector<int32_t>{8}));
  EXPECT_EQ(part.targets, (std::vector<float>{2, 3}));
  EXPECT_EQ(part.size(), 1);
}

TEST(Dataset, FormatFollowsFromTheNameUnlessGiven) {
  const ScratchDirectory directory;
  overwrite(directory.file("A.CSV"), "a,y\n1,0\n");
  EXPECT_EQ(read_dataset({.path = directory.file("A.CSV")}).size(), 1);
  overwrite(directory.file("table.txt"), "a,y\n1,0\n");
  expect_rejection(ErrorKind::kUsage, {"table.txt", "csv"},
                   [&] { read_dataset({.path = directory.file("table.txt")}); });
  EXPECT_EQ(read_dataset({.path = directory.file("table.txt"), .format = "csv"}).size(), 1);
  expect_rejection(ErrorKind::kUsage, {"table.txt", "parquet"},
                   [&] { read_dataset({.path = directory.file("table.txt"), .format = "parquet"}); });
}

TEST(Dataset, RejectsOptionsThatTheFormatDoesNotHave) {
  expect_rejection(ErrorKind::kUsage, {"x.bin", "regression"},
                   [] { read_dataset({.path = "x.bin", .classes = -1}); });
  expect_rejection(ErrorKind::kUsage, {"x.idx3", "regression"},
                   [] { read_dataset({.path = "x.idx3", .classes = -1}); });
  expect_rejection(ErrorKind::kUsage, {"x.csv", "labels"},
                   [] { read_dataset({.path = "x.csv", .labels = "y"}); });
  expect_rejection(ErrorKind::kUsage, {"x.h5", "target"},
                   [] { read_dataset({.path = "x.h5", .target = "y"}); });
  expect_rejection(ErrorKind::kUsage, {"x.csv", "-2"},
                   [] { read_dataset({.path = "x.csv", .classes = -2}); });
}

}  // namespace
}  // namespace lockstep
