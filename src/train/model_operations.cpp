// Counting operations.
#include "lockstep/train/model_operations.h"

#include <fmt/format.h>

#include <array>
#include <string_view>

namespace lockstep {

double known_peak(const std::string& device, DType compute) {
  // Of bf16 and fp16 without sparsity, in 10^12, by NVIDIA's data sheets. The first that is named counts.
  struct Known {
    std::string_view name;
    double tflops;
  };
  static constexpr std::array<Known, 7> kKnown = {{
      {"H100 PCIe", 756.0},
      {"H100 NVL", 835.0},
      {"H100", 989.0},
      {"H200", 989.0},
      {"GH200", 989.0},
      {"A100", 312.0},
      {"B200", 2250.0},
  }};
  if (compute != DType::kBF16 && compute != DType::kF16) return 0.0;
  for (const Known& known : kKnown)
    if (device.find(known.name) != std::string::npos) return known.tflops * 1e12;
  return 0.0;
}

ModelOperations model_operations(const Module& model, const ParameterStore& store, int64_t tokens) {
  ModelOperations operations;
  if (tokens == 0) return operations;
  if (const double forward = model.operations(); forward > 0.0) {
    // Frozen weights have no gradients; adapters take little.
    const bool frozen = !store.frozen().empty();
    operations.of_token = (frozen ? 2.0 : 3.0) * forward / static_cast<double>(tokens);
    operations.formula = frozen ? "2 times those of the model's forward pass, whose weights are frozen"
                                : "3 times those of the model's forward pass";
    return operations;
  }
  int64_t parameters = 0;
  for (const ParameterEntry& entry : store.parameters())
    parameters += entry.shape.rank() > 1 ? entry.shape.elements() : 0;
  operations.of_token = 6.0 * static_cast<double>(parameters);
  operations.formula =
      fmt::format("6 x {} parameters of more than one axis, tables included, attention not", parameters);
  return operations;
}

}  // namespace lockstep
