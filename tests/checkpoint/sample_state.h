// A state with everything that a checkpoint must carry exactly.
#pragma once

#include <bit>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "lockstep/checkpoint/state.h"

namespace lockstep::testing {

template <class T>
StateArray array_of(const std::string& path, DType dtype, const Shape& shape, const std::vector<T>& values) {
  StateArray array{path, dtype, shape, std::vector<std::byte>(values.size() * sizeof(T))};
  if (!values.empty()) std::memcpy(array.bytes.data(), values.data(), array.bytes.size());
  return array;
}

// `elements` sets the size of the largest array.
inline State sample_state(int64_t elements = 6000) {
  State state;
  std::vector<uint32_t> bits(static_cast<size_t>(elements));
  for (size_t i = 0; i < bits.size(); ++i)
    bits[i] = static_cast<uint32_t>(i * 2654435761u);  // NaNs among them
  bits[0] = 0x7F800001u;                               // a signalling NaN
  // Store order is not the order of names.
  state.arrays.push_back(array_of("/parameters/layers.10.weight", DType::kF32, {elements / 6, 2, 3}, bits));
  state.arrays.push_back(array_of<double>("/parameters/layers.2.weight", DType::kF64, {2}, {-0.0, 5e-324}));
  state.arrays.push_back(array_of<float>("/parameters/layers.3.bias", DType::kF32, {0}, {}));
  state.arrays.push_back(array_of<float>("/parameters/layers.3.weight", DType::kF32, {3, 0, 2}, {}));
  state.arrays.push_back(array_of<float>("/parameters/gain", DType::kF32, {}, {1.5f}));
  state.arrays.push_back(
      array_of<uint16_t>("/parameters/brain", DType::kBF16, {3}, {0x7FC1, 0x3F80, 0x8000}));
  state.arrays.push_back(array_of<uint16_t>("/parameters/half", DType::kF16, {3}, {0x7E01, 0x3C00, 0x0001}));
  state.arrays.push_back(array_of<int32_t>("/data/permutation", DType::kI32, {2, 2}, {-1, 2, 3, 4}));
  state.arrays.push_back(
      array_of<int64_t>("/data/counters", DType::kI64, {1}, {std::numeric_limits<int64_t>::min()}));
  state.arrays.push_back(array_of<uint8_t>("/data/mask", DType::kU8, {5}, {0, 1, 2, 254, 255}));
  state.arrays.push_back(
      array_of("/optimizer/first_moment/layers.10.weight", DType::kF32, {elements / 6, 2, 3}, bits));
  state.scalars = {
      {"/rng/seed", std::numeric_limits<int64_t>::max()},
      {"/rng/lowest", std::numeric_limits<int64_t>::min()},
      {"/data/step", int64_t{1000}},
      {"/loss_scale/scale", 65536.0},
      {"/loss_scale/nan", std::bit_cast<double>(uint64_t{0xFFF0000000000123})},
      {"/loss_scale/negative_zero", -0.0},
      {"/schedule/type", std::string("cosine")},
      {"/schedule/empty", std::string()},
      {"/optimizer/text", std::string("Grüße\n\"quoted\"")},
      {"/top", int64_t{-1}},
  };
  state.configuration = "[run]\nname = \"übung\"\n";
  state.metrics = "{\"step\": 1}\n{\"step\": 2}\n";
  state.metrics_file = "1234 00112233445566778899aabbccddeeff";
  state.best = "validation_loss 3 0.25";
  state.begun = "1764371234567";
  state.plans = "[a GPU, a library 3]\na call\t0f\nanother\t1e\n";
  return state;
}

}  // namespace lockstep::testing
