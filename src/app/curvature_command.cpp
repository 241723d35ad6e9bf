// The measured curvature as JSON, as a table, as a picture and as HDF5.
#include "lockstep/app/curvature_command.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
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

void add_curvature_options(CLI::App& command, CurvatureArguments& arguments) {
  CurvatureWants& wants = arguments.wants;
  add_checkpoint_options(command, arguments.checkpoint, arguments.weights);
  add_base_option(command, arguments.base);
  command
      .add_option("--operator", wants.matrix,
                  "second derivatives; the Gauss-Newton matrix; or the Fisher matrix of the model's own "
                  "labels, which is the same for the losses that there are")
      ->check(CLI::IsMember({"hessian", "gauss_newton", "fisher"}))
      ->capture_default_str();
  command.add_option("--data", arguments.data, "of which data")
      ->check(CLI::IsMember({"training", "validation"}))
      ->capture_default_str();
  const CLI::Range positive(int64_t{1}, int64_t{1} << 40);
  command.add_option("--samples", wants.data.samples, "a random subset of so many; by default all")
      ->check(positive);
  command.add_option("--steps", wants.spectrum.steps, "of Lanczos' method, from each probe")
      ->check(CLI::Range(int64_t{1}, int64_t{2000}))
      ->capture_default_str();
  command.add_option("--probes", wants.spectrum.probes, "random starts that the density is a mean over")
      ->check(CLI::Range(int64_t{1}, int64_t{1'000'000}))
      ->capture_default_str();
  command
      .add_option("--trace-products", wants.spectrum.trace_products,
                  "products for the trace, in thirds; 0: no trace")
      ->check(CLI::Range(int64_t{0}, int64_t{1'000'000}))
      ->capture_default_str();
  command.add_option("--values", arguments.most_values, "eigenvalues to print of each end of the spectrum")
      ->check(CLI::Range(int64_t{1}, int64_t{2000}))
      ->capture_default_str();
  command.add_flag("--by-parameter", wants.by_parameter,
                   "also the sharpness of each parameter: of the block that it has on the diagonal");
  command.add_option("--output", arguments.output,
                     "directory for curvature.svg (density) and curvature.h5 (eigenvalues, density)");
  command.footer(
      "Example:\n  lockstep curvature configs/digits_mlp.toml --checkpoint "
      "runs/digits_mlp/step-000000660.h5 \\\n      --samples 500 --output curvature");
}

namespace {

void write_hdf5(const std::string& path, const CheckpointCurvature& found, const std::string& matrix) {
  UnfinishedFile unfinished(fmt::format("{}.{}.partial", path, getpid()));
  Hdf5File file = Hdf5File::create(unfinished.path(), ErrorKind::kUsage);
  const auto write = [&file](const std::string& name, const RealVector& values) {
    file.write(name, DType::kF64, {std::ssize(values)}, values.data());
  };
  RealVector values, residuals;
  for (const RitzValue& value : found.spectrum.eigenvalues) {
    values.push_back(value.value);
    residuals.push_back(value.residual);
  }
  const SpectralDensity& density = found.spectrum.density;
  write("/eigenvalues", values);
  write("/residuals", residuals);
  write("/density/nodes", density.nodes);
  write("/density/weights", density.weights);
  write("/density/at", density.at);
  write("/density/values", density.values);
  file.write_attribute("/density", "width", density.width);
  file.write_attribute("/", "operator", matrix);
  file.write_attribute("/", "parameters", found.parameters);
  file.write_attribute("/", "samples", found.samples);
  file.write_attribute("/", "loss", found.loss);
  file.close();
  seal_file(unfinished.path(), ErrorKind::kUsage);
  commit_file(unfinished.path(), path, ErrorKind::kUsage);
}

// The files of `directory`, before the work that would be lost.
void require_room(const std::string& directory) {
  std::error_code failed;
  std::filesystem::create_directories(directory, failed);
  if (!std::filesystem::is_directory(directory)) {
    fail(ErrorKind::kUsage, fmt::format("--output {}: cannot be made a directory{}{}", directory,
                                        failed ? ": " : "", failed ? failed.message() : ""));
  }
  // What cannot be written is known before hours of products.
  const std::string probe = directory + "/.curvature.partial";
  if (std::ofstream(probe, std::ios::binary).put('\n').flush().fail())
    fail(ErrorKind::kUsage, fmt::format("--output {}: cannot be written to", directory));
  std::filesystem::remove(probe, failed);
  require_replaceable_svg(directory + "/curvature.svg");
  require_replaceable(directory + "/curvature.h5", "holds no curvature", [&] {
    const std::string path = directory + "/curvature.h5";
    if (verify_seal(path, ErrorKind::kData, false) != SealState::kSealed) return false;
    return Hdf5File::open_sealed(path, ErrorKind::kData).exists("/density/nodes");
  });
}

nlohmann::ordered_json json_of(const Estimate& estimate, const char* error) {
  return {{"value", estimate.value}, {error, estimate.error}};
}

void show(const CheckpointCurvature& found, const std::string& matrix) {
  const Spectrum& spectrum = found.spectrum;
  fmt::print(
      stderr,
      "{} of {} parameters at a loss of {:.6g}, gradient norm {:.4g}\n"
      "  largest    {:>12.6g}  residual {:.1e}\n  smallest   {:>12.6g}  residual {:.1e}\n"
      "  condition  {:>12}\n{}"
      "Eigenvalues and their shares:\n{}",
      matrix, found.parameters, found.loss, found.gradient_norm, spectrum.largest.value,
      spectrum.largest.error, spectrum.smallest.value, spectrum.smallest.error,
      spectrum.condition() > 0.0 ? fmt::format("{:.6g}", spectrum.condition()) : spectrum.definiteness(),
      spectrum.trace ? fmt::format("  trace      {:>12.6g}  error {:.1e}\n", spectrum.trace->value,
                                   spectrum.trace->error)
                     : std::string(),
      density_sketch(spectrum.density, 16, 48));
}

}  // namespace

nlohmann::ordered_json curvature_command(const CurvatureArguments& arguments, Configuration& configuration,
                                         Communicator& communicator) {
  const bool writes = communicator.rank() == 0 && !arguments.output.empty();
  run_agreed(
      communicator,
      [&] {
        if (writes) require_room(arguments.output);
      },
      "output");
  CurvatureWants wants = arguments.wants;
  wants.data.validation = arguments.data == "validation";
  std::optional<ProgressBar> bar;
  wants.progress = [&](int64_t done, int64_t all) {
    if (communicator.rank() > 0) return;
    if (!bar) bar.emplace("products", all, ProgressBar::Unit::kNone);
    bar->show(done);
  };
  std::string weights = arguments.weights;
  const CheckpointCurvature found =
      measure_checkpoint(configuration, arguments.checkpoint, communicator, weights, wants, arguments.base);
  if (bar) bar->clear();
  const Spectrum& spectrum = found.spectrum;
  run_agreed(
      communicator,
      [&] {
        if (!writes) return;
        write_hdf5(arguments.output + "/curvature.h5", found, wants.matrix);
        replace_file(
            arguments.output + "/curvature.svg",
            density_svg(spectrum.density, fmt::format("Spectral density of the {}, {} parameters, {} samples",
                                                      wants.matrix, found.parameters, found.samples)),
            ErrorKind::kUsage);
      },
      "output");
  if (communicator.rank() == 0 && isatty(STDERR_FILENO) != 0) show(found, wants.matrix);

  nlohmann::ordered_json line;
  line["checkpoint"] = arguments.checkpoint;
  line["weights"] = weights;
  line["operator"] = wants.matrix;
  line["data"] = arguments.data;
  line["samples"] = found.samples;
  line["parameters"] = found.parameters;
  line["precision"] = name_of(found.precision);
  line["loss"] = found.loss;
  line["gradient_norm"] = found.gradient_norm;
  line["largest"] = json_of(spectrum.largest, "residual");
  line["smallest"] = json_of(spectrum.smallest, "residual");
  if (spectrum.condition() > 0.0) {
    line["condition"] = spectrum.condition();
  } else {
    line["condition"] = spectrum.definiteness();
  }
  // Both ends, the outermost first.
  const auto& values = spectrum.eigenvalues;
  const int64_t count = std::min<int64_t>(arguments.most_values, std::ssize(values));
  for (int64_t i = 0; i < count; ++i) {
    const RitzValue &top = values[values.size() - 1 - static_cast<size_t>(i)],
                    &bottom = values[static_cast<size_t>(i)];
    line["top"].push_back({{"value", top.value}, {"residual", top.residual}});
    line["bottom"].push_back({{"value", bottom.value}, {"residual", bottom.residual}});
  }
  if (spectrum.trace) line["trace"] = json_of(*spectrum.trace, "error");
  line["negative_share"] = spectrum.density.share_below(spectrum.margin());
  line["noise_scale"] = found.noise_scale;
  for (const CheckpointCurvature::Sharpness& sharpness : found.sharpness)
    line["sharpness"][sharpness.parameter] = json_of(sharpness.largest, "residual");
  line["products"] = found.products;
  return line;
}

}  // namespace lockstep
