// A model built from TOML text over its own parameter store, for tests.
#pragma once

#include <memory>
#include <string>

#include "device.h"
#include "lockstep/core/configuration.h"
#include "lockstep/core/error.h"
#include "lockstep/nn/module.h"

namespace lockstep {

struct BuiltModel {
  ParameterStore store;
  std::unique_ptr<Module> module;

  // `toml` is the whole configuration; every key in it must be read by the model.
  BuiltModel(const std::string& toml, const DataShape& data) {
    Configuration configuration = Configuration::parse(toml, "test.toml", {});
    Section section = configuration.section("model");
    module = build_model(section, data, ModuleBuilder(store));
    configuration.reject_unknown();
  }
  BuiltModel& allocate(DType dtype = DType::kF64, uint64_t seed = 7) {
    store.allocate(dtype, test_backend(), seed);
    return *this;
  }
  // "name (shape)" of every parameter, in order.
  std::vector<std::string> parameter_names() const {
    std::vector<std::string> names;
    for (const ParameterEntry& entry : store.parameters()) {
      names.push_back(entry.name + " " + entry.shape.to_string());
    }
    return names;
  }
};

// The message of the Error that building throws; checks that its kind is kUsage.
inline std::string build_error(const std::string& toml, const DataShape& data) {
  try {
    BuiltModel model(toml, data);
  } catch (const Error& error) {
    return error.kind() == ErrorKind::kUsage ? error.what() : std::string("wrong kind: ") + error.what();
  }
  return "no error";
}

inline const DataShape kDigits{{8, 8, 1}, DType::kF32, 10};
inline const DataShape kFlatDigits{{64}, DType::kF32, 10};

// Reproducible values in [-1, 1).
inline std::vector<double> uniform_values(int64_t count, uint64_t seed) {
  std::vector<double> values(static_cast<size_t>(count));
  const PhiloxKey key = philox_key(seed, RandomPurpose::kTest);
  for (size_t i = 0; i < values.size(); ++i) {
    const PhiloxBlock block = philox(key, {static_cast<uint32_t>(i), 0, 0, 0});
    values[i] = 2.0 * uniform_double(block.r[0], block.r[1]) - 1.0;
  }
  return values;
}

}  // namespace lockstep
