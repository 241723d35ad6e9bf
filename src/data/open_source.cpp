// Opening data sets: files, and what a program brings along.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <numeric>
#include <span>
#include <utility>

#include "lockstep/core/error.h"
#include "lockstep/data/data_source.h"
#include "lockstep/data/formats.h"
#include "lockstep/data/loader.h"
#include "lockstep/data/token_windows.h"
#include "lockstep/hdf5/sealed_file.h"
#include "lockstep/text/token_file.h"

namespace lockstep {

namespace {

struct OwnFormat {
  std::string name;
  SourceReader read;
};

std::vector<OwnFormat>& own_formats() {
  static std::vector<OwnFormat> formats = {{"tokens", read_token_windows}};
  return formats;
}

void require_usable(const DataDescription& description) {
  const auto require = [&](bool holds, const std::string& rule) {
    if (!holds) fail(ErrorKind::kUsage, fmt::format("data source {}: {}", description.source, rule));
  };
  require(description.samples > 0, fmt::format("must have samples, got {}", description.samples));
  require(description.sample_shape.elements() > 0,
          fmt::format("a sample must have elements, got {}", description.sample_shape.to_string()));
  require(description.input_dtype == DType::kF32 || description.input_dtype == DType::kI32,
          fmt::format("inputs must be fp32 or int32, got {}", name_of(description.input_dtype)));
  const DType stored = description.stored_dtype;
  require(stored == DType::kF32 || stored == DType::kU8 || stored == DType::kF16,
          fmt::format("inputs must be stored as fp32, uint8 or fp16, got {}", name_of(stored)));
  require((description.classes > 0) != (description.target_width > 0),
          fmt::format("must have either classes or a target width, got {} and {}", description.classes,
                      description.target_width));
  require(description.positions.elements() > 0,
          fmt::format("a sample must have targets, got positions {}", description.positions.to_string()));
  require(
      std::isfinite(description.scale) && std::isfinite(description.divisor) && description.divisor != 0.0f,
      fmt::format("scale and divisor must be finite, the divisor not 0, got {} and {}", description.scale,
                  description.divisor));
  std::vector<std::string> names = {"", kInputsName, kTargetsName, kWeightsName};
  for (const Field& field : description.others) {
    require(std::ranges::count(names, field.name) == 0,
            fmt::format("each other field must have a name of its own, got \"{}\"", field.name));
    require(field.dtype == DType::kF32 || field.dtype == DType::kI32,
            fmt::format("field \"{}\" must be fp32 or int32, got {}", field.name, name_of(field.dtype)));
    names.push_back(field.name);
  }
  const std::string fault = fault_of_names(description.class_names, description.classes, description.columns,
                                           description.sample_shape.elements());
  require(fault.empty(), fault);
  const int64_t counts = std::ssize(description.class_counts);
  require(counts == 0 || counts == description.classes,
          fmt::format("{} counts of classes do not fit {} classes", counts, description.classes));
}

// All samples in order, a chunk of at most 256 after the other.
template <class Use>
void visit(const DataSource& source, const Use& use) {
  constexpr int64_t kChunk = 256;
  std::array<int64_t, kChunk> rows{};
  const std::vector<Field> fields = source.description().fields();
  for (int64_t first = 0; first < source.size(); first += kChunk) {
    const int64_t count = std::min(kChunk, source.size() - first);
    std::iota(rows.begin(), rows.begin() + count, first);
    MicroBatch batch(count, fields);
    gather_rows(source, std::span(rows).first(static_cast<size_t>(count)), batch);
    use(batch);
  }
}

}  // namespace

std::string WholeSource::digest() const {
  std::vector<Digest> digests;
  visit(*this, [&](const MicroBatch& batch) {
    for (const MicroBatch::Array& array : batch.arrays) digests.push_back(digest_of(array.values));
  });
  std::string layout = fmt::format("gathered {};", description_.classes);
  for (const Field& field : description_.fields()) {
    layout += fmt::format("{} {} {} {} {};", field.name, name_of(field.dtype), field.shape.to_string(),
                          field.scale, field.divisor);
  }
  return digest_of_digests(layout, digests);
}

FeatureStatistics WholeSource::statistics() const {
  if (description_.input_dtype == DType::kI32)
    fail(ErrorKind::kUsage, description_.source + ": tokens have no mean: data.normalize must be \"none\"");
  FeatureStatisticsPass pass(description_.sample_shape.elements());
  visit(*this, [&](const MicroBatch& batch) { pass.add(batch.real_values(kInputsName)); });
  return pass.result();
}

std::shared_ptr<const WholeSource> open_data_source(const DatasetOptions& options) {
  if (options.open) {
    std::shared_ptr<const WholeSource> own;
    call_own("data source", [&] { own = options.open(options); });
    if (own == nullptr) fail(ErrorKind::kUsage, "data source: the program's opener has made none");
    require_usable(own->description());
    return own;
  }
  if (checked_format(options) == "hdf5" &&
      apparent_state(options.path, ErrorKind::kData) == SealState::kSealed) {
    if (std::optional<BlockedFile> content = verify_outline(options.path, ErrorKind::kData)) {
      if (outlines_tokens(options.path)) {
        fail(ErrorKind::kUsage,
             options.path + ": holds tokens: data.format = \"tokens\" makes samples of them");
      }
      return std::make_shared<MappedSource>(options, std::move(*content));
    }
  }
  DatasetOptions narrow = options;
  narrow.narrow = true;
  std::error_code error;
  if (checked_format(options) == "hdf5" &&
      static_cast<int64_t>(std::filesystem::file_size(options.path, error)) >=
          MappedSource::kLeastUnsealedBytes &&
      !error) {
    const Hdf5Rows rows(narrow);
    if (!options.unlabelled)
      checked_ignore_label(options, rows.outline().ignore_label, rows.outline().classes);
    if (const std::optional<int64_t> offset = rows.inputs_offset())
      return std::make_shared<MappedSource>(rows, *offset);
  }
  return std::make_shared<TableSource>(read_dataset(narrow));
}

void register_data_format(const std::string& format, SourceReader read) {
  if (std::ranges::count(data_formats(), format) > 0) {
    fail(ErrorKind::kUsage, fmt::format("register_data_format: there is already a format \"{}\"", format));
  }
  own_formats().push_back({format, std::move(read)});
}

std::vector<std::string> data_formats() {
  std::vector<std::string> names = {"auto", "hdf5", "idx", "cifar10", "csv"};
  for (const OwnFormat& own : own_formats()) names.push_back(own.name);
  return names;
}

SourceOpener read_data_format(Section& data, const std::string& format) {
  const auto own = std::ranges::find(own_formats(), format, &OwnFormat::name);
  return own == own_formats().end() ? SourceOpener() : own->read(data);
}

}  // namespace lockstep
