// Derivatives of losses with respect to outputs, of targets that a model itself predicts.
#include <cmath>

#include "lockstep/core/thread_pool.h"
#include "lockstep/kernels/math/normal.h"
#include "lockstep/optim/tensor_algebra.h"
#include "lockstep/train/objective.h"

namespace lockstep {
namespace {

PhiloxBlock block_of(const RandomStream& draws, int64_t index) {
  return philox(draws.key, {static_cast<uint32_t>(index), draws.op_ordinal, draws.step, draws.stream});
}

// Draw i in [0, 1), as RandomStream says of fp64.
double uniform_draw(const RandomStream& draws, int64_t i) {
  const PhiloxBlock b = block_of(draws, i / 2);
  return i % 2 == 0 ? uniform_double(b.r[0], b.r[1]) : uniform_double(b.r[2], b.r[3]);
}

// A class a row of probabilities (rows, classes), one in the order of classes behind the other.
std::vector<int32_t> drawn_classes(const Tensor& probabilities, const RandomStream& draws) {
  const int64_t rows = probabilities.shape()[0], classes = probabilities.shape()[1];
  const std::vector<double> p = probabilities.converted(DType::kF64).to_vector<double>();
  std::vector<int32_t> drawn(static_cast<size_t>(rows), 0);
  thread_pool().run(rows, [&](int64_t row) {
    const double* const of_row = p.data() + row * classes;
    double sum = 0.0;
    for (int64_t c = 0; c < classes; ++c) sum += of_row[c];
    double rest = uniform_draw(draws, row) * sum;
    int64_t c = 0;
    // Rounding must not run past the last class.
    while (c < classes - 1 && !(rest < of_row[c])) rest -= of_row[c++];
    drawn[static_cast<size_t>(row)] = static_cast<int32_t>(c);
  });
  return drawn;
}

}  // namespace

Tensor Objective::scores(const Tensor& output, const Batch& batch, const RandomStream* draws) const {
  const int64_t rows = loss_shape(batch.targets().extent(0)).elements();
  const DType dtype = output.dtype();
  const Tensor outputs = output.detach().view({rows, output.elements() / rows});
  Tensor roots = weights(batch);
  if (roots.defined()) {
    const Tensor plain = roots.converted(dtype).view({rows});
    roots = plain.empty_like();
    backend_->unary(UnaryOp::kSqrt, dtype, rows, plain.data(), roots.mutable_data());
  }
  Tensor result = outputs.empty_like();
  if (classification() && !single_logit(output)) {
    Tensor probabilities = outputs.empty_like();
    backend_->softmax(false, dtype, rows, data_.classes, outputs.data(), probabilities.mutable_data());
    const Tensor labels = draws == nullptr
                              ? batch.targets().view({rows})
                              : Tensor::from({rows}, drawn_classes(probabilities, *draws), *backend_);
    const Tensor ones = Tensor::full({rows}, dtype, *backend_, 1.0);
    backend_->cross_entropy_backward(dtype, rows, data_.classes, probabilities.data(),
                                     labels.data_as<int32_t>(), roots.defined() ? roots.data() : nullptr,
                                     ones.data(), result.mutable_data());
    return result.view(output.shape());
  }
  std::vector<double> values = outputs.converted(DType::kF64).to_vector<double>();
  const std::vector<double> targets = batch.targets().converted(DType::kF64).to_vector<double>();
  const auto width = static_cast<double>(outputs.shape()[1]);
  for (size_t i = 0; i < values.size(); ++i) {
    const auto element = static_cast<int64_t>(i);
    double& value = values[i];
    if (classification()) {
      // Of the host's one order in fp64; the probability of class 1.
      const double exponential = math::portable::power(std::numbers::e, -std::fabs(value));
      const double p = (value >= 0.0 ? 1.0 : exponential) / (1.0 + exponential);
      const bool one = draws == nullptr ? targets[i] > 0.5 : uniform_draw(*draws, element) < p;
      value = p - (one ? 1.0 : 0.0);
    } else if (draws != nullptr) {
      value = -std::sqrt(2.0 / width) *
              math::portable::standard_normal(block_of(*draws, element / 2), element % 2 != 0);
    } else {
      value = 2.0 / width * (value - targets[i]);
    }
  }
  result = Tensor::from(outputs.shape(), values, *backend_).converted(dtype);
  if (roots.defined()) result = stretched(result, roots, true);
  return result.view(output.shape());
}

}  // namespace lockstep
