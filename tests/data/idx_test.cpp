// IDX images and labels: what is read, and that every damaged byte that matters is named.
#include <gtest/gtest.h>
#include <zlib.h>

#include "data/rejection.h"
#include "hdf5/scratch_directory.h"
#include "lockstep/data/dataset.h"

namespace lockstep {
namespace {

using testing::expect_rejection;
using testing::overwrite;
using testing::ScratchDirectory;

std::string big_endian(uint32_t value) {
  return {static_cast<char>(value >> 24), static_cast<char>(value >> 16), static_cast<char>(value >> 8),
          static_cast<char>(value)};
}

// n images of 2 x 3 whose bytes count up.
std::string images(uint32_t n) {
  std::string bytes = big_endian(0x803) + big_endian(n) + big_endian(2) + big_endian(3);
  for (uint32_t i = 0; i < n * 6; ++i) bytes += static_cast<char>(i * 7);
  return bytes;
}

std::string labels(const std::string& values) {
  return big_endian(0x801) + big_endian(static_cast<uint32_t>(values.size())) + values;
}

std::string gzip(const std::string& bytes) {
  std::string out(compressBound(bytes.size()) + 64, '\0');
  z_stream stream{};
  deflateInit2(&stream, 9, Z_DEFLATED, 15 + 16, 9, Z_DEFAULT_STRATEGY);
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
  stream.avail_in = static_cast<uInt>(bytes.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  deflate(&stream, Z_FINISH);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

class Idx : public ::testing::Test {
 protected:
  void reject(std::initializer_list<std::string> parts, int64_t classes = 0) {
    expect_rejection(ErrorKind::kData, parts, [&] { read_dataset({.path = images_, .classes = classes}); });
  }

  ScratchDirectory directory_;
  std::string images_ = directory_.file("t10k-images-idx3-ubyte");
  std::string labels_ = directory_.file("t10k-labels-idx1-ubyte");
};

TEST_F(Idx, ReadsImagesScaledToOneWithTheirLabels) {
  overwrite(images_, images(3));
  overwrite(labels_, labels({4, 0, 2}));
  const Dataset data = read_dataset({.path = images_});
  EXPECT_EQ(data.size(), 3);
  EXPECT_EQ(data.sample_shape, (Shape{2, 3, 1}));
  EXPECT_EQ(data.input_dtype, DType::kF32);
  EXPECT_EQ(data.classes, 5);
  EXPECT_EQ(data.labels, (std::vector<int32_t>{4, 0, 2}));
  ASSERT_EQ(data.inputs_f32.size(), 18u);
  for (size_t i = 0; i < 18; ++i)
    EXPECT_EQ(data.inputs_f32[i], static_cast<float>(static_cast<double>(i * 7) / 255.0));
  EXPECT_EQ(read_dataset({.path = images_, .format = "idx", .classes = 10}).classes, 10);
}

TEST_F(Idx, ReadsLargeFilesPieceByPiece) {
  overwrite(images_, images(30000));
  overwrite(labels_, labels(std::string(30000, 1)));
  const Dataset data = read_dataset({.path = images_});
  ASSERT_EQ(data.inputs_f32.size(), 180000u);
  for (size_t i = 0; i < 180000; ++i) {
    ASSERT_EQ(data.inputs_f32[i], static_cast<float>(static_cast<uint8_t>(i * 7)) / 255.0f) << i;
  }
}

TEST_F(Idx, ReadsGzip) {
  const std::string path = directory_.file("train-images-idx3-ubyte.gz");
  overwrite(path, gzip(images(3)));
  overwrite(directory_.file("train-labels-idx1-ubyte.gz"), gzip(labels({1, 0, 1})));
  overwrite(images_, images(3));
  overwrite(labels_, labels({1, 0, 1}));
  const Dataset data = read_dataset({.path = path});
  EXPECT_EQ(data.inputs_f32, read_dataset({.path = images_}).inputs_f32);
  EXPECT_EQ(data.labels, (std::vector<int32_t>{1, 0, 1}));
}

TEST_F(Idx, FindsTheLabelsByEitherSpellingOrByName) {
  overwrite(directory_.file("images.idx3-ubyte"), images(1));
  overwrite(directory_.file("labels.idx1-ubyte"), labels({0}));
  EXPECT_EQ(read_dataset({.path = directory_.file("images.idx3-ubyte")}).size(), 1);
  overwrite(directory_.file("a"), images(1));
  overwrite(directory_.file("b"), labels({0}));
  EXPECT_EQ(
      read_dataset({.path = directory_.file("a"), .format = "idx", .labels = directory_.file("b")}).size(),
      1);
  expect_rejection(ErrorKind::kUsage, {directory_.file("a"), "labels"},
                   [&] { read_dataset({.path = directory_.file("a"), .format = "idx"}); });
}

TEST_F(Idx, RejectsMissingAndEmptyFilesAndDirectories) {
  reject({images_, "No such file"});
  overwrite(images_, "");
  reject({images_, "empty"});
  overwrite(images_, images(1));
  reject({labels_, "No such file"});
  std::filesystem::create_directory(labels_);
  reject({labels_, "not a regular file"});
}

TEST_F(Idx, RejectsEveryTruncationAndTrailingBytes) {
  const std::string whole_images = images(2), whole_labels = labels({1, 0});
  overwrite(labels_, whole_labels);
  for (size_t size = 1; size < whole_images.size(); ++size) {
    overwrite(images_, whole_images.substr(0, size));
    reject({images_, "truncated", "byte"});
  }
  overwrite(images_, whole_images + "x");
  reject({images_, "byte 28", "more"});
  overwrite(images_, whole_images);
  for (size_t size = 1; size < whole_labels.size(); ++size) {
    overwrite(labels_, whole_labels.substr(0, size));
    reject({labels_, "truncated", "byte"});
  }
  overwrite(labels_, whole_labels + "x");
  reject({labels_, "byte 10", "more"});
}

TEST_F(Idx, RejectsOtherMagicNumbers) {
  overwrite(images_, labels({1, 0}));
  reject({images_, "byte 0", "0x00000803", "0x00000801"});
  overwrite(images_, images(2));
  overwrite(labels_, images(2));
  reject({labels_, "byte 0", "0x00000801", "0x00000803"});
}

TEST_F(Idx, RejectsCountsThatDoNotAgree) {
  overwrite(images_, images(3));
  overwrite(labels_, labels({1, 0}));
  reject({labels_, images_, "2 labels", "3 images"});
}

TEST_F(Idx, RejectsLabelsThatAreNotClasses) {
  overwrite(images_, images(3));
  overwrite(labels_, labels({1, 0, 5}));
  reject({labels_, "byte 10", "[0, 5)", "got 5"}, 5);
  EXPECT_EQ(read_dataset({.path = images_, .classes = 6}).classes, 6);
}

TEST_F(Idx, RejectsAbsurdExtentsWithoutAskingForMemory) {
  const std::string huge = big_endian(0xFFFFFFFF);
  overwrite(images_, big_endian(0x803) + huge + huge + huge + "data");
  reject({images_, "4294967295 x 4294967295 x 4294967295"});
  // The product of these is 0 modulo 2^64.
  overwrite(images_,
            big_endian(0x803) + big_endian(1u << 31) + big_endian(1u << 31) + big_endian(4) + "data");
  reject({images_, "2147483648"});
  overwrite(images_, big_endian(0x803) + big_endian(0) + big_endian(2) + big_endian(3));
  reject({images_, "byte 4", "positive"});
  overwrite(images_, images(1));
  overwrite(labels_, big_endian(0x801) + huge);
  reject({labels_, "4294967295"});
}

TEST_F(Idx, RejectsEveryDamagedGzipStream) {
  const std::string path = directory_.file("x-images-idx3.gz");
  overwrite(directory_.file("x-labels-idx1.gz"), labels(std::string(40, 1)));
  const std::string whole = gzip(images(40));
  const auto read = [&] { read_dataset({.path = path}); };
  for (size_t size = 1; size < whole.size(); ++size) {
    overwrite(path, whole.substr(0, size));
    expect_rejection(ErrorKind::kData, {path}, read);
  }
  // A time in the header and unused bits at the end of the stream may change, the content may not.
  overwrite(path, whole);
  const std::vector<float> content = read_dataset({.path = path}).inputs_f32;
  int accepted = 0;
  for (size_t at = 0; at < whole.size(); ++at) {
    std::string damaged = whole;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x10);
    overwrite(path, damaged);
    try {
      EXPECT_EQ(read_dataset({.path = path}).inputs_f32, content) << at;
      ++accepted;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kData) << error.what();
    }
  }
  EXPECT_LE(accepted, 8);
  std::string damaged = whole;
  damaged[whole.size() - 6] ^= 1;  // checksum
  overwrite(path, damaged);
  expect_rejection(ErrorKind::kData, {path, "corrupted gzip stream", "byte"}, read);
}

// As `cat a.gz b.gz` makes them. One member fewer would be data that is missing without a word.
TEST_F(Idx, ReadsEveryMemberOfAGzipFileAndNothingElse) {
  const std::string path = directory_.file("x-images-idx3.gz");
  overwrite(directory_.file("x-labels-idx1.gz"), labels(std::string(40, 1)));
  const std::string all = images(40), first = gzip(all.substr(0, 100)), second = gzip(all.substr(100));
  const auto read = [&] { return read_dataset({.path = path}).inputs_f32; };
  overwrite(path, gzip(all));
  const std::vector<float> content = read();
  overwrite(path, first + gzip("") + second);
  EXPECT_EQ(read(), content);
  overwrite(path, first + std::string(700, '\0') + second + std::string(700, '\0'));
  EXPECT_EQ(read(), content);
  for (const std::string& behind :
       {std::string("x"), std::string("\x1f"), std::string("\0\0\x8b", 3), second.substr(0, 9)}) {
    overwrite(path, gzip(all) + behind);
    expect_rejection(ErrorKind::kData, {path, "corrupted gzip stream"}, [&] { read(); });
  }
  std::string damaged = second;
  damaged[0] = '\x1e';
  overwrite(path, first + damaged);
  expect_rejection(ErrorKind::kData, {path, "corrupted gzip stream"}, [&] { read(); });
}

}  // namespace
}  // namespace lockstep
