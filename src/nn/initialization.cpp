// Names of initial distributions.
#include "lockstep/nn/initialization.h"

namespace lockstep {

Initializer::Kind read_initialization(Section& keys) {
  const std::string name =
      keys.text("initialization", "he_normal", {"he_normal", "he_uniform", "xavier_normal", "xavier_uniform"},
                "distribution of the initial weights; biases start at 0");
  if (name == "he_normal") return Initializer::Kind::kHeNormal;
  if (name == "he_uniform") return Initializer::Kind::kHeUniform;
  if (name == "xavier_normal") return Initializer::Kind::kXavierNormal;
  return Initializer::Kind::kXavierUniform;
}

}  // namespace lockstep
