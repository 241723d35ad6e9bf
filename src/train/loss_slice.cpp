// The path of a run, the plane, and the loss over it.
#include "lockstep/train/loss_slice.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>

#include "lockstep/checkpoint/store.h"
#include "lockstep/core/error.h"
#include "lockstep/core/log.h"
#include "lockstep/exchange/weights_source.h"
#include "lockstep/train/agreement.h"
#include "lockstep/train/checkpoint_problem.h"
#include "lockstep/train/host_memory.h"
#include "lockstep/train/run_state.h"

namespace lockstep {
namespace {

struct Path {
  std::vector<int64_t> steps;
  std::vector<RealVector> points;  // less those of the checkpoint in question
};

// Steps of the checkpoints beside this one, ascending, and which of them it is; none where its name is not
// that of one.
std::pair<std::vector<int64_t>, int64_t> steps_beside(const std::string& checkpoint) {
  if (holds_weights(checkpoint)) return {};
  const std::filesystem::path path(checkpoint);
  std::vector<int64_t> steps = checkpoint_steps(path.has_parent_path() ? path.parent_path().string() : ".");
  std::ranges::reverse(steps);
  for (const int64_t step : steps) {
    if (std::filesystem::path(checkpoint_path("", step)).filename() == path.filename()) return {steps, step};
  }
  return {};
}

// needed: not only to be drawn.
Path read_path(const std::string& checkpoint, CheckpointProblem& whole, const RealVector& here, bool needed,
               Communicator& communicator) {
  std::string listed;
  run_agreed(
      communicator,
      [&] {
        if (communicator.rank() == 0) listed = nlohmann::json(steps_beside(checkpoint)).dump();
      },
      "checkpoints");
  broadcast_text(communicator, listed, "checkpoints");
  const auto [steps, own] = nlohmann::json::parse(listed).get<std::pair<std::vector<int64_t>, int64_t>>();
  Path path;
  if (steps.size() < 2) return path;
  // Beside them: the plane, points in it, and the whole state of a file; of components the points less their
  // mean once more.
  constexpr int64_t kBeside = 10;
  const int64_t bytes = 8 * ((needed ? 2 : 1) * std::ssize(steps) + kBeside) * std::ssize(here);
  log_info(fmt::format("{}: the path of {} checkpoints; vectors of {} MiB on each worker", checkpoint,
                       steps.size(), bytes / (1 << 20)));
  const std::string what = fmt::format("{}: the path of {} checkpoints, vectors of {} numbers", checkpoint,
                                       steps.size(), here.size());
  if (const std::string lack = lack_of_memory(communicator, bytes); !lack.empty()) {
    if (needed) fail_together(communicator, ErrorKind::kUsage, what + ": " + lack);
    if (communicator.rank() == 0) log_warning(fmt::format("{}: {}: it is left out", what, lack));
    return path;
  }
  Replica& replica = whole.model().replica();
  Tensor statistics = replica.store.statistic_values();
  const Tensor kept = statistics.clone();
  const bool averaged = whole.model().weights() == "averaged";
  for (const int64_t step : steps) {
    if (step == own) {
      path.steps.push_back(step);
      path.points.emplace_back(here.size(), 0.0);
      continue;
    }
    const std::string file = checkpoint_path(std::filesystem::path(checkpoint).parent_path().string(), step);
    State found;
    std::string wrong;
    if (communicator.rank() == 0) {
      try {
        found = read_checkpoint(file);
        if (averaged && !has_average(found)) wrong = file + ": it has no averaged weights";
      } catch (const Error& error) {
        wrong = error.what();
      }
    }
    broadcast_text(communicator, wrong, "checkpoints");
    if (wrong.empty()) {
      try {
        restore_parameters(replica, found, averaged, file, communicator);
      } catch (const AgreedFailure& failure) {
        wrong = failure.what();
      }
    }
    if (!wrong.empty()) {
      if (communicator.rank() == 0) log_warning(wrong + ": left out of the path");
      continue;
    }
    path.steps.push_back(step);
    path.points.push_back(whole.problem().parameters());
    add_scaled(-1.0, here, path.points.back());
  }
  statistics.assign(kept);
  whole.problem().set_parameters(here);
  if (path.steps.size() < 2) return {};
  return path;
}

// From below all coordinates to above, with a rim of a quarter of the longer side.
std::array<std::pair<double, double>, 2> range_around(const std::vector<LossSlice::Stop>& path) {
  std::array<std::pair<double, double>, 2> range;
  double longer = 0.0;
  for (size_t k = 0; k < 2; ++k) {
    const auto [low, high] =
        std::ranges::minmax_element(path, {}, [k](const LossSlice::Stop& stop) { return stop.at[k]; });
    range[k] = {low->at[k], high->at[k]};
    longer = std::max(longer, range[k].second - range[k].first);
  }
  for (auto& [low, high] : range) {
    low -= 0.25 * longer;
    high += 0.25 * longer;
  }
  return range;
}

Plane plane_of(const SliceWants& wants, CheckpointProblem& whole, const std::string& checkpoint,
               const RealVector& x, const Path& path, Communicator& communicator, LossSlice& slice) {
  const uint64_t seed = wants.seed.value_or(whole.model().settings().seed);
  const auto random = [&](uint32_t number) {
    return filter_normalized_direction(whole.model().replica().store.parameters(), x, seed, number);
  };
  if (wants.directions == "random") return {random(0), random(1)};
  if (wants.directions == "eigen") {
    constexpr int64_t kPairs = 2;  // each of which takes a product more, for its residual
    const int64_t steps = std::min(wants.lanczos_steps, slice.parameters);
    const SymmetricProduct product = [&](const RealVector& v, RealVector& out) {
      whole.problem().hessian_product(x, v, out);
      if (wants.progress) wants.progress("products", slice.products, steps + kPairs);
    };
    const int64_t bytes = 8 * slice.parameters * steps;
    const std::string what = fmt::format("{}: --directions eigen: --steps {}, a vector of {} numbers each",
                                         checkpoint, wants.lanczos_steps, slice.parameters);
    require_memory_on_hosts(communicator, what, bytes, ErrorKind::kUsage);
    std::vector<LeadingPair> pairs =
        leading_pairs(product, slice.parameters, kPairs, wants.lanczos_steps, seed, slice.products);
    for (const LeadingPair& pair : pairs) slice.eigenvalues.push_back(pair.value);
    if (std::ssize(pairs) < kPairs) {
      fail_together(
          communicator, ErrorKind::kUsage,
          fmt::format("--directions eigen: two eigenvectors need 2 parameters and --steps of at least "
                      "2; got {} parameters, {} steps",
                      slice.parameters, wants.lanczos_steps));
    }
    return {std::move(pairs[0].vector), std::move(pairs[1].vector)};
  }
  PrincipalPlane plane = principal_plane(path.points);
  if (plane.directions[0].empty()) {
    fail_together(
        communicator, ErrorKind::kUsage,
        fmt::format("--directions trajectory: {}: needs two different checkpoints of its run beside "
                    "each other, step-000000001.h5 and so on (checkpoint.keep, checkpoint.keep_every)",
                    checkpoint));
  }
  slice.shares.assign(plane.shares.begin(), plane.shares.end());
  if (plane.directions[1].empty()) {
    slice.second_is_random = true;
    RealVector& second = plane.directions[1];
    second = random(1);
    for (int pass = 0; pass < 2; ++pass)
      add_scaled(-dot(plane.directions[0], second), plane.directions[0], second);
    if (const double length = norm(second); length > 0.0) scale_by(1.0 / length, second);
  }
  return {std::move(plane.directions[0]), std::move(plane.directions[1])};
}

}  // namespace

LossSlice slice_loss(Configuration& configuration, const std::string& checkpoint, Communicator& communicator,
                     std::string& weights, const SliceWants& wants, const std::string& base) {
  CheckpointProblem whole("landscape", configuration, checkpoint, communicator, weights, wants.data, base);
  PassProblem& problem = whole.problem();
  const RealVector x = problem.parameters();
  LossSlice slice;
  slice.samples = whole.samples();
  slice.parameters = problem.size();
  slice.precision = whole.model().settings().parameters();
  slice.loss = problem.value(x);
  if (!std::isfinite(slice.loss)) {
    fail_together(communicator, ErrorKind::kNumeric,
                  fmt::format("{}: the loss at its weights is {}", checkpoint, slice.loss));
  }
  const Path path = read_path(checkpoint, whole, x, wants.directions == "trajectory", communicator);
  std::optional<Plane> plane;
  try {
    plane.emplace(plane_of(wants, whole, checkpoint, x, path, communicator, slice));
  } catch (const AgreedFailure&) {
    throw;
  } catch (const Error& error) {
    // All workers have the same numbers, and stop at the same one.
    if (error.kind() != ErrorKind::kNumeric) throw;
    fail_together(communicator, ErrorKind::kNumeric,
                  fmt::format("--directions {}: {}: {}", wants.directions, checkpoint, error.what()));
  }
  slice.lengths = plane->lengths();
  slice.cosine = plane->cosine();
  for (size_t i = 0; i < path.steps.size(); ++i)
    slice.path.push_back({path.steps[i], plane->project(path.points[i])});
  slice.explained =
      slice.path.empty() ? std::numeric_limits<double>::quiet_NaN() : plane->explained(path.points);

  const double span = wants.span.value_or(1.0);
  std::array<std::pair<double, double>, 2> range = {{{-span, span}, {-span, span}}};
  if (wants.directions == "trajectory" && !wants.span) range = range_around(slice.path);
  for (size_t k = 0; k < 2; ++k) {
    for (int64_t i = 0; i < wants.points; ++i) {
      const double part = static_cast<double>(i) / static_cast<double>(wants.points - 1);
      slice.at[k].push_back(range[k].first + (range[k].second - range[k].first) * part);
    }
  }
  const int64_t all = wants.points * wants.points;
  for (const double b : slice.at[1]) {
    for (const double a : slice.at[0]) {
      slice.values.push_back(problem.value(plane->at({a, b}, x)));
      if (wants.progress) wants.progress("losses", std::ssize(slice.values), all);
    }
  }
  return slice;
}

}  // namespace lockstep
