// A minimizer's steps, their reports and their end.
#include "lockstep/train/minimizer_step.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "lockstep/minimize/minimizer.h"
#include "lockstep/train/agreement.h"
#include "lockstep/train/least_squares_pass.h"
#include "lockstep/train/pass_problem.h"

namespace lockstep {
namespace {

// Where differences of losses are made of rounding, steps would go on for ever: after so many in a row that
// lowered neither the loss nor the gradient's norm, none will.
constexpr int64_t kMostIdle = 10;

// Group of a checkpoint's numbers.
constexpr const char* kNumbers = "/minimizer/";

// A worker wants the run to end: all of them leave the step.
struct Interruption {};

class MinimizerStepEnd final : public StepEnd {
 public:
  explicit MinimizerStepEnd(const Parts& parts)
      : StepEnd(parts, 0.0, 0, 0),
        minimizer_(*parts.replica.optimizer->minimization()->minimizer),
        tolerance_(parts.replica.optimizer->minimization()->tolerance),
        same_batch_(parts.same_batch),
        problem_(problem_of(parts)) {}

  bool minimizes() const override { return true; }
  bool device_decides() const override { return false; }
  void begin(int64_t) override {}
  void issue() override {}
  void decide(int64_t) override {}

  bool minimize(int64_t step, const std::function<bool()>& stops) override {
    const RealVector from = problem_->parameters();
    problem_->set_before_each([&stops] {
      if (stops()) throw Interruption();
    });
    const auto put_back = [&] {
      problem_->set_parameters(from);
      at_.reset();
      minimizer_.change_problem();
    };
    try {
      take_step(step, from);
    } catch (const Interruption&) {
      put_back();
      return false;
    } catch (const AgreedFailure&) {  // of a sweep
      put_back();
      throw;
    }
    return true;
  }

  StepReport report(int64_t) override { return report_; }

  std::string ended() const override {
    if (largest_ < 0.0) return "";
    if (largest_ <= tolerance_) {
      return fmt::format(
          "converged: the largest element of the gradient is {:.3g}, optimizer.tolerance is {:g}", largest_,
          tolerance_);
    }
    if (!stuck_) return "";
    return fmt::format(
        "the loss cannot be lowered any more, as far as its digits tell: the largest element of the gradient "
        "is {:.3g}",
        largest_);
  }

  void describe(State& state) const override {
    StepEnd::describe(state);
    put_numbers(state, kNumbers, numbers());
  }
  void restore(const State& found, const std::string& path) override {
    StepEnd::restore(found, path);
    const auto numbers_found = take_numbers(found, kNumbers, numbers(), path);
    at_.reset();
    if (numbers_found.at("l2") != settings_.l2) return;  // what was found out is true of another objective
    largest_ = numbers_found.at("largest_gradient");
    best_loss_ = numbers_found.at("best_loss");
    best_norm_ = numbers_found.at("best_gradient_norm");
    idle_ = static_cast<int64_t>(numbers_found.at("idle"));
    stuck_ = numbers_found.at("stuck") != 0.0;
  }

  size_t bytes() const override {
    return sizeof(double) *
           static_cast<size_t>(minimizer_.held(problem_->size(), problem_->residual_count()));
  }

 private:
  static std::unique_ptr<PassProblem> problem_of(const Parts& parts) {
    if (parts.replica.optimizer->minimization()->minimizer->least_squares())
      return std::make_unique<LeastSquaresPass>(parts.pass, parts.replica, parts.settings);
    return std::make_unique<PassProblem>(parts.pass, parts.replica);
  }

  std::map<std::string, double> numbers() const {
    return {
        {"largest_gradient", largest_},       {"best_loss", best_loss_}, {"best_gradient_norm", best_norm_},
        {"idle", static_cast<double>(idle_)}, {"l2", settings_.l2},      {"stuck", stuck_ ? 1.0 : 0.0}};
  }

  void take_step(int64_t step, const RealVector& from) {
    CountedProblem counted(*problem_);
    if (!at_) {
      minimizer_.change_problem();
      at_.emplace();
      at_->x = from;
      at_->value = counted.value_and_gradient(from, at_->gradient);
      at_->shared = problem_->shared();
      counts_ = problem_->weight() != 0.0;
      // Of the parameters that the step begins with, as with every optimizer: trials move nothing.
      if (const Tensor sums = summed_statistics(); sums.defined()) statistics_ = sums.clone();
    }
    const double loss = at_->value, gradient_norm = norm(at_->gradient);
    const auto diverged = [&](const std::string& how) {
      throw Divergence(fmt::format("step {}: training diverged: {}", step, how));
    };
    if (!std::isfinite(loss) || !std::isfinite(gradient_norm)) {
      // As of targets whose squares overflow, while their differences do not.
      const bool overflows =
          std::isinf(loss) && std::isfinite(gradient_norm) && settings_.compute == DType::kF32;
      diverged(fmt::format("loss {}, gradient norm {}{}", loss, gradient_norm,
                           overflows ? ": fp32 does not hold the loss; smaller targets do, or "
                                       "precision.compute = \"fp64\""
                                     : ""));
    }
    if (settings_.guard.largest_loss > 0.0 && loss > settings_.guard.largest_loss) {
      diverged(fmt::format("loss {} > guard.largest_loss = {}", loss, settings_.guard.largest_loss));
    }

    MinimizerStep made;
    Move move = Move::kRejected;
    if (largest(at_->gradient) <= tolerance_) {
      made.outcome = "converged";
    } else {
      move = minimizer_.step(counted, *at_);
      made.outcome = outcome_of(move, counted);
    }
    problem_->set_parameters(at_->x);
    if (move == Move::kMoved) {
      replica_.optimizer->set_updates(replica_.optimizer->updates() + 1);
      if (statistics_.defined()) update_statistics(nullptr, statistics_);
    }

    const Evaluations& evaluations = counted.evaluations();
    made.values = evaluations.values;
    made.gradients = evaluations.gradients;
    made.products = evaluations.products;
    made.loss_after = counts_ ? at_->value : std::nan("");
    RealVector way = at_->x;
    add_scaled(-1.0, from, way);
    made.length = norm(way);
    // The mean of nothing is no number.
    report_ = {counts_ ? loss : std::nan(""), gradient_norm, 1.0, 0.0, std::move(made)};

    // Another batch, or other draws, are another objective.
    const bool same_objective = same_batch_ && !pass_.draws();
    if (same_objective) note_progress(move);
    if (!same_objective || statistics_.defined()) at_.reset();
  }

  void note_progress(Move move) {
    const double value = at_->value, size = norm(at_->gradient);
    const bool known = largest_ >= 0.0;
    if (!known || value < best_loss_ || size < best_norm_) {
      best_loss_ = known ? std::min(best_loss_, value) : value;
      best_norm_ = known ? std::min(best_norm_, size) : size;
      idle_ = 0;
    } else if (move == Move::kMoved) {
      ++idle_;
    }
    largest_ = largest(at_->gradient);
    stuck_ = move == Move::kStuck || idle_ >= kMostIdle;
  }

  static std::string outcome_of(Move move, const CountedProblem& counted) {
    if (move == Move::kStuck) return "failed";
    if (counted.search()) return name_of(*counted.search());
    return move == Move::kMoved ? "accepted" : "rejected";
  }

  Minimizer& minimizer_;
  const double tolerance_;
  const bool same_batch_;
  std::unique_ptr<PassProblem> problem_;
  std::optional<Iterate>
      at_;              // where the parameters are, of the objective of the step to come; none: not known
  bool counts_ = true;  // whether a sample of it does
  Tensor statistics_;   // of the model, at the beginning of the step; undefined where it has none
  // Where every step has the same objective: the largest |element| of the gradient, -1: not known; the best
  // yet, and steps since one of them was improved; whether there is no way on.
  double largest_ = -1.0, best_loss_ = 0.0, best_norm_ = 0.0;
  int64_t idle_ = 0;
  bool stuck_ = false;
  StepReport report_;
};

}  // namespace

void require_minimizable(const RunSettings& settings, const Optimizer& optimizer, const Schedule& schedule,
                         const ParameterStore& store) {
  if (optimizer.minimization() == nullptr) return;
  const RunSettings defaults;
  const auto refuse = [&](bool given, const char* key, const std::string& reason) {
    if (given)
      fail(ErrorKind::kUsage,
           fmt::format("{}: not with {}: {}", key, optimizer.minimization()->asked_by, reason));
  };
  refuse(settings.compute != settings.parameters(), "precision.compute",
         fmt::format("{} has too few digits for line searches and second derivatives; take fp32 or fp64",
                     name_of(settings.compute)));
  refuse(settled(settings.loss_scale, settings.compute).mode != LossScaling::kOff, "precision.loss_scale",
         "it compares the loss itself");
  refuse(settings.clip.global_norm > 0.0, "clip.global_norm", "the method says how long its steps are");
  refuse(settings.clip.value > 0.0, "clip.value", "it needs the gradient as it is");
  refuse(settings.clip.adaptive > 0.0, "clip.adaptive", "it needs the gradient as it is");
  refuse(settings.guard.loss_z > 0.0, "guard.loss_z_score", "it learns from every step that it takes");
  refuse(settings.guard.norm_z > 0.0, "guard.norm_z_score", "it learns from every step that it takes");
  refuse(settings.average.type != AverageSettings::Type::kNone, "average.type",
         "its steps do not scatter around a minimum");
  refuse(settings.learning_rate != defaults.learning_rate, "optimizer.learning_rate",
         "the method says how long its steps are; leave it out (--set '~optimizer.learning_rate')");
  refuse(schedule.type() != "constant" || schedule.warmup() > 0, "schedule.type",
         "the method says how long its steps are; leave [schedule] out (--set '~schedule')");
  refuse(!settings.groups.empty(), "optimizer.groups", "it moves all parameters along one direction");
  refuse(!settings.decay_biases, "optimizer.decay_biases", "it has no weight decay; take train.l2");
  refuse(settings.shard_optimizer, "parallel.shard_optimizer", "every worker needs all of its vectors");
  refuse(settings.reduction == ReductionMode::kLibrary, "parallel.reduction",
         "workers must decide by the same bits, which \"library\" does not promise");
  optimizer.minimization()->minimizer->require_size(store.parameter_count());
}

void forget_end(State& found) {
  for (const char* name : {"idle", "stuck"}) {
    const auto number = found.scalars.find(std::string(kNumbers) + name);
    if (number != found.scalars.end()) number->second = 0.0;
  }
}

std::unique_ptr<StepEnd> make_minimizer_step_end(const StepEnd::Parts& parts) {
  return std::make_unique<MinimizerStepEnd>(parts);
}

}  // namespace lockstep
