// Options, and the slice as JSON, as a picture, as a sketch and as HDF5.
#include "lockstep/app/landscape_command.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <optional>

#include "lockstep/app/contour_plot.h"
#include "lockstep/app/evaluate_command.h"
#include "lockstep/core/error.h"
#include "lockstep/core/output_file.h"
#include "lockstep/core/unfinished_file.h"
#include "lockstep/hdf5/file.h"
#include "lockstep/hdf5/sealed_file.h"
#include "lockstep/train/agreement.h"
#include "lockstep/train/progress.h"

namespace lockstep {

void add_landscape_options(CLI::App& command, LandscapeCommand& arguments,
                           const std::vector<CLI::Option*>& configuration) {
  LandscapeArguments& function = arguments.function;
  SliceWants& slice = arguments.slice;
  const std::vector<CLI::Option*> of_functions = {
      command
          .add_option("--function", function.function,
                      "rosenbrock, beale, himmelblau, or quadratic:CONDITION; without CONFIG")
          ->capture_default_str(),
      command
          .add_option("--methods", function.methods,
                      "by commas: line_descent, bfgs, lbfgs, newton, newton_cg, trust_region, and every "
                      "optimizer.type that looks at gradients alone")
          ->delimiter(',')
          ->capture_default_str(),
      command.add_option("--start", function.start, "X,Y")
          ->delimiter(',')
          ->expected(2)
          ->capture_default_str(),
      command.add_option("--learning-rate", function.learning_rate, "of the optimizers")
          ->capture_default_str()};
  CLI::Option* const checkpoint =
      add_checkpoint_options(command, arguments.checkpoint, arguments.weights)->required(false);
  std::vector<CLI::Option*> of_checkpoints = configuration;
  of_checkpoints.insert(of_checkpoints.end(), {checkpoint, command.get_option("--weights"),
                                               add_base_option(command, arguments.base)});
  of_checkpoints.push_back(
      command
          .add_option("--directions", slice.directions,
                      "of the plane: random, filter by filter as large as the weights; the Hessian's leading "
                      "eigenvectors; or the principal components of the run's checkpoints")
          ->check(CLI::IsMember({"random", "eigen", "trajectory"}))
          ->capture_default_str());
  of_checkpoints.push_back(command.add_option("--span", slice.span,
                                              "the plane reaches so far along each direction, to both sides; "
                                              "by default 1, of trajectory around the path"));
  of_checkpoints.push_back(command.add_option("--points", slice.points, "losses along each direction")
                               ->check(CLI::Range(int64_t{2}, int64_t{1001}))
                               ->capture_default_str());
  of_checkpoints.push_back(
      command.add_option("--seed", slice.seed, "of random directions; by default run.seed"));
  of_checkpoints.push_back(command.add_option("--data", arguments.data, "of which data")
                               ->check(CLI::IsMember({"training", "validation"}))
                               ->capture_default_str());
  of_checkpoints.push_back(command
                               .add_option("--batches", slice.data.micro_batches,
                                           "a random subset of so many micro-batches; by default all")
                               ->check(CLI::Range(int64_t{1}, int64_t{1} << 40)));
  command
      .add_option("--steps", function.steps,
                  "the most of each method; of Lanczos' method for directions eigen, a vector a step")
      ->check(CLI::Range(int64_t{1}, int64_t{1'000'000}))
      ->capture_default_str();
  command.add_option("--output", function.output,
                     "SVG file to write; of a checkpoint FILE.svg, with FILE.h5 beside it. Without it only "
                     "the lines are printed");
  for (CLI::Option* const option : of_functions) checkpoint->excludes(option);
  for (CLI::Option* const option : of_checkpoints)
    if (option != checkpoint) option->needs(checkpoint);
  checkpoint->needs(configuration.front());
  command.footer(
      "Prints a JSON line a method, or one of the plane. Examples:\n"
      "  lockstep landscape --function himmelblau --methods adam,lbfgs --start 0,-1 --output f.svg\n"
      "  lockstep landscape configs/digits_mlp.toml --checkpoint runs/digits_mlp/step-000000660.h5 \\\n"
      "      --directions trajectory --output plane.svg\n"
      "  mpirun -np 2 lockstep landscape configs/digits_mlp.toml \\\n"
      "      --checkpoint runs/digits_mlp/step-000000660.h5 --directions eigen --span 5 --batches 10");
}

namespace {

constexpr const char* kSuffix = ".svg";

std::string values_beside(const std::string& svg) {
  return svg.substr(0, svg.size() - std::string(kSuffix).size()) + ".h5";
}

// Before the work that would be lost.
void require_place_for(const std::string& output) {
  require_replaceable_svg(output);
  const std::string values = values_beside(output);
  require_replaceable(values, "holds no landscape", [&] {
    if (verify_seal(values, ErrorKind::kData, false) != SealState::kSealed) return false;
    return Hdf5File::open_sealed(values, ErrorKind::kData).exists("/landscape/values");
  });
}

void write_hdf5(const std::string& path, const LossSlice& found, const std::string& directions) {
  UnfinishedFile unfinished(fmt::format("{}.{}.partial", path, getpid()));
  Hdf5File file = Hdf5File::create(unfinished.path(), ErrorKind::kUsage);
  const int64_t points = std::ssize(found.at[0]), stops = std::ssize(found.path);
  file.write("/landscape/x", DType::kF64, {points}, found.at[0].data());
  file.write("/landscape/y", DType::kF64, {points}, found.at[1].data());
  file.write("/landscape/values", DType::kF64, {points, points}, found.values.data());
  std::vector<int64_t> steps;
  std::vector<double> at;
  for (const LossSlice::Stop& stop : found.path) {
    steps.push_back(stop.step);
    at.insert(at.end(), stop.at.begin(), stop.at.end());
  }
  file.write("/path/steps", DType::kI64, {stops}, steps.data());
  file.write("/path/at", DType::kF64, {stops, 2}, at.data());
  file.write_attribute("/", "directions", directions);
  file.write_attribute("/", "loss", found.loss);
  file.write_attribute("/", "samples", found.samples);
  file.write_attribute("/", "parameters", found.parameters);
  file.close();
  seal_file(unfinished.path(), ErrorKind::kUsage);
  commit_file(unfinished.path(), path, ErrorKind::kUsage);
}

// Its place in the plane, too.
std::string legend_of(const LossSlice& found) {
  if (found.path.empty()) return fmt::format("loss {:.4g}", found.loss);
  return fmt::format("loss {:.4g}, path of steps {} to {}, {:.1f}% of its variance in this plane", found.loss,
                     found.path.front().step, found.path.back().step, 100.0 * found.explained);
}

std::vector<PlanePath> paths_of(const LossSlice& found) {
  PlanePath path{legend_of(found), {}, true}, here{"the checkpoint", {{0.0, 0.0}}, true};
  for (const LossSlice::Stop& stop : found.path) path.points.push_back(stop.at);
  if (!path.points.empty()) return {path, here};
  here.legend = path.legend;
  return {here};
}

nlohmann::ordered_json extremes_of(const LossSlice& found, bool most) {
  size_t best = found.values.size();
  for (size_t i = 0; i < found.values.size(); ++i) {
    if (!std::isfinite(found.values[i])) continue;
    if (best == found.values.size() ||
        (most ? found.values[i] > found.values[best] : found.values[i] < found.values[best]))
      best = i;
  }
  if (best == found.values.size()) return nullptr;
  const size_t columns = found.at[0].size();
  return {{"value", found.values[best]}, {"at", {found.at[0][best % columns], found.at[1][best / columns]}}};
}

nlohmann::ordered_json line_of(const LandscapeCommand& arguments, const std::string& weights,
                               const LossSlice& found) {
  nlohmann::ordered_json line;
  line["checkpoint"] = arguments.checkpoint;
  line["weights"] = weights;
  line["directions"] = arguments.slice.directions;
  line["data"] = arguments.data;
  line["samples"] = found.samples;
  line["parameters"] = found.parameters;
  line["precision"] = name_of(found.precision);
  line["loss"] = found.loss;
  line["points"] = found.at[0].size();
  line["x"] = {found.at[0].front(), found.at[0].back()};
  line["y"] = {found.at[1].front(), found.at[1].back()};
  line["least"] = extremes_of(found, false);
  line["most"] = extremes_of(found, true);
  line["not_finite"] =
      std::ranges::count_if(found.values, [](double value) { return !std::isfinite(value); });
  line["lengths"] = found.lengths;
  line["cosine"] = found.cosine;
  for (const Estimate& value : found.eigenvalues)
    line["eigenvalues"].push_back({{"value", value.value}, {"residual", value.error}});
  if (!found.shares.empty()) {
    line["shares"] = found.shares;
    line["second"] = found.second_is_random ? "random" : "component";
  }
  if (!found.path.empty()) {
    line["explained"] = found.explained;
    for (const LossSlice::Stop& stop : found.path)
      line["path"].push_back({{"step", stop.step}, {"at", stop.at}});
  }
  line["products"] = found.products;
  return line;
}

}  // namespace

nlohmann::ordered_json landscape_command(const LandscapeCommand& arguments, Configuration& configuration,
                                         Communicator& communicator) {
  const std::string& output = arguments.function.output;
  const bool speaks = communicator.rank() == 0, writes = speaks && !output.empty();
  SliceWants wants = arguments.slice;
  wants.lanczos_steps = arguments.function.steps;
  wants.data.validation = arguments.data == "validation";
  run_agreed(
      communicator,
      [&] {
        if (wants.span && !(*wants.span > 0.0 && std::isfinite(*wants.span)))
          fail(ErrorKind::kUsage, fmt::format("--span: must be > 0 and finite: {}", *wants.span));
        if (writes) require_place_for(output);
      },
      "output");
  std::optional<ProgressBar> bar;
  std::string shown;
  wants.progress = [&](const std::string& what, int64_t done, int64_t all) {
    if (!speaks) return;
    if (what != shown) {
      if (bar) bar->clear();
      bar.emplace(what, all, ProgressBar::Unit::kNone);
      shown = what;
    }
    bar->show(done);
    if (done == all) bar->clear();
  };
  std::string weights = arguments.weights;
  const LossSlice found =
      slice_loss(configuration, arguments.checkpoint, communicator, weights, wants, arguments.base);
  const PlaneGrid grid{found.at[0], found.at[1], found.values};
  run_agreed(
      communicator,
      [&] {
        if (!writes) return;
        write_hdf5(values_beside(output), found, wants.directions);
        replace_file(
            output,
            contour_plot(fmt::format("Loss around {}, directions {}", arguments.checkpoint, wants.directions),
                         grid, paths_of(found)),
            ErrorKind::kUsage);
      },
      "output");
  if (speaks && isatty(STDERR_FILENO) != 0)
    fmt::print(stderr, "{}{}\n", plane_sketch(grid, {0.0, 0.0}, 'o'), legend_of(found));
  return line_of(arguments, weights, found);
}

}  // namespace lockstep
