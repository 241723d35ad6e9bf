// Module: a layer or a model, built once over a parameter store, applied to activations.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "lockstep/core/configuration.h"
#include "lockstep/ops/class_head.h"
#include "lockstep/tensor/named_tensors.h"
#include "lockstep/tensor/parameter_store.h"
#include "lockstep/tensor/tensor.h"

namespace lockstep {

// What a forward pass needs besides its input.
struct ForwardContext {
  bool training = false;
  // The parameters as leaves of differentiation; indexed like ParameterStore::parameters(). In evaluation
  // too, where nothing is to be recorded (RecordingScope): an AutocastScope keeps the 16-bit copies of
  // leaves.
  std::vector<Tensor> parameters;
  // Running statistics, indexed like ParameterStore::statistics(); read in evaluation.
  std::vector<Tensor> statistics;
  // Statistics of this micro-batch, written in training; same indices.
  std::vector<Tensor> batch_statistics;
  // Training: of every run of this many consecutive layers only the input is kept for the backward sweep
  // (autodiff/recompute.h); 0 keeps everything. Gradients are the same bits either way.
  int64_t recompute_every = 0;
  // The batch that the inputs belong to: for models that read more of it than these, by name. Null: there is
  // no more.
  const NamedTensors* batch = nullptr;

  // Parameters that are not trained, in the order of ParameterStore::frozen().
  std::vector<Tensor> frozen;

  // By the index that ModuleBuilder::parameter returned.
  const Tensor& parameter(int index) const {
    constexpr int kFrozen = ParameterStore::kFirstFrozen;
    return index < kFrozen ? parameters[static_cast<size_t>(index)]
                           : frozen[static_cast<size_t>(index - kFrozen)];
  }
};

// A context over an allocated store: its parameters (leaves with their index), its running statistics, and
// room for those of one micro-batch.
ForwardContext forward_context(const ParameterStore& store, bool training);

// The statistics that the forward pass in training has written, indexed like ParameterStore::statistics();
// the context is left without them, for the next micro-batch. Error (kUsage) naming a statistic of the
// store that the pass has left out.
std::vector<Tensor> take_batch_statistics(ForwardContext& context, const ParameterStore& store);

class LoraPlan;

// Names what a module declares: scopes make "layers.0.weight". With a plan (nn/lora.h) every parameter is
// frozen, and what is trained is beside those that AdaptedWeight declares.
class ModuleBuilder {
 public:
  explicit ModuleBuilder(ParameterStore& store, std::string prefix = "", LoraPlan* lora = nullptr)
      : store_(&store), prefix_(std::move(prefix)), lora_(lora) {}
  ModuleBuilder scope(const std::string& name) const { return ModuleBuilder(*store_, path(name), lora_); }
  int parameter(const std::string& name, const Shape& shape, const Initializer& initializer) const {
    return lora_ != nullptr ? store_->declare_frozen(path(name), shape, false)
                            : store_->declare_parameter(path(name), shape, initializer);
  }
  int statistic(const std::string& name, const Shape& shape, double initial, double momentum) const {
    return store_->declare_statistic(path(name), shape, initial, momentum);
  }
  const std::string& prefix() const { return prefix_; }
  ParameterStore& store() const { return *store_; }
  LoraPlan* lora() const { return lora_; }
  std::string path(const std::string& name) const { return prefix_.empty() ? name : prefix_ + "." + name; }

 private:
  ParameterStore* store_;
  std::string prefix_;
  LoraPlan* lora_;
};

class Module {
 public:
  virtual ~Module() = default;
  // x (B, ...) -> (B, ...).
  virtual Tensor forward(const Tensor& x, ForwardContext& context) const = 0;
  // Of a module whose inputs are table indices: they must be in [0, index_limit()). 0: it takes none, or does
  // not say; each step looks then.
  virtual int64_t index_limit() const { return 0; }
  // Floating-point operations, additions and multiplications, of the products of a forward pass on one
  // sample; 0: the model does not say.
  virtual double operations() const { return 0.0; }
  // Whether the model reads this field of the batch beside its inputs (ForwardContext::batch). Data whose
  // meaning rests on a field, such as documents that are kept apart, are refused by models that do not.
  virtual bool reads(const std::string& field) const {
    static_cast<void>(field);
    return false;
  }
  // Of a model of so many classes that losses do without its logits: forward() up to the last product, a row
  // a target in the order of forward(). Nothing: there are only logits.
  virtual std::optional<ClassHead> class_head(const Tensor&, ForwardContext&) const { return std::nullopt; }
};

// What a model is told about the data it is built for.
struct DataShape {
  Shape sample;  // shape of one input without the batch axis: (64) or (8,8,1)
  DType input = DType::kF32;
  int64_t classes = 0;   // classification; 0 for regression
  int64_t targets = 1;   // regression outputs a target
  Shape positions = {};  // targets of a sample; (): it has one

  // How many numbers a model gives for one sample: for each target a logit a class, or the regression
  // outputs. The one exception: with two classes a model may give a single logit, of class 1 against class 0.
  int64_t outputs() const { return positions.elements() * (classes > 0 ? classes : targets); }
};

// Refuses (RefusedOption) table indices (int32).
void require_real_inputs(const char* model, const DataShape& data);

// Registered models: logistic, mlp, cnn, gpt, sequential and a program's own. The factory reads its own keys
// of [model], declares its parameters through the builder and refuses (RefusedOption, Section::reject) data
// that do not fit. `example` is data that the factory accepts: its keys are described by building for it.
using ModelFactory = std::function<std::unique_ptr<Module>(Section& model, const DataShape& data,
                                                           const ModuleBuilder& builder)>;
void register_model(const std::string& type, ModelFactory factory,
                    const DataShape& example = {{8, 8, 1}, DType::kF32, 10});
std::vector<std::string> model_types();
// Reads model.type and builds; Error (kUsage) names the known types.
std::unique_ptr<Module> build_model(Section& model, const DataShape& data, const ModuleBuilder& builder);
// Reads the keys of every model and layer type; `model` belongs to Configuration::for_description.
void describe_models(Section& model);

}  // namespace lockstep
