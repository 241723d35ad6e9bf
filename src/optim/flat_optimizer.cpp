// Runs a flat update kernel over the parameter array.
#include "lockstep/optim/flat_optimizer.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "lockstep/optim/update_checks.h"

namespace lockstep {

static_assert(Optimizer::kRowSize == UpdateArguments::kScalars);

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

// Kept from update to update: those of a run never change, and a recorded step goes on reading them.
void FlatOptimizer::place_ends(std::span<const UpdateSegment> segments, Backend& backend) {
  std::vector<int64_t> ends;
  for (const UpdateSegment& segment : segments) ends.push_back(segment.end);
  if (ends == placed_ends_) return;
  ends_ = Tensor::from({static_cast<int64_t>(ends.size())}, ends, backend);
  placed_ends_ = std::move(ends);
}

void FlatOptimizer::update(const UpdateContext& context) {
  Tensor parameters = context.parameters;
  check_update_context(type_, context, extent_, dtype_);

  UpdateArguments arguments;
  arguments.dtype = dtype_;
  arguments.gradient_scale = context.gradient_scale;
  const std::span<const UpdateSegment> segments = context.segments;
  Tensor rows;
  const bool decided = context.verdict == nullptr;
  if (decided) {
    std::vector<double> written(segments.size() * kRowSize);
    write_rows(updates_, context.learning_rate, segments, written);
    rows = Tensor::from({static_cast<int64_t>(written.size())}, written, parameters.backend());
  } else {
    arguments.gate = &context.verdict->gate;
    arguments.factor = &context.verdict->factor;
  }
  const double* const row = decided ? rows.data_as<double>() : context.rows;
  place_ends(segments, parameters.backend());
  const auto bytes = static_cast<int64_t>(size_of(dtype_));
  auto* parameter_bytes = static_cast<std::byte*>(parameters.mutable_data());
  const auto* gradient_bytes = static_cast<const std::byte*>(context.gradients.data());
  Tensor lowered = context.lowered;
  std::byte* lowered_bytes = nullptr;
  if (lowered.defined()) {
    lowered_bytes = static_cast<std::byte*>(lowered.mutable_data());
    arguments.copy_dtype = lowered.dtype();
  }
  // Segments that follow each other are one update: a kernel a segment would be hundreds in a transformer
  // that decays its matrices alone.
  for (size_t begin = 0, end = 0; begin < segments.size(); begin = end) {
    for (end = begin + 1; end < segments.size() && segments[end].begin == segments[end - 1].end;) ++end;
    arguments.row = row + begin * kRowSize;
    arguments.ends = ends_.data_as<int64_t>() + begin;
    arguments.runs = static_cast<int64_t>(end - begin);
    const UpdateSegment stretch{.begin = segments[begin].begin, .end = segments[end - 1].end};
    for_owned({&stretch, 1}, [&](const UpdateSegment&, const ElementRange& elements, int64_t position) {
      arguments.n = elements.size();
      arguments.first = elements.begin;
      arguments.parameters = parameter_bytes + elements.begin * bytes;
      arguments.gradients = gradient_bytes + elements.begin * bytes;
      if (lowered_bytes != nullptr)
        arguments.copy = lowered_bytes + elements.begin * static_cast<int64_t>(size_of(arguments.copy_dtype));
      for (size_t i = 0; i < arrays_.size(); ++i) {
        arguments.slots[i] = static_cast<std::byte*>(arrays_[i].values.mutable_data()) + position * bytes;
      }
      parameters.backend().update(formula_, arguments);
    });
  }
  if (decided) ++updates_;
}

}  // namespace lockstep
