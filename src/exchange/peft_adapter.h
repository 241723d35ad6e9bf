// Adapters as Hugging Face's PEFT saves them: adapter_config.json and adapter_model.safetensors.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "lockstep/checkpoint/state.h"
#include "lockstep/exchange/safetensors.h"
#include "lockstep/exchange/weights_source.h"
#include "lockstep/nn/gpt.h"
#include "lockstep/nn/lora.h"

namespace lockstep {

// What is added to the product of one module: W becomes W + scale A B, A (inputs, rank), B (rank, outputs).
struct PeftChange {
  int64_t inputs = 0, outputs = 0, rank = 0;
  double scale = 0.0;                                 // alpha / rank; alpha / sqrt(rank) with use_rslora
  const SafetensorsEntry *a = nullptr, *b = nullptr;  // as stored: (rank, inputs) and (outputs, rank)
};

class PeftAdapter {
 public:
  // Error (kCheckpoint): damaged files, something else than LoRA (DoRA, biases, modules that were saved
  // whole, embeddings), or an option that is not known and may change what is computed.
  explicit PeftAdapter(const std::string& directory);

  const std::string& directory() const { return directory_; }
  // base_model_name_or_path: of a directory, or a name that only a hub knows; may be empty.
  const std::string& base() const { return base_; }
  // By the module's name without the prefix of the whole model: "layers.0.self_attn.q_proj".
  const std::map<std::string, PeftChange>& changes() const { return changes_; }
  // In our orientation.
  std::vector<float> a(const PeftChange& change) const;
  std::vector<float> b(const PeftChange& change) const;

 private:
  void read_config();
  void read_tensors();
  double alpha_of(const std::string& module) const;

  std::string directory_, base_;
  double alpha_ = 0.0;
  bool rank_stabilized_ = false;
  std::map<std::string, double> alphas_;  // alpha_pattern
  std::optional<SafetensorsFile> file_;
  std::map<std::string, PeftChange> changes_;
};

// Whether `path` is a directory with an adapter_config.json.
bool holds_peft_adapter(const std::string& path);

// Where the base of an adapter is: `base`, or, where that is empty, what the adapter says. Error
// (kCheckpoint): there is no such directory, or an adapter in it.
std::string base_directory_of(const PeftAdapter& adapter, std::string base = "");

// The weights of the whole model: those of the base with all changes added. base: where it is; empty: where
// the adapter says. Error (kCheckpoint): there is no such directory; a change that fits no product of it.
std::unique_ptr<WeightsSource> open_adapted(const std::string& directory, const std::string& base = "");

// What a gpt's adapters `trained` (parameters of nn/lora.h) begin with to compute what the adapter does:
// arrays
// "/parameters/NAME". Error (kCheckpoint) naming what the adapter has and the run does not train, or the
// other way round, another scale, and what has one matrix A here and several there.
State adapter_parameters(const PeftAdapter& adapter, const GptOptions& resolved, int64_t vocabulary,
                         const LoraOptions& lora, const std::vector<ParameterEntry>& trained);

}  // namespace lockstep
