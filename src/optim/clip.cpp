// The global gradient norm, summed in an order that no sharding can change, and the clip factor that follows
// from it.
#include "optim/clip.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/error.h"
#include "parallel/reduction_tree.h"

namespace lockstep {
namespace {

double tree_sum(const std::vector<double>& leaves, const TreeNode& node) {
  if (node.end - node.begin == 1) return leaves[static_cast<size_t>(node.begin)];
  return tree_sum(leaves, left_child(node)) + tree_sum(leaves, right_child(node));
}

}  // namespace

double global_norm(const Tensor& gradients, int64_t n, double scale) {
  if (n < 0 || n > gradients.elements()) {
    fail(ErrorKind::kInternal,
         fmt::format("global_norm: n must lie in [0, {}]: {}", gradients.elements(), n));
  }
  if (n == 0) return 0.0;
  const int64_t blocks = (n + Backend::kNormBlock - 1) / Backend::kNormBlock;
  Backend& backend = gradients.backend();
  Tensor sums = Tensor::empty({blocks}, DType::kF64, backend);
  backend.block_square_sums(gradients.dtype(), n, gradients.data(), sums.mutable_data_as<double>());
  return std::sqrt(tree_sum(sums.to_vector<double>(), {0, blocks})) * std::abs(scale);
}

double clip_factor(double norm, double max_norm) {
  if (!(max_norm >= 0.0)) {
    fail(ErrorKind::kInternal, fmt::format("clip_factor: max_norm must be >= 0: {}", max_norm));
  }
  if (max_norm == 0.0 || !std::isfinite(norm)) return 1.0;
  return std::min(1.0, max_norm / (norm + 1e-6));
}

}  // namespace lockstep
