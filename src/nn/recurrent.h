// Recurrent layer: a cell applied along a sequence, its state starting from zero.
#pragma once

#include "lockstep/nn/layer.h"

namespace lockstep {

enum class Direction { kForward, kBackward, kBoth };

struct RecurrentOptions {
  RecurrentCell cell = RecurrentCell::kLstm;
  Direction direction = Direction::kForward;
  bool sequence = false;         // the state of every step; else of the last one of each direction
  double recurrent_scale = 1.0;  // expected spectral radius of each gate's initial recurrent matrix
};

// x (B,T,...), the axes after T being features, -> (B,H), or (B,T,H) of a sequence; 2H, forward states first,
// in both directions. The last state of the backward direction is that of step 0.
//
// Parameters of G gates in PyTorch's order (LSTM i,f,g,o; GRU r,z,n): weight (F,G*H), recurrent_weight
// (H,G*H), bias (G*H) and for GRU recurrent_bias (H), inside the reset of the candidate. They are PyTorch's
// transposed, with one bias where its two are only ever added: bias = b_ih + b_hh, but for GRU's n: b_ih, and
// recurrent_bias = b_hh. In both directions their names begin with forward. and backward. Initially weight is
// Xavier-uniform in each gate, recurrent_weight normal with standard deviation recurrent_scale/sqrt(H) (by
// the circular law the largest eigenvalue of an HxH block then has magnitude about recurrent_scale), biases
// are zero.
class RecurrentLayer final : public Module {
 public:
  RecurrentLayer(int64_t features, int64_t units, const RecurrentOptions& options,
                 const ModuleBuilder& builder);
  Tensor forward(const Tensor& x, ForwardContext& context) const override;

 private:
  struct Pass {
    bool reverse = false;
    int weight = -1, recurrent_weight = -1, bias = -1, recurrent_bias = -1;
  };

  RecurrentOptions options_;
  std::vector<Pass> passes_;
};

// (T,...) -> (units) or (T,units); twice the units in both directions.
LayerSpec recurrent_layer(int64_t units, const RecurrentOptions& options = {});
// Keys: cell, units, return, direction, recurrent_scale.
LayerSpec read_recurrent(Section& keys);

}  // namespace lockstep
