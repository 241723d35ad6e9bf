// LoRA: fine-tuning by what is trained beside products whose own weights stay as they are (Hu et al. 2021).
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "lockstep/nn/module.h"

namespace lockstep {

// The defaults are those of Hugging Face's PEFT, with alpha as it is mostly given.
struct LoraOptions {
  int64_t rank = 0;     // r; 0: every parameter is trained, as ever
  double alpha = 16.0;  // what is added is scaled by alpha / r
  // Patterns (matches_pattern) of the names of the matrices that it is added to.
  std::vector<std::string> targets = {"*.attention.*"};
  double dropout = 0.0;  // in training: of what enters A

  double scale() const { return alpha / static_cast<double>(rank); }
};

// Keys of [lora]. Rejects keys beside rank = 0.
LoraOptions read_lora(Section& lora);

// What a model is built with, by way of its ModuleBuilder: which of its matrices are adapted.
class LoraPlan {
 public:
  // Error (kUsage): an option out of its range.
  explicit LoraPlan(LoraOptions options);
  const LoraOptions& options() const { return options_; }
  // The model has this matrix; whether it is adapted. inside: it is a part of one that is adapted as a whole,
  // and so is not by itself. Error (kUsage): the rank is above its dimensions.
  bool takes(const std::string& name, const Shape& shape, bool inside = false);
  // After the model was built. Error (kUsage) for a model that cannot be adapted, and naming a pattern that
  // fits nothing, or only what is inside of what others take.
  void require_fit(const ParameterStore& store) const;

 private:
  LoraOptions options_;
  std::vector<std::string> names_;  // of all matrices that could be
  std::set<std::string> inside_;
};

inline constexpr const char* kLoraA = ".lora_a";  // behind the name of the matrix without ".weight"
inline constexpr const char* kLoraB = ".lora_b";

// Columns of a product that can be adapted by themselves: what is one product here and several elsewhere.
struct ProductPart {
  std::string name;
  int64_t columns = 0;
};

// The matrix W (in, out) of a product x W, "weight" in its scope. With a plan it is frozen, and where the
// plan takes it there are "lora_a" (in, r), uniform in +-1/sqrt(in), and "lora_b" (r, out), 0 at first. Where
// it does not, but takes "PART.weight", there are "PART.lora_a" (in, r) and "PART.lora_b" (r, its columns).
// Parts lie side by side.
class AdaptedWeight {
 public:
  AdaptedWeight(const Shape& shape, const Initializer& initializer, const ModuleBuilder& builder,
                const std::vector<ProductPart>& parts = {});
  bool adapted() const { return !changes_.empty(); }
  // W.
  const Tensor& base(const ForwardContext& context) const { return context.parameter(weight_); }
  // y + alpha/r (dropout(x) A) B, in the columns that are adapted; each with draws of its own.
  Tensor with_change(const Tensor& y, const Tensor& x, const ForwardContext& context) const;

 private:
  struct Change {
    int a, b;
    int64_t column;
  };
  void adapt(const ModuleBuilder& builder, int64_t column, const Shape& shape);

  int weight_;
  std::vector<Change> changes_;
  double scale_ = 0.0, dropout_ = 0.0;
};

}  // namespace lockstep
