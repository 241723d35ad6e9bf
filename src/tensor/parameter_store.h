// The parameter store: every parameter of a model in one flat, aligned array, with a table name -> (offset,
// shape).
//
// Gradients are a parallel array of the same layout plus a tail, the statistics section, that is reduced with
// the gradients but belongs to no optimizer: per-micro-batch batch-norm statistics travel there.
#pragma once

#include <cstdint>
#include <string>
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

class ParameterStore {
 public:
  static constexpr int64_t kParameterAlignment = 64;  // elements; gaps are zero and stay zero

  // Declares before allocate. Returns the index. Error when the name is taken.
  int declare_parameter(const std::string& name, const Shape& shape, const Initializer& initializer);
  int declare_statistic(const std::string& name, const Shape& shape, double initial, double momentum);

  // Allocates the flat arrays and draws the initial values: a function of (seed, name) alone.
  void allocate(DType dtype, Backend& backend, uint64_t seed);
  bool allocated() const { return values_.defined(); }

  DType dtype() const { return values_.dtype(); }
  Backend& backend() const { return values_.backend(); }

  const std::vector<ParameterEntry>& parameters() const { return parameters_; }
  const std::vector<StatisticEntry>& statistics() const { return statistics_; }

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

 private:
  std::vector<ParameterEntry> parameters_;
  std::vector<StatisticEntry> statistics_;
  int64_t parameter_extent_ = 0;
  int64_t statistic_extent_ = 0;
  Tensor values_;
  Tensor running_;
};

}  // namespace lockstep
