// Minimizers as optimizers: their keys, and their state as slots.
#include "lockstep/optim/minimizing.h"

#include <fmt/format.h>

#include <cmath>
#include <utility>

#include "lockstep/core/error.h"

namespace lockstep {
namespace {

class MinimizingOptimizer final : public Optimizer {
 public:
  MinimizingOptimizer(std::unique_ptr<Minimizer> minimizer, double tolerance, std::string asked_by)
      : minimizer_(std::move(minimizer)), minimization_{minimizer_.get(), tolerance, std::move(asked_by)} {}

  std::string type() const override { return minimizer_->type(); }
  const Minimization* minimization() const override { return &minimization_; }

  void allocate(const std::vector<ParameterEntry>& parameters, int64_t, const std::vector<ElementRange>&,
                DType, Backend&) override {
    size_ = 0;
    for (const ParameterEntry& entry : parameters) size_ += entry.shape.elements();
  }

  // Copies: the minimizer's vectors are not tensors, and of fp64 whatever the parameters are.
  std::vector<OptimizerSlot> slots() override {
    std::vector<OptimizerSlot> slots;
    for (const auto& [name, values] : minimizer_->state(size_)) {
      const Shape shape{static_cast<int64_t>(values.size())};
      slots.push_back({name, Tensor::from(shape, values, cpu_backend()), {{"all", shape, 0}}});
    }
    return slots;
  }
  void slots_restored(const std::vector<OptimizerSlot>& slots) override {
    std::map<std::string, RealVector> state;
    for (const OptimizerSlot& slot : slots) state[slot.name] = slot.values.to_vector<double>();
    minimizer_->set_state(state);
  }

  void update(const UpdateContext&) override {
    fail(ErrorKind::kInternal, fmt::format("{}: steps by its minimizer, not by update()", type()));
  }

 private:
  std::unique_ptr<Minimizer> minimizer_;
  Minimization minimization_;
  int64_t size_ = 0;
};

// Beside a rate, which says how long steps are.
void refuse_line_search(const Section& section) {
  if (section.has("line_search")) {
    section.reject("line_search", "steps of a rate are as long as that: leave out one of both");
  }
}

// [optimizer.line_search], but for its type.
LineSearchOptions read_line_search(Section& search, LineSearchOptions options) {
  options.decrease = search.real("decrease", options.decrease, {0.0, 1.0, true},
                                 "c1: share of the slope's promise that a step has to keep");
  options.curvature = search.real("curvature", options.curvature, {0.0, 1.0, true},
                                  "c2: what may be left of the slope; not of armijo");
  options.most_trials = static_cast<int>(search.integer("most_trials", options.most_trials, {1, 1000},
                                                        "evaluations, then the best point is taken"));
  options.longest_step =
      search.real("longest_step", options.longest_step, kPositive, "in lengths of the direction");
  options.flat = search.real("flat", options.flat, {0.0, 0.999},
                             "share of the value below which slopes alone tell progress; 0: none");
  check(options);
  return options;
}

LineSearchOptions read_line_search(Section& section, const std::string& owner,
                                   LineSearchOptions options = {}) {
  Section search = section.table("line_search").of_type(owner);
  options.type = search.text("type", options.type, {"strong_wolfe", "more_thuente", "armijo"},
                             "how far to go along a direction; armijo looks at values alone");
  return read_line_search(search, options);
}

double read_tolerance(Section& section) {
  return section.real("tolerance", kDefaultTolerance, kNonNegative,
                      "largest |element| of the gradient at which the run is over");
}

std::string read_matrix(Section& section, const std::string& fallback) {
  return section.text("matrix", fallback, {"hessian", "gauss_newton"},
                      "second derivatives of the objective, or their positive semidefinite part");
}

int read_most_products(Section& section, int fallback) {
  return static_cast<int>(section.integer("most_products", fallback, {1, 1 << 20},
                                          "products with the matrix in a step, each a sweep"));
}

std::unique_ptr<Minimizer> read_lbfgs(Section& section) {
  LbfgsOptions options;
  options.history = static_cast<int>(section.integer("history", options.history, {1, 10000},
                                                     "differences that are kept: 2 history fp64 numbers a "
                                                     "parameter, on every worker"));
  options.pair = section.text("pair", options.pair, {"damp", "reject"},
                              "what becomes of a difference with too little curvature");
  options.least_curvature = section.real("least_curvature", options.least_curvature, {0.0, 0.999, true},
                                         "share of the curvature before, below which it is too little");
  options.overlap = static_cast<int>(section.integer(
      "overlap", options.overlap, {0, 1 << 20},
      "micro-batches of train.micro_batches that a batch shares with the next one, over which "
      "differences of gradients are taken: a step asks for one gradient then, and line_search.type "
      "is \"armijo\" by default; 0: differences over the whole batch"));
  options.rate = section.real("rate", options.rate, kNonNegative,
                              "length of every step along the direction; 0: by line search");
  if (options.rate > 0.0) {
    refuse_line_search(section);
    return make_lbfgs(options);
  }
  // Others ask for gradients on the way.
  if (options.overlap > 0) options.line_search.type = "armijo";
  options.line_search = read_line_search(section, "lbfgs", options.line_search);
  return make_lbfgs(options);
}

std::unique_ptr<Minimizer> read_newton(Section& section) {
  NewtonOptions options;
  options.floor = section.real("floor", options.floor, {0.0, 0.999, true},
                               "least |eigenvalue| of an indefinite Hessian, as a share of the largest");
  options.line_search = read_line_search(section, "newton");
  return make_newton(options);
}

std::unique_ptr<Minimizer> read_newton_cg(Section& section) {
  NewtonCgOptions options;
  options.matrix = read_matrix(section, options.matrix);
  options.damping = section.real("damping", options.damping, kNonNegative,
                                 "added to the matrix, of the first step; of later ones as well as the model "
                                 "predicts (Hessian-free); 0: none");
  options.preconditioner_products =
      static_cast<int>(section.integer("preconditioner_products", options.preconditioner_products, {0, 10000},
                                       "products with random signs a step, to estimate the diagonal that "
                                       "preconditions its directions; 0: none does"));
  options.most_products = read_most_products(section, options.most_products);
  options.first_forcing = section.real("first_forcing", options.first_forcing, {0.0, 0.999, true},
                                       "share of the gradient that the first direction may leave");
  options.most_forcing =
      section.real("most_forcing", options.most_forcing, {0.0, 0.999, true}, "the same of any direction");
  options.line_search = read_line_search(section, "newton_cg");
  return make_newton_cg(options);
}

std::unique_ptr<Minimizer> read_natural_gradient(Section& section) {
  NaturalGradientOptions options;
  options.damping = section.real("damping", options.damping, {1e-30}, "added to the Fisher information");
  options.most_products = read_most_products(section, options.most_products);
  options.residual = section.real("residual", options.residual, {0.0, 0.999, true},
                                  "share of the gradient that conjugate gradients may leave");
  options.rate = section.real("rate", options.rate, kNonNegative,
                              "length of every step along the natural gradient; 0: by line search");
  if (options.rate > 0.0) {
    refuse_line_search(section);
  } else {
    options.line_search = read_line_search(section, "natural_gradient");
  }
  return make_natural_gradient(options);
}

std::unique_ptr<Minimizer> read_levenberg_marquardt(Section& section) {
  LevenbergMarquardtOptions options;
  options.solver =
      section.text("solver", options.solver, {"auto", "qr", "cg"},
                   "qr keeps the derivative of every output by every parameter; cg takes products; "
                   "auto: qr up to 4096 parameters");
  if (options.solver != "qr") {
    options.residual = section.real("residual", options.residual, {0.0, 0.999, true},
                                    "of cg: share of the gradient that conjugate gradients may leave");
    options.most_products = read_most_products(section, options.most_products);
  }
  options.initial_radius = section.real("initial_radius", options.initial_radius, kPositive,
                                        "of the first step, in scaled parameters; small: along the gradient");
  options.largest_radius =
      section.real("largest_radius", options.largest_radius, kPositive, "the same of any");
  options.accept = section.real("accept", options.accept, {0.0, 0.999},
                                "least ratio of actual and predicted decrease of a step that is taken");
  if (options.solver != "cg") {
    options.acceleration = section.real(
        "acceleration", options.acceleration, kNonNegative,
        "of qr: steps that bend by more than this share of their length are not taken; 0: none bends");
  }
  return make_levenberg_marquardt(options);
}

std::unique_ptr<Minimizer> read_trust_region(Section& section) {
  TrustRegionOptions options;
  options.solver = section.text("solver", options.solver, {"steihaug", "dogleg", "exact"},
                                "of the model within the radius; the last two keep the dense matrix");
  options.matrix = read_matrix(section, options.matrix);
  options.initial_radius =
      section.real("initial_radius", options.initial_radius, kPositive,
                   "longest first step; longer where the loss's digits cannot tell what it promises");
  options.largest_radius =
      section.real("largest_radius", options.largest_radius, kPositive, "longest step ever");
  options.accept = section.real("accept", options.accept, {0.0, 0.249},
                                "least ratio of actual and predicted decrease of a step that is taken");
  options.most_products = read_most_products(section, options.most_products);
  return make_trust_region(options);
}

}  // namespace

std::unique_ptr<Optimizer> optimizer_of(std::unique_ptr<Minimizer> minimizer, double tolerance,
                                        std::string asked_by) {
  if (!(tolerance >= 0.0 && std::isfinite(tolerance))) {
    fail(ErrorKind::kUsage,
         fmt::format("{}: tolerance must be >= 0 and finite, got {}", minimizer->type(), tolerance));
  }
  if (asked_by.empty()) asked_by = fmt::format("optimizer.type = \"{}\"", minimizer->type());
  return std::make_unique<MinimizingOptimizer>(std::move(minimizer), tolerance, std::move(asked_by));
}

std::unique_ptr<Optimizer> read_minimizer(Section& section, const std::string& type) {
  const double tolerance = read_tolerance(section);
  std::unique_ptr<Minimizer> minimizer;
  if (type == "bfgs") minimizer = make_bfgs({read_line_search(section, type)});
  if (type == "lbfgs") minimizer = read_lbfgs(section);
  if (type == "newton") minimizer = read_newton(section);
  if (type == "newton_cg") minimizer = read_newton_cg(section);
  if (type == "natural_gradient") minimizer = read_natural_gradient(section);
  if (type == "trust_region") minimizer = read_trust_region(section);
  if (type == "levenberg_marquardt") minimizer = read_levenberg_marquardt(section);
  if (minimizer == nullptr) fail(ErrorKind::kInternal, "read_minimizer: unknown type: " + type);
  return optimizer_of(std::move(minimizer), tolerance);
}

std::unique_ptr<Optimizer> read_line_descent(
    Section& section, const std::string& type,
    const std::function<std::unique_ptr<Minimizer>(const LineSearchOptions& search)>& make) {
  Section search = section.table("line_search").of_type(type);
  LineSearchOptions options;
  options.type = search.text("type", "none", {"none", "strong_wolfe", "more_thuente", "armijo"},
                             "none: learning_rate says how far; else there are optimizer.tolerance and the "
                             "other keys of a line search, those of lbfgs");
  if (options.type == "none") return nullptr;
  return optimizer_of(make(read_line_search(search, options)), read_tolerance(section),
                      fmt::format("optimizer.line_search.type = \"{}\"", options.type));
}

}  // namespace lockstep
