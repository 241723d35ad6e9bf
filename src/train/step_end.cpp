// Verdicts, and what follows from them.
#include "lockstep/train/step_end.h"

#include <fmt/format.h>

#include <cmath>
#include <span>

#include "lockstep/core/error.h"
#include "lockstep/optim/clip.h"
#include "lockstep/train/agreement.h"
#include "lockstep/train/curvature_step.h"
#include "lockstep/train/minimizer_step.h"

namespace lockstep {

namespace {

// Enough that the host never waits for the device it feeds, few enough that what goes wrong is known soon.
constexpr int64_t kStepsAhead = 4;

// Numbers of an update: of the optimizer's segments, then of the average.
int64_t row_size_of(const Replica& replica) {
  return Optimizer::kRowSize * static_cast<int64_t>(replica.segments.size() + (replica.average ? 1 : 0));
}

class DeviceStepEnd final : public StepEnd {
 public:
  explicit DeviceStepEnd(const Parts& parts)
      : StepEnd(parts, parts.settings.clip.global_norm, row_size_of(parts.replica),
                parts.replica.store.backend().native_queue() != nullptr ? kStepsAhead : 0) {}

  bool device_decides() const override { return true; }

  // The rows of the updates that the step to come may lead to.
  void begin(int64_t under_way) override {
    const Optimizer& optimizer = *replica_.optimizer;
    control_.arrange(optimizer.updates(), under_way, [&](int64_t update, std::span<double> row) {
      optimizer.write_rows(update, schedule_.learning_rate(update), replica_.segments, row);
      if (replica_.average) replica_.average->write_row(update, &row[row.size() - Optimizer::kRowSize]);
    });
  }

  void issue() override {
    judge();
    replica_.update({.gradients = pass_.gradient(), .verdict = control_.verdict(), .rows = control_.row()});
    update_statistics(&control_.verdict()->gate);
    if (!replica_.average) return;
    replica_.average->update(replica_.store.values(), replica_.store.statistic_values(), control_.verdict(),
                             control_.row() + row_size_of(replica_) - Optimizer::kRowSize);
  }

  void decide(int64_t) override {}

  StepReport report(int64_t step) override {
    const StepState verdict = control_.read(step);
    const int64_t update = replica_.optimizer->updates();
    if (settle(step, verdict)) replica_.optimizer->set_updates(update + 1);
    return report_of(verdict, update);
  }
};

class HostStepEnd final : public StepEnd {
 public:
  explicit HostStepEnd(const Parts& parts)
      : StepEnd(parts, 0.0, 0, 0),
        curvature_(make_curvature_step(parts.replica, parts.pass, parts.settings)) {}

  bool device_decides() const override { return false; }
  size_t bytes() const override { return curvature_ ? curvature_->bytes() : 0; }

  void describe(State& state) const override {
    StepEnd::describe(state);
    if (curvature_) curvature_->describe(state);
  }
  void restore(const State& found, const std::string& path) override {
    StepEnd::restore(found, path);
    if (curvature_) curvature_->restore(found, path);
  }

  void begin(int64_t) override {
    update_ = replica_.optimizer->updates();
    learning_rate_ = schedule_.learning_rate(update_);
    Tensor parameters = replica_.store.values();
    if (replica_.optimizer->before_gradient(parameters, learning_rate_, replica_.segments)) {
      replica_.shards->gather(parameters, "look-ahead");
    }
  }

  void issue() override { judge(); }

  void decide(int64_t step) override {
    const LossScaler scaler = scaler_;
    const OutlierGuard guard = guard_;
    try {
      make_update(step);
    } catch (const AgreedFailure&) {  // of a sweep
      scaler_ = scaler;
      guard_ = guard;
      throw;
    }
  }

  void take_back(int64_t step) override {
    Tensor parameters = replica_.store.values();
    if (replica_.optimizer->cancel_gradient(parameters)) {
      replica_.shards->gather(parameters, "cancelled look-ahead");
    }
    StepEnd::take_back(step);
  }

  StepReport report(int64_t) override { return report_; }

 private:
  // Where the verdict is one for it.
  void make_update(int64_t step) {
    const StepState verdict = control_.read(step);
    const bool updates = settle(step, verdict);
    Tensor gradient = pass_.gradient(), parameters = replica_.store.values();
    Optimizer& optimizer = *replica_.optimizer;
    if (updates) {
      const double scale = 1.0 / (verdict.count * verdict.used_scale);
      const double gradient_scale =
          clip_gradients(settings_.clip, gradient, parameters, replica_.store.parameters(), *replica_.shards,
                         scale, verdict.norm);
      const UpdateContext update{
          .gradients = gradient, .gradient_scale = gradient_scale, .learning_rate = learning_rate_};
      if (curvature_) curvature_->before_update(update, verdict.loss + penalty_);
      replica_.update(update);
      update_statistics(nullptr);
      if (curvature_) curvature_->after_update();
      if (replica_.average) {
        replica_.average->update(parameters, replica_.store.statistic_values(), optimizer.updates());
      }
    } else if (optimizer.cancel_gradient(parameters)) {
      // The batch is spent, and that is all: no update, no statistics, no progress of schedule and bias
      // correction.
      replica_.shards->gather(parameters, "cancelled look-ahead");
    }
    if (updates != (verdict.gate != 0.0)) control_.set(scaler_, optimizer.updates(), step);
    report_ = report_of(verdict, update_);
  }

  std::unique_ptr<CurvatureStep> curvature_;  // of an optimizer that asks for it, else null
  int64_t update_ = 0;                        // the number of the update that the step may lead to
  double learning_rate_ = 0.0;
  StepReport report_;
};

}  // namespace

StepEnd::StepEnd(const Parts& parts, double max_norm, int64_t row_size, int64_t ahead)
    : replica_(parts.replica),
      pass_(parts.pass),
      schedule_(parts.schedule),
      settings_(parts.settings),
      micro_batches_(parts.micro_batches),
      scaler_(parts.settings.loss_scale, parts.settings.compute),
      guard_(parts.settings.guard),
      control_(parts.replica.store.backend(), parts.replica.store.dtype(), scaler_, max_norm, row_size,
               ahead) {}

void StepEnd::start(int64_t step) {
  control_.set(scaler_, replica_.optimizer->updates(), step);
}

void StepEnd::judge() {
  if (settings_.l2 > 0.0) {
    // Of the host's form alone: it waits for the weight of the samples.
    double count = 0.0;
    replica_.store.backend().copy_to_host(&count, pass_.sums() + 1, sizeof count);
    penalty_ = pass_.regularize(count * scaler_.scale());
  }
  control_.judge(replica_.shards->block_square_sums(pass_.gradient()), pass_.sums());
}

bool StepEnd::settle(int64_t step, const StepState& verdict) {
  if (verdict.count == 0.0) return false;
  const double loss = verdict.loss + penalty_, norm = verdict.norm;
  const auto diverged = [&](const std::string& how) {
    throw Divergence(fmt::format("step {}: training diverged: {}", step, how));
  };
  const bool finite = std::isfinite(loss) && std::isfinite(norm);
  if (!finite && !scaler_.skips()) diverged(fmt::format("loss {}, gradient norm {}", loss, std::abs(norm)));
  if (finite && settings_.guard.largest_loss > 0.0 && loss > settings_.guard.largest_loss) {
    diverged(fmt::format("loss {} > guard.largest_loss = {}", loss, settings_.guard.largest_loss));
  }
  const bool updates = finite && !guard_.skip(loss, norm);
  scaler_.update(finite);
  if (scaler_.skips() && scaler_.diverged()) {
    diverged(fmt::format("{} steps in a row whose gradient is not finite, loss scale {}",
                         scaler_.skips_in_a_row(), verdict.used_scale));
  }
  if (guard_.diverged()) {
    diverged(
        fmt::format("{} outliers in a row, loss {}, gradient norm {}", guard_.skips_in_a_row(), loss, norm));
  }
  return updates;
}

StepReport StepEnd::report_of(const StepState& verdict, int64_t update) const {
  // The mean of nothing is no number.
  const double loss = verdict.count == 0.0 ? std::nan("") : verdict.loss + penalty_;
  return {loss, verdict.norm, verdict.used_scale, schedule_.learning_rate(update)};
}

Tensor StepEnd::summed_statistics() const {
  const ParameterStore& store = replica_.store;
  if (store.statistics().empty()) return {};
  const int64_t first = store.parameter_extent();
  return pass_.gradient().view({store.gradient_extent() - first}, first);
}

void StepEnd::update_statistics(const double* gate, const Tensor& sums) {
  const ParameterStore& store = replica_.store;
  for (size_t i = 0; i < store.statistics().size(); ++i) {
    const StatisticEntry& entry = store.statistics()[i];
    Tensor running = store.statistic(static_cast<int>(i));
    UpdateArguments arguments;
    arguments.dtype = running.dtype();
    arguments.n = running.elements();
    arguments.parameters = running.mutable_data();
    const Tensor summed = sums.view(entry.shape, entry.offset);
    arguments.gradients = summed.data();
    arguments.gradient_scale = entry.momentum / static_cast<double>(micro_batches_);
    arguments.scalars[2] = entry.momentum;
    arguments.gate = gate;
    store.backend().update(UpdateFormula::kRunning, arguments);
  }
}

void StepEnd::describe(State& state) const {
  put_numbers(state, "/loss_scale/", scaler_.state());
  put_numbers(state, "/guard/", guard_.state());
  put_numbers(state, "/schedule/", schedule_.state());
  state.scalars["/schedule/type"] = schedule_.type();
  state.scalars["/schedule/update"] = replica_.optimizer->updates();
}

void StepEnd::restore(const State& found, const std::string& path) {
  const auto loss_scale = take_numbers(found, "/loss_scale/", scaler_.state(), path);
  const auto guard = take_numbers(found, "/guard/", guard_.state(), path);
  // Another schedule than before starts afresh.
  const auto type = found.scalars.find("/schedule/type");
  if (type != found.scalars.end() && type->second == Scalar(schedule_.type())) {
    schedule_.set_state(take_numbers(found, "/schedule/", schedule_.state(), path));
  }
  scaler_.set_state(loss_scale);
  guard_.set_state(guard);
}

std::string host_decides(const Optimizer& optimizer, const RunSettings& settings) {
  if (!optimizer.prearranged()) return "optimizer.type = \"" + optimizer.type() + "\"";
  if (settings.clip.value > 0.0) return "clip.value";
  if (settings.clip.adaptive > 0.0) return "clip.adaptive";
  if (settings.l2 > 0.0) return "train.l2";
  if (settings.guard.loss_z > 0.0) return "guard.loss_z_score";
  if (settings.guard.norm_z > 0.0) return "guard.norm_z_score";
  return "";
}

void require_graph(const RunSettings& settings, const Optimizer& optimizer, Backend& backend) {
  if (!settings.cuda_graph) return;
  if (backend.native_queue() == nullptr) {
    fail(ErrorKind::kUsage, "device.cuda_graph: needs a GPU, this run computes on the CPU");
  }
  const std::string reason = host_decides(optimizer, settings);
  if (reason.empty()) return;
  fail(ErrorKind::kUsage,
       "device.cuda_graph: the device must decide about steps by itself, which it cannot with " + reason);
}

std::unique_ptr<StepEnd> make_step_end(const StepEnd::Parts& parts) {
  if (parts.replica.optimizer->minimization() != nullptr) return make_minimizer_step_end(parts);
  if (host_decides(*parts.replica.optimizer, parts.settings).empty()) {
    return std::make_unique<DeviceStepEnd>(parts);
  }
  return std::make_unique<HostStepEnd>(parts);
}

}  // namespace lockstep
