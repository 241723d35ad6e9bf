// Names of initial distributions.
#include "lockstep/nn/initialization.h"

#include <algorithm>

namespace lockstep {

namespace {

struct NamedKind {
  const char* name;
  Initializer::Kind kind;
};

constexpr NamedKind kKinds[] = {{"he_normal", Initializer::Kind::kHeNormal},
                                {"he_uniform", Initializer::Kind::kHeUniform},
                                {"xavier_normal", Initializer::Kind::kXavierNormal},
                                {"xavier_uniform", Initializer::Kind::kXavierUniform}};

}  // namespace

Initializer::Kind read_initialization(Section& keys, Initializer::Kind fallback) {
  std::vector<std::string> names;
  for (const NamedKind& known : kKinds) names.emplace_back(known.name);
  const std::string name =
      keys.text("initialization", std::ranges::find(kKinds, fallback, &NamedKind::kind)->name, names,
                "distribution of the initial weights; biases start at 0");
  return std::ranges::find(kKinds, name, &NamedKind::name)->kind;
}

}  // namespace lockstep
