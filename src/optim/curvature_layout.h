// Where sums over layers lie, and how a weight and its bias are one matrix.
#pragma once

#include <string>
#include <vector>

#include "lockstep/optim/layer_curvature.h"

namespace lockstep {

// Sides longer than max_size, and the inputs of tables, are diagonal.
CurvatureSums lay_out_sums(const std::vector<CurvedLayer>& layers, int64_t max_size, bool scales);

// "HEAD: a.weight with a.bias 5 x 3, ...; AdamW updates the other 2 parameters: ...": what `sums` are of, and
// what is left. In bytes of their type all of them; names up to a number of them.
std::string describe_sums(const CurvatureSums& sums, const std::vector<ParameterEntry>& parameters,
                          const std::string& head);

// Copies a weight, or its bias, into or out of the layer's joint matrix.
void put_part(const CurvedLayer& layer, const Tensor& part, bool bias, Tensor& joint);
Tensor part_of(const CurvedLayer& layer, const Tensor& joint, bool bias);

}  // namespace lockstep
