// The parameter store: every parameter of a model in one flat, aligned array, with a table name -> (offset,
// shape).
//
// Gradients are a parallel array of the same layout plus a tail, the statistics section, that is reduced with
// the gradients but belongs to no optimizer: per-micro-batch batch-norm statistics travel there.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "lockstep/tensor/tensor.h"

namespace lockstep {

// How the initial values of a parameter are drawn. fan_in and fan_out are given by the layer.
struct Initializer {
  enum class Kind {
    kZeros,
    kOnes,
    kConstant,
    kXavierUniform,
    kXavierNormal,
    kHeUniform,
    kHeNormal,
    kNormal,
    kUniform
  };
  Kind kind = Kind::kZeros;
  int64_t fan_in = 1, fan_out = 1;
  double scale = 1.0;  // kConstant: the value; kNormal: standard deviation; kUniform: half width; else a gain
};

struct ParameterEntry {
  std::string name;  // "layers.0.weight": path of modules, dots between
  Shape shape;
  int64_t offset = 0;  // elements from the start of the flat array; a multiple of kParameterAlignment
  Initializer initializer;
};

struct StatisticEntry {
  std::string name;  // "layers.1.running_mean"
  Shape shape;
  int64_t offset = 0;  // elements from the start of the statistics section
  double initial = 0.0;
  double momentum = 0.1;  // value <- (1 - momentum) * value + momentum * mean over the micro-batches
};

// A parameter that is held once, as it was given: no gradient, no optimizer and no checkpoint knows of it.
struct FrozenEntry {
  std::string name;
  Shape shape;
  bool product = false;  // the matrix of a product: held in the compute type
};

// Why no checkpoint can have an array `name`, a path below a group, beside the others; "": it can.
std::string fault_of_path(const std::string& name);
template <class Others, class Name>
std::string fault_of_path(const std::string& name, const Others& others, Name name_of_other) {
  std::string fault = fault_of_path(name);
  for (const auto& other : others) {
    const std::string& taken = std::invoke(name_of_other, other);
    if (!fault.empty()) break;
    if (taken == name) fault = "'" + name + "' is declared twice";
    if (name.starts_with(taken + "/") || taken.starts_with(name + "/"))
      fault = "checkpoints cannot have both '" + taken + "' and '" + name + "', one within the other";
  }
  return fault;
}

class ParameterStore {
 public:
  static constexpr int64_t kParameterAlignment = 64;  // elements; gaps are zero and stay zero

  // Declares before allocate. Returns the index. Error when the name is taken, or none of a checkpoint's. It
  // may have no elements, but not in a run.
  int declare_parameter(const std::string& name, const Shape& shape, const Initializer& initializer);
  int declare_statistic(const std::string& name, const Shape& shape, double initial, double momentum);
  // Returns kFirstFrozen + its place in frozen().
  int declare_frozen(const std::string& name, const Shape& shape, bool product);
  static constexpr int kFirstFrozen = 1 << 30;

  // Allocates the flat arrays and draws the initial values: a function of (seed, name) alone. Frozen
  // parameters are there when they are given.
  void allocate(DType dtype, Backend& backend, uint64_t seed);
  bool allocated() const { return values_.defined(); }

  DType dtype() const { return values_.dtype(); }
  Backend& backend() const { return values_.backend(); }

  const std::vector<ParameterEntry>& parameters() const { return parameters_; }
  const std::vector<StatisticEntry>& statistics() const { return statistics_; }
  const std::vector<FrozenEntry>& frozen() const { return frozen_; }

  // Extents in elements: all parameters with their gaps; the statistics section; both (the length of a
  // gradient array).
  int64_t parameter_extent() const { return parameter_extent_; }
  int64_t statistic_extent() const { return statistic_extent_; }
  int64_t gradient_extent() const { return parameter_extent_ + statistic_extent_; }
  // Number of trainable scalars, gaps not counted.
  int64_t parameter_count() const;

  // Views into the flat arrays.
  Tensor values() const { return values_; }             // (parameter_extent)
  Tensor statistic_values() const { return running_; }  // (statistic_extent)
  Tensor parameter(int index) const;
  Tensor statistic(int index) const;

  // Those of the frozen parameter at this place of frozen(); undefined before they are given. Of its shape.
  const Tensor& frozen_values(size_t place) const { return frozen_values_[place]; }
  void freeze(size_t place, Tensor values) { frozen_values_[place] = std::move(values); }

 private:
  std::vector<ParameterEntry> parameters_;
  std::vector<StatisticEntry> statistics_;
  std::vector<FrozenEntry> frozen_;
  std::vector<Tensor> frozen_values_;
  int64_t parameter_extent_ = 0;
  int64_t statistic_extent_ = 0;
  Tensor values_;
  Tensor running_;
};

}  // namespace lockstep
