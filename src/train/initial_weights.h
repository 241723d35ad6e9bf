// Weights that others have left: those that a run starts from, and those that stay as they are under LoRA.
#pragma once

#include <string>
#include <vector>

#include "lockstep/checkpoint/state.h"
#include "lockstep/comm/communicator.h"
#include "lockstep/nn/lora.h"
#include "lockstep/nn/module.h"
#include "lockstep/train/replica.h"
#include "lockstep/train/run_state.h"

namespace lockstep {

// How weights may differ from those that the run's model needs.
struct InitialWeights {
  std::vector<std::string> without;  // patterns of names: drawn all the same
  std::vector<std::string> differ;   // keys of [model] that need not be the same
  std::string base = {};             // of an adapter of PEFT: as for open_weights()
};

// A checkpoint, or, for the gpt of the configuration (TOML), what open_weights() takes: as the checkpoint of
// a run over such data. Error: kCheckpoint for files that cannot be read, naming the options in which the
// models differ, and for a checkpoint that holds adapters alone; kUsage for another model than a gpt, and for
// an option that may differ and does not.
State read_initial_weights(const std::string& path, const std::string& configuration, const DataShape& data,
                           const InitialWeights& options);

// What the adapters of a run with [lora] begin with, of a directory of PEFT. Error (kCheckpoint): it is of
// other products, of another rank or scale; (kUsage): the model has no counterpart there.
State read_initial_adapter(const std::string& path, const std::string& configuration, const DataShape& data,
                           const LoraOptions& lora, const ParameterStore& store);

// The numbers of an array in fp32 or fp64.
std::vector<float> in_fp32(const StateArray& array);

// A message where the config.json of a directory has other dropout than the run's configuration (TOML).
void tell_of_dropout(const std::string& path, const std::string& configuration, const DataShape& data);

// A warning where weights are known to be of other tokens than the data: another tokenizer lies beside them,
// or they were trained on its tokens, or on texts that begin or end with others. vocabulary:
// DataDescription::vocabulary.
void warn_of_vocabulary(const State& found, const std::string& path, const std::string& vocabulary);

// The frozen parameters of a replica, and the digest by which checkpoints know them.
class BaseWeights final : public Checkpointed {
 public:
  // Fills the replica's frozen parameters, from a state that worker 0 alone needs to have. Error
  // (kCheckpoint) on every worker, naming all tensors that do not fit. Collective.
  void load(Replica& replica, const State& found, const std::string& path, Communicator& communicator);

  void describe(State& state) const override;
  // Error (kCheckpoint): the checkpoint's adapters are of other weights.
  void restore(const State& found, const std::string& path) override;

 private:
  std::string path_, digest_;  // empty: nothing is frozen
};

// Parameters and statistics of a checkpoint, trained or averaged ones, as weights_of() has them; where it
// holds adapters, those of the whole model: W + alpha/r A B, in fp32. base: where the frozen weights are now;
// empty: train.initial_weights of the checkpoint's configuration. Error (kCheckpoint): they are others than
// it was trained with; (kUsage): `base` for a checkpoint that has all of its weights.
State whole_weights(const State& found, bool averaged, const std::string& path, const std::string& base);

// train.initial_weights of a checkpoint's configuration.
std::string initial_weights_of(const State& found, const std::string& path);

// What [lora] of a checkpoint says; a rank of 0: it holds all of its weights.
LoraOptions lora_of(const State& found, const std::string& path);

}  // namespace lockstep
