// Weights that other programs have written, as the parameters of a gpt.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "lockstep/checkpoint/state.h"
#include "lockstep/nn/gpt.h"
#include "lockstep/tensor/parameter_store.h"

namespace lockstep {

// Several threads may not use one.
class WeightsSource {
 public:
  virtual ~WeightsSource() = default;
  // Resolved; what is of training alone has its default, but for dropout where the files tell of it.
  const GptOptions& options() const { return options_; }
  // Rows of the table of tokens. llm.c's padding is not among them.
  int64_t vocabulary() const { return vocabulary_; }
  std::optional<int32_t> begin() const { return begin_; }
  const std::vector<int32_t>& ends() const { return ends_; }
  // Of an adapter: the directory of the weights that it changes. Empty: of all others.
  const std::string& base_directory() const { return base_directory_; }
  // As src/nn/gpt.h lays them out, row by row. Error (kCheckpoint).
  virtual std::vector<float> values(const ParameterEntry& parameter) const = 0;
  // Biases that the model `wanted` does without and that are 0 here, as an export fills them up, are none of
  // this one's any more.
  void leave_out_zero_biases(const GptOptions& wanted);

 protected:
  GptOptions options_;
  int64_t vocabulary_ = 0;
  std::optional<int32_t> begin_;
  std::vector<int32_t> ends_;
  std::string base_directory_;
};

// Whether `path` is for open_weights: a directory, or a file of llm.c.
bool holds_weights(const std::string& path);

// A directory of Hugging Face (config.json of gpt2, llama, mistral, qwen2 or qwen3 and safetensors, with the
// prefix of the whole model or without), a directory with an adapter of PEFT, whose base is there or where
// `base` says (exchange/peft_adapter.h), or a model file of llm.c (fp32 or bf16). Error (kCheckpoint) naming
// the file and every tensor that is missing, too many, or of another shape; (kUsage): `base` for what has all
// of its weights.
std::unique_ptr<WeightsSource> open_weights(const std::string& path, const std::string& base = "");

// Where the tokenizer of weights would be: beside them, or, of an adapter that has none, beside its base.
// base and errors: as open_weights().
std::string tokenizer_directory(const std::string& path, const std::string& base = "");
// The digest of the tokenizer there (Tokenizer::digest); empty: there is none that could be read.
std::string tokenizer_beside(const std::string& path, const std::string& base = "");

// The two kinds.
std::unique_ptr<WeightsSource> open_hugging_face(const std::string& directory);
std::unique_ptr<WeightsSource> open_llmc_model(const std::string& path);

// Parameters of a gpt of these options over so many tokens, in store order.
std::vector<ParameterEntry> gpt_parameters(const GptOptions& resolved, int64_t vocabulary);

// As the arrays of a checkpoint, "/parameters/NAME" in fp32, for a gpt over the first `vocabulary` tokens and
// the first `context` learned positions. Error (kCheckpoint) when the source has fewer.
State parameters_of(const WeightsSource& source, const std::string& path, int64_t vocabulary,
                    int64_t context);

}  // namespace lockstep
