// Writing prepared files: HDF5 lays them out, the samples are written around it.
#include "lockstep/data/prepared_file.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "lockstep/core/error.h"
#include "lockstep/core/output_file.h"
#include "lockstep/core/unfinished_file.h"
#include "lockstep/data/feature_statistics.h"
#include "lockstep/data/formats.h"
#include "lockstep/data/stored_features.h"
#include "lockstep/hdf5/block_writer.h"
#include "lockstep/hdf5/file.h"
#include "lockstep/hdf5/raw_values.h"
#include "lockstep/hdf5/sealed_file.h"

namespace lockstep {

namespace {

constexpr int64_t kPage = 4096;

// What stands there may be the source, given in the wrong place, or a checkpoint.
void require_place(const Dataset& dataset, const std::string& path) {
  std::error_code error;
  if (std::filesystem::equivalent(path, dataset.source, error))
    fail(ErrorKind::kUsage, path + ": is the file that was read: not replaced");
  require_replaceable(path, "is not an HDF5 file of data", [&] {
    const std::optional<SealState> state = apparent_state(path, ErrorKind::kData);
    return state && (*state != SealState::kSealed || seals_blocks(path, ErrorKind::kData));
  });
}

}  // namespace

struct PreparedFileWriter::Impl {
  std::string path;
  std::optional<UnfinishedFile> unfinished;
  StoredSamples outline;  // its views are not used
  bool tokens = false;
  BlockedArray x, y;
  int64_t mean = 0, deviation = 0, table = 0, largest = 0;
  int64_t rows = 0;                                // of inputs, so far
  std::array<int64_t, 2> largest_index = {-1, 0};  // of tokens, and its row
  std::optional<BlockWriter> inputs, targets;
  FeatureStatisticsPass statistics{0};
  std::vector<float> features;  // of a row
  std::optional<RawValues> file;

  const std::string& temporary() const { return unfinished->path(); }

  void lay_out(const Dataset& dataset) {
    const int64_t n = dataset.size();
    Shape x_shape{n}, sample = dataset.sample_shape;
    for (int64_t extent : sample.extents()) x_shape.push_back(extent);
    const Shape y_shape = dataset.classes > 0 ? Shape{n} : Shape{n, dataset.target_width};
    x.bytes = n * outline.input_bytes();
    y.bytes = n * outline.target_bytes();
    Hdf5File hdf5 = Hdf5File::create(temporary(), ErrorKind::kData, kPage, kPage);
    x.offset = hdf5.allocate("/x", outline.input_dtype, x_shape);
    y.offset = hdf5.allocate("/y", outline.target_dtype, y_shape);
    table = hdf5.allocate("/digests", DType::kU8,
                          {blocks_of(x.bytes) + blocks_of(y.bytes), std::ssize(Digest{})});
    if (!tokens) {
      mean = hdf5.allocate("/mean", DType::kF64, sample);
      deviation = hdf5.allocate("/deviation", DType::kF64, sample);
    }
    if (tokens) largest = hdf5.allocate("/largest_index", DType::kI64, {2});
    const std::vector<int64_t> counts = class_counts(dataset);
    if (!counts.empty()) hdf5.write("/class_counts", DType::kI64, {std::ssize(counts)}, counts.data());
    hdf5.write_attribute("/", kLayoutAttribute,
                         dataset.ignore_label ? kPreparedLayoutIgnoring : kPreparedLayout);
    if (dataset.ignore_label) hdf5.write_attribute("/y", "ignore_label", int64_t{*dataset.ignore_label});
    if (!dataset.columns.features.empty()) {
      hdf5.write_attribute("/x", "feature_names",
                           fmt::format("{}", fmt::join(dataset.columns.features, "\n")));
    }
    if (!dataset.columns.target.empty()) hdf5.write_attribute("/y", "target_name", dataset.columns.target);
    if (tokens) hdf5.write_attribute("/x", "tokens", int64_t{1});
    if (outline.scale != 1.0f) hdf5.write_attribute("/x", "scale", static_cast<double>(outline.scale));
    if (outline.divisor != 1.0f) hdf5.write_attribute("/x", "divisor", static_cast<double>(outline.divisor));
    if (dataset.classes > 0) {
      hdf5.write_attribute("/", "classes", dataset.classes);
      if (!dataset.class_names.empty())
        hdf5.write_attribute("/", "class_names", fmt::format("{}", fmt::join(dataset.class_names, "\n")));
    }
    for (const auto& [name, text] : dataset.attribution) hdf5.write_attribute("/", name, text);
    hdf5.close();
    if (x.offset > y.offset)
      fail(ErrorKind::kInternal, fmt::format("{}: HDF5 has put /y before /x", temporary()));
  }
};

PreparedFileWriter::PreparedFileWriter(const Dataset& outline, const std::string& path)
    : impl_(std::make_unique<Impl>()) {
  require_place(outline, path);
  Impl& impl = *impl_;
  impl.path = path;
  impl.unfinished.emplace(fmt::format("{}.{}.partial", path, getpid()));
  impl.outline = stored_samples(outline);
  impl.tokens = outline.input_dtype == DType::kI32;
  impl.lay_out(outline);
  impl.file.emplace(impl.temporary(), ErrorKind::kData);
  impl.inputs.emplace(impl.x, impl.temporary());
  impl.targets.emplace(impl.y, impl.temporary());
  if (!impl.tokens) {
    impl.statistics = FeatureStatisticsPass(impl.outline.input_elements);
    impl.features.resize(static_cast<size_t>(impl.outline.input_elements));
  }
  impl.targets->add(*impl.file, impl.outline.targets);
  impl.targets->flush(*impl.file);
}

PreparedFileWriter::~PreparedFileWriter() = default;

void PreparedFileWriter::add_inputs(const Dataset& rows) {
  Impl& impl = *impl_;
  const StoredSamples stored = stored_samples(rows);
  impl.inputs->add(*impl.file, stored.inputs);
  if (impl.tokens) {
    const int64_t width = impl.outline.input_elements;
    for (size_t i = 0; i < rows.inputs_i32.size(); ++i) {
      if (rows.inputs_i32[i] > impl.largest_index[0])
        impl.largest_index = {rows.inputs_i32[i], impl.rows + static_cast<int64_t>(i) / width + 1};
    }
    impl.rows += std::ssize(rows.inputs_i32) / width;
    return;
  }
  const auto bytes = static_cast<size_t>(impl.outline.input_bytes());
  const Field features = impl.outline.features();
  for (size_t at = 0; at + bytes <= stored.inputs.size(); at += bytes) {
    widen_features(features, stored.inputs.data() + at, impl.outline.input_elements, impl.features.data());
    impl.statistics.add(impl.features);
  }
}

void PreparedFileWriter::finish() {
  Impl& impl = *impl_;
  impl.inputs->flush(*impl.file);
  if (!impl.inputs->complete() || !impl.targets->complete())
    fail(ErrorKind::kInternal, impl.temporary() + ": samples are missing");
  std::vector<Digest> digests = impl.inputs->digests();
  digests.insert(digests.end(), impl.targets->digests().begin(), impl.targets->digests().end());
  impl.file->write(impl.table, std::as_bytes(std::span(digests)));
  if (impl.tokens) {
    impl.file->write(impl.largest, std::as_bytes(std::span(impl.largest_index)));
  } else {
    const FeatureStatistics statistics = impl.statistics.result();
    impl.file->write(impl.mean, std::as_bytes(std::span(statistics.mean)));
    impl.file->write(impl.deviation, std::as_bytes(std::span(statistics.deviation)));
  }
  seal_blocked_file(impl.temporary(), ErrorKind::kData, {impl.x, impl.y}, impl.table);
  commit_file(impl.temporary(), impl.path, ErrorKind::kData);
}

void write_dataset(const Dataset& dataset, const std::string& path) {
  check_dataset(dataset);
  PreparedFileWriter writer(dataset, path);
  writer.add_inputs(dataset);
  writer.finish();
}

Dataset prepare_dataset(const DatasetOptions& options, const std::string& path) {
  DatasetOptions stored = options;
  stored.narrow = stored.texts = true;
  if (checked_format(stored) != "hdf5") {
    Dataset dataset = read_dataset(stored);
    write_dataset(dataset, path);
    return dataset;
  }
  Hdf5Rows rows(stored);
  Dataset piece = rows.outline();
  checked_ignore_label(stored, piece.ignore_label, piece.classes);
  PreparedFileWriter writer(piece, path);
  const int64_t count =
      std::max<int64_t>(1, kPieceBytes / (4 * std::max<int64_t>(1, piece.sample_shape.elements())));
  for (int64_t first = 0; first < rows.outline().size(); first += count) {
    rows.read_inputs(first, std::min(count, rows.outline().size() - first), piece);
    writer.add_inputs(piece);
  }
  writer.finish();
  return rows.outline();
}

}  // namespace lockstep
