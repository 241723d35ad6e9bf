// A gpt that gives the logits of the next token, and keeps keys and values of those before.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "lockstep/nn/gpt.h"
#include "lockstep/tensor/parameter_store.h"
#include "lockstep/tensor/tensor.h"

namespace lockstep {

// On the CPU. A row's results have the same bits whatever rows are computed beside it, in however many calls,
// on any number of threads.
class Decoder {
 public:
  // values: of a parameter of nn/gpt.h, in fp32. compute: kF32, or kBF16 for products with weights in bf16,
  // summed in fp32; everything else is fp32. sequences: texts that are under way at the same time.
  Decoder(const GptOptions& resolved, int64_t vocabulary, DType compute, int64_t sequences,
          const std::function<std::vector<float>(const ParameterEntry&)>& values);

  // A token behind those that its sequence has.
  struct Row {
    int64_t sequence = 0;
    int32_t token = 0;
  };
  // Logits (rows,V) of what follows each. Rows of one sequence are in its order. Error (kUsage): more tokens
  // than the model has positions; a token beyond its table (kData).
  Tensor logits(std::span<const Row> rows);
  // The same of the last row alone (1,V): for prompts.
  Tensor last_logits(std::span<const Row> rows);

  // Tokens of a sequence.
  int64_t length(int64_t sequence) const { return lengths_[static_cast<size_t>(sequence)]; }
  const GptOptions& options() const { return options_; }
  int64_t vocabulary() const { return vocabulary_; }

 private:
  // Keys and values of a layer and a sequence: (positions, K D) each.
  struct Cache {
    std::vector<float> keys, values;
  };

  const Tensor& parameter(const std::string& name) const { return parameters_.at(name); }
  Tensor optional(const std::string& name) const;
  // x W + b in the compute type, (N,in) fp32 -> (N,out) fp32.
  Tensor product(const Tensor& x, const std::string& scope) const;
  Tensor norm(const Tensor& x, const std::string& scope) const;
  Tensor placed(const Tensor& x, int64_t heads, const std::string& norm_scope, const Tensor& cosines,
                const Tensor& sines) const;
  Tensor attention(const Tensor& x, int64_t layer, std::span<const Row> rows,
                   std::span<const int64_t> positions, const Tensor& cosines, const Tensor& sines);
  Tensor hidden(std::span<const Row> rows);
  // Of their rows of the table of tokens.
  Tensor embedded(std::span<const int32_t> tokens) const;
  Tensor head(const Tensor& x) const;

  GptOptions options_;
  int64_t vocabulary_;
  DType compute_;
  std::map<std::string, Tensor> parameters_;
  Tensor head_;                // (C,V), turned: rows of a matrix are what one row is multiplied with fastest
  std::vector<Cache> caches_;  // layer by layer, in each a sequence
  std::vector<int64_t> lengths_;
};

}  // namespace lockstep
