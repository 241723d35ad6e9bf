// prepare, inspect and diff: their options and what they print.
#include "lockstep/app/file_commands.h"

#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "lockstep/app/results.h"
#include "lockstep/checkpoint/checkpoint.h"
#include "lockstep/checkpoint/summary.h"
#include "lockstep/core/error.h"
#include "lockstep/core/log.h"
#include "lockstep/core/mapped_file.h"
#include "lockstep/data/data_source.h"
#include "lockstep/data/prepared_file.h"
#include "lockstep/hdf5/sealed_file.h"
#include "lockstep/text/token_file.h"
#include "lockstep/train/progress.h"

namespace lockstep {

namespace {

struct PrepareArguments {
  DatasetOptions dataset;
  std::string output;
};

struct InspectArguments {
  std::string file;
  bool digest_only = false, verify = false;
};

struct DiffArguments {
  std::string a, b;
};

int run_prepare(PrepareArguments& arguments) {
  arguments.dataset.texts = true;
  try_dataset(arguments.dataset, {.whole = false});
  const Dataset dataset = prepare_dataset(arguments.dataset, arguments.output);
  log_info(fmt::format("{}: {} samples of {}{}", arguments.output, dataset.size(),
                       dataset.sample_shape.to_string(),
                       dataset.classes > 0 ? fmt::format(", {} classes", dataset.classes) : ""));
  return 0;
}

// All bytes of a sealed file against their checksums.
int run_verify(const std::string& path) {
  const bool data = seals_blocks(path, ErrorKind::kData);
  std::optional<BlockedFile> content = verify_outline(path, data ? ErrorKind::kData : ErrorKind::kCheckpoint);
  if (!content) {
    if (verify_seal(path, ErrorKind::kCheckpoint, false) == SealState::kUnsealed) {
      fail(ErrorKind::kUsage,
           path +
               ": has no seal to verify: an HDF5 file of another program (lockstep prepare makes a sealed "
               "one of data)");
    }
    std::puts(fmt::format("{}: intact", path).c_str());
    flush_results();
    return 0;
  }
  if (outlines_tokens(path)) {
    verify_seal(path, ErrorKind::kData, true);
    const auto tokens = open_token_file(path);
    std::puts(fmt::format("{}: intact: {} tokens in {} documents, digest {}", path, tokens->size(),
                          tokens->description().documents, tokens->digest())
                  .c_str());
    flush_results();
    return 0;
  }
  const MappedSource source({.path = path}, std::move(*content));
  ProgressBar bar("verified", source.blocks() * kBlockBytes);
  int64_t block = 0, damaged = 0;
  std::string damage;
  while (source.verify_next(block, damage)) {
    bar.show(block * kBlockBytes);
    if (damage.empty()) continue;
    bar.clear();
    if (++damaged <= 20) std::puts(damage.c_str());
  }
  bar.clear();
  if (damaged > 0)
    fail(ErrorKind::kData, fmt::format("{}: {} of {} blocks are damaged", path, damaged, source.blocks()));
  std::puts(fmt::format("{}: intact: {} samples, {} blocks, digest {}", path, source.size(), source.blocks(),
                        source.digest())
                .c_str());
  flush_results();
  return 0;
}

int run_inspect(const InspectArguments& arguments) {
  if (arguments.verify) return run_verify(arguments.file);
  const State state = read_checkpoint(arguments.file);
  std::puts(arguments.digest_only ? state_digest(state).c_str() : describe_state(state).c_str());
  flush_results();
  return 0;
}

// 0: bitwise equal; 1: not.
int run_diff(const DiffArguments& arguments) {
  constexpr size_t kShown = 20;
  const std::vector<TensorDifference> differences =
      compare_states(read_checkpoint(arguments.a), read_checkpoint(arguments.b));
  for (size_t i = 0; i < differences.size() && i < kShown; ++i) {
    std::puts(fmt::format("{}: {}", differences[i].path, differences[i].what).c_str());
  }
  if (differences.size() > kShown) std::puts(fmt::format("and {} more", differences.size() - kShown).c_str());
  flush_results();
  return differences.empty() ? 0 : 1;
}

}  // namespace

std::function<std::optional<int>()> add_prepare_command(CLI::App& app) {
  const auto arguments = std::make_shared<PrepareArguments>();
  CLI::App* command = app.add_subcommand("prepare", "convert a data set into HDF5");
  command->add_option("input", arguments->dataset.path, "HDF5, IDX, CIFAR-10 (several by commas) or CSV file")
      ->required();
  command->add_option("output", arguments->output, "HDF5 file to write")->required();
  command->add_option("--format", arguments->dataset.format, "file format")
      ->check(CLI::IsMember({"auto", "hdf5", "idx", "cifar10", "csv"}));
  command->add_option("--labels", arguments->dataset.labels, "IDX: labels file");
  command->add_option("--target", arguments->dataset.target, "CSV: target column");
  command->add_option("--classes", arguments->dataset.classes,
                      "number of classes; 0: find out; -1: regression");
  command->add_option("--ignore-label", arguments->dataset.ignore_label,
                      "label of samples that count nothing");
  command->add_flag(
      "--follow", arguments->dataset.follow,
      "HDF5: read values that lie in other files (external links, external storage, virtual data sets)");
  command->footer("Example:\n  lockstep prepare train-images-idx3-ubyte.gz mnist.h5");
  return [arguments, command]() -> std::optional<int> {
    if (command->parsed()) return run_prepare(*arguments);
    return std::nullopt;
  };
}

std::function<std::optional<int>()> add_inspect_command(CLI::App& app) {
  const auto arguments = std::make_shared<InspectArguments>();
  CLI::App* command = app.add_subcommand("inspect", "summarize a checkpoint, or verify a file");
  command
      ->add_option("file", arguments->file,
                   "checkpoint file; with --verify any file that Lockstep has sealed")
      ->required();
  command->add_flag("--digest", arguments->digest_only, "print the state digest only");
  command->add_flag("--verify", arguments->verify, "only compare every byte of the file with its checksums")
      ->excludes("--digest");
  command->footer("Example:\n  lockstep inspect --digest runs/cnn/step-000000440.h5");
  return [arguments, command]() -> std::optional<int> {
    if (command->parsed()) return run_inspect(*arguments);
    return std::nullopt;
  };
}

std::function<std::optional<int>()> add_diff_command(CLI::App& app) {
  const auto arguments = std::make_shared<DiffArguments>();
  CLI::App* command =
      app.add_subcommand("diff", "compare two checkpoints; exit 0 when the states are bitwise equal");
  command->add_option("a", arguments->a, "checkpoint file")->required();
  command->add_option("b", arguments->b, "checkpoint file")->required();
  command->footer("Example:\n  lockstep diff runs/a/step-000000100.h5 runs/b/step-000000100.h5");
  return [arguments, command]() -> std::optional<int> {
    if (command->parsed()) return run_diff(*arguments);
    return std::nullopt;
  };
}

}  // namespace lockstep
