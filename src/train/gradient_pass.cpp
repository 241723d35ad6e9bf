// Sweeps over a worker's micro-batches, and their sums over all.
#include "lockstep/train/gradient_pass.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>

#include "lockstep/autodiff/autocast.h"
#include "lockstep/autodiff/derivatives.h"
#include "lockstep/autodiff/gradient_room.h"
#include "lockstep/autodiff/random_scope.h"
#include "lockstep/core/error.h"
#include "lockstep/ops/reduction.h"
#include "lockstep/optim/clip.h"
#include "lockstep/tensor/storage.h"
#include "lockstep/train/agreement.h"

namespace lockstep {

GradientPass::GradientPass(Replica& replica, const Objective& objective, const RunPlan& plan,
                           const RunSettings& settings, Communicator& communicator)
    : replica_(replica),
      objective_(objective),
      settings_(settings),
      communicator_(communicator),
      backend_(replica.store.backend()),
      micro_batches_(plan.micro_batches),
      overlap_(plan.sampler.overlap / plan.micro_batch_size),
      seed_(plan.sampler.seed) {
  const ParameterStore& store = replica.store;
  std::vector<int64_t> slices;
  for (const ParameterEntry& entry : store.parameters()) slices.push_back(entry.offset);
  for (const StatisticEntry& entry : store.statistics()) {
    slices.push_back(store.parameter_extent() + entry.offset);
  }
  int64_t extent = store.gradient_extent();
  if (overlap_ > 0) {
    for (const SharedPart part : {kBefore, kAfter}) {
      for (const ParameterEntry& entry : store.parameters()) slices.push_back(offset_of(part) + entry.offset);
    }
    extent = offset_of(kSharedParts);
  }
  exchange_ = std::make_unique<GradientExchange>(
      communicator, backend_, store.dtype(), extent, slices,
      exchange_options(settings.shard_optimizer ? replica.shards->shares() : std::vector<Share>()));
}

ExchangeOptions GradientPass::exchange_options(std::vector<Share> shares) const {
  return {micro_batches_, settings_.reduction, settings_.bucket_bytes, std::move(shares),
          Objective::kSums + (overlap_ > 0 ? kSharedParts : 0)};
}

std::optional<GradientPass::SharedPart> GradientPass::shared_part(const Batch& batch) const {
  if (batch.number < overlap_) return kBefore;
  if (batch.number >= micro_batches_ - overlap_) return kAfter;
  return std::nullopt;
}

void GradientPass::add_sums(GradientExchange& exchange, const Tensor& sums, const Batch& batch) const {
  if (overlap_ == 0) return exchange.add_sums(sums.data_as<double>());
  Tensor all = Tensor::zeros({Objective::kSums + kSharedParts}, DType::kF64, backend_);
  Tensor own = all.view({Objective::kSums}, 0);
  own.assign(sums);
  if (const auto part = shared_part(batch)) {
    Tensor weight = all.view({1}, Objective::kSums + *part);
    weight.assign(sums.view({1}, 1));
  }
  exchange.add_sums(all.data_as<double>());
}

void GradientPass::set_batch(std::span<const Batch> owned, int64_t step, const uint32_t* step_at) {
  ++batch_number_;
  batches_ = owned;
  make_ = {};
  agree_ = {};
  step_ = step;
  step_at_ = step_at;
}

void GradientPass::set_batches(const MicroBatchRange& owned, std::function<Batch(int64_t)> make, int64_t step,
                               std::function<void()> agree) {
  set_batch({}, step);
  made_ = owned;
  make_ = std::move(make);
  agree_ = std::move(agree);
}

void GradientPass::for_owned(const Part& part) {
  const AutocastScope autocast(settings_.compute, replica_.current_copies());
  for_batches([&](const Batch& batch) {
    ForwardContext context = replica_.training;
    part(batch, context);
    draws_ = draws_ || random_place()->ordinal > 0;
  });
}

void GradientPass::for_batches(const std::function<void(const Batch&)>& part) {
  const LeaveCheapScope leave(settings_.recompute == "cheap");
  const auto run = [&](const Batch& batch) {
    // What the batch before has had already draws as it did there.
    const bool again = batch.number < overlap_ && step_ > 0;
    const int64_t step = again ? step_ - 1 : step_;
    const int64_t number = again ? batch.number + micro_batches_ - overlap_ : batch.number;
    const RandomScope random(
        {seed_, static_cast<uint32_t>(step), static_cast<uint32_t>(number), 0, step_at_});
    part(batch);
  };
  for (const Batch& batch : batches_) run(batch);
  if (!make_) return;
  for (int64_t number = made_.begin; number < made_.end; ++number) run(make_(number));
}

void GradientPass::for_batches(GradientExchange& exchange, const std::function<void(const Batch&)>& part,
                               std::exception_ptr* thrown) {
  const auto guarded = [&](const Batch& batch) {
    if (thrown == nullptr) return part(batch);
    if (*thrown) return;
    try {
      part(batch);
    } catch (const std::exception& failure) {
      const auto* const error = dynamic_cast<const Error*>(&failure);
      if (error != nullptr && error->kind() == ErrorKind::kCommunication) throw;  // others are lost
      if (!exchange.spoil(replica_.store.parameter_extent())) throw;
      *thrown = std::current_exception();
    }
  };
  exchange.begin_step();
  for_batches([&](const Batch& batch) {
    exchange.begin_micro_batch(batch.number);
    guarded(batch);
    draws_ = draws_ || random_place()->ordinal > 0;
    exchange.end_micro_batch();
  });
}

std::vector<Tensor> GradientPass::take_statistics() {
  if (!replica_.training.training) return {};
  return take_batch_statistics(replica_.training, replica_.store);
}

// Waits for nothing: a GPU has the next micro-batches before it is done with this one.
void GradientPass::sweep(const Batch& batch, const Tensor& cotangent) {
  const ParameterStore& store = replica_.store;
  const AllocatorStatistics before = allocator_statistics();
  peak_bytes_ = std::max(peak_bytes_, before.peak_bytes);
  reset_allocator_peak();
  const GradientRoomScope rooms([&](const Leaf& leaf) {
    const auto index = static_cast<size_t>(leaf.index);
    if (index >= store.parameters().size() || replica_.training.parameters[index].node().get() != &leaf)
      return Tensor();
    return exchange_->room(store.parameters()[index].offset, store.parameters()[index].shape);
  });
  const Tensor losses = objective_.losses(*replica_.model, batch, replica_.training, cotangent);
  add_sums(*exchange_, objective_.sums(losses, batch), batch);
  const std::optional<SharedPart> part = shared_part(batch);
  const std::vector<Tensor> statistics = take_statistics();
  for (size_t i = 0; i < statistics.size(); ++i) {
    exchange_->add(store.parameter_extent() + store.statistics()[i].offset, statistics[i].elements(),
                   statistics[i].data());
  }
  backward(losses, cotangent, [&](const Leaf& leaf, const Tensor& gradient) {
    const ParameterEntry& entry = store.parameters()[static_cast<size_t>(leaf.index)];
    // The gradient itself last: from then on its room belongs to the exchange.
    if (part) exchange_->add(offset_of(*part) + entry.offset, gradient.elements(), gradient.data());
    exchange_->add(entry.offset, gradient.elements(), gradient.data());
  });
  activation_bytes_ = std::max(activation_bytes_, allocator_statistics().peak_bytes - before.bytes_in_use);
}

void GradientPass::issue(const Tensor& cotangent, Marker* swept, const std::function<void()>& issued,
                         std::exception_ptr* thrown) {
  {
    // One for all micro-batches, which ends before anything changes the parameters.
    const AutocastScope autocast(settings_.compute, replica_.current_copies());
    for_batches(
        *exchange_, [&](const Batch& batch) { sweep(batch, cotangent); }, thrown);
  }
  if (swept != nullptr) swept->set();
  exchange_->finish(issued);
}

void GradientPass::agree_on_thrown() {
  const std::exception_ptr thrown = std::exchange(thrown_, nullptr);
  run_agreed(
      communicator_,
      [&] {
        if (thrown) std::rethrow_exception(thrown);
      },
      "sweep");
}

double GradientPass::regularize(double divisor) {
  if (settings_.l2 == 0.0) return 0.0;
  const Tensor values = replica_.store.values();
  const int64_t n = replica_.store.parameter_extent();
  Tensor gradient = exchange_->result();
  Tensor term = values.empty_like();
  backend_.scale_shift(values.dtype(), n, values.data(), settings_.l2 * divisor, 0.0, term.mutable_data());
  backend_.accumulate(values.dtype(), n, term.data(), gradient.mutable_data());
  const double norm = global_norm(values, n, 1.0);
  return 0.5 * settings_.l2 * norm * norm;
}

GradientPass::Value GradientPass::read_value(const GradientExchange& exchange) {
  std::array<double, Objective::kSums> sums{};
  backend_.copy_to_host(sums.data(), exchange.sums(), sizeof sums);
  Value value{0.0, sums[1]};
  if (sums[1] != 0.0) value.loss = sums[0] / sums[1];
  if (!std::isfinite(value.loss) || !std::isfinite(value.weight)) agree_on_thrown();
  if (agree_) agree_();
  return value;
}

void GradientPass::take_mean(double divisor, Tensor& out) const {
  const int64_t n = replica_.store.parameter_extent();
  if (out.dtype() != replica_.store.dtype() || out.elements() != n) {
    fail(ErrorKind::kInternal,
         fmt::format("gradient pass: an array of {} elements {}, expected {} {}", out.elements(),
                     name_of(out.dtype()), n, name_of(replica_.store.dtype())));
  }
  const double factor = divisor == 0.0 ? 0.0 : 1.0 / divisor;
  backend_.scale_shift(out.dtype(), n, exchange_->result().data(), factor, 0.0, out.mutable_data());
  replica_.shards->gather(out, "gradient");
}

std::vector<Tensor> GradientPass::views(const Tensor& flat) const {
  std::vector<Tensor> result;
  for (const ParameterEntry& entry : replica_.store.parameters()) {
    result.push_back(flat.view(entry.shape, entry.offset));
  }
  return result;
}

GradientPass::Value GradientPass::sum_up(GradientExchange& exchange, const Part& part) {
  {
    const AutocastScope autocast(settings_.compute, replica_.current_copies());
    for_batches(
        exchange,
        [&](const Batch& batch) {
          ForwardContext context = replica_.training;
          part(batch, context);
        },
        &thrown_);
  }
  exchange.finish();
  return read_value(exchange);
}

GradientPass::Value GradientPass::value() {
  if (values_ == nullptr) {
    values_ = std::make_unique<GradientExchange>(communicator_, backend_, replica_.store.dtype(), 0,
                                                 std::vector<int64_t>(), exchange_options({}));
  }
  const RecordingScope off(false);
  Value value = sum_up(*values_, [&](const Batch& batch, ForwardContext& context) {
    const Tensor losses = objective_.losses(*replica_.model, batch, context);
    add_sums(*values_, objective_.sums(losses, batch), batch);
  });
  if (settings_.l2 > 0.0) {
    const double norm = global_norm(replica_.store.values(), replica_.store.parameter_extent(), 1.0);
    value.loss += 0.5 * settings_.l2 * norm * norm;
  }
  return value;
}

GradientPass::Value GradientPass::value_and_gradient(Tensor& gradient) {
  const Tensor ones = Tensor::full(loss_shape(), replica_.store.dtype(), backend_, 1.0);
  issue(ones, nullptr, {}, &thrown_);
  Value value = read_value(*exchange_);
  value.loss += regularize(value.weight);
  take_mean(value.weight, gradient);
  if (!backend_.all_finite(gradient.dtype(), gradient.elements(), gradient.data())) agree_on_thrown();
  return value;
}

GradientPass::Shared GradientPass::shared_gradients() const {
  const ParameterStore& store = replica_.store;
  std::array<double, Objective::kSums + kSharedParts> sums{};
  backend_.copy_to_host(sums.data(), exchange_->sums(), sizeof sums);
  const auto mean = [&](SharedPart part) -> Tensor {
    const double weight = sums[static_cast<size_t>(Objective::kSums + part)];
    if (weight == 0.0) return {};
    const Tensor sum = exchange_->result().view({store.parameter_extent()}, offset_of(part));
    Tensor out = sum.empty_like();
    backend_.scale_shift(out.dtype(), out.elements(), sum.data(), 1.0 / weight, 0.0, out.mutable_data());
    return out;
  };
  return {mean(kBefore), mean(kAfter)};
}

double GradientPass::gradient_variance() {
  const ParameterStore& store = replica_.store;
  const int64_t n = store.parameter_extent();
  // |s_m| and w_m of each micro-batch, where this worker owns it.
  std::vector<double> mine(static_cast<size_t>(2 * micro_batches_), 0.0);
  Tensor total = Tensor::zeros({n}, store.dtype(), backend_);
  const Tensor ones = Tensor::full(loss_shape(), store.dtype(), backend_, 1.0);
  const auto part = [&](const Batch& batch, ForwardContext& context) {
    Tensor gradient = Tensor::zeros({n}, store.dtype(), backend_);
    const Tensor losses = objective_.losses(*replica_.model, batch, context);
    backward(losses, ones, [&](const Leaf& leaf, const Tensor& values) {
      const ParameterEntry& entry = store.parameters()[static_cast<size_t>(leaf.index)];
      Tensor own = gradient.view(entry.shape, entry.offset);
      own.assign(values);
      exchange_->add(entry.offset, values.elements(), values.data());
    });
    const Tensor sums = objective_.sums(losses, batch);
    const auto at = static_cast<size_t>(2 * batch.number);
    mine[at] = global_norm(gradient, n, 1.0);
    mine[at + 1] = sums.to_vector<double>()[1];
    add_sums(*exchange_, sums, batch);
  };
  const double weight = sum_up(*exchange_, part).weight;
  take_mean(weight, total);
  std::vector<double> all(mine.size() * static_cast<size_t>(communicator_.world_size()));
  communicator_.all_gather(mine.data(), mine.size() * sizeof(double), all.data(), "gradient variance")
      ->wait();
  const double norm = global_norm(total, n, 1.0);
  double sum = -weight * norm * norm;
  int64_t counting = 0;
  for (int rank = 0; rank < communicator_.world_size(); ++rank) {
    const MicroBatchRange range = owned_micro_batches(micro_batches_, rank, communicator_.world_size());
    for (int64_t m = range.begin; m < range.end; ++m) {
      const auto at = static_cast<size_t>(2 * m) + mine.size() * static_cast<size_t>(rank);
      if (all[at + 1] == 0.0) continue;
      sum += all[at] * all[at] / all[at + 1];
      ++counting;
    }
  }
  if (counting < 2) return std::numeric_limits<double>::quiet_NaN();
  return sum / static_cast<double>(counting - 1);
}

void GradientPass::mean_of(const Contributions& part, Tensor& out) {
  const ParameterStore& store = replica_.store;
  const Value summed = sum_up(*exchange_, [&](const Batch& batch, ForwardContext& context) {
    const std::vector<Tensor> contributions = part(batch, context);
    for (size_t i = 0; i < contributions.size(); ++i) {
      exchange_->add(store.parameters()[i].offset, contributions[i].elements(), contributions[i].data());
    }
    add_weight(*exchange_, batch);
  });
  take_mean(summed.weight, out);
}

double GradientPass::predicted_gradient(Tensor& out) {
  const ParameterStore& store = replica_.store;
  const Value summed = sum_up(*exchange_, [&](const Batch& batch, ForwardContext& context) {
    const Tensor outputs = forward(*replica_.model, batch, context);
    const RandomStream draws = next_random_stream(RandomPurpose::kPredictions);
    backward(outputs, objective_.scores(outputs, batch, &draws),
             [&](const Leaf& leaf, const Tensor& gradient) {
               const ParameterEntry& entry = store.parameters()[static_cast<size_t>(leaf.index)];
               exchange_->add(entry.offset, gradient.elements(), gradient.data());
             });
    add_weight(*exchange_, batch);
  });
  take_mean(1.0, out);
  return summed.weight;
}

void GradientPass::add_weight(GradientExchange& exchange, const Batch& batch) const {
  const Tensor none = Tensor::zeros(loss_shape(), replica_.store.dtype(), backend_);
  add_sums(exchange, objective_.sums(none, batch), batch);
}

size_t GradientPass::peak_bytes() const {
  return std::max(peak_bytes_, allocator_statistics().peak_bytes);
}

}  // namespace lockstep
