// The transformer of the shipped configuration: what it learns, and that workers do not change it.
#include "e2e/training_run.h"

namespace lockstep::testing {
namespace {

std::vector<std::string> shipped(const std::string& output) {
  return {LOCKSTEP_ROOT "/configs/digits_transformer.toml", "--output", output, "--set",
          "data.train=" LOCKSTEP_ROOT "/configs/data/digits.h5"};
}

TEST(Transformer, ReadsDigitsRowByRow) {
  const ScratchDirectory scratch;
  std::vector<std::string> arguments = shipped(scratch.file("run"));
  arguments.insert(arguments.end(), {"--set", "train.epochs=15"});  // half of the shipped ones
  train(kNoLauncher, arguments);
  const std::vector<nlohmann::json> lines = metrics_of(scratch.file("run"));
  ASSERT_FALSE(lines.empty());
  EXPECT_GE(lines.back().value("validation_accuracy", 0.0), 0.95);
}

TEST(Transformer, HasTheSameStateOnOneTwoAndThreeWorkers) {
  const ScratchDirectory scratch;
  const auto digest = [&](int workers) {
    const std::string output = scratch.file(std::to_string(workers));
    std::vector<std::string> arguments = shipped(output);
    arguments.insert(arguments.end(), {"--set", "train.epochs=0", "--set", "train.steps=20"});
    train(workers, arguments);
    return digest_of(checkpoint_of(output, 20));
  };
  const std::string expected = digest(kNoLauncher);
  for (const int workers : {2, 3}) EXPECT_EQ(digest(workers), expected) << workers << " workers";
}

}  // namespace
}  // namespace lockstep::testing
