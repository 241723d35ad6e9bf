// GPT: a decoder-only transformer over tokens, of the GPT-2 and of the Llama family.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "lockstep/nn/lora.h"
#include "lockstep/nn/module.h"

namespace lockstep {

enum class GptPositions : uint8_t { kLearned, kRotary };
enum class GptNorm : uint8_t { kLayer, kRms };
enum class GptActivation : uint8_t { kGelu, kGeluTanh, kSwiGlu, kReluSquared };
enum class RotaryScaling : uint8_t { kNone, kLinear, kLlama3 };

// What lengthens the wavelengths of rotary positions beyond those of `theta`.
struct RotaryOptions {
  double theta = 10000.0;
  RotaryScaling scaling = RotaryScaling::kNone;
  double factor = 1.0;  // kLinear: of every wavelength; kLlama3: of the long ones
  // kLlama3 alone, as in the `rope_scaling` of its models: wavelengths above original_context / low_frequency
  // are multiplied, those below original_context / high_frequency are not, and between them it is blended.
  double low_frequency = 1.0, high_frequency = 4.0;
  int64_t original_context = 8192;

  bool operator==(const RotaryOptions&) const = default;
};

// The defaults are GPT-2's, at the size of a small experiment.
struct GptOptions {
  int64_t layers = 4;
  int64_t width = 128;      // C
  int64_t heads = 4;        // H, of the queries
  int64_t kv_heads = 0;     // K, of keys and values; divides H; 0: H
  int64_t head_size = 0;    // D, even where positions are rotary; 0: C / H
  int64_t feedforward = 0;  // F, numbers between the two products of a block; 0: 4 C
  int64_t context = 0;      // positions that the model knows; at least the data's window; 0: that
  GptPositions positions = GptPositions::kLearned;
  RotaryOptions rotary = {};
  GptNorm norm = GptNorm::kLayer;
  double norm_epsilon = 1e-5;
  bool norm_bias = true;  // beta of layer norms; RMS norms have none
  GptActivation activation = GptActivation::kGeluTanh;
  bool qkv_bias = true;          // of queries, keys and values
  bool output_bias = true;       // of the product behind the heads
  bool feedforward_bias = true;  // of both products there
  bool qk_norm = false;          // an RMS norm over every head's query and key, before they are rotated
  bool tied_head = true;         // logits are products with the table of tokens
  // In training: of the weights of attention, of what each half of a block adds, and of the embedding.
  double attention_dropout = 0.0, residual_dropout = 0.0, embedding_dropout = 0.0;
  int64_t window = 0;        // query t sees keys t - window + 1 to t; 0: all up to t
  double soft_cap = 0.0;     // logits become cap tanh(logits / cap); 0: off
  double z_loss = 0.0;       // adds this times the square of log sum exp(logits) to each loss in training
  double deviation = 0.02;   // standard deviation of initial weights
  bool depth_scaled = true;  // that of the two products that end in the sum is divided by sqrt(2 layers)
};

// tokens (B,T) int32 in [0, V) -> logits (B,T,V):
//   x = tokens[token] (+ positions[t]);  every block: x += attention(norm(x)), x += feedforward(norm(x));
//   logits = head(norm(x))
// (Radford et al. 2019, "GPT-2"; Touvron et al. 2023, "LLaMA"). Parameters, i = 0 .. layers - 1; products are
// x W + b, W stored (in, out), but tables and the head, which are (V, C):
//   tokens.weight                       (V, C)
//   positions.weight                    (context, C)       learned positions
//   blocks.i.attention_norm.gamma       (C)
//   blocks.i.attention_norm.beta        (C)                layer norm, norm_bias
//   blocks.i.attention.qkv.weight       (C, (H + 2K) D)    columns: H queries, K keys, K values, D each
//   blocks.i.attention.qkv.bias         ((H + 2K) D)       qkv_bias
//   blocks.i.attention.query_norm.gamma (D)                qk_norm
//   blocks.i.attention.key_norm.gamma   (D)                qk_norm
//   blocks.i.attention.output.weight    (H D, C)
//   blocks.i.attention.output.bias      (C)                output_bias
//   blocks.i.feedforward_norm.gamma     (C)
//   blocks.i.feedforward_norm.beta      (C)                layer norm, norm_bias
//   blocks.i.expand.weight              (C, F)             SwiGLU: (C, 2F), columns: F of the gate, F of what
//                                                          it multiplies
//   blocks.i.expand.bias                (F)                SwiGLU: (2F); feedforward_bias
//   blocks.i.contract.weight            (F, C)
//   blocks.i.contract.bias              (C)                feedforward_bias
//   norm.gamma                          (C)
//   norm.beta                           (C)                layer norm, norm_bias
//   head.weight                         (V, C)             unless tied_head
// Query head h reads key head h / (H / K). Rotary positions turn number j of a head's first half with number
// j of its second, by t theta^(-2j/D), as the models of Hugging Face are stored.
//
// Where the batch has a field `documents`, (B,T) int32, tokens see those of their own number alone, and
// learned positions count from where each document begins (of rotary ones only differences matter). The
// numbers do not decrease along a row.
//
// Makes what is 0 for "as usual" explicit and refuses (RefusedOption, naming the key) options that do not fit
// each other or the window of `window_length` tokens.
GptOptions resolved(const GptOptions& options, int64_t window_length);
// Refuses options of rotary_scaling = "llama3" beside another one: of a run that is to be, not of weights
// that were trained with such a configuration.
void require_used(const RotaryOptions& rotary);

// What is one product in a block and several in other libraries, by the end of its name: of "attention.qkv"
// query, key and value, of a gated "expand" gate and up. None of the others.
std::vector<ProductPart> gpt_parts(const GptOptions& resolved, const std::string& product);

// Of a known size, by the name of `model.preset`: gpt2_124m, gpt2_355m, gpt2_774m, gpt2_1558m, llama_15m,
// llama_110m, llama3_1b, llama3_8b. Error (kUsage) naming all of them.
GptOptions gpt_preset(const std::string& name);

// Appends the cosines and sines of a position, D/2 each: of the angles that the numbers of a head are turned
// by.
void append_rotary(const RotaryOptions& options, int64_t head_size, int64_t position,
                   std::vector<double>& cosines, std::vector<double>& sines);

// Of data whose samples are (T) tokens and whose targets are a class at every position; V = data.classes.
std::unique_ptr<Module> make_gpt(const GptOptions& options, const DataShape& data,
                                 const ModuleBuilder& builder);
// Keys of the same names; `preset`, which the others override, and `dropout`, which the three places of it
// do.
GptOptions read_gpt(Section& model);

}  // namespace lockstep
