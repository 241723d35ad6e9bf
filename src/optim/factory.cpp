// The list of optimizers: a new one is its file pair and a line here.
#include "core/error.h"
#include "optim/adam.h"
#include "optim/gradient_descent.h"
#include "optim/momentum.h"
#include "optim/nesterov.h"

namespace lockstep {
namespace {

struct OptimizerType {
  const char* name;
  std::unique_ptr<Optimizer> (*make)(Section& section);
};

constexpr OptimizerType kOptimizerTypes[] = {
    {"gradient_descent", make_gradient_descent},
    {"sgd", make_sgd},
    {"momentum", make_momentum},
    {"nesterov", make_nesterov},
    {"adam", make_adam},
    {"adamw", make_adamw},
};

}  // namespace

std::vector<std::string> optimizer_types() {
  std::vector<std::string> names;
  for (const OptimizerType& type : kOptimizerTypes) names.emplace_back(type.name);
  return names;
}

std::unique_ptr<Optimizer> make_optimizer(Section& section) {
  return make_optimizer(section, section.text("type", "adam", optimizer_types(), "update rule"));
}

std::unique_ptr<Optimizer> make_optimizer(Section& section, const std::string& type) {
  for (const OptimizerType& known : kOptimizerTypes) {
    if (type == known.name) return known.make(section);
  }
  fail(ErrorKind::kInternal, "make_optimizer: unknown type: " + type);
}

}  // namespace lockstep
