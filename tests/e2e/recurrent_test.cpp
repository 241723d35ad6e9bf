// Recurrent networks from the shipped configurations: what they learn, and what clipping saves them from.
#include "e2e/training_run.h"

namespace lockstep::testing {
namespace {

const std::string kConfigurations = LOCKSTEP_ROOT "/configs/";

// Arguments of a run of a shipped configuration, whose paths are relative to the repository.
std::vector<std::string> shipped(const std::string& name, const std::string& output) {
  return {kConfigurations + name,
          "--output",
          output,
          "--set",
          "data.train=" LOCKSTEP_ROOT "/configs/data/digits.h5",
          "--set",
          "train.log_every=1"};
}

double final_accuracy(const std::string& output) {
  const std::vector<nlohmann::json> lines = metrics_of(output);
  return lines.empty() ? 0.0 : lines.back().value("validation_accuracy", 0.0);
}

TEST(Recurrent, LstmReadsDigitsRowByRow) {
  const ScratchDirectory scratch;
  train(kNoLauncher, shipped("digits_lstm.toml", scratch.file("run")));
  EXPECT_GE(final_accuracy(scratch.file("run")), 0.95);
}

TEST(Recurrent, ExplodingGradientsDivergeWithoutClippingAndTrainWithIt) {
  const ScratchDirectory scratch;
  train(kNoLauncher, shipped("exploding_gradients_rnn.toml", scratch.file("clipped")));
  EXPECT_GE(final_accuracy(scratch.file("clipped")), 0.9);

  std::vector<std::string> arguments = shipped("exploding_gradients_rnn.toml", scratch.file("free"));
  arguments.insert(arguments.begin(), "train");
  arguments.insert(arguments.end(), {"--set", "clip.global_norm=0"});
  const Outcome free = run(kNoLauncher, arguments);
  EXPECT_EQ(free.exit_code, 5) << free.err;
  EXPECT_NE(free.err.find("diverged"), std::string::npos) << free.err;

  // Both start from the same gradient, whose norm is logged before clipping.
  const double norm = metrics_of(scratch.file("clipped")).at(0).at("gradient_norm").get<double>();
  EXPECT_EQ(metrics_of(scratch.file("free")).at(0).at("gradient_norm").get<double>(), norm);
  EXPECT_GT(norm, 100.0);
}

}  // namespace
}  // namespace lockstep::testing
