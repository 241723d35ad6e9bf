// Outlines of data as text.
#include "lockstep/train/data_outline.h"

#include <fmt/format.h>

#include <algorithm>

#include "lockstep/core/configuration.h"
#include "lockstep/core/error.h"
#include "lockstep/core/toml_text.h"

namespace lockstep {

namespace {

std::vector<int64_t> extents_of(const Shape& shape) {
  return {shape.extents().begin(), shape.extents().end()};
}

}  // namespace

std::string DataOutline::text() const {
  const auto line = [](const char* key, const auto& value) {
    return fmt::format("{} = {}\n", key, to_toml(value));
  };
  return "[data]\n" + line("sample", extents_of(shape.sample)) +
         line("input", std::string(name_of(shape.input))) + line("classes", shape.classes) +
         line("targets", shape.targets) + line("positions", extents_of(shape.positions)) +
         line("features", columns.features) + line("target", columns.target) +
         line("class_names", class_names) + line("mean", statistics.mean) +
         line("deviation", statistics.deviation) + (vocabulary.empty() ? "" : line("vocabulary", vocabulary));
}

DataOutline DataOutline::parse(const std::string& text, const std::string& path) {
  try {
    Configuration configuration = Configuration::parse(text, path, {});
    Section data = configuration.section("data");
    DataOutline outline;
    const auto shape = [&](const char* key) {
      const std::vector<int64_t> extents = data.integers(key, std::nullopt, {0, 9e15}, "");
      if (std::ssize(extents) >= Shape::kMaxRank) data.reject(key, "has too many axes");
      return Shape(std::span(extents));
    };
    outline.shape.sample = shape("sample");
    outline.shape.input = data.text("input", std::nullopt,
                                    {std::string(name_of(DType::kF32)), std::string(name_of(DType::kI32))},
                                    "") == name_of(DType::kI32)
                              ? DType::kI32
                              : DType::kF32;
    outline.shape.classes = data.integer("classes", std::nullopt, kNonNegative, "");
    outline.shape.targets = data.integer("targets", std::nullopt, kNonNegative, "");
    outline.shape.positions = shape("positions");
    outline.columns = {data.texts("features", std::nullopt, ""), data.text("target", std::nullopt, {}, "")};
    outline.class_names = data.texts("class_names", std::nullopt, "");
    outline.statistics = {data.reals("mean", std::nullopt, kAny, ""),
                          data.reals("deviation", std::nullopt, kNonNegative, "")};
    outline.vocabulary = data.text("vocabulary", "", {}, "");
    configuration.reject_unknown();
    return outline;
  } catch (const Error& error) {
    fail(ErrorKind::kCheckpoint, fmt::format("the outline of the data is none: {}", error.what()));
  }
}

DataOutline outline_of(const RunData& data) {
  const DataDescription& train = data.train->description();
  DataOutline outline{data.shape, train.columns, data.statistics, train.class_names, train.vocabulary};
  // The statistics stand in the order of the file.
  const std::vector<std::string>&from = data.columns.features, &to = train.columns.features;
  if (from == to || data.statistics.mean.empty()) return outline;
  for (size_t i = 0; i < to.size(); ++i) {
    const auto at = static_cast<size_t>(std::ranges::find(from, to[i]) - from.begin());
    outline.statistics.mean[i] = data.statistics.mean[at];
    outline.statistics.deviation[i] = data.statistics.deviation[at];
  }
  return outline;
}

}  // namespace lockstep
