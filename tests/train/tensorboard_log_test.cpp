// Event files: TensorBoard's bytes, and whole records whatever happens.
#include "lockstep/train/tensorboard_log.h"

#include <gtest/gtest.h>

#include <limits>

#include "hdf5/scratch_directory.h"
#include "lockstep/core/log.h"

namespace lockstep {
namespace {

using testing::bytes_of;

double fixed_time() {
  return 1700000000.25;
}

TEST(TensorBoardLog, ChecksumsAreThoseOfTheStandard) {
  // RFC 3720, B.4, and the usual check value.
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAu);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62A8AB43u);
  EXPECT_EQ(crc32c(std::string("123456789")), 0xE3069283u);
}

// golden.tfevents is written by make_tensorboard_golden.py, with TensorBoard's own writer.
TEST(TensorBoardLog, WritesTheBytesThatTensorBoardWrites) {
  const testing::ScratchDirectory scratch;
  std::string path;
  {
    TensorBoardLog log(scratch.path(), 0, fixed_time);
    using Scalar = std::pair<const char*, double>;
    log.add(1, std::vector<Scalar>{{"train/loss", 2.5}, {"train/|g|", 0.0}});
    log.add(300, std::vector<Scalar>{{"train/loss", -1e-30}});
    log.add(int64_t{1} << 40,
            std::vector<Scalar>{{"validation/loss", std::numeric_limits<double>::infinity()}});
    path = log.path();
  }
  EXPECT_NE(path.find("/events.out.tfevents.1700000000."), std::string::npos) << path;
  const std::string golden = bytes_of(LOCKSTEP_TRAIN_FILES "/golden.tfevents");
  ASSERT_FALSE(golden.empty());
  EXPECT_TRUE(bytes_of(path) == golden);
}

TEST(TensorBoardLog, ADiskWithoutRoomLeavesWholeRecordsAndIsSaidOnce) {
  const testing::ScratchDirectory scratch;
  TensorBoardLog log(scratch.path(), 0, fixed_time);
  const size_t begun = bytes_of(log.path()).size();
  const std::pair<const char*, double> scalar[] = {{"train/loss", 1.0}};
  log_to_stderr(0, 1, false);
  ::testing::internal::CaptureStderr();
  std::optional<testing::FileSizeLimit> limit(begun + 10 + 512);  // and what is said
  for (int64_t step = 1; step <= 100; ++step) log.add(step, scalar);
  log.flush();
  log.add(101, scalar);
  log.flush();
  const size_t full = bytes_of(log.path()).size();
  limit.reset();
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(said.find("warning: " + log.path() + ": cannot be written: "), 0u) << said;
  EXPECT_EQ(said.find('\n'), said.size() - 1) << said;
  log.add(102, scalar);
  log.flush();
  const size_t record = bytes_of(log.path()).size() - full;
  EXPECT_EQ(full, begun + record) << "that of step 101";
}

}  // namespace
}  // namespace lockstep
