// Seals: every truncation, every flipped bit and every other file is rejected; what was sealed verifies.
#include "lockstep/hdf5/sealed_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <xxhash.h>

#include <cstring>
#include <limits>
#include <random>

#include "hdf5/scratch_directory.h"
#include "lockstep/hdf5/file.h"

namespace lockstep {
namespace {

using testing::bytes_of;
using testing::overwrite;

class SealedFileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::vector<int32_t> values(30000);
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<int32_t>(i * i);
    Hdf5File file = Hdf5File::create(path_, ErrorKind::kData);
    file.write("/g/values", DType::kI32, {100, 300}, values.data());
    file.write_text("/text", "some text");
    file.close();
    seal_file(path_, ErrorKind::kData);
    good_ = bytes_of(path_);
  }

  // The message with which the file of these bytes is rejected; empty when it is accepted as sealed or plain.
  std::string rejection(const std::string& bytes, bool required = false) const {
    overwrite(path_, bytes);
    try {
      verify_seal(path_, ErrorKind::kData, required);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kData);
      return error.what();
    }
    return "";
  }

  testing::ScratchDirectory directory_;
  std::string path_ = directory_.file("a.h5");
  std::string good_;
};

TEST_F(SealedFileTest, IntactFileVerifies) {
  EXPECT_EQ(verify_seal(path_, ErrorKind::kData, true), SealState::kSealed);
  EXPECT_EQ(Hdf5File::open(path_, ErrorKind::kData).read_text("/text"), "some text");
}

TEST_F(SealedFileTest, SealHasTheDocumentedLayout) {
  uint64_t version = 0, length = 0;
  std::memcpy(&version, good_.data() + 16, 8);
  std::memcpy(&length, good_.data() + 24, 8);
  EXPECT_EQ(good_.substr(0, 16), "\x89LOCKSTEP-SEAL\r\n");
  EXPECT_EQ(version, 1u);
  EXPECT_EQ(length, good_.size() - 512);
  XXH128_canonical_t payload, block;
  XXH128_canonicalFromHash(&payload, XXH3_128bits(good_.data() + 512, good_.size() - 512));
  XXH128_canonicalFromHash(&block, XXH3_128bits(good_.data(), 496));
  EXPECT_EQ(std::memcmp(good_.data() + 32, &payload, 16), 0);
  EXPECT_EQ(good_.substr(48, 448), std::string(448, '\0'));
  EXPECT_EQ(std::memcmp(good_.data() + 496, &block, 16), 0);
}

TEST_F(SealedFileTest, EveryTruncationIsRejected) {
  std::vector<size_t> sizes = {0, 1, 7, 8, 15, 16, 511, 512, 513, good_.size() - 1};
  for (size_t size = 4096; size < good_.size(); size += 4096) sizes.push_back(size);
  for (size_t size : sizes) EXPECT_NE(rejection(good_.substr(0, size)), "") << size;
  EXPECT_NE(rejection(good_ + '\0').find("longer than sealed"), std::string::npos);
  EXPECT_NE(rejection(good_.substr(0, 50000)).find("truncated"), std::string::npos);
}

TEST_F(SealedFileTest, EveryBitOfTheSealIsProtected) {
  for (size_t bit = 0; bit < 512 * 8; ++bit) {
    std::string damaged = good_;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << (bit % 8)));
    EXPECT_NE(rejection(damaged), "") << "bit " << bit;
  }
}

TEST_F(SealedFileTest, FlippedBitInAnyBlockIsRejected) {
  std::mt19937 random(1);
  for (size_t block = 512; block < good_.size(); block += 4096) {
    std::string damaged = good_;
    const size_t at = std::min(block + random() % 4096, good_.size() - 1);
    damaged[at] = static_cast<char>(damaged[at] ^ (1 << (random() % 8)));
    EXPECT_NE(rejection(damaged).find("damaged"), std::string::npos) << "byte " << at;
  }
}

TEST_F(SealedFileTest, RandomMutationsAreRejected) {
  std::mt19937 random(2);
  for (int round = 0; round < 500; ++round) {
    std::string damaged = good_;
    const size_t count = 1 + random() % 16;
    for (size_t i = 0; i < count; ++i) damaged[random() % damaged.size()] = static_cast<char>(random());
    if (round % 3 == 0) damaged.resize(random() % damaged.size());
    ASSERT_NE(damaged, good_);
    EXPECT_NE(rejection(damaged), "") << "round " << round;
  }
}

TEST_F(SealedFileTest, ErasedSealIsNotTakenForAPlainFile) {
  EXPECT_NE(rejection(std::string(512, '\0') + good_.substr(512))
                .find("the 512 bytes before its HDF5 data "
                      "are empty: a seal that was erased"),
            std::string::npos);
  EXPECT_NE(rejection(std::string(4096, '\0')), "");
}

TEST_F(SealedFileTest, PlainHdf5IsUnsealedUnlessASealIsRequired) {
  // What follows the user block is a plain HDF5 file but for its base address.
  overwrite(path_, good_.substr(512));
  EXPECT_EQ(verify_seal(path_, ErrorKind::kData, false), SealState::kUnsealed);
  EXPECT_NE(rejection(good_.substr(512), true).find("not sealed"), std::string::npos);
}

TEST_F(SealedFileTest, NewerSealVersionIsNamed) {
  std::string newer = good_;
  newer[16] = 3;
  XXH128_canonical_t block;
  XXH128_canonicalFromHash(&block, XXH3_128bits(newer.data(), 496));
  std::memcpy(newer.data() + 496, &block, 16);
  EXPECT_NE(rejection(newer).find("seal version 3: this program knows versions 1 and 2"), std::string::npos);
}

TEST_F(SealedFileTest, ArraysWhoseEndsLeaveSixtyFourBitsAreRejected) {
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  for (const BlockedArray& array :
       {BlockedArray{528, kMost}, {kMost, kMost}, {kMost, 1}, {-1, 8}, {528, -8}}) {
    std::string damaged = good_;
    const int64_t numbers[] = {kBlockBytes, 512, 1, array.offset, array.bytes};
    damaged[16] = 2;
    std::memcpy(damaged.data() + 48, numbers, sizeof numbers);
    XXH128_canonical_t block;
    XXH128_canonicalFromHash(&block, XXH3_128bits(damaged.data(), 496));
    std::memcpy(damaged.data() + 496, &block, 16);
    EXPECT_NE(rejection(damaged).find("the seal describes arrays that the file cannot hold"),
              std::string::npos);
  }
}

TEST_F(SealedFileTest, OtherThingsThanFilesAreRejectedWithoutHanging) {
  const std::string pipe = directory_.file("pipe");
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  for (const std::string& path :
       {pipe, directory_.path(), std::string("/dev/zero"), directory_.file("absent")}) {
    EXPECT_THROW(verify_seal(path, ErrorKind::kCheckpoint, true), Error) << path;
  }
  EXPECT_NE(rejection("").find("empty"), std::string::npos);
  EXPECT_NE(rejection("text").find("neither"), std::string::npos);
}

TEST_F(SealedFileTest, OnlyHdf5WithAUserBlockCanBeSealed) {
  overwrite(path_, std::string(10000, 'x'));
  EXPECT_THROW(seal_file(path_, ErrorKind::kData), Error);
  EXPECT_EQ(bytes_of(path_), std::string(10000, 'x'));
  overwrite(path_, good_.substr(512));
  EXPECT_THROW(seal_file(path_, ErrorKind::kData), Error);
}

TEST_F(SealedFileTest, CommitReplacesTheOldFile) {
  overwrite(directory_.file("tmp"), "new");
  commit_file(directory_.file("tmp"), path_, ErrorKind::kCheckpoint);
  EXPECT_EQ(bytes_of(path_), "new");
  EXPECT_FALSE(std::filesystem::exists(directory_.file("tmp")));
}

TEST_F(SealedFileTest, FailedCommitRemovesTheTemporaryFile) {
  overwrite(directory_.file("tmp"), "new");
  std::filesystem::create_directories(directory_.file("taken/below"));
  EXPECT_THROW(commit_file(directory_.file("tmp"), directory_.file("taken"), ErrorKind::kCheckpoint), Error);
  EXPECT_FALSE(std::filesystem::exists(directory_.file("tmp")));
  EXPECT_THROW(commit_file(directory_.file("absent"), path_, ErrorKind::kCheckpoint), Error);
  EXPECT_EQ(bytes_of(path_), good_);
}

}  // namespace
}  // namespace lockstep
