// CIFAR-10 records become height x width x channel images.
#include <gtest/gtest.h>
#include <zstd.h>

#include <filesystem>

#include "data/rejection.h"
#include "hdf5/scratch_directory.h"
#include "lockstep/data/dataset.h"

namespace lockstep {
namespace {

using testing::expect_rejection;
using testing::overwrite;
using testing::ScratchDirectory;

// A byte for channel c, row h, column w of record r.
uint8_t pixel(int64_t r, int64_t c, int64_t h, int64_t w) {
  return static_cast<uint8_t>(r * 91 + c * 57 + h * 13 + w);
}

std::string record(int64_t r, uint8_t label) {
  std::string bytes(1, static_cast<char>(label));
  for (int64_t c = 0; c < 3; ++c)
    for (int64_t h = 0; h < 32; ++h)
      for (int64_t w = 0; w < 32; ++w) bytes += static_cast<char>(pixel(r, c, h, w));
  return bytes;
}

TEST(Cifar10, ReadsSeveralFilesInOrder) {
  const ScratchDirectory directory;
  overwrite(directory.file("data_batch_1.bin"), record(0, 3) + record(1, 9));
  overwrite(directory.file("data_batch_2.bin"), record(2, 0));
  const Dataset data =
      read_dataset({.path = directory.file("data_batch_1.bin") + "," + directory.file("data_batch_2.bin")});
  EXPECT_EQ(data.sample_shape, (Shape{32, 32, 3}));
  EXPECT_EQ(data.labels, (std::vector<int32_t>{3, 9, 0}));
  EXPECT_EQ(data.classes, 10);
  EXPECT_EQ(data.class_names.at(9), "truck");
  ASSERT_EQ(data.inputs_f32.size(), 3u * 3072);
  size_t at = 0;
  for (int64_t r = 0; r < 3; ++r)
    for (int64_t h = 0; h < 32; ++h)
      for (int64_t w = 0; w < 32; ++w)
        for (int64_t c = 0; c < 3; ++c)
          ASSERT_EQ(data.inputs_f32[at++], static_cast<float>(pixel(r, c, h, w)) / 255.0f);
}

TEST(Cifar10, IsToldByItsNamePackedOrNot) {
  const ScratchDirectory directory;
  const std::string bytes = record(0, 3) + record(1, 9);
  std::string packed(ZSTD_compressBound(bytes.size()), '\0');
  packed.resize(ZSTD_compress(packed.data(), packed.size(), bytes.data(), bytes.size(), 1));
  const std::string plain = directory.file("data_batch_1.bin"), zstd = plain + ".zst";
  overwrite(plain, bytes);
  overwrite(zstd, packed);
  EXPECT_EQ(read_dataset({.path = zstd}).labels, (std::vector<int32_t>{3, 9}));
  EXPECT_EQ(read_dataset({.path = zstd + "," + plain}).labels, (std::vector<int32_t>{3, 9, 3, 9}));
}

TEST(Cifar10, APathWithACommaIsOneFile) {
  const ScratchDirectory directory;
  std::filesystem::create_directory(directory.file("a,b"));
  const std::string path = directory.file("a,b/data_batch_1.bin");
  overwrite(path, record(0, 3) + record(1, 9));
  EXPECT_EQ(read_dataset({.path = path}).labels, (std::vector<int32_t>{3, 9}));
}

TEST(Cifar10, WhatIsPredictedForNeedsNoLabels) {
  const ScratchDirectory directory;
  overwrite(directory.file("a.bin"), record(0, 255) + record(1, 9));
  const Dataset data = read_dataset({.path = directory.file("a.bin"), .unlabelled = true});
  EXPECT_EQ(data.size(), 2);
  EXPECT_EQ(data.inputs_f32.size(), 2u * 3072);
}

TEST(Cifar10, RejectsIncompleteRecordsAndForeignLabels) {
  const ScratchDirectory directory;
  const std::string good = directory.file("good.bin"), bad = directory.file("bad.bin");
  overwrite(good, record(0, 3));
  const auto read = [&] { read_dataset({.path = good + "," + bad}); };
  expect_rejection(ErrorKind::kData, {bad, "No such file"}, read);
  overwrite(bad, (record(0, 3) + record(1, 4)).substr(0, 3073 + 100));
  expect_rejection(ErrorKind::kData, {bad, "truncated", "byte 3073", "100 of 3073"}, read);
  overwrite(bad, record(0, 3) + record(1, 10));
  expect_rejection(ErrorKind::kData, {bad, "byte 3073", "[0, 10)", "got 10"}, read);
  overwrite(bad, "");
  expect_rejection(ErrorKind::kData, {bad, "empty"}, read);
  expect_rejection(ErrorKind::kData, {"[0, 3)", "got 3"},
                   [&] { read_dataset({.path = good, .classes = 3}); });
  expect_rejection(ErrorKind::kData, {"cannot be read"},
                   [&] { read_dataset({.path = good + ",", .format = "cifar10"}); });
}

}  // namespace
}  // namespace lockstep
