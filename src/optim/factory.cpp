// The list of optimizers: a new one is its file pair and a line here.
#include "lockstep/core/error.h"
#include "lockstep/optim/adafactor.h"
#include "lockstep/optim/adagrad.h"
#include "lockstep/optim/adahessian.h"
#include "lockstep/optim/adam.h"
#include "lockstep/optim/diagonal.h"
#include "lockstep/optim/gradient_descent.h"
#include "lockstep/optim/kfac.h"
#include "lockstep/optim/lamb.h"
#include "lockstep/optim/lars.h"
#include "lockstep/optim/lion.h"
#include "lockstep/optim/minimizing.h"
#include "lockstep/optim/momentum.h"
#include "lockstep/optim/muon.h"
#include "lockstep/optim/nadam.h"
#include "lockstep/optim/nesterov.h"
#include "lockstep/optim/rmsprop.h"
#include "lockstep/optim/shampoo.h"
#include "lockstep/optim/soap.h"
#include "lockstep/optim/sophia.h"

namespace lockstep {
namespace {

struct OptimizerType {
  std::string name;
  OptimizerFactory make;
};

// The Section& form of a name that is overloaded.
using Reader = std::unique_ptr<Optimizer> (*)(Section& section);

std::vector<OptimizerType>& registered_optimizers() {
  static const auto built_in = [](const char* name, Reader make) { return OptimizerType{name, make}; };
  static const auto minimizer = [](const char* name) {
    return OptimizerType{name, [name](Section& section) { return read_minimizer(section, name); }};
  };
  static std::vector<OptimizerType> types = {
      built_in("gradient_descent", make_gradient_descent),
      built_in("sgd", make_sgd),
      built_in("momentum", make_momentum),
      built_in("nesterov", make_nesterov),
      built_in("adam", make_adam),
      built_in("adamw", make_adamw),
      built_in("nadam", make_nadam),
      built_in("adagrad", make_adagrad),
      built_in("rmsprop", make_rmsprop),
      built_in("lion", make_lion),
      built_in("lamb", make_lamb),
      built_in("lars", make_lars),
      built_in("adafactor", make_adafactor),
      built_in("muon", make_muon),
      built_in("shampoo", make_shampoo),
      built_in("soap", make_soap),
      built_in("kfac", make_kfac),
      built_in("sophia", make_sophia),
      built_in("adahessian", make_adahessian),
      built_in("diagonal", make_diagonal),
      minimizer("bfgs"),
      minimizer("lbfgs"),
      minimizer("newton"),
      minimizer("newton_cg"),
      minimizer("natural_gradient"),
      minimizer("trust_region"),
      minimizer("levenberg_marquardt"),
  };
  return types;
}

}  // namespace

void register_optimizer(const std::string& type, OptimizerFactory factory) {
  for (const std::string& known : optimizer_types()) {
    if (known == type) {
      fail(ErrorKind::kUsage, "register_optimizer: there is already an optimizer \"" + type + "\"");
    }
  }
  registered_optimizers().push_back({type, std::move(factory)});
}

std::vector<std::string> optimizer_types() {
  std::vector<std::string> names;
  for (const OptimizerType& type : registered_optimizers()) names.push_back(type.name);
  return names;
}

std::unique_ptr<Optimizer> make_optimizer(Section& section) {
  return make_optimizer(section, section.text("type", "adam", optimizer_types(), "update rule"));
}

std::unique_ptr<Optimizer> make_optimizer(Section& section, const std::string& type) {
  for (const OptimizerType& known : registered_optimizers()) {
    if (type != known.name) continue;
    Section own = section.of_type(type);
    return known.make(own);
  }
  fail(ErrorKind::kInternal, "make_optimizer: unknown type: " + type);
}

}  // namespace lockstep
