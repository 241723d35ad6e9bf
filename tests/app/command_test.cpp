// The command line, called as a function: help, version, description, and what it refuses.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "app/run_main.h"
#include "hdf5/scratch_directory.h"
#include "nn/module.h"
#include "optim/optimizer.h"
#include "optim/schedule.h"

namespace lockstep {
namespace {

struct Answer {
  int exit_code;
  std::string out, err;
};

Answer lockstep_command(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "lockstep");
  std::vector<char*> pointers;
  for (std::string& argument : arguments) pointers.push_back(argument.data());
  ::testing::internal::CaptureStdout();
  ::testing::internal::CaptureStderr();
  const int exit_code = run_main(static_cast<int>(pointers.size()), pointers.data());
  std::string out = ::testing::internal::GetCapturedStdout();
  return {exit_code, std::move(out), ::testing::internal::GetCapturedStderr()};
}

bool holds(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(Command, HelpOfEverySubcommandShowsAnExampleOfItself) {
  const Answer all = lockstep_command({"--help"});
  EXPECT_EQ(all.exit_code, 0);
  EXPECT_TRUE(holds(all.out, "Examples:\n  lockstep train ")) << all.out;
  EXPECT_TRUE(holds(all.out, "Exit codes: 0 done")) << all.out;
  for (const std::string command : {"train", "eval", "prepare", "inspect", "diff", "config"}) {
    EXPECT_TRUE(holds(all.out, "\n  " + command)) << command << " is not listed: " << all.out;
    const Answer help = lockstep_command({command, "--help"});
    EXPECT_EQ(help.exit_code, 0) << command;
    EXPECT_EQ(help.err, "") << command;
    const size_t example = help.out.find("Example");
    ASSERT_NE(example, std::string::npos) << command << ": " << help.out;
    EXPECT_NE(help.out.find("lockstep " + command + " ", example), std::string::npos) << help.out;
  }
}

TEST(Command, VersionSaysWhatIsBuiltIn) {
  const Answer version = lockstep_command({"--version"});
  EXPECT_EQ(version.exit_code, 0);
  for (const char* part : {"lockstep ", "HDF5", "own kernels", "MPI"})
    EXPECT_TRUE(holds(version.out, part)) << version.out;
}

TEST(Command, DescriptionListsEveryTypeAndTheKeysOfEachWithRangeAndDefault) {
  const Answer description = lockstep_command({"config", "--describe"});
  EXPECT_EQ(description.exit_code, 0) << description.err;
  std::vector<std::string> parts;
  for (const std::string& type : model_types()) parts.push_back('"' + type + '"');
  for (const std::string& type : optimizer_types()) parts.push_back('"' + type + '"');
  for (const std::string& type : schedule_types()) parts.push_back('"' + type + '"');
  for (const char* section : {"run", "data", "train", "model", "optimizer", "schedule", "clip", "precision",
                              "parallel", "checkpoint", "device"}) {
    parts.push_back(std::string("[") + section + "]");
  }
  for (const char* key : {"seed", "validation_fraction", "micro_batches", "hidden", "dropout", "channels",
                          "strides", "learning_rate", "weight_decay", "beta1", "warmup", "minimum_factor",
                          "global_norm", "compute", "reduction", "keep_every", "threads"}) {
    parts.push_back(std::string("\n  ") + key + ' ');
  }
  for (const std::string& part : parts)
    EXPECT_TRUE(holds(description.out, part)) << part << " is not described";
  // Every layer type of a sequential model.
  for (const char* layer :
       {"linear", "convolution", "batch_norm", "layer_norm", "embedding", "max_pool", "flatten"}) {
    EXPECT_TRUE(holds(description.out, std::string("\"") + layer + '"')) << layer;
  }
}

TEST(Command, WhatItDoesNotKnowExitsWith2InOneLineThatPointsToHelp) {
  const std::vector<std::vector<std::string>> table = {
      {},
      {"fly"},
      {"train"},
      {"train", "a.toml", "--fast"},
      {"train", "a.toml", "--output"},
      {"train", "a.toml", "--resume", "--overwrite"},
      {"train", "a.toml", "--output", ""},
      {"eval", "a.toml"},
      {"prepare", "a.csv"},
      {"prepare", "a.csv", "b.h5", "--classes", "many"},
      {"prepare", "a.csv", "b.h5", "--format", "xml"},
      {"inspect"},
      {"diff", "a.h5"},
      {"config", "extra"},
  };
  for (const std::vector<std::string>& arguments : table) {
    const Answer answer = lockstep_command(arguments);
    SCOPED_TRACE(arguments.empty() ? "no arguments" : arguments.back());
    EXPECT_EQ(answer.exit_code, 2);
    EXPECT_EQ(answer.out, "");
    EXPECT_EQ(answer.err.rfind("error: ", 0), 0u) << answer.err;
    EXPECT_EQ(answer.err.find("(see lockstep --help)\n"), answer.err.size() - 22) << answer.err;
  }
}

TEST(Command, PrepareConvertsAndInspectAndDiffRefuseWhatIsNoCheckpoint) {
  const testing::ScratchDirectory scratch;
  testing::overwrite(scratch.file("a.csv"), "x,y,kind\n1,2,0\n3,4,1\n5,6,1\n");
  const Answer prepared = lockstep_command({"prepare", scratch.file("a.csv"), scratch.file("a.h5")});
  EXPECT_EQ(prepared.exit_code, 0) << prepared.err;
  EXPECT_TRUE(holds(prepared.err, "a.h5: 3 samples of (2), 2 classes")) << prepared.err;
  const Answer intact = lockstep_command({"inspect", "--verify", scratch.file("a.h5")});
  EXPECT_EQ(intact.exit_code, 0) << intact.err;
  EXPECT_TRUE(holds(intact.out, "a.h5: intact: 3 samples, 2 blocks, digest ")) << intact.out;
  std::string damaged = testing::bytes_of(scratch.file("a.h5"));
  const float second_row = 4.0f;
  const size_t at =
      damaged.find(std::string(reinterpret_cast<const char*>(&second_row), sizeof second_row), 4096);
  ASSERT_NE(at, std::string::npos);
  damaged[at] ^= 1;
  testing::overwrite(scratch.file("damaged.h5"), damaged);
  const Answer broken = lockstep_command({"inspect", "--verify", scratch.file("damaged.h5")});
  EXPECT_EQ(broken.exit_code, 3);
  EXPECT_TRUE(holds(broken.out, "damaged.h5: damaged: the checksum of block 0 of /x differs")) << broken.out;
  EXPECT_TRUE(holds(broken.out, "sample rows 1 to 3")) << broken.out;
  EXPECT_TRUE(holds(broken.err, "1 of 2 blocks are damaged")) << broken.err;
  const Answer onto_itself = lockstep_command({"prepare", scratch.file("a.csv"), scratch.file("a.csv")});
  EXPECT_EQ(onto_itself.exit_code, 2);
  EXPECT_TRUE(holds(onto_itself.err, "a.csv: is the file that was read: not replaced")) << onto_itself.err;
  for (const std::vector<std::string>& arguments : {std::vector<std::string>{"inspect", scratch.file("a.h5")},
                                                    {"diff", scratch.file("a.h5"), scratch.file("a.h5")}}) {
    const Answer answer = lockstep_command(arguments);
    EXPECT_EQ(answer.exit_code, 4) << answer.out;
    EXPECT_EQ(answer.err.find('\n'), answer.err.size() - 1) << answer.err;
    EXPECT_TRUE(holds(answer.err, "a.h5: ")) << answer.err;
  }
}

}  // namespace
}  // namespace lockstep
