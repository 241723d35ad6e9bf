// Runs a flat update kernel over the segments of the parameter array.
#include "lockstep/optim/flat_optimizer.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "lockstep/optim/update_checks.h"

namespace lockstep {

FlatOptimizer::FlatOptimizer(std::string type, UpdateFormula formula, std::vector<std::string> array_names,
                             double weight_decay)
    : type_(std::move(type)), formula_(formula), weight_decay_(weight_decay) {
  for (std::string& name : array_names) arrays_.push_back({std::move(name), Tensor(), {}});
}

void FlatOptimizer::allocate(const std::vector<ParameterEntry>&, int64_t extent,
                             const std::vector<ElementRange>& owned, DType dtype, Backend& backend) {
  extent_ = extent;
  owned_ = owned;
  dtype_ = dtype;
  for (OptimizerSlot& array : arrays_) array.values = Tensor::zeros({total_size(owned)}, dtype, backend);
}

void FlatOptimizer::for_owned(
    std::span<const UpdateSegment> segments,
    const std::function<void(const UpdateSegment&, const ElementRange&, int64_t)>& use) const {
  check_update_segments(type_, segments, extent_);
  for (const UpdateSegment& segment : segments) {
    int64_t position = 0;
    for (const ElementRange& range : owned_) {
      const ElementRange elements = overlap(range, {segment.begin, segment.end});
      if (elements.size() > 0) use(segment, elements, position + elements.begin - range.begin);
      position += range.size();
    }
  }
}

void FlatOptimizer::write_rows(int64_t update, double learning_rate, std::span<const UpdateSegment> segments,
                               std::span<double> rows) const {
  double* row = rows.data();
  for (const UpdateSegment& segment : segments) {
    std::fill_n(row, kRowSize, 0.0);
    set_scalars(update, row);
    row[0] = learning_rate * segment.learning_rate_factor;
    row[1] = segment.weight_decay ? weight_decay_ : 0.0;
    row += kRowSize;
  }
}

void FlatOptimizer::update(const UpdateContext& context) {
  Tensor parameters = context.parameters;
  check_update_context(type_, context, extent_, dtype_);

  UpdateArguments arguments;
  arguments.dtype = dtype_;
  arguments.gradient_scale = context.gradient_scale;
  const bool decided = context.verdict == nullptr;
  std::vector<double> rows;
  if (decided) {
    rows.resize(context.segments.size() * kRowSize);
    write_rows(updates_, context.learning_rate, context.segments, rows);
  } else {
    arguments.gate = &context.verdict->gate;
    arguments.factor = &context.verdict->factor;
  }
  const auto bytes = static_cast<int64_t>(size_of(dtype_));
  auto* parameter_bytes = static_cast<std::byte*>(parameters.mutable_data());
  const auto* gradient_bytes = static_cast<const std::byte*>(context.gradients.data());
  Tensor lowered = context.lowered;
  std::byte* lowered_bytes = nullptr;
  if (lowered.defined()) {
    lowered_bytes = static_cast<std::byte*>(lowered.mutable_data());
    arguments.copy_dtype = lowered.dtype();
  }
  for_owned(context.segments, [&](const UpdateSegment& segment, const ElementRange& elements,
                                  int64_t position) {
    arguments.n = elements.size();
    arguments.parameters = parameter_bytes + elements.begin * bytes;
    arguments.gradients = gradient_bytes + elements.begin * bytes;
    if (lowered_bytes != nullptr)
      arguments.copy = lowered_bytes + elements.begin * static_cast<int64_t>(size_of(arguments.copy_dtype));
    for (size_t i = 0; i < arrays_.size(); ++i) {
      arguments.slots[i] = static_cast<std::byte*>(arrays_[i].values.mutable_data()) + position * bytes;
    }
    const auto row = (&segment - context.segments.data()) * kRowSize;
    if (decided) {
      std::copy_n(rows.data() + row, kRowSize, arguments.scalars);
    } else {
      arguments.row = context.rows + row;
    }
    parameters.backend().update(formula_, arguments);
  });
  if (decided) ++updates_;
}

}  // namespace lockstep
