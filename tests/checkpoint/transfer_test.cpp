// Checkpoints that travel in parts: the file to the byte, the lines behind those that are there, nothing left
// of what does not become whole.
#include "lockstep/checkpoint/transfer.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "checkpoint/sample_state.h"
#include "hdf5/scratch_directory.h"
#include "lockstep/checkpoint/checkpoint.h"
#include "lockstep/core/error.h"

namespace lockstep {
namespace {

using testing::bytes_of;
using testing::overwrite;

class Transfer : public ::testing::Test {
 protected:
  Transfer() {
    write_checkpoint(testing::sample_state(600000), from_);
    overwrite(lines_, "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n");
    std::filesystem::create_directory(scratch_.file("there"));
  }
  static void bring(OutgoingCheckpoint& outgoing, IncomingCheckpoint& incoming, int64_t* parts = nullptr) {
    while (outgoing.next_bytes() > 0) {
      EXPECT_EQ(outgoing.next_bytes(), incoming.next_bytes());
      incoming.add(outgoing.next());
      if (parts != nullptr) ++*parts;
    }
    EXPECT_EQ(incoming.next_bytes(), 0);
  }

  testing::ScratchDirectory scratch_;
  const std::string from_ = scratch_.file("step-000000004.h5"), lines_ = scratch_.file("metrics.jsonl");
  const std::string to_ = scratch_.file("there/step-000000004.h5"),
                    there_ = scratch_.file("there/metrics.jsonl");
};

TEST_F(Transfer, BringsTheFileToTheByteAndTheLinesUpToTheGivenOne) {
  OutgoingCheckpoint outgoing(from_, 4, 3, lines_, 0, 22);
  EXPECT_EQ(outgoing.outline().best, 3);
  EXPECT_EQ(outgoing.outline().total(), static_cast<int64_t>(bytes_of(from_).size()) + 22);
  int64_t parts = 0;
  {
    IncomingCheckpoint incoming(outgoing.outline(), to_, there_);
    bring(outgoing, incoming, &parts);
    EXPECT_FALSE(std::filesystem::exists(to_)) << "not before it is whole";
    EXPECT_EQ(incoming.place(), 22);
  }
  EXPECT_GT(parts, 3);
  EXPECT_EQ(bytes_of(to_), bytes_of(from_));
  EXPECT_EQ(bytes_of(there_), bytes_of(lines_).substr(0, 22));
  EXPECT_TRUE(is_file_of(outgoing.outline(), to_));
  EXPECT_EQ(testing::files_in(scratch_.file("there")), 2u);
  // The rest of the lines, in the place of what a later run of that host may have left.
  overwrite(there_, bytes_of(there_) + "{\"step\":");
  OutgoingCheckpoint next(from_, 4, 3, lines_, 22, 33);
  IncomingCheckpoint incoming(next.outline(), to_, there_);
  bring(next, incoming);
  EXPECT_EQ(incoming.place(), 33);
  EXPECT_EQ(bytes_of(there_), bytes_of(lines_));
}

TEST_F(Transfer, DoesWithoutLinesThatAreNotThere) {
  OutgoingCheckpoint none(from_, 4, -1, scratch_.file("nothing"), 0, 22);
  EXPECT_EQ(none.outline().metrics_end, 0);
  // The receiver has not those before them.
  OutgoingCheckpoint late(from_, 4, -1, lines_, 11, 22);
  IncomingCheckpoint incoming(late.outline(), to_, there_);
  bring(late, incoming);
  EXPECT_EQ(incoming.place(), 0);
  EXPECT_EQ(bytes_of(to_), bytes_of(from_));
}

TEST_F(Transfer, AFileThatIsRemovedMeanwhileArrives) {
  const std::string bytes = bytes_of(from_);
  OutgoingCheckpoint outgoing(from_, 4, -1, lines_, 0, 0);
  std::filesystem::remove(from_);
  IncomingCheckpoint incoming(outgoing.outline(), to_, there_);
  bring(outgoing, incoming);
  incoming.place();
  EXPECT_EQ(bytes_of(to_), bytes);
}

TEST_F(Transfer, NothingIsLeftOfOneThatDoesNotBecomeWholeOrIsDamaged) {
  overwrite(to_, "before");
  {
    OutgoingCheckpoint outgoing(from_, 4, -1, lines_, 0, 0);
    IncomingCheckpoint incoming(outgoing.outline(), to_, there_);
    incoming.add(outgoing.next());
    EXPECT_THROW(incoming.place(), Error);
  }
  std::string bytes = bytes_of(from_);
  bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 4);
  overwrite(from_, bytes);
  {
    OutgoingCheckpoint outgoing(from_, 4, -1, lines_, 0, 0);
    EXPECT_FALSE(is_file_of(outgoing.outline(), to_));
    IncomingCheckpoint incoming(outgoing.outline(), to_, there_);
    bring(outgoing, incoming);
    EXPECT_THROW(incoming.place(), DamagedFile);
  }
  EXPECT_EQ(bytes_of(to_), "before");
  EXPECT_EQ(testing::files_in(scratch_.file("there")), 1u);
  EXPECT_THROW(OutgoingCheckpoint(scratch_.file("nothing"), 4, -1, lines_, 0, 0), Error);
}

TEST(TransferOutline, FilesOfAnySizeTravelInAboutAsManyParts) {
  TransferOutline outline;
  for (const auto& [bytes, part] : std::vector<std::pair<int64_t, int64_t>>{{1000, 1 << 20},
                                                                            {int64_t{24} << 20, 1 << 20},
                                                                            {int64_t{240} << 20, 10 << 20},
                                                                            {int64_t{100} << 30, 64 << 20}}) {
    outline.bytes = bytes;
    EXPECT_EQ(outline.part(), part);
  }
}

}  // namespace
}  // namespace lockstep
