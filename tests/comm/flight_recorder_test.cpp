// The last collectives of a worker, read by itself and by others.
#include "lockstep/comm/flight_recorder.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>

#include "hdf5/scratch_directory.h"

namespace lockstep {
namespace {

TEST(FlightRecorder, HoldsTheLast64WithNumberBytesTimesAndPhase) {
  FlightRecorder recorder(3);
  for (uint64_t i = 0; i < 70; ++i) {
    recorder.begin(i, "exchange", "step " + std::to_string(i / 2), "bucket 0");
    recorder.add_bytes(i, 100);
    recorder.add_bytes(i, static_cast<int64_t>(i));
    if (i != 69) recorder.end(i);
  }
  recorder.end(2);  // its place is another's
  const std::string text = recorder.text();
  EXPECT_EQ(std::ranges::count(text, '\n'), 65);
  EXPECT_EQ(text.rfind("number\tcollective\tbytes\tbegun\tseconds\tphase\tlabel\n6\texchange\t106\t20", 0),
            0u)
      << text;
  const std::string last = text.substr(text.rfind('\n', text.size() - 2) + 1);
  EXPECT_EQ(last.rfind("69\texchange\t169\t", 0), 0u) << last;
  EXPECT_NE(last.find("Z\tunder way\tstep 34\tbucket 0\n"), std::string::npos) << last;
  EXPECT_EQ(text.find("under way"), text.rfind("under way")) << text;
}

TEST(FlightRecorder, SaysWhatElseIsWaitedForUntilTheNextCollective) {
  FlightRecorder recorder(0);
  recorder.begin(0, "barrier", "set-up", "");
  recorder.end(0);
  EXPECT_EQ(recorder.text().find("under way"), std::string::npos);
  for (int asked = 0; asked < 2; ++asked) recorder.wait("nccl: exchange 4 (bucket 0) on rank 0");
  const std::string text = recorder.text();
  const std::string last = text.substr(text.rfind('\n', text.size() - 2) + 1);
  EXPECT_EQ(last.rfind("-\twait\t0\t20", 0), 0u) << last;
  EXPECT_NE(last.find("Z\tunder way\t\tnccl: exchange 4 (bucket 0) on rank 0\n"), std::string::npos) << last;
  recorder.begin(1, "barrier", "step 1", "");
  EXPECT_EQ(recorder.text().find("nccl"), std::string::npos);
}

TEST(FlightRecorder, IsReadByOthersOfTheHost) {
  FlightRecorder recorder(3);
  recorder.begin(0, "barrier", "", std::string(1000, 'x'));
  ASSERT_GE(recorder.descriptor(), 0);
  EXPECT_EQ(FlightRecorder::text_of(::getpid(), recorder.descriptor(), 3), recorder.text());
  EXPECT_EQ(FlightRecorder::text_of(::getpid(), recorder.descriptor(), 2), "") << "not whom it is said to be";
  EXPECT_EQ(FlightRecorder::text_of(::getpid(), STDIN_FILENO, 3), "");
  EXPECT_EQ(FlightRecorder::text_of(::getpid(), 1 << 20, 3), "");
}

TEST(FlightRecorder, AFullDiskOrNoDirectoryDoesNoHarm) {
  const testing::ScratchDirectory scratch;
  write_flight(scratch.file("flight-0.tsv"), "text\n");
  EXPECT_EQ(testing::bytes_of(scratch.file("flight-0.tsv")), "text\n");
  write_flight("/dev/full", "text\n");
  write_flight(scratch.file("nowhere/flight-0.tsv"), "text\n");
}

}  // namespace
}  // namespace lockstep
