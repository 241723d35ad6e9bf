// Where the parameters of a gpt are in the models of Hugging Face.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lockstep/exchange/hugging_face_config.h"
#include "lockstep/tensor/parameter_store.h"

namespace lockstep {

struct HuggingFaceTensor {
  std::string name;  // without the prefix of the whole model
  Shape shape;
  // The columns of our parameter (R,C), or elements of (C), that it is.
  int64_t column = 0, columns = 0;
};

// A parameter's columns, from left to right. turned: their weights are (out, in), ours (in, out).
struct HuggingFaceTensors {
  bool turned = false;
  std::vector<HuggingFaceTensor> parts;
};
HuggingFaceTensors hugging_face_tensors(const HuggingFaceModel& model, const ParameterEntry& parameter);

// "transformer." or "model.": before all names but the head's.
std::string hugging_face_prefix(ModelFamily family);
inline constexpr const char* kHuggingFaceHead = "lm_head.weight";

}  // namespace lockstep
