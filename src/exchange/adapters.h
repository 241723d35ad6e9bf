// Low-rank changes and the weights that they are added to.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lockstep/checkpoint/state.h"
#include "lockstep/nn/gpt.h"
#include "lockstep/tensor/parameter_store.h"

namespace lockstep {

// A parameter that is a product's weight, or a part of its columns that is adapted by itself.
struct AdaptedColumns {
  std::string name;  // before .lora_a and .lora_b
  ParameterEntry weight;
  int64_t column = 0, columns = 0;
  int part = -1;  // of gpt_parts(); -1: all
};

// All that can be adapted of a gpt over so many tokens: each product, then its parts.
std::vector<AdaptedColumns> adapted_columns(const GptOptions& resolved, int64_t vocabulary);

// The two matrices of a checkpoint's adapter.
struct StoredAdapter {
  AdaptedColumns of;
  const StateArray *a = nullptr, *b = nullptr;  // (inputs, rank) and (rank, columns)
};
// Those of arrays "/parameters/NAME", from `where`. Error (kCheckpoint): one that fits no product, or none.
std::vector<StoredAdapter> stored_adapters(const State& state, const GptOptions& resolved, int64_t vocabulary,
                                           const std::string& where);

// weight (inputs, columns), rows `stride` numbers apart, += scale A B; each element by a sum in fp64.
void add_low_rank(float* weight, int64_t stride, const std::vector<float>& a, const std::vector<float>& b,
                  int64_t inputs, int64_t rank, int64_t columns, double scale);

}  // namespace lockstep
