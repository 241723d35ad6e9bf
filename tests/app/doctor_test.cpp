// lockstep doctor: what it complains about, on hosts that are not there.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "app/command_answer.h"
#include "hdf5/scratch_directory.h"
#include "lockstep/app/doctor_command.h"

namespace lockstep {
namespace {

using nlohmann::json;
using testing::holds;

json well(const std::string& host, const std::string& address) {
  return {
      {"host", host},          {"program", "aa"}, {"device", "cpu X"}, {"library", "MPI 4"},
      {"workers_here", 2},     {"cores", 8},      {"usable", 8},       {"memory_gib", 16.0},
      {"shm_gib", 8.0},        {"gpus", 0},       {"time", 1000.0},    {"directory", "/runs"},
      {"directory_fault", ""}, {"locks", true},   {"free_gib", 100.0}, {"interfaces", {{"eth0", address}}}};
}

// Four workers on two hosts; `change` is of the second host.
std::string complaint(const std::function<void(json& worker)>& change, bool fatal, int host = 1) {
  std::vector<json> workers = {well("a", "10.0.0.1"), well("a", "10.0.0.1"), well("b", "10.0.0.2"),
                               well("b", "10.0.0.2")};
  for (const int rank : {0, 1}) change(workers[static_cast<size_t>(2 * host + rank)]);
  const std::vector<Complaint> found = complaints_about(workers);
  if (found.empty()) return "";
  EXPECT_EQ(found.size(), 1u) << "once a host: " << found.back().text;
  EXPECT_EQ(found.front().fatal, fatal) << found.front().text;
  EXPECT_NE(found.front().remedy, "");
  return found.front().text;
}

TEST(Doctor, HasNothingToSayOfHostsThatAreWell) {
  EXPECT_EQ(complaint([](json&) {}, false), "");
  EXPECT_EQ(complaint([](json& b) { b["directory_fault"] = "No such file or directory"; }, false), "")
      << "rank 0 writes";
}

TEST(Doctor, NamesTheHostAndWhatIsWrongWithIt) {
  EXPECT_EQ(complaint([](json& b) { b["program"] = "bb"; }, true), "b: another program: bb; on a: aa");
  EXPECT_EQ(complaint([](json& b) { b["device"] = "cpu Y"; }, true),
            "b: another processor or other kernels: cpu Y; on a: cpu X");
  EXPECT_EQ(complaint([](json& b) { b["library"] = "MPI 5"; }, true), "b: another MPI: MPI 5; on a: MPI 4");
  EXPECT_EQ(complaint([](json& a) { a["directory_fault"] = "read-only"; }, true, 0),
            "a: /runs: a run cannot write there: read-only");
  EXPECT_EQ(complaint([](json& a) { a["locks"] = false; }, false, 0), "a: /runs: locks keep nobody out");
  EXPECT_EQ(complaint([](json& a) { a["free_gib"] = 0.25; }, false, 0), "a: /runs: 0.25 GiB free");
  EXPECT_EQ(complaint([](json& b) { b["memory_gib"] = 0.125; }, false), "b: 0.12 GiB of memory free");
  EXPECT_EQ(complaint([](json& b) { b["shm_gib"] = 0.0625; }, false),
            "b: /dev/shm has 0.062 GiB, through which workers of a host exchange");
  EXPECT_EQ(complaint([](json& b) { b["shm_gib"] = -1.0; }, true),
            "b: /dev/shm has 0.000 GiB, through which workers of a host exchange");
  EXPECT_EQ(complaint([](json& b) { b["usable"] = 1; }, false), "b: a worker may use 1 of 8 cores");
  EXPECT_EQ(complaint([](json& b) { b["time"] = 940.0; }, false), "b: its clock is 60 s behind that of a");
  EXPECT_EQ(complaint([](json& b) { b["gpus"] = 4; }, true), "b: 4 GPUs, a has 0");
  // A bridge of containers, the same everywhere.
  EXPECT_EQ(complaint([](json& b) { b["interfaces"]["eth0"] = "10.0.0.1"; }, false),
            "10.0.0.1 is the address of a eth0 and of b eth0");
}

TEST(Doctor, LooksAtThisHost) {
  const testing::ScratchDirectory scratch;
  const testing::Answer well = testing::lockstep_command({"doctor", "--output", scratch.path()});
  EXPECT_EQ(well.exit_code, 0) << well.out << well.err;
  EXPECT_TRUE(holds(well.out, "ready to train\n")) << well.out;
  EXPECT_TRUE(holds(well.out, "locks work")) << well.out;
  EXPECT_EQ(testing::files_in(scratch.path()), 0u) << "leaves nothing behind";
  const testing::Answer due = testing::lockstep_command({"doctor", "--output", scratch.file("runs/first")});
  EXPECT_EQ(due.exit_code, 0) << "training makes it: " << due.out;
  std::ofstream(scratch.file("absent")).put('\n');
  const testing::Answer ill = testing::lockstep_command({"doctor", "--output", scratch.file("absent/run")});
  EXPECT_EQ(ill.exit_code, 2);
  EXPECT_TRUE(holds(ill.out, "PROBLEM: ")) << ill.out;
  EXPECT_TRUE(holds(ill.out, "absent: a run cannot write there: ")) << ill.out;
  std::filesystem::create_symlink("loop", scratch.file("loop"));
  const testing::Answer lost = testing::lockstep_command({"doctor", "--output", scratch.file("loop/run")});
  EXPECT_EQ(lost.exit_code, 2) << lost.err;
  EXPECT_TRUE(holds(lost.out, "loop/run: a run cannot write there: ")) << lost.out << lost.err;
  const testing::Answer empty = testing::lockstep_command({"doctor", "--output", ""});
  EXPECT_EQ(empty.exit_code, 2);
  EXPECT_TRUE(holds(empty.err, "must not be empty")) << empty.err;
  EXPECT_EQ(testing::lockstep_command({"doctor", "--hostfile", scratch.file("hosts")}).exit_code, 2);
}

}  // namespace
}  // namespace lockstep
