// The command line, called as a function: help, version, description, and what it refuses.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "app/command_answer.h"
#include "hdf5/scratch_directory.h"
#include "lockstep/hdf5/file.h"
#include "lockstep/nn/module.h"
#include "lockstep/optim/optimizer.h"
#include "lockstep/optim/schedule.h"
#include "lockstep/train/settings.h"

namespace lockstep {
namespace {

using testing::Answer;
using testing::holds;
using testing::lockstep_command;

TEST(Command, HelpOfEverySubcommandShowsAnExampleOfItself) {
  const Answer all = lockstep_command({"--help"});
  EXPECT_EQ(all.exit_code, 0);
  EXPECT_TRUE(holds(all.out, "Examples:\n  lockstep train ")) << all.out;
  EXPECT_TRUE(holds(all.out, "Exit codes: 0 done")) << all.out;
  for (const std::string command : {"train", "eval", "curvature", "prepare", "tokenize", "tokenizer",
                                    "landscape", "watch", "report", "doctor", "inspect", "diff", "config"}) {
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

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

TEST(Command, DescriptionHasAtMost100ColumnsAndOnePartATypeThatReadsAKey) {
  const Answer description = lockstep_command({"config", "--describe"});
  for (const std::string& line : lines_of(description.out)) EXPECT_LE(line.size(), 100u) << line;
  // weight_decay: adam adds it to the gradient, adamw has a default of its own.
  for (const char* heading :
       {"[optimizer] type = \"adam\"", "[optimizer] type = \"adamw\"", "[schedule] type = \"cosine\"",
        "[average] type = \"swa\"", "[model] type = \"mlp\"", "[[model.layers]] type = \"linear\""}) {
    EXPECT_TRUE(holds(description.out, "\n" + std::string(heading) + "\n")) << heading;
  }
}

TEST(Command, DescriptionOfAPartHasItsKeysAndThoseOfAnyType) {
  const std::string adamw = lockstep_command({"config", "--describe", "optimizer.adamw"}).out;
  EXPECT_EQ(adamw.rfind("[optimizer]\n", 0), 0u) << adamw;
  EXPECT_TRUE(holds(adamw, "\n[optimizer] type = \"adamw\"\n")) << adamw;
  EXPECT_TRUE(holds(adamw, "\n  learning_rate ")) << adamw;
  EXPECT_TRUE(holds(adamw, "\n  weight_decay  0.01 ")) << adamw;
  EXPECT_FALSE(holds(adamw, "\"adam\"\n")) << adamw;
  EXPECT_FALSE(holds(adamw, "\n  momentum ")) << adamw;
  const std::string layer = lockstep_command({"config", "--describe", "model.layers.linear"}).out;
  EXPECT_EQ(layer.rfind("[[model.layers]]\n", 0), 0u) << layer;
  EXPECT_TRUE(holds(layer, "\n  units ")) << layer;
  EXPECT_FALSE(holds(layer, "kernel ")) << layer;
  const std::string section = lockstep_command({"config", "--describe", "model"}).out;
  EXPECT_TRUE(holds(section, "[model]\n") && holds(section, "[[model.layers]] type = \"dropout\"\n"))
      << section;
  // A key: of each type that reads it.
  const std::string key = lockstep_command({"config", "--describe", "optimizer.beta2"}).out;
  EXPECT_EQ(key.rfind("[optimizer] type = ", 0), 0u) << key;
  EXPECT_TRUE(holds(key, "[optimizer] type = \"lion\"\n  beta2  0.99  ")) << key;
  EXPECT_FALSE(holds(key, "beta1")) << key;
  EXPECT_EQ(lines_of(lockstep_command({"config", "--describe", "train.steps"}).out).size(), 3u);
}

TEST(Command, DescriptionOfAPartThatIsNotThereNamesTheNearest) {
  const std::pair<const char*, const char*> cases[] = {
      {"optimizer.adamv",
       "config: no part \"optimizer.adamv\": did you mean optimizer.adam or optimizer.adamw"},
      {"adamw", "did you mean optimizer.adamw?"},
      {"optimzer", "did you mean optimizer?"},
      {"train.step", "did you mean train.steps"},
      {"optimizer.cosine", "did you mean schedule.cosine?"},
      {"zzzzzzzzzzzzzzzzzzzz", "there are run, data, train, lora, optimizer"},
  };
  for (const auto& [part, message] : cases) {
    const Answer answer = lockstep_command({"config", "--describe", part});
    EXPECT_EQ(answer.exit_code, 2) << part;
    EXPECT_EQ(answer.out, "") << part;
    EXPECT_TRUE(holds(answer.err, message)) << answer.err;
    EXPECT_EQ(answer.err.find('\n'), answer.err.size() - 1) << answer.err;
  }
}

TEST(Command, DescriptionAsJsonHasEveryKeyWithTypeRangeDefaultAndMeaning) {
  const Answer answer = lockstep_command({"config", "--describe", "--json"});
  const nlohmann::json keys = nlohmann::json::parse(answer.out);
  EXPECT_EQ(keys.size(), described_keys().size());
  const auto find = [&](const std::string& section, const nlohmann::json& type, const std::string& name) {
    for (const nlohmann::json& key : keys) {
      if (key["section"] == section && key["of_type"] == type && key["key"] == name) return key;
    }
    ADD_FAILURE() << section << "." << name << " is not there";
    return nlohmann::json();
  };
  EXPECT_EQ(
      find("optimizer", "lion", "beta2"),
      nlohmann::json::parse(R"({"section": "optimizer", "in_list": false, "of_type": "lion", "key": "beta2",
                "type": "real", "minimum": 0.0, "maximum": 1.0, "minimum_excluded": false, "choices": null,
                "required": false, "default": 0.99,
                "meaning": "lion: share of the momentum kept each step; less than 1"})"));
  EXPECT_EQ(find("optimizer", "adam", "beta2")["default"], 0.999);
  const nlohmann::json path = find("data", nullptr, "train");
  EXPECT_TRUE(path["required"]);
  EXPECT_EQ(path["default"], nullptr);
  EXPECT_EQ(path["minimum"], nullptr);
  EXPECT_EQ(find("data", nullptr, "last_batch")["choices"], (nlohmann::json{"drop", "pad"}));
  EXPECT_EQ(find("model", "mlp", "hidden")["default"], (nlohmann::json{128}));
  EXPECT_EQ(find("parallel", nullptr, "timeout")["minimum_excluded"], true);
  EXPECT_EQ(find("run", nullptr, "seed")["default"], 0);
  EXPECT_EQ(find("run", nullptr, "seed")["maximum"].dump(), "9007199254740992");
  EXPECT_TRUE(find("model.layers", "linear", "units")["in_list"]);
  for (const nlohmann::json& key : keys) {
    EXPECT_NE(key["meaning"], "") << key;
    EXPECT_EQ(key.size(), 12u) << key;
  }
  const Answer part = lockstep_command({"config", "--describe", "train.steps", "--json"});
  EXPECT_EQ(nlohmann::json::parse(part.out).size(), 1u);
}

TEST(Command, SeveralOverridesMayFollowOneSetAndNoneIsTakenForTheConfiguration) {
  const testing::ScratchDirectory scratch;
  const std::string file = scratch.file("run.toml");
  testing::overwrite(file, "[run]\nname = \"file\"\n");
  // Every override is seen: the last one is refused, and the file is the one that is meant.
  const std::vector<std::vector<std::string>> table = {
      {"train", file, "--set", "run.name=x", "run.seed=-7"},
      {"train", "--set", "run.name=x", "run.seed=-7", file},
      {"train", "--set=run.name=x", "run.seed=-7", file},
      {"train", "--set", "run.name=x", file, "--set", "run.seed=3", "run.seed=-7"},
      {"train", "--set", "run.name=x", "run.seed=-7", "--verbose", file},
      {"train", file, "--set", "run.seed=3", "model.layers[0].units=2", "run.seed=-7", "--resume"},
      {"train", file, "--set", "run.seed=-7", "--output=x", "--device=cpu"},
  };
  for (const std::vector<std::string>& arguments : table) {
    const Answer answer = lockstep_command(arguments);
    EXPECT_EQ(answer.exit_code, 2);
    EXPECT_TRUE(holds(answer.err, "--set: run.seed: must be in [0, ")) << answer.err;
    EXPECT_TRUE(holds(answer.err, "got -7")) << answer.err;
  }
  // Without --set before it an override is no override; the first word behind --set always is one.
  EXPECT_TRUE(holds(lockstep_command({"train", file, "run.seed=1"}).err, "run.seed=1")) << "not refused";
  EXPECT_TRUE(
      holds(lockstep_command({"train", file, "--set", "seed"}).err, "--set \"seed\": must be of the form"));
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
      {"curvature", "a.toml"},
      {"prepare", "a.csv"},
      {"prepare", "a.csv", "b.h5", "--classes", "many"},
      {"prepare", "a.csv", "b.h5", "--format", "xml"},
      {"prepare", "a.csv", "b.h5", "--ignore-label", ""},
      {"prepare", "a.csv", "b.h5", "--classes", ""},
      {"tokenize", "a.txt", "--tokenizer", "bytes", "--output", "b.h5", "--threads", ""},
      {"generate", "--checkpoint", "a.h5", "--seed", "9007199254740993"},
      {"generate", "--checkpoint", "a.h5", "--temperature", ""},
      {"inspect"},
      {"diff", "a.h5"},
      {"config", "extra"},
      {"config", "--json"},
      {"config", "--describe", "optimizer", "schedule"},
      {"train", "--set", "a.b=1", "c.d=2"},
      {"train", "--set", "a.b=1", "a.toml", "b.toml"},
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

TEST(Command, WhatIsMisspeltIsAnsweredWithTheNearestName) {
  const std::pair<std::vector<std::string>, const char*> cases[] = {
      {{"trian", "a.toml"}, "\"trian\": no such command: did you mean train?"},
      {{"evall", "a.toml"}, "no such command: did you mean eval?"},
      {{"zzzzzzzz"}, "no such command: choose one of train, "},
      {{"train", "a.toml", "--outptu=x"}, "--outptu=x: did you mean --output?"},
      {{"prepare", "a.csv", "b.h5", "--clases", "3"}, ": did you mean --classes?"},
      {{"tokenizer", "trian", "a.txt"}, ": did you mean train?"},
  };
  for (const auto& [arguments, expected] : cases) {
    const Answer answer = lockstep_command(arguments);
    EXPECT_EQ(answer.exit_code, 2) << expected;
    EXPECT_TRUE(holds(answer.err, expected)) << answer.err;
    EXPECT_EQ(answer.err.find('\n'), answer.err.size() - 1) << answer.err;
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
  testing::ScratchDirectory stranger;
  Hdf5File::create(stranger.file("b.h5"), ErrorKind::kData, 0).close();
  const Answer unsealed = lockstep_command({"inspect", "--verify", stranger.file("b.h5")});
  EXPECT_EQ(unsealed.exit_code, 2);
  EXPECT_TRUE(holds(unsealed.err, "b.h5: has no seal to verify")) << unsealed.err;
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
