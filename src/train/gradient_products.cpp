// Products of a global batch's second derivatives with vectors.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "lockstep/autodiff/derivatives.h"
#include "lockstep/autodiff/random_scope.h"
#include "lockstep/core/error.h"
#include "lockstep/ops/reduction.h"
#include "lockstep/tensor/storage.h"
#include "lockstep/train/gradient_pass.h"

namespace lockstep {

void GradientPass::require_products(const char* what) const {
  if (settings_.compute == replica_.store.dtype()) return;
  fail(ErrorKind::kUsage,
       fmt::format("precision.compute = {}: {} need fp32 or fp64", name_of(settings_.compute), what));
}

Function GradientPass::outputs_of(const Batch& batch, ForwardContext& context) const {
  return [this, &batch, &context](std::span<const Tensor> at) {
    context.parameters.assign(at.begin(), at.end());
    return forward(*replica_.model, batch, context);
  };
}

void GradientPass::multiply(const Tensor& vector, Tensor& product, Linearization* kept,
                            const MakeProduct& make) {
  const std::vector<Tensor> vectors = views(vector);
  // Layers that are run again read the batch by its place, which those that are made do not keep.
  const bool keeps = kept != nullptr && settings_.linearization_bytes > 0 &&
                     !(make_ && replica_.training.recompute_every > 0);
  if (keeps && kept->batch_number != batch_number_) {
    *kept = {};
    kept->batch_number = batch_number_;
  }
  mean_of(
      [&](const Batch& batch, ForwardContext& context) {
        if (keeps) {
          const auto found = kept->of.find(batch.number);
          if (found != kept->of.end()) return found->second(vectors);
        }
        const bool keep = keeps && !kept->full;
        const size_t before = allocator_statistics().bytes_in_use;
        Product made = make(batch, context, keep);
        std::vector<Tensor> contributions = made(vectors);
        if (!keep) return contributions;
        size_t others = before;  // what there is beside what `made` holds; other threads let go of some
        for (const Tensor& part : contributions) others += part.bytes();
        size_t bytes = std::max(allocator_statistics().bytes_in_use, others) - others;
        if (make_) bytes += batch.bytes();
        if (kept->bytes + bytes > settings_.linearization_bytes) {
          kept->full = true;
        } else {
          kept->bytes += bytes;
          kept->of.emplace(batch.number, std::move(made));
        }
        return contributions;
      },
      product);
  if (settings_.l2 == 0.0) return;
  Tensor term = vector.empty_like();
  backend_.scale_shift(vector.dtype(), vector.elements(), vector.data(), settings_.l2, 0.0,
                       term.mutable_data());
  backend_.accumulate(product.dtype(), product.elements(), term.data(), product.mutable_data());
}

void GradientPass::hessian_product(const Tensor& vector, Tensor& product, Linearization* kept) {
  require_products("Hessian products");
  multiply(vector, product, kept, [&](const Batch& batch, ForwardContext& context, bool) -> Product {
    const Function loss = [&](std::span<const Tensor> at) {
      context.parameters.assign(at.begin(), at.end());
      return sum(objective_.losses(*replica_.model, batch, context));
    };
    return [second = SecondDerivative(loss, parameters())](std::span<const Tensor> vectors) {
      return second.times(vectors);
    };
  });
}

void GradientPass::gauss_newton_product(const Tensor& vector, Tensor& product, Linearization* kept) {
  require_products("Gauss-Newton products");
  multiply(vector, product, kept, [&](const Batch& batch, ForwardContext& context, bool keep) -> Product {
    if (!head_known_) {
      const RandomScope random(*random_place());
      const std::optional<ClassHead> head = objective_.class_head(*replica_.model, batch, context);
      if (head && head->z_loss > 0.0) {
        fail(ErrorKind::kUsage,
             fmt::format("model.z_loss: Gauss-Newton products do not know of it: set it to "
                         "0, or take the Hessian; got {}",
                         head->z_loss));
      }
      head_known_ = true;
    }
    const FirstDerivative outputs(outputs_of(batch, context), parameters());
    const Function loss = [&](std::span<const Tensor> at) { return sum(objective_.losses(at[0], batch)); };
    const SecondDerivative second(loss, std::array{outputs.value()});
    return [outputs, second, keep](std::span<const Tensor> vectors) {
      const Tensor tangents = outputs.times(vectors, keep);
      return outputs.transposed_times(second.times(std::array{tangents})[0]);
    };
  });
}

}  // namespace lockstep
