// Shampoo over blocks of a matrix.
#include "lockstep/optim/shampoo.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "lockstep/core/error.h"
#include "lockstep/core/log.h"
#include "lockstep/kernels/math/portable.h"
#include "lockstep/optim/clip.h"
#include "lockstep/optim/flat_update.h"
#include "lockstep/optim/matrix_optimizer.h"
#include "lockstep/optim/matrix_roots.h"
#include "lockstep/optim/optimizer_keys.h"
#include "lockstep/optim/tensor_algebra.h"

namespace lockstep {
namespace {

// A block of a matrix, and where its square factors begin in their slots, which hold them one behind the
// other.
struct Block {
  int64_t row, rows, column, columns;
  int64_t left, right;
};

std::vector<Block> blocks_of(const Shape& matrix, int64_t most) {
  std::vector<Block> blocks;
  int64_t left = 0, right = 0;
  for (int64_t row = 0; row < matrix[0]; row += most) {
    for (int64_t column = 0; column < matrix[1]; column += most) {
      const int64_t rows = std::min(most, matrix[0] - row), columns = std::min(most, matrix[1] - column);
      blocks.push_back({row, rows, column, columns, left, right});
      left += rows * rows;
      right += columns * columns;
    }
  }
  return blocks;
}

size_t row_bytes(const Tensor& matrix) {
  return static_cast<size_t>(matrix.shape()[1]) * size_of(matrix.dtype());
}

Tensor cut_out(const Tensor& matrix, const Block& block) {
  Tensor part = Tensor::empty({block.rows, block.columns}, matrix.dtype(), matrix.backend());
  const auto* from = static_cast<const std::byte*>(matrix.data()) +
                     static_cast<size_t>(block.row) * row_bytes(matrix) +
                     static_cast<size_t>(block.column) * size_of(matrix.dtype());
  matrix.backend().copy_rows(block.rows, row_bytes(part), from, row_bytes(matrix), part.mutable_data(),
                             row_bytes(part));
  return part;
}

void put_in(const Tensor& part, const Block& block, Tensor& matrix) {
  auto* to = static_cast<std::byte*>(matrix.mutable_data()) +
             static_cast<size_t>(block.row) * row_bytes(matrix) +
             static_cast<size_t>(block.column) * size_of(matrix.dtype());
  matrix.backend().copy_rows(block.rows, row_bytes(part), part.data(), row_bytes(part), to,
                             row_bytes(matrix));
}

class Shampoo final : public MatrixOptimizer {
 public:
  explicit Shampoo(const ShampooOptions& options)
      : MatrixOptimizer("shampoo", {options.weight_decay, options.adamw, options.adamw_learning_rate_factor,
                                    options.beta1, options.grafting_beta2, options.epsilon}),
        options_(options),
        start_(options.start > 0            ? options.start
               : options.grafting == "none" ? 1
                                            : options.root_every) {}

 private:
  void declare_matrix(const ParameterEntry& parameter) override {
    const std::vector<Block> blocks = blocks_of(matrix_shape(parameter.shape), options_.block);
    const Block& last = blocks.back();
    const Shape left{last.left + last.rows * last.rows}, right{last.right + last.columns * last.columns};
    reserve("first_moment", parameter.shape);
    if (options_.grafting == "adam") reserve("second_moment", parameter.shape);
    reserve("left", left);
    reserve("right", right);
    reserve("left_root", left);
    reserve("right_root", right);
  }

  double matrix_load(const ParameterEntry& parameter) const override {
    double load = 0.0;
    for (const Block& block : blocks_of(matrix_shape(parameter.shape), options_.block)) {
      const auto rows = static_cast<double>(block.rows), columns = static_cast<double>(block.columns);
      load += rows * rows * rows + columns * columns * columns;
    }
    return load;
  }

  void update_matrix(const ParameterUpdate& update, double decay) override {
    const int64_t k = updates() + 1;
    const Shape matrix = matrix_shape(update.parameter.shape());
    const std::vector<Block> blocks = blocks_of(matrix, options_.block);
    const Tensor gradient = scaled(update.gradient, update.gradient_scale).view(matrix);
    const Tensor moment = state("first_moment", update.index).view(matrix);
    blend(moment, gradient, options_.beta1);
    const Tensor mean = scaled(moment, 1.0 / correction(options_.beta1, k));
    const Tensor grafted = grafted_direction(update.index, gradient, mean, k);
    gather_statistics(update.index, blocks, gradient, k);
    if (k >= start_ && (k - start_) % options_.root_every == 0) compute_roots(update.index, blocks, k);
    Tensor direction = k < start_ ? grafted : mean.empty_like();
    if (k >= start_) {
      for (const Block& block : blocks)
        put_in(preconditioned(update.index, block, mean, grafted), block, direction);
    }
    flat_update(UpdateFormula::kSgd, update.parameter, direction, 1.0, {}, {update.learning_rate, decay});
  }

  // 1 - beta^k, what an average of k values from 0 on lacks.
  static double correction(double beta, int64_t k) {
    return 1.0 - math::portable::power(beta, static_cast<double>(k));
  }

  Tensor grafted_direction(size_t index, const Tensor& gradient, const Tensor& mean, int64_t k) {
    if (options_.grafting != "adam") return mean;
    const Tensor second = state("second_moment", index).view(gradient.shape());
    blend(second, square_of(gradient), options_.grafting_beta2);
    return over_root(mean, scaled(second, 1.0 / correction(options_.grafting_beta2, k)), options_.epsilon);
  }

  void gather_statistics(size_t index, const std::vector<Block>& blocks, const Tensor& gradient, int64_t k) {
    if ((k - 1) % options_.statistics_every != 0 || !square_is_finite(gradient)) return;
    for (const Block& block : blocks) {
      const Tensor g = cut_out(gradient, block);
      add_square(factor("left", index, block), product(g, g, false, true));
      add_square(factor("right", index, block), product(g, g, true, false));
    }
  }

  void add_square(Tensor factor, const Tensor& square) const {
    if (options_.beta2 < 1.0) {
      blend(factor, square, options_.beta2);
    } else {
      factor.backend().accumulate(factor.dtype(), factor.elements(), square.data(), factor.mutable_data());
    }
  }

  // A factor of a block, or its root.
  Tensor factor(const std::string& slot, size_t index, const Block& block) const {
    const bool left = slot.starts_with("left");
    const int64_t n = left ? block.rows : block.columns;
    return state(slot, index).view({n, n}, left ? block.left : block.right);
  }

  void compute_roots(size_t index, const std::vector<Block>& blocks, int64_t k) {
    std::vector<RootTask> tasks;
    for (const Block& block : blocks) {
      tasks.push_back({factor("left", index, block), factor("left_root", index, block), block.rows});
      tasks.push_back({factor("right", index, block), factor("right_root", index, block), block.columns});
    }
    const int64_t gathered = (k - 1) / options_.statistics_every + 1;
    inverse_roots(tasks, options_.beta2 < 1.0 ? 1.0 / correction(options_.beta2, gathered) : 1.0,
                  options_.exponent, options_.root_epsilon);
    const auto kept = std::ranges::count_if(tasks, [](const RootTask& task) { return task.kept; });
    if (kept > 0) {
      log_warning(
          fmt::format("shampoo: update {}: {} of {} roots of {} cannot be computed and stay as they were", k,
                      kept, tasks.size(), entry(index).name));
    }
  }

  Tensor preconditioned(size_t index, const Block& block, const Tensor& mean, const Tensor& grafted) const {
    const Tensor direction =
        product(product(factor("left_root", index, block), cut_out(mean, block), false, false),
                factor("right_root", index, block), false, false);
    if (options_.grafting == "none") return direction;
    const Tensor other = cut_out(grafted, block);
    const int64_t n = direction.elements();
    const double length = global_norm(direction, n, 1.0);
    // Nothing, or more than the type has numbers for.
    if (!(length > 0.0) || !std::isfinite(length)) return other;
    return scaled(direction, global_norm(other, n, 1.0) / length);
  }

  ShampooOptions options_;
  int64_t start_;
};

void require_options(const ShampooOptions& options) {
  require_decay_rate("shampoo", "beta1", options.beta1);
  if (options.beta2 != 1.0) require_decay_rate("shampoo", "beta2", options.beta2);
  require_decay_rate("shampoo", "grafting_beta2", options.grafting_beta2);
  require_epsilon("shampoo", "epsilon", options.epsilon);
  require_epsilon("shampoo", "root_epsilon", options.root_epsilon);
  require_positive("shampoo", "exponent", options.exponent);
  require_positive("shampoo", "block", static_cast<double>(options.block));
  require_positive("shampoo", "statistics_every", static_cast<double>(options.statistics_every));
  require_positive("shampoo", "root_every", static_cast<double>(options.root_every));
  require_not_negative("shampoo", "start", static_cast<double>(options.start));
  require_not_negative("shampoo", "weight_decay", options.weight_decay);
  require_not_negative("shampoo", "adamw_learning_rate_factor", options.adamw_learning_rate_factor);
  if (options.grafting != "adam" && options.grafting != "sgd" && options.grafting != "none") {
    fail(ErrorKind::kUsage,
         fmt::format("shampoo: grafting must be adam, sgd or none, got {}", options.grafting));
  }
}

}  // namespace

std::unique_ptr<Optimizer> make_shampoo(const ShampooOptions& options) {
  require_options(options);
  return std::make_unique<Shampoo>(options);
}

std::unique_ptr<Optimizer> make_shampoo(Section& section) {
  ShampooOptions options;
  constexpr int64_t kMany = 1'000'000'000;
  options.block = section.integer("block", options.block, {1, 8192},
                                  "shampoo: longest side of what is preconditioned as one");
  options.beta1 =
      read_decay_rate(section, "beta1", options.beta1, "share of the first moment kept each step");
  options.beta2 = section.real("beta2", options.beta2, kUnit,
                               "shampoo: share of the factors kept each step; 1: they are sums");
  options.epsilon =
      read_epsilon(section, options.epsilon, "adam, adamw, nadam, muon, shampoo, soap, kfac, adahessian");
  options.root_epsilon = section.real("root_epsilon", options.root_epsilon, {1e-30},
                                      "shampoo: added to the factors' eigenvalues");
  options.exponent =
      section.real("exponent", options.exponent, {0.0, 1.0, true}, "shampoo: of the inverse roots");
  options.statistics_every = section.integer("statistics_every", options.statistics_every, {1, kMany},
                                             "shampoo: updates between gradients that enter the factors");
  options.root_every =
      section.integer("root_every", options.root_every, {1, kMany}, "shampoo: updates between roots");
  options.start = section.integer("start", options.start, {0, kMany},
                                  "shampoo: update of the first roots, grafted steps before; 0: root_every, "
                                  "or 1 without grafting");
  options.grafting =
      section.text("grafting", options.grafting, {"adam", "sgd", "none"}, "shampoo: whose length steps have");
  options.grafting_beta2 = read_decay_rate(section, "grafting_beta2", options.grafting_beta2,
                                           "shampoo: of the second moment of grafting and of AdamW");
  options.weight_decay = read_decoupled_weight_decay(section, options.weight_decay, "shampoo");
  read_rest(section, options.adamw, options.adamw_learning_rate_factor);
  return make_shampoo(options);
}

}  // namespace lockstep
