// The part that optimizers of matrices share: what is no matrix, and what is named, is AdamW's.
#pragma once

#include <string>
#include <vector>

#include "lockstep/optim/parameter_optimizer.h"

namespace lockstep {

// How parameters are updated that the method leaves alone, and what they have in common with the others.
struct RestOptions {
  double weight_decay = 0.0;  // of all parameters, decoupled
  std::vector<std::string> adamw = {};
  double adamw_learning_rate_factor = 1.0;
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;  // of AdamW
};

class MatrixOptimizer : public ParameterOptimizer {
 public:
  MatrixOptimizer(std::string type, RestOptions rest)
      : ParameterOptimizer(std::move(type)), rest_(std::move(rest)) {}
  double load(const ParameterEntry& parameter) const final;

 protected:
  // Whether the method can take the parameter, if it is not left to AdamW by its name: of two axes or more.
  virtual bool takes(const ParameterEntry& parameter) const { return parameter.shape.rank() > 1; }
  // As declare_state and update_parameter, of parameters that it takes and whose names match none of `adamw`.
  // decay: the update's weight decay, 0 where its segment does not decay.
  virtual void declare_matrix(const ParameterEntry& parameter) = 0;
  virtual void update_matrix(const ParameterUpdate& update, double decay) = 0;
  // As load(), of those; a matrix of n rows and columns that is decomposed counts n^3.
  virtual double matrix_load(const ParameterEntry& parameter) const { return Optimizer::load(parameter); }
  // Whether it is left to AdamW by its name.
  bool is_named(const ParameterEntry& parameter) const;

 private:
  bool is_matrix(const ParameterEntry& parameter) const { return takes(parameter) && !is_named(parameter); }
  void check_parameters(const std::vector<ParameterEntry>& parameters) const final;
  void declare_state(size_t index, const ParameterEntry& parameter) final;
  void update_parameter(const ParameterUpdate& update) final;

  RestOptions rest_;
  std::vector<bool> matrix_;  // by parameter
};

// The keys adamw and adamw_learning_rate_factor, into options that hold the defaults.
void read_rest(Section& section, std::vector<std::string>& adamw, double& learning_rate_factor);

}  // namespace lockstep
