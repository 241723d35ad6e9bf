// Clipping of gradients by global norm, by value and adaptively; the same bits whatever the sharding.
#pragma once

#include <cstdint>
#include <vector>

#include "lockstep/parallel/parameter_shards.h"
#include "lockstep/tensor/parameter_store.h"
#include "lockstep/tensor/tensor.h"

namespace lockstep {

// Euclidean norm of the first n elements: fp64 sums of squares over fixed blocks of the flat array, blocks
// added over the tree of parallel/reduction_tree.h, block numbers for leaves. Times |scale|.
double global_norm(const Tensor& gradients, int64_t n, double scale);

// The same of the elements that the shards cover, of which each worker needs its own only; the same bits
// whatever the shards, on every worker. Collective.
double global_norm(const Tensor& gradients, const ParameterShards& shards, double scale);

// The factor min(1, max_norm / (norm + 1e-6)) (Pascanu et al. 2013; constant as in common practice). 1 when
// max_norm is 0 (clipping off) or the norm is not finite.
double clip_factor(double norm, double max_norm);

// In place: elements [0, n) become clamp(scale * g, -limit, limit).
void clip_by_value(Tensor& gradients, int64_t n, double scale, double limit);

// In place: the gradients of the given parameters become scale * g, and then, unit by unit, shorter where
// they are long against the parameters (adaptive gradient clipping, Brock et al. 2021):
//   g_i <- g_i min(1, factor max(|theta_i|, 1e-3) / |g_i|)
// A unit is what feeds one output: a column of a matrix (in, out), [o] of weights (out, ...) of more than two
// axes, and a whole parameter of one axis. values: the parameters, parallel to the gradients.
void clip_adaptively(Tensor& gradients, const Tensor& values, const std::vector<ParameterEntry>& parameters,
                     double scale, double factor);

struct ClipSettings {
  double global_norm = 0.0, value = 0.0, adaptive = 0.0;  // 0: off
};
// Of `value` and `adaptive` that are on. Below, fp32 would hold the limit as zero or a number without digits,
// and every gradient with it.
inline constexpr double kSmallestClipLimit = 1e-30;

// Clips scale * g, adaptively, then by value, then by global norm, where each is on; nothing when `norm`, the
// global norm of scale * g, is not finite. May write into this worker's elements; returns what to multiply
// them by instead of scale, the same on every worker. Shards must not cut parameters when adaptive clipping
// is on. Collective.
double clip_gradients(const ClipSettings& settings, Tensor& gradients, const Tensor& values,
                      const std::vector<ParameterEntry>& parameters, const ParameterShards& shards,
                      double scale, double norm);

}  // namespace lockstep
