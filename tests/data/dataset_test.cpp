// What holds for data sets of any format: choosing the reader, options that make no sense.
#include "lockstep/data/dataset.h"

#include <gtest/gtest.h>
#include <zlib.h>

#include "data/rejection.h"
#include "hdf5/scratch_directory.h"
#include "lockstep/hdf5/file.h"
#include "lockstep/hdf5/sealed_file.h"

namespace lockstep {
namespace {

using testing::expect_rejection;
using testing::overwrite;
using testing::ScratchDirectory;

TEST(Dataset, TheFormatFollowsFromTheContentUnlessGiven) {
  const ScratchDirectory directory;
  const std::string csv = "a,y\n1,0\n2,1\n";
  const std::string hdf5 = testing::bytes_of(std::string(LOCKSTEP_DATA_FILES) + "/images_uint8.h5");
  const std::string sealed = testing::bytes_of(std::string(LOCKSTEP_CONFIGS) + "/data/digits.h5");
  const auto size_of = [&](const std::string& name, const std::string& content,
                           const std::string& format = "auto") {
    overwrite(directory.file(name), content);
    return read_dataset({.path = directory.file(name), .format = format}).size();
  };
  EXPECT_EQ(size_of("A.CSV", csv), 2);
  EXPECT_EQ(size_of("table.txt", csv), 2);
  EXPECT_EQ(size_of("table", "\xEF\xBB\xBF" + csv), 2);
  EXPECT_EQ(size_of("table.h5", csv), 2);
  EXPECT_EQ(size_of("table.bin", csv), 2);
  EXPECT_EQ(size_of("images.csv", hdf5), 5);
  EXPECT_EQ(size_of("images", hdf5), 5);
  EXPECT_EQ(size_of("images.bin", std::string(1024, '\0') + hdf5), 5);
  EXPECT_EQ(size_of("digits.csv", sealed), 1797);
  EXPECT_EQ(size_of("batch.bin", std::string(3073, '\1') + std::string(3073, '\2')), 2);
  overwrite(directory.file("labels"), std::string("\0\0\x08\x01\0\0\0\x02\0\1", 10));
  overwrite(directory.file("pictures"), std::string("\0\0\x08\x03\0\0\0\x02\0\0\0\1\0\0\0\1ab", 18));
  EXPECT_EQ(read_dataset({.path = directory.file("pictures"), .labels = directory.file("labels")}).size(), 2);
  EXPECT_EQ(size_of("table.dat", csv, "csv"), 2);
  expect_rejection(ErrorKind::kUsage, {"table.txt", "parquet"},
                   [&] { read_dataset({.path = directory.file("table.txt"), .format = "parquet"}); });
}

TEST(Dataset, WhatIsNoDataSetIsCalledByItsName) {
  const ScratchDirectory directory;
  const auto expect = [&](ErrorKind kind, const std::string& name, const std::string& content,
                          const std::string& part) {
    if (!content.empty()) overwrite(directory.file(name), content);
    expect_rejection(kind, {directory.file(name), part},
                     [&] { read_dataset({.path = directory.file(name)}); });
  };
  expect(ErrorKind::kData, "book.csv", "PK\x03\x04 and more", "ZIP archive");
  expect(ErrorKind::kData, "array.bin", "\x93NUMPY\x01", "NumPy");
  expect(ErrorKind::kData, "old.h5", "MATLAB 5.0 MAT-file, Platform", "-v7.3");
  expect(ErrorKind::kData, "table.csv", "PAR1....", "Parquet");
  expect(ErrorKind::kUsage, "unknown", std::string("\x01\x02\x03 \0", 5),
         "neither from the content nor from the name");
  expect(ErrorKind::kData, "cut.bin", std::string(3072, '\1'), "truncated");
  expect(ErrorKind::kData, "damaged.h5", std::string(100, '\1'), "neither a sealed file nor plain HDF5");
  expect(ErrorKind::kData, "images-idx3-ubyte", std::string(100, 'x'), "magic");
  expect(ErrorKind::kData, "train-labels-idx1-ubyte", std::string("\0\0\x08\x01\0\0\0\1\0", 9),
         "magic must be 0x00000803");
  expect(ErrorKind::kData, "absent", "", "No such file");
  gzFile file = gzopen(directory.file("zipped.h5.gz").c_str(), "wb");
  gzwrite(file, "\x89HDF\r\n\x1a\n and more", 17);
  gzclose(file);
  expect(ErrorKind::kData, "zipped.h5.gz", "", "gunzip");
}

TEST(Dataset, RejectsAnEmptyName) {
  for (const char* format : {"auto", "csv"}) {
    expect_rejection(ErrorKind::kUsage, {"data: the name of the file is empty"},
                     [&] { read_dataset({.path = "", .format = format}); });
  }
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
  expect_rejection(ErrorKind::kUsage, {"x.csv", "follow is for hdf5"},
                   [] { read_dataset({.path = "x.csv", .follow = true}); });
  // Of validation data the key is that of the training data.
  expect_rejection(ErrorKind::kData, {"x.csv", "No such file"},
                   [] { read_dataset({.path = "x.csv", .follow = true, .beside = true}); });
  expect_rejection(ErrorKind::kUsage, {"x.csv", "-2"},
                   [] { read_dataset({.path = "x.csv", .classes = -2}); });
}

TEST(Dataset, ALabelThatCountsNothingIsNoClass) {
  const ScratchDirectory directory;
  const std::string csv = directory.file("t.csv"), h5 = directory.file("t.h5"), bin = directory.file("t.bin");
  overwrite(csv, "a,y\n1,-1\n2,1\n3,0\n4,-1\n5,2\n");
  const auto labels = [](const DatasetOptions& options) { return read_dataset(options).labels; };
  EXPECT_EQ(labels({.path = csv, .ignore_label = -1}), (std::vector<int32_t>{-1, 1, 0, -1, 2}));
  EXPECT_EQ(read_dataset({.path = csv, .ignore_label = -1}).classes, 3);
  expect_rejection(ErrorKind::kData, {csv, "row 1", "[0, ", "got -1"}, [&] { labels({.path = csv}); });
  expect_rejection(ErrorKind::kData, {csv, "row 1", "got -1"},
                   [&] { labels({.path = csv, .ignore_label = 2}); });
  overwrite(csv, "a,y\n1,7\n2,7\n");
  expect_rejection(ErrorKind::kData, {csv, "row 1", "all others are 7", "counts nothing"},
                   [&] { labels({.path = csv, .ignore_label = 7}); });
  overwrite(csv, "a,y\n1,0.5\n2,7\n");
  expect_rejection(ErrorKind::kUsage, {csv, "real targets", "7"},
                   [&] { labels({.path = csv, .ignore_label = 7}); });
  // The largest class counts nothing: it is none, unless the number of classes is stated.
  overwrite(csv, "a,y\n1,0\n2,1\n3,2\n");
  EXPECT_EQ(read_dataset({.path = csv, .ignore_label = 2}).classes, 2);
  EXPECT_EQ(read_dataset({.path = csv, .classes = 3, .ignore_label = 2}).classes, 3);

  overwrite(bin, std::string(1, '\xff') + std::string(3072, 'a') + '\x03' + std::string(3072, 'b'));
  EXPECT_EQ(labels({.path = bin, .format = "cifar10", .ignore_label = 255}), (std::vector<int32_t>{255, 3}));
  expect_rejection(ErrorKind::kData, {bin, "got 255"}, [&] { labels({.path = bin, .format = "cifar10"}); });

  // What the file itself states.
  Hdf5File file = Hdf5File::create(h5, ErrorKind::kData);
  const std::vector<float> x = {1, 2, 3};
  const std::vector<int32_t> y = {-100, 1, 0};
  file.write("/x", DType::kF32, {3, 1}, x.data());
  file.write("/y", DType::kI32, {3}, y.data());
  file.write_attribute("/y", "ignore_label", int64_t{-100});
  file.close();
  seal_file(h5, ErrorKind::kData);
  EXPECT_EQ(read_dataset({.path = h5}).ignore_label, -100);
  EXPECT_EQ(labels({.path = h5}), y);
  expect_rejection(ErrorKind::kUsage, {h5, "-100", "-1 was asked for"},
                   [&] { labels({.path = h5, .ignore_label = -1}); });
}

}  // namespace
}  // namespace lockstep
