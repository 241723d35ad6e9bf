// Layers that know the positions of a sequence: what tells them apart, and their mean.
#pragma once

#include "lockstep/nn/layer.h"

namespace lockstep {

// x (B,T,C) -> x + table, table (T,C) learned, initially normal with standard deviation 0.02 (Radford et al.
// 2019, "GPT-2").
class PositionsLayer final : public Module {
 public:
  PositionsLayer(int64_t positions, int64_t features, const ModuleBuilder& builder);
  Tensor forward(const Tensor& x, ForwardContext& context) const override;

 private:
  int table_;
};

// x (B,T,C) -> (B,C): the mean over the positions.
class MeanPositionsLayer final : public Module {
 public:
  Tensor forward(const Tensor& x, ForwardContext& context) const override;
};

// (T,features), unchanged.
LayerSpec positions_layer();
// (T,features) -> (features).
LayerSpec mean_positions_layer();

}  // namespace lockstep
