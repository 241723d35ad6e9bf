// The list of optimizers: a new one is its file pair and a line here.
#include "core/error.h"
#include "optim/adafactor.h"
#include "optim/adagrad.h"
#include "optim/adam.h"
#include "optim/diagonal.h"
#include "optim/gradient_descent.h"
#include "optim/lamb.h"
#include "optim/lars.h"
#include "optim/lion.h"
#include "optim/momentum.h"
#include "optim/muon.h"
#include "optim/nadam.h"
#include "optim/nesterov.h"
#include "optim/rmsprop.h"

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
    {"nadam", make_nadam},
    {"adagrad", make_adagrad},
    {"rmsprop", make_rmsprop},
    {"lion", make_lion},
    {"lamb", make_lamb},
    {"lars", make_lars},
    {"adafactor", make_adafactor},
    {"muon", make_muon},
    {"diagonal", make_diagonal},
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
    if (type != known.name) continue;
    Section own = section.of_type(type);
    return known.make(own);
  }
  fail(ErrorKind::kInternal, "make_optimizer: unknown type: " + type);
}

}  // namespace lockstep
