// What holds for data sets of any format: choosing the reader, options that make no sense.
#include "data/dataset.h"

#include <gtest/gtest.h>

#include "data/rejection.h"
#include "hdf5/scratch_directory.h"

namespace lockstep {
namespace {

using testing::expect_rejection;
using testing::overwrite;
using testing::ScratchDirectory;

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
