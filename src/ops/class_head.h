// The last product of a model of many classes together with its loss, without its logits.
#pragma once

#include <functional>

#include "lockstep/tensor/tensor.h"

namespace lockstep {

// What gives logits: x (N,C), a row for each target, and the table (V,C) of classes.
struct ClassHead {
  Tensor x, table;
  double soft_cap = 0.0;  // logits become cap tanh(logits / cap) (Gemma team 2024, "Gemma 2"); 0: off
  double z_loss = 0.0;    // weight of (log sum exp(logits))^2 in a loss (Chowdhery et al. 2022, "PaLM")
};

// Rows that have their logits at the same time: a matter of memory, and of bits, so one for all.
inline constexpr int64_t kHeadRows = 512;

// (N,V): x table', capped.
Tensor head_logits(const ClassHead& head);

// labels (N) int32 in [0, V), weights (N) of the accumulation type or undefined -> (N), of that type:
// cross_entropy(head_logits(head), labels, weights) + weights z_loss (log sum exp)^2. Logits are in the
// accumulation type, of kHeadRows rows at a time; the backward sweep computes all but the last of them again.
// Their gradients are in the type of the product, of up to 8 kHeadRows rows at a time and 512 MiB.
// It does not where `cotangent` (N) is given, and is itself, in its memory, what the sweep comes with: then
// the gradients are made beside the losses, the same bits. It must hold its values by now. Errors as
// cross_entropy.
Tensor head_losses(const ClassHead& head, const Tensor& labels, const Tensor& weights = {},
                   const Tensor& cotangent = {});

// The same without history, showing the capped logits on the way: called with (n,V) of the first rows, the
// next ones, and so on.
using LogitsSink = std::function<void(const Tensor&)>;
Tensor head_losses(const ClassHead& head, const Tensor& labels, const Tensor& weights,
                   const LogitsSink& sink);

}  // namespace lockstep
