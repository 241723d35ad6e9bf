// Arrays that are laid out by HDF5, written around it, sealed block by block and mapped.
#include "lockstep/hdf5/mapped_blocks.h"

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <numeric>
#include <thread>

#include "core/error_message.h"
#include "hdf5/scratch_directory.h"
#include "lockstep/hdf5/file.h"
#include "lockstep/hdf5/sealed_file.h"

namespace lockstep {
namespace {

using testing::bytes_of;
using testing::message_of;
using testing::overwrite;

class MappedBlocksTest : public ::testing::Test {
 protected:
  // Two arrays, of three blocks and of one.
  void SetUp() override {
    std::iota(large_.begin(), large_.end(), 17);
    Hdf5File file = Hdf5File::create(path_, ErrorKind::kData, 4096, 4096);
    arrays_ = {{file.allocate("/large", DType::kI32, {static_cast<int64_t>(large_.size())}), kLargeBytes},
               {file.allocate("/small", DType::kU8, {3, 5}), 15}};
    table_ = file.allocate("/digests", DType::kU8, {4, 16});
    file.write_attribute("/large", "unit", std::string("m"));
    file.close();
    std::string bytes = bytes_of(path_);
    std::memcpy(bytes.data() + arrays_[0].offset, large_.data(), static_cast<size_t>(kLargeBytes));
    std::memcpy(bytes.data() + arrays_[1].offset, "123456789abcdef", 15);
    std::vector<Digest> digests = block_digests(std::as_bytes(std::span(large_)));
    digests.push_back(digest_of(std::as_bytes(std::span("123456789abcdef", 15))));
    std::memcpy(bytes.data() + table_, digests.data(), digests.size() * sizeof(Digest));
    overwrite(path_, bytes);
    seal_blocked_file(path_, ErrorKind::kData, arrays_, table_);
    good_ = bytes_of(path_);
  }
  MappedBlocks mapped() const { return {path_, *verify_outline(path_, ErrorKind::kData), ErrorKind::kData}; }

  static constexpr int64_t kLargeBytes = 2 * kBlockBytes + 4000;
  testing::ScratchDirectory directory_;
  std::string path_ = directory_.file("a.h5"), good_;
  std::vector<int32_t> large_ = std::vector<int32_t>(kLargeBytes / 4);
  std::vector<BlockedArray> arrays_;
  int64_t table_ = 0;
};

TEST_F(MappedBlocksTest, HoldsWhatHdf5Reads) {
  const MappedBlocks mapping = mapped();
  ASSERT_EQ(mapping.arrays(), 2);
  EXPECT_EQ(mapping.first_damaged(0, 0, kLargeBytes), std::nullopt);
  EXPECT_EQ(mapping.first_damaged(1, 0, 15), std::nullopt);
  EXPECT_EQ(std::memcmp(mapping.array(0).data(), large_.data(), static_cast<size_t>(kLargeBytes)), 0);
  const Hdf5File file = Hdf5File::open(path_, ErrorKind::kData);
  std::vector<int32_t> read(large_.size());
  file.read("/large", DType::kI32, read.data());
  EXPECT_EQ(read, large_);
  EXPECT_EQ(file.offset("/large", DType::kI32), arrays_[0].offset);
  EXPECT_EQ(file.offset("/large", DType::kF32), std::nullopt);
  EXPECT_EQ(arrays_[0].offset % 4096, 0);
  EXPECT_EQ(verify_seal(path_, ErrorKind::kData, true), SealState::kSealed);
}

TEST_F(MappedBlocksTest, FindsADamagedBlockWhenItIsAskedFor) {
  std::string damaged = good_;
  damaged[static_cast<size_t>(arrays_[0].offset + kBlockBytes)] ^= 1;
  damaged[static_cast<size_t>(arrays_[0].offset + kLargeBytes - 1)] ^= 1;
  overwrite(path_, damaged);
  const MappedBlocks mapping = mapped();
  EXPECT_EQ(mapping.first_damaged(0, 0, kBlockBytes), std::nullopt);
  EXPECT_EQ(mapping.first_damaged(0, kBlockBytes - 1, kBlockBytes + 1), 1);
  EXPECT_EQ(mapping.first_damaged(0, kLargeBytes - 1, kLargeBytes), 2);
  EXPECT_EQ(mapping.first_damaged(0, 0, kLargeBytes), 1);
  EXPECT_EQ(mapping.first_damaged(0, 0, 0), std::nullopt);
  EXPECT_EQ(mapping.first_damaged(1, 3, 15), std::nullopt);
  EXPECT_NE(message_of([&] { verify_seal(path_, ErrorKind::kData, true); }, ErrorKind::kData).find("damaged"),
            std::string::npos);
}

TEST_F(MappedBlocksTest, AnyChangeOutsideOfTheArraysIsRefusedAtOnce) {
  const auto inside = [&](size_t at) {
    return std::any_of(arrays_.begin(), arrays_.end(), [&](const BlockedArray& array) {
      return static_cast<int64_t>(at) >= array.offset &&
             static_cast<int64_t>(at) < array.offset + array.bytes;
    });
  };
  size_t checked = 0;
  for (size_t at = 0; at < good_.size(); at += inside(at) ? 5003 : 7) {
    if (inside(at)) continue;
    std::fstream(path_, std::ios::in | std::ios::out | std::ios::binary)
        .seekp(static_cast<std::streamoff>(at))
        .put(static_cast<char>(good_[at] ^ 2));
    EXPECT_NE(message_of([&] { verify_outline(path_, ErrorKind::kData); }, ErrorKind::kData), "") << at;
    std::fstream(path_, std::ios::in | std::ios::out | std::ios::binary)
        .seekp(static_cast<std::streamoff>(at))
        .put(good_[at]);
    ++checked;
  }
  EXPECT_GT(checked, 500u);
  EXPECT_NO_THROW(verify_outline(path_, ErrorKind::kData));
}

TEST_F(MappedBlocksTest, SealsOfVersionOneHaveNoOutline) {
  Hdf5File file = Hdf5File::create(path_, ErrorKind::kData);
  file.write_text("/text", "some text");
  file.close();
  seal_file(path_, ErrorKind::kData);
  EXPECT_FALSE(verify_outline(path_, ErrorKind::kData).has_value());
}

TEST_F(MappedBlocksTest, ManyThreadsMayAsk) {
  const MappedBlocks mapping = mapped();
  std::vector<std::thread> threads;
  std::atomic<int> damaged{0};
  for (int64_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int64_t i = 0; i < 2000; ++i) {
        const int64_t at = (i * 7919 + t * 104729) % (kLargeBytes - 8);
        if (mapping.first_damaged(0, at, at + 8)) ++damaged;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(damaged.load(), 0);
}

TEST_F(MappedBlocksTest, ReadsRowsOfAnyArray) {
  const float values[12] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
  Hdf5File file = Hdf5File::create(path_, ErrorKind::kData);
  file.write("/x", DType::kF32, {4, 3}, values);
  file.close();
  const Hdf5File found = Hdf5File::open(path_, ErrorKind::kData);
  std::vector<int32_t> rows(6);
  found.read_rows("/x", DType::kI32, 1, 2, rows.data());
  EXPECT_EQ(rows, (std::vector<int32_t>{3, 4, 5, 6, 7, 8}));
  found.read_rows("/x", DType::kI32, 4, 0, nullptr);
  EXPECT_NE(message_of([&] { found.read_rows("/x", DType::kI32, 3, 2, rows.data()); }, ErrorKind::kData)
                .find("[3, 5)"),
            std::string::npos);
}

}  // namespace
}  // namespace lockstep
