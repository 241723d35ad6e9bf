// One pass over the features of a micro-batch, and one line for the job.
#include "lockstep/train/overflow_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "lockstep/core/log.h"
#include "lockstep/train/agreement.h"

namespace lockstep {

namespace {

// Rounding to infinity begins in the middle between the largest number and the next power of two.
constexpr float kLargest = 65504.0f, kInfinite = 65520.0f;

bool is_infinite(float value) {
  return std::fabs(value) >= kInfinite;
}

// Whether any is. Floats without their signs are ordered as their bits are, as signed integers too, which the
// oldest processors compare several at once.
bool any_infinite(std::span<const float> values) {
  constexpr int32_t kFirst = std::bit_cast<int32_t>(kInfinite);
  int32_t found = 0;
  for (const float value : values)
    found |= static_cast<int32_t>((std::bit_cast<int32_t>(value) & 0x7FFFFFFF) >= kFirst);
  return found != 0;
}

bool may_be_infinite(const Field& inputs) {
  const float most = inputs.dtype == DType::kU8    ? 255.0f
                     : inputs.dtype == DType::kF16 ? kLargest
                                                   : std::numeric_limits<float>::max();
  return inputs.dtype != DType::kI32 && is_infinite(most * inputs.scale / inputs.divisor);
}

}  // namespace

OverflowCheck::OverflowCheck(const DataSource& source, DType compute)
    : source_(source),
      looks_(compute == DType::kF16 &&
             may_be_infinite(source.description().fields()[DataDescription::kInputs])) {}

void OverflowCheck::look(const MicroBatch& batch, const std::function<int64_t(int64_t sample)>& row_of) {
  if (!looks_ || !found_.empty()) return;
  std::vector<float> widened;
  std::span<const float> features;
  if (batch.field(kInputsName).narrow()) {
    widened = batch.real_values(kInputsName);
    features = widened;
  } else {
    features = batch.values<float>(kInputsName);
  }
  if (!any_infinite(features)) return;
  const auto place = std::ranges::find_if(features, is_infinite) - features.begin();
  if (place == std::ssize(features)) return;  // no numbers at all, which others say
  const DataDescription& description = source_.description();
  const int64_t each = description.sample_shape.elements(), element = place % each;
  const std::vector<std::string>& columns = description.columns.features;
  found_ = fmt::format(
      "{}: row {}, {}: {} is infinite in fp16, whose largest number is {}: scale the data (data.normalize = "
      "\"standard\"), or use precision.compute = \"bf16\"",
      description.source, source_.whole_row(row_of(place / each)) + 1,
      columns.empty() ? fmt::format("element {}", element + 1)
                      : fmt::format("column '{}'", columns[static_cast<size_t>(element)]),
      features[static_cast<size_t>(place)], kLargest);
}

void OverflowCheck::tell(Communicator& communicator) {
  if (!looks_) return;
  const int64_t mine = found_.empty() ? 0 : 1;
  std::vector<int64_t> all(static_cast<size_t>(communicator.world_size()));
  communicator.all_gather(&mine, sizeof mine, all.data(), "inputs")->wait();
  const auto first = std::ranges::find(all, int64_t{1});
  if (first == all.end()) return;
  broadcast_text(communicator, found_, "inputs", static_cast<int>(first - all.begin()));
  if (communicator.rank() == 0) log_warning(found_);
  found_.clear();
  looks_ = false;
}

}  // namespace lockstep
