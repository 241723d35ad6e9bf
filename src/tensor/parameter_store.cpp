// Layout and initial values of the flat parameter array.
#include "lockstep/tensor/parameter_store.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <span>
#include <utility>
#include <vector>

#include "lockstep/core/error.h"
#include "lockstep/core/philox.h"
#include "lockstep/core/thread_pool.h"
#include "lockstep/kernels/math/normal.h"

namespace lockstep {

namespace {

int64_t aligned(int64_t extent) {
  return (extent + ParameterStore::kParameterAlignment - 1) / ParameterStore::kParameterAlignment *
         ParameterStore::kParameterAlignment;
}

// Numbers drawn at a time, and by a thread at a time: the exact values of a large array take little memory.
constexpr int64_t kPiece = int64_t{1} << 20;
constexpr int64_t kGrain = int64_t{1} << 13;
static_assert(kPiece % 2 == 0 && kGrain % 2 == 0, "a block gives two numbers");

// Draw i of the parameter called `name`, a pure function of (seed, name, i).
struct InitialDraws {
  PhiloxKey key;
  uint64_t name_hash;
  bool normal;  // else uniform in [-1, 1)

  // Draws 2 i and 2 i + 1.
  std::pair<double, double> pair(uint64_t i) const {
    const PhiloxBlock b =
        philox(key, {static_cast<uint32_t>(i), static_cast<uint32_t>(i >> 32),
                     static_cast<uint32_t>(name_hash), static_cast<uint32_t>(name_hash >> 32)});
    if (normal) return math::portable::standard_normals(b);
    return {2.0 * uniform_double(b.r[0], b.r[1]) - 1.0, 2.0 * uniform_double(b.r[2], b.r[3]) - 1.0};
  }

  // values = spread * draws from number `first` on, an even one.
  void fill(int64_t first, double spread, std::span<double> values) const {
    const auto count = std::ssize(values);
    parallel_ranges(count, kGrain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i += 2) {
        const auto [even, odd] = pair(static_cast<uint64_t>(first + i) / 2);
        values[static_cast<size_t>(i)] = spread * even;
        if (i + 1 < end) values[static_cast<size_t>(i + 1)] = spread * odd;
      }
    });
  }
};

// Draws' standard deviation or half width: Glorot and Bengio 2010 (Xavier), He et al. 2015. A uniform
// variable on [-a, a] has variance a^2/3.
double spread_of(const Initializer& initializer) {
  using Kind = Initializer::Kind;
  const auto fan_in = static_cast<double>(initializer.fan_in);
  const auto fan_out = static_cast<double>(initializer.fan_out);
  switch (initializer.kind) {
    case Kind::kXavierUniform:
      return initializer.scale * std::sqrt(6.0 / (fan_in + fan_out));
    case Kind::kXavierNormal:
      return initializer.scale * std::sqrt(2.0 / (fan_in + fan_out));
    case Kind::kHeUniform:
      return initializer.scale * std::sqrt(6.0 / fan_in);
    case Kind::kHeNormal:
      return initializer.scale * std::sqrt(2.0 / fan_in);
    default:
      return initializer.scale;
  }
}

bool is_normal(Initializer::Kind kind) {
  using Kind = Initializer::Kind;
  return kind == Kind::kNormal || kind == Kind::kXavierNormal || kind == Kind::kHeNormal;
}

// values: zeros.
void initialize(const Initializer& initializer, PhiloxKey key, uint64_t name_hash, Tensor values) {
  using Kind = Initializer::Kind;
  Backend& backend = values.backend();
  const Kind kind = initializer.kind;
  if (kind == Kind::kZeros) return;
  if (kind == Kind::kOnes || kind == Kind::kConstant) {
    backend.fill(values.dtype(), values.elements(), values.mutable_data(),
                 kind == Kind::kOnes ? 1.0 : initializer.scale);
    return;
  }
  const InitialDraws draws{key, name_hash, is_normal(kind)};
  const double spread = spread_of(initializer);
  const int64_t elements = values.elements();
  std::vector<double> drawn;
  for (int64_t first = 0; first < elements; first += kPiece) {
    drawn.resize(static_cast<size_t>(std::min(kPiece, elements - first)));
    draws.fill(first, spread, drawn);
    const Shape shape({std::ssize(drawn)});
    const Tensor exact = Tensor::from(shape, drawn, backend);
    backend.cast(DType::kF64, values.dtype(), exact.elements(), exact.data(),
                 values.view(shape, first).mutable_data());
  }
}

template <class Entry>
void require_new(const std::vector<Entry>& entries, const std::string& name) {
  const std::string fault = fault_of_path(name, entries, &Entry::name);
  if (!fault.empty()) fail(ErrorKind::kUsage, "parameter store: " + fault);
}

}  // namespace

std::string fault_of_path(const std::string& name) {
  const std::string within = "/" + name + "/";
  const bool path = within.find("//") == std::string::npos && within.find("/./") == std::string::npos &&
                    name.find('\0') == std::string::npos;
  return path ? "" : "checkpoints cannot have the name '" + name + "'";
}

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
    initialize(entry.initializer, key, stable_hash(entry.name), parameter(static_cast<int>(i)));
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
