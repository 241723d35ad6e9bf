// Places in flat arrays, and rows or columns of matrices.
#include "lockstep/optim/curvature_layout.h"

#include <fmt/format.h>

#include <algorithm>

namespace lockstep {
namespace {

constexpr size_t kMostNames = 40;

std::string joined(const std::vector<std::string>& names) {
  const size_t shown = std::min(names.size(), kMostNames);
  const std::string list =
      fmt::format("{}", fmt::join(names.begin(), names.begin() + static_cast<int64_t>(shown), ", "));
  return shown == names.size() ? list : fmt::format("{} and {} more", list, names.size() - shown);
}

// Where a part lies in the joint matrix: so many rows of so many elements, from an element on.
struct Place {
  int64_t rows, width, begin;
};

Place place_of(const CurvedLayer& layer, bool bias) {
  const int64_t weights = layer.inputs - (layer.bias ? 1 : 0);
  if (layer.inputs_first)
    return {1, (bias ? 1 : weights) * layer.outputs, bias ? weights * layer.outputs : 0};
  return {layer.outputs, bias ? 1 : weights, bias ? weights : 0};
}

}  // namespace

CurvatureSums lay_out_sums(const std::vector<CurvedLayer>& layers, int64_t max_size, bool scales) {
  CurvatureSums sums;
  const auto reserve = [&sums](int64_t size) {
    const int64_t at = sums.extent;
    constexpr int64_t kAlignment = ParameterStore::kParameterAlignment;
    sums.extent += (size + kAlignment - 1) / kAlignment * kAlignment;
    return at;
  };
  for (const CurvedLayer& layer : layers) {
    LayerSums& at = sums.layers.emplace_back();
    at.layer = layer;
    at.square_inputs = !layer.lookup && layer.inputs <= max_size;
    at.square_outputs = layer.outputs <= max_size;
    at.inputs_at = reserve(at.inputs_size());
    at.outputs_at = reserve(at.outputs_size());
    if (scales) at.scales_at = reserve(layer.inputs * layer.outputs);
  }
  return sums;
}

std::string describe_sums(const CurvatureSums& sums, const std::vector<ParameterEntry>& parameters,
                          const std::string& head) {
  std::vector<std::string> layers, others;
  std::vector<bool> taken(parameters.size(), false);
  for (const LayerSums& at : sums.layers) {
    const CurvedLayer& layer = at.layer;
    taken[layer.weight] = true;
    if (layer.bias) taken[layer.weight + 1] = true;
    const auto side = [](int64_t n, bool square) {
      return fmt::format("{}{}", n, square ? "" : " (diagonal)");
    };
    layers.push_back(fmt::format("{}{} {} x {}", parameters[layer.weight].name,
                                 layer.bias ? " with its bias" : "", side(layer.inputs, at.square_inputs),
                                 side(layer.outputs, at.square_outputs)));
  }
  for (size_t i = 0; i < parameters.size(); ++i) {
    if (!taken[i]) others.push_back(parameters[i].name);
  }
  std::string text = layers.empty() ? fmt::format("{}: no layer", head)
                                    : fmt::format("{}: inputs x outputs of {}", head, joined(layers));
  if (!others.empty()) text += fmt::format("; AdamW updates {}", joined(others));
  return text;
}

void put_part(const CurvedLayer& layer, const Tensor& part, bool bias, Tensor& joint) {
  const Place place = place_of(layer, bias);
  const size_t size = size_of(joint.dtype());
  const size_t row = static_cast<size_t>(joint.elements() / place.rows) * size;
  const size_t width = static_cast<size_t>(place.width) * size;
  joint.backend().copy_rows(
      place.rows, width, part.data(), width,
      static_cast<std::byte*>(joint.mutable_data()) + static_cast<size_t>(place.begin) * size, row);
}

Tensor part_of(const CurvedLayer& layer, const Tensor& joint, bool bias) {
  const Place place = place_of(layer, bias);
  const size_t size = size_of(joint.dtype());
  const size_t row = static_cast<size_t>(joint.elements() / place.rows) * size;
  const size_t width = static_cast<size_t>(place.width) * size;
  Tensor part = Tensor::empty({place.rows * place.width}, joint.dtype(), joint.backend());
  joint.backend().copy_rows(
      place.rows, width,
      static_cast<const std::byte*>(joint.data()) + static_cast<size_t>(place.begin) * size, row,
      part.mutable_data(), width);
  return part;
}

}  // namespace lockstep
