// Layout and initial values of the flat parameter array.
#include "lockstep/tensor/parameter_store.h"

#include <fmt/format.h>

#include <cmath>

#include "lockstep/core/error.h"
#include "lockstep/core/philox.h"
#include "lockstep/kernels/math/normal.h"

namespace lockstep {

namespace {

int64_t aligned(int64_t extent) {
  return (extent + ParameterStore::kParameterAlignment - 1) / ParameterStore::kParameterAlignment *
         ParameterStore::kParameterAlignment;
}

// Draw i of the parameter called `name`, a pure function of (seed, name, i).
struct InitialDraws {
  PhiloxKey key;
  uint64_t name_hash;

  PhiloxBlock block(uint64_t index) const {
    return philox(key, {static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32),
                        static_cast<uint32_t>(name_hash), static_cast<uint32_t>(name_hash >> 32)});
  }
  // In [0, 1).
  double uniform(uint64_t index) const {
    const PhiloxBlock b = block(index / 2);
    return index % 2 == 0 ? uniform_double(b.r[0], b.r[1]) : uniform_double(b.r[2], b.r[3]);
  }
  double normal(uint64_t index) const {
    return math::portable::standard_normal(block(index / 2), index % 2 != 0);
  }
};

// Standard deviation or half width: Glorot and Bengio 2010 (Xavier), He et al. 2015. A uniform variable on
// [-a, a] has variance a^2/3.
void draw(const Initializer& initializer, const InitialDraws& draws, std::vector<double>& values) {
  using Kind = Initializer::Kind;
  const auto fan_in = static_cast<double>(initializer.fan_in);
  const auto fan_out = static_cast<double>(initializer.fan_out);
  double spread = 0.0;
  bool normal = false;
  switch (initializer.kind) {
    case Kind::kZeros:
      return;
    case Kind::kOnes:
      values.assign(values.size(), 1.0);
      return;
    case Kind::kConstant:
      values.assign(values.size(), initializer.scale);
      return;
    case Kind::kXavierUniform:
      spread = initializer.scale * std::sqrt(6.0 / (fan_in + fan_out));
      break;
    case Kind::kXavierNormal:
      spread = initializer.scale * std::sqrt(2.0 / (fan_in + fan_out));
      normal = true;
      break;
    case Kind::kHeUniform:
      spread = initializer.scale * std::sqrt(6.0 / fan_in);
      break;
    case Kind::kHeNormal:
      spread = initializer.scale * std::sqrt(2.0 / fan_in);
      normal = true;
      break;
    case Kind::kNormal:
      spread = initializer.scale;
      normal = true;
      break;
    case Kind::kUniform:
      spread = initializer.scale;
      break;
  }
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = normal ? spread * draws.normal(i) : spread * (2.0 * draws.uniform(i) - 1.0);
  }
}

template <class Entries>
void require_new(const Entries& entries, const std::string& name) {
  for (const auto& entry : entries) {
    if (entry.name == name) fail(ErrorKind::kInternal, "parameter store: '" + name + "' is declared twice");
  }
}

}  // namespace

int ParameterStore::declare_parameter(const std::string& name, const Shape& shape,
                                      const Initializer& initializer) {
  require_new(parameters_, name);
  parameters_.push_back({name, shape, parameter_extent_, initializer});
  parameter_extent_ = aligned(parameter_extent_ + shape.elements());
  return static_cast<int>(parameters_.size()) - 1;
}

int ParameterStore::declare_statistic(const std::string& name, const Shape& shape, double initial,
                                      double momentum) {
  require_new(statistics_, name);
  statistics_.push_back({name, shape, statistic_extent_, initial, momentum});
  statistic_extent_ = aligned(statistic_extent_ + shape.elements());
  return static_cast<int>(statistics_.size()) - 1;
}

int ParameterStore::declare_frozen(const std::string& name, const Shape& shape, bool product) {
  require_new(frozen_, name);
  frozen_.push_back({name, shape, product});
  frozen_values_.emplace_back();
  return kFirstFrozen + static_cast<int>(frozen_.size()) - 1;
}

void ParameterStore::allocate(DType dtype, Backend& backend, uint64_t seed) {
  values_ = Tensor::zeros({parameter_extent_}, dtype, backend);
  running_ = Tensor::zeros({statistic_extent_}, dtype, backend);
  const PhiloxKey key = philox_key(seed, RandomPurpose::kInitialization);
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const ParameterEntry& entry = parameters_[i];
    std::vector<double> drawn(static_cast<size_t>(entry.shape.elements()), 0.0);
    draw(entry.initializer, {key, stable_hash(entry.name)}, drawn);
    Tensor slice = parameter(static_cast<int>(i));
    const Tensor exact = Tensor::from(entry.shape, drawn, backend);
    backend.cast(DType::kF64, dtype, exact.elements(), exact.data(), slice.mutable_data());
  }
  for (size_t i = 0; i < statistics_.size(); ++i) {
    Tensor slice = statistic(static_cast<int>(i));
    backend.fill(dtype, slice.elements(), slice.mutable_data(), statistics_[i].initial);
  }
  backend.synchronize();
}

int64_t ParameterStore::parameter_count() const {
  int64_t count = 0;
  for (const ParameterEntry& entry : parameters_) count += entry.shape.elements();
  return count;
}

Tensor ParameterStore::parameter(int index) const {
  const ParameterEntry& entry = parameters_.at(static_cast<size_t>(index));
  return values_.view(entry.shape, entry.offset);
}

Tensor ParameterStore::statistic(int index) const {
  const StatisticEntry& entry = statistics_.at(static_cast<size_t>(index));
  return running_.view(entry.shape, entry.offset);
}

}  // namespace lockstep
