// What the [optimizer] table accepts and how it refuses the rest.
#include <gtest/gtest.h>

#include "lockstep/core/error.h"
#include "optim/problems.h"

namespace lockstep::testing {
namespace {

TEST(OptimizerConfiguration, BadValuesAreUsageErrorsThatNameTheKey) {
  const std::vector<std::pair<std::string, std::string>> bad = {
      {"type = 'adamm'", "optimizer.type"},
      {"type = ['adam']", "optimizer.type"},
      {"type = 'adam'\nbeta1 = 1.0", "optimizer.beta1: must be < 1"},
      {"type = 'adam'\nbeta1 = 1.5", "optimizer.beta1"},
      {"type = 'adam'\nbeta2 = -0.1", "optimizer.beta2"},
      {"type = 'adamw'\nbeta2 = 1", "optimizer.beta2: must be < 1"},
      {"type = 'adam'\nbeta1 = nan", "optimizer.beta1"},
      {"type = 'adam'\nepsilon = 0", "optimizer.epsilon"},
      {"type = 'adam'\nepsilon = -1e-8", "optimizer.epsilon"},
      {"type = 'adamw'\nweight_decay = -0.01", "optimizer.weight_decay"},
      {"type = 'sgd'\nweight_decay = 'yes'", "optimizer.weight_decay"},
      {"type = 'momentum'\nmomentum = 1", "optimizer.momentum: must be < 1"},
      {"type = 'momentum'\nmomentum = -0.5", "optimizer.momentum"},
      {"type = 'momentum'\nform = 'heavy'", "optimizer.form"},
      {"type = 'momentum'\nform = 'classical'\ndampening = 1.5", "optimizer.dampening"},
      {"type = 'momentum'\ndampening = 0.5", "optimizer.dampening: belongs to form"},
      {"type = 'nesterov'\nmomentum = 2", "optimizer.momentum"},
      {"type = 'nesterov'\nform = ''", "optimizer.form"},
      // Keys of other types are unknown, not ignored.
      {"type = 'sgd'\nmomentum = 0.9", "optimizer.momentum"},
      {"type = 'adam'\nmomentum = 0.9", "optimizer.momentum"},
      {"type = 'nesterov'\ndampening = 0.1", "optimizer.dampening"},
      {"type = 'momentum'\nbeta1 = 0.9", "optimizer.beta1"},
      {"type = 'adam'\nvariant = 'max'", "optimizer.variant"},
      {"type = 'nadam'\nvariant = 'amsgrad'", "optimizer.variant"},
      {"type = 'nadam'\nmomentum_decay = -1", "optimizer.momentum_decay"},
      {"type = 'adagrad'\nepsilon = 0", "optimizer.epsilon"},
      {"type = 'adagrad'\nrho = 0.9", "optimizer.rho"},
      {"type = 'rmsprop'\nrho = 1", "optimizer.rho: must be < 1"},
      {"type = 'rmsprop'\ncentered = 1", "optimizer.centered"},
      {"type = 'lion'\nbeta2 = 1", "optimizer.beta2: must be < 1"},
      {"type = 'lion'\nepsilon = 1e-8", "optimizer.epsilon"},
      {"type = 'lamb'\nepsilon = 0", "optimizer.epsilon"},
      {"type = 'lars'\ntrust = 0", "optimizer.trust"},
      {"type = 'adafactor'\ndecay_exponent = 0", "optimizer.decay_exponent"},
      {"type = 'adafactor'\nthreshold = 0", "optimizer.threshold"},
      {"type = 'adafactor'\nscale_floor = 0", "optimizer.scale_floor"},
      {"type = 'muon'\nnewton_schulz_steps = 0", "optimizer.newton_schulz_steps"},
      {"type = 'muon'\nrate_scale = 'none'", "optimizer.rate_scale"},
      {"type = 'muon'\nadamw = 'x'", "optimizer.adamw"},
      {"type = 'muon'\nmomentum = 1", "optimizer.momentum: must be < 1"},
      {"type = 'shampoo'\nbeta2 = 1.5", "optimizer.beta2"},
      {"type = 'shampoo'\nblock = 0", "optimizer.block"},
      {"type = 'shampoo'\nroot_every = 0", "optimizer.root_every"},
      {"type = 'shampoo'\ngrafting = 'muon'", "optimizer.grafting"},
      {"type = 'shampoo'\nroot_epsilon = 0", "optimizer.root_epsilon"},
      {"type = 'shampoo'\nbasis_every = 3", "optimizer.basis_every"},
      {"type = 'soap'\nbeta2 = 1", "optimizer.beta2: must be < 1"},
      {"type = 'soap'\nbasis_every = 0", "optimizer.basis_every"},
      {"type = 'diagonal'\nmemory = 1", "optimizer.memory: must be < 1"},
      {"type = 'diagonal'\ninitial_curvature = 0", "optimizer.initial_curvature"},
      {"type = 'diagonal'\nsmallest_curvature = -1", "optimizer.smallest_curvature"},
  };
  for (const auto& [toml, message] : bad) {
    try {
      optimizer_from(toml);
      ADD_FAILURE() << toml;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUsage) << toml << ": " << error.what();
      EXPECT_NE(std::string(error.what()).find(message), std::string::npos) << error.what();
    }
  }
}

TEST(OptimizerConfiguration, UnknownTypeListsTheKnownOnes) {
  try {
    optimizer_from("type = 'tiger'");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    for (const std::string& type : optimizer_types()) {
      EXPECT_NE(std::string(error.what()).find(type), std::string::npos) << error.what();
    }
  }
}

TEST(OptimizerConfiguration, TypeThatTheProgramMakesUpIsAnInternalError) {
  Configuration configuration = Configuration::parse("", "test.toml", {});
  Section section = configuration.section("optimizer");
  try {
    make_optimizer(section, "tiger");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInternal);
  }
}

TEST(OptimizerConfiguration, DefaultsToAdam) {
  EXPECT_EQ(optimizer_from("")->type(), "adam");
}

TEST(OptimizerConfiguration, ResolvedTextMakesTheSameOptimizer) {
  for (const std::string& type : optimizer_types()) {
    Configuration configuration =
        Configuration::parse("[optimizer]\ntype = '" + type + "'\n", "test.toml", {});
    Section section = configuration.section("optimizer");
    make_optimizer(section);
    Configuration again = Configuration::parse(configuration.resolved(), "resolved.toml", {});
    Section resolved = again.section("optimizer");
    EXPECT_EQ(make_optimizer(resolved)->type(), type);
    again.reject_unknown();
    EXPECT_EQ(again.resolved(), configuration.resolved());
  }
}

TEST(OptimizerConfiguration, DescribesTheKeysOfEveryType) {
  Configuration configuration = Configuration::for_description();
  for (const std::string& type : optimizer_types()) {
    Section section = configuration.section("optimizer");
    make_optimizer(section, type);
  }
  std::string description;
  for (const KeyDescription& key : configuration.keys()) {
    description += key.key + " ";
    EXPECT_NE(key.of_type, "") << key.key;
  }
  for (const char* key : {"weight_decay",
                          "momentum",
                          "dampening",
                          "form",
                          "beta1",
                          "beta2",
                          "epsilon",
                          "variant",
                          "rho",
                          "centered",
                          "momentum_decay",
                          "trust",
                          "decay_exponent",
                          "threshold",
                          "scale_floor",
                          "newton_schulz_steps",
                          "rate_scale",
                          "nesterov",
                          "adamw",
                          "memory",
                          "initial_curvature",
                          "smallest_curvature"}) {
    EXPECT_NE(description.find(key), std::string::npos) << key << "\n" << description;
  }
}

}  // namespace
}  // namespace lockstep::testing
