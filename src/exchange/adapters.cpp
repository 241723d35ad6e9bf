// Finding and adding low-rank changes.
#include "lockstep/exchange/adapters.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

#include "lockstep/core/error.h"
#include "lockstep/exchange/weights_source.h"
#include "lockstep/nn/lora.h"

namespace lockstep {

std::vector<AdaptedColumns> adapted_columns(const GptOptions& resolved, int64_t vocabulary) {
  constexpr std::string_view kWeight = ".weight";
  std::vector<AdaptedColumns> all;
  for (const ParameterEntry& weight : gpt_parameters(resolved, vocabulary)) {
    if (weight.shape.rank() != 2 || !weight.name.starts_with("blocks.")) continue;
    const std::string product = weight.name.substr(0, weight.name.size() - kWeight.size());
    all.push_back({product, weight, 0, weight.shape[1], -1});
    int64_t column = 0;
    int number = 0;
    for (const ProductPart& part : gpt_parts(resolved, product)) {
      all.push_back({product + "." + part.name, weight, column, part.columns, number++});
      column += part.columns;
    }
  }
  return all;
}

std::vector<StoredAdapter> stored_adapters(const State& state, const GptOptions& resolved, int64_t vocabulary,
                                           const std::string& where) {
  const auto find = [&](const std::string& name) -> const StateArray* {
    const auto found = std::ranges::find(state.arrays, "/parameters/" + name, &StateArray::path);
    return found == state.arrays.end() ? nullptr : &*found;
  };
  std::vector<StoredAdapter> adapters;
  for (AdaptedColumns& of : adapted_columns(resolved, vocabulary)) {
    const StateArray *a = find(of.name + kLoraA), *b = find(of.name + kLoraB);
    if (a == nullptr && b == nullptr) continue;
    const bool fits = a != nullptr && b != nullptr && a->shape.rank() == 2 &&
                      a->shape[0] == of.weight.shape[0] && b->shape == Shape{a->shape[1], of.columns};
    if (!fits) {
      fail(ErrorKind::kCheckpoint, fmt::format("{}: {}{}: does not fit {} {}", where, of.name, kLoraA,
                                               of.weight.name, of.weight.shape.to_string()));
    }
    adapters.push_back({std::move(of), a, b});
  }
  const auto count = std::ranges::count_if(
      state.arrays, [](const StateArray& array) { return array.path.ends_with(kLoraA); });
  if (count != std::ssize(adapters))
    fail(ErrorKind::kCheckpoint, where + ": has adapters of products that its model does not have");
  if (adapters.empty()) fail(ErrorKind::kCheckpoint, where + ": has no adapters");
  return adapters;
}

void add_low_rank(float* weight, int64_t stride, const std::vector<float>& a, const std::vector<float>& b,
                  int64_t inputs, int64_t rank, int64_t columns, double scale) {
  std::vector<double> row(static_cast<size_t>(columns));
  for (int64_t i = 0; i < inputs; ++i) {
    std::ranges::fill(row, 0.0);
    for (int64_t k = 0; k < rank; ++k) {
      const double factor = a[static_cast<size_t>(i * rank + k)];
      const float* from = b.data() + k * columns;
      for (int64_t j = 0; j < columns; ++j)
        row[static_cast<size_t>(j)] += factor * static_cast<double>(from[j]);
    }
    float* to = weight + i * stride;
    for (int64_t j = 0; j < columns; ++j)
      to[j] = static_cast<float>(static_cast<double>(to[j]) + scale * row[static_cast<size_t>(j)]);
  }
}

}  // namespace lockstep
