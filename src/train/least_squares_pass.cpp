// Residuals and their derivative, gathered from all workers.
#include "lockstep/train/least_squares_pass.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "lockstep/autodiff/derivatives.h"
#include "lockstep/core/error.h"
#include "lockstep/ops/elementwise.h"
#include "lockstep/train/agreement.h"

namespace lockstep {

LeastSquaresPass::LeastSquaresPass(GradientPass& pass, Replica& replica, const RunSettings& settings)
    : PassProblem(pass, replica), l2_(settings.l2) {
  const Objective& objective = pass.objective();
  if (objective.classification()) {
    fail(ErrorKind::kUsage,
         fmt::format("train.loss: not with optimizer.type = \"{}\": it minimizes sums of squares, the mean "
                     "squared error of real targets; take newton_cg with matrix = \"gauss_newton\"",
                     replica.optimizer->type()));
  }
  if (!replica.store.statistics().empty()) {
    fail(ErrorKind::kUsage,
         fmt::format("model.type: not with optimizer.type = \"{}\": the model has running statistics",
                     replica.optimizer->type()));
  }
  rows_ = objective.loss_shape(settings.micro_batch_size).elements() * objective.target_width();
}

int64_t LeastSquaresPass::residual_count() const {
  return pass().micro_batches() * rows_ + (l2_ > 0.0 ? size() : 0);
}

double LeastSquaresPass::value(const RealVector& x) {
  RealVector r;
  residuals(x, r, nullptr);
  return 0.5 * dot(r, r);
}

// One value of a point, whether it is asked for with its gradient or without.
double LeastSquaresPass::value_and_gradient(const RealVector& x, RealVector& gradient) {
  PassProblem::value_and_gradient(x, gradient);
  return value(x);
}

void LeastSquaresPass::gauss_newton_diagonal(const RealVector& x, RealVector& out) {
  go_to(x);
  Tensor mean = replica().store.values().empty_like();
  const int64_t width = pass().objective().target_width();
  const auto count = static_cast<double>(width);
  pass().mean_of(
      [&](const Batch& batch, ForwardContext& context) {
        const std::vector<Tensor> parameters = pass().parameters();
        const FirstDerivative outputs(pass().outputs_of(batch, context), parameters);
        std::vector<Tensor> squares;
        for (const Tensor& parameter : parameters) squares.push_back(parameter.full_like(0.0));
        const Tensor weights = batch.weights();
        const std::vector<double> of_target =
            weights.defined() ? weights.to_vector<double>()
                              : std::vector<double>(static_cast<size_t>(rows_ / width), 1.0);
        const Shape shape = outputs.value().shape();
        std::vector<double> cotangent(static_cast<size_t>(rows_), 0.0);
        for (int64_t i = 0; i < rows_; ++i) {
          const double weight = of_target[static_cast<size_t>(i / width)];
          // What weighs nothing may be anything.
          if (weight == 0.0) continue;
          cotangent[static_cast<size_t>(i)] = std::sqrt(2.0 * weight / count);
          const Tensor along =
              Tensor::from(shape, cotangent, replica().store.backend()).converted(replica().store.dtype());
          const std::vector<Tensor> row = outputs.transposed_times(along);
          const RecordingScope plain(false);
          for (size_t k = 0; k < squares.size(); ++k) squares[k] = squares[k] + square(row[k]);
          cotangent[static_cast<size_t>(i)] = 0.0;
        }
        return squares;
      },
      mean);
  out = packed(mean);
  for (double& value : out) value += l2_;
}

LeastSquaresPass::Gathered LeastSquaresPass::gathered(bool with_derivatives) {
  const int64_t n = size(), targets = rows_ / pass().objective().target_width();
  const int64_t each = targets + rows_ + (with_derivatives ? n * rows_ : 0);
  Communicator& communicator = pass().communicator();
  const int workers = communicator.world_size();
  int64_t most = 0;
  for (int rank = 0; rank < workers; ++rank) {
    most = std::max(most, owned_micro_batches(pass().micro_batches(), rank, workers).size());
  }
  RealVector mine;
  mine.reserve(static_cast<size_t>(most * each));
  const auto take = [&](const Batch& batch, ForwardContext& context) {
    const auto append = [&](const std::vector<double>& values) {
      mine.insert(mine.end(), values.begin(), values.end());
    };
    const Tensor weights = batch.weights();
    append(weights.defined() ? weights.to_vector<double>()
                             : std::vector<double>(static_cast<size_t>(targets), 1.0));
    std::optional<FirstDerivative> outputs;
    std::vector<double> off, wanted = batch.targets().to_vector<double>();
    if (with_derivatives) {
      outputs.emplace(pass().outputs_of(batch, context), pass().parameters());
      off = outputs->value().to_vector<double>();
    } else {
      const RecordingScope plain(false);
      off = forward(*replica().model, batch, context).to_vector<double>();
    }
    if (off.size() != wanted.size() || std::ssize(off) != rows_) {
      fail(ErrorKind::kUsage, fmt::format("model: {} outputs do not fit {} targets", off.size(), rows_));
    }
    for (size_t i = 0; i < off.size(); ++i) off[i] -= wanted[i];
    append(off);
    if (!with_derivatives) return;
    RealVector unit(static_cast<size_t>(n));
    for (int64_t k = 0; k < n; ++k) {
      unit[static_cast<size_t>(k)] = 1.0;
      append(outputs->times(pass().views(flat(unit)), true).to_vector<double>());
      unit[static_cast<size_t>(k)] = 0.0;
    }
  };
  // What a model throws on one worker must not leave the others waiting for its residuals.
  run_agreed(
      communicator, [&] { pass().for_owned(take); }, "residuals");
  mine.resize(static_cast<size_t>(most * each));
  Gathered result;
  result.all.resize(mine.size() * static_cast<size_t>(workers));
  communicator.all_gather(mine.data(), mine.size() * sizeof(double), result.all.data(), "residuals")->wait();
  for (int rank = 0; rank < workers; ++rank) {
    const int64_t count = owned_micro_batches(pass().micro_batches(), rank, workers).size();
    for (int64_t i = 0; i < count; ++i) result.parts.push_back(result.all.data() + (rank * most + i) * each);
  }
  return result;
}

void LeastSquaresPass::residuals(const RealVector& x, RealVector& r, DenseMatrix* jacobian) {
  go_to(x);
  const int64_t n = size(), width = pass().objective().target_width(), targets = rows_ / width;
  const Gathered found = gathered(jacobian != nullptr);
  const std::vector<const double*>& parts = found.parts;
  double weight = 0.0;
  for (const double* part : parts) {
    for (int64_t i = 0; i < targets; ++i) weight += part[i];
  }
  set_weight(weight);
  r.assign(static_cast<size_t>(residual_count()), 0.0);
  const auto count = static_cast<double>(width);
  int64_t row = 0;
  for (const double* part : parts) {
    for (int64_t i = 0; i < rows_; ++i, ++row) {
      const double of_target = part[i / width];
      // What weighs nothing may be anything.
      if (of_target == 0.0) continue;
      const double factor = std::sqrt(2.0 * of_target / (weight * count));
      r[static_cast<size_t>(row)] = factor * part[targets + i];
      if (jacobian == nullptr) continue;
      const double* derivatives = part + targets + rows_ + i;
      for (int64_t k = 0; k < n; ++k) (*jacobian)(row, k) = factor * derivatives[k * rows_];
    }
  }
  if (l2_ == 0.0) return;
  const double root = std::sqrt(l2_);
  for (int64_t k = 0; k < n; ++k, ++row) {
    r[static_cast<size_t>(row)] = root * x[static_cast<size_t>(k)];
    if (jacobian != nullptr) (*jacobian)(row, k) = root;
  }
}

}  // namespace lockstep
