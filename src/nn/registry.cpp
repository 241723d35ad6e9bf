// The list of models: a new built-in one is its file pair and a line here.
#include <fmt/format.h>

#include "lockstep/core/error.h"
#include "lockstep/nn/cnn.h"
#include "lockstep/nn/gpt.h"
#include "lockstep/nn/layer.h"
#include "lockstep/nn/logistic.h"
#include "lockstep/nn/mlp.h"
#include "lockstep/nn/module.h"
#include "lockstep/nn/sequential.h"

namespace lockstep {

namespace {

struct ModelType {
  std::string name;
  ModelFactory make;
  DataShape example;
};

// A model that is made of the options that its reader fills.
template <class Options>
ModelFactory model_of(Options (*read)(Section& model),
                      std::unique_ptr<Module> (*make)(const Options& options, const DataShape& data,
                                                      const ModuleBuilder& builder)) {
  return [read, make](Section& model, const DataShape& data, const ModuleBuilder& builder) {
    return make(read(model), data, builder);
  };
}

std::vector<ModelType>& registered_models() {
  static const DataShape images{{8, 8, 1}, DType::kF32, 10};
  static std::vector<ModelType> models = {
      {"logistic",
       [](Section&, const DataShape& data, const ModuleBuilder& builder) {
         return make_logistic(data, builder);
       },
       images},
      {"mlp", model_of(read_mlp, make_mlp), images},
      {"cnn", model_of(read_cnn, make_cnn), images},
      {"gpt", model_of(read_gpt, make_gpt), {{16}, DType::kI32, 257, 1, {16}}},
      // Its keys are described with one layer, linear to one unit.
      {"sequential", model_of(read_sequential, make_sequential), {{16}, DType::kF32, 0, 1}},
  };
  return models;
}

std::string read_type(Section& model) {
  return model.text("type", std::nullopt, model_types(), "kind of model");
}

}  // namespace

void register_model(const std::string& type, ModelFactory factory, const DataShape& example) {
  for (const std::string& known : model_types()) {
    if (known == type)
      fail(ErrorKind::kUsage, fmt::format("register_model: there is already a model \"{}\"", type));
  }
  registered_models().push_back({type, std::move(factory), example});
}

std::vector<std::string> model_types() {
  std::vector<std::string> names;
  for (const ModelType& model : registered_models()) names.push_back(model.name);
  return names;
}

std::unique_ptr<Module> build_model(Section& model, const DataShape& data, const ModuleBuilder& builder) {
  const std::string name = read_type(model);
  for (const ModelType& type : registered_models()) {
    if (type.name != name) continue;
    Section own = model.of_type(name);
    try {
      return type.make(own, data, builder);
    } catch (const RefusedOption& refused) {
      const bool of_preset = own.has("preset") && !own.has(refused.key());
      own.reject(refused.key(), refused.rule() + (of_preset ? ", as model.preset has it" : ""));
    }
  }
  model.reject("type", fmt::format("unknown model {}", name));
}

void describe_models(Section& model) {
  read_type(model);
  for (const ModelType& type : registered_models()) {
    ParameterStore scratch;
    Section own = model.of_type(type.name);
    type.make(own, type.example, ModuleBuilder(scratch));
  }
  for (Section& layer : model.tables("layers")) describe_layers(layer);
}

}  // namespace lockstep
