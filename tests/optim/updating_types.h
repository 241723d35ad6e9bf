// The optimizers that update by a gradient, for tests that go through all of them.
#pragma once

#include <string>
#include <vector>

#include "lockstep/optim/optimizer.h"

namespace lockstep::testing {

// optimizer_types() but for minimizers, which look at the objective by themselves.
inline std::vector<std::string> updating_types() {
  std::vector<std::string> types;
  for (const std::string& type : optimizer_types()) {
    Configuration configuration = Configuration::parse("", "test.toml", {});
    Section section = configuration.section("optimizer");
    if (make_optimizer(section, type)->minimization() == nullptr) types.push_back(type);
  }
  return types;
}

}  // namespace lockstep::testing
