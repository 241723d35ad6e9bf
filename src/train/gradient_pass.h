// The objective over one global batch as a mathematical object: its value, its gradient and products with its
// second derivatives, shared out over the workers and summed over the reduction tree, so that every number is
// the same bits on any number of workers and threads.
//
// The objective at the replica's present parameters theta is
//   L(theta) = sum_i w_i l_i(theta) / sum_i w_i + lambda/2 |theta|^2
// over the targets i of the batch with their weights w and losses l, lambda = train.l2. Everything may be
// asked again at other parameters: dropout draws the same masks as long as the batch is the same.
#pragma once

#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>

#include "lockstep/autodiff/derivatives.h"
#include "lockstep/comm/communicator.h"
#include "lockstep/parallel/gradient_exchange.h"
#include "lockstep/train/objective.h"
#include "lockstep/train/replica.h"
#include "lockstep/train/run_plan.h"

namespace lockstep {

class GradientPass {
 public:
  // Of the objective's value.
  struct Value {
    double loss = 0.0;    // L; without regularization 0 where nothing counts
    double weight = 0.0;  // sum of the targets' weights
  };

  // Everything must outlive the object. Error (kUsage) when there are more workers than micro-batches.
  GradientPass(Replica& replica, const Objective& objective, const RunPlan& plan, const RunSettings& settings,
               Communicator& communicator);

  // The micro-batches of the global batch that this worker owns, in order; their tensors must stay as they
  // are until the next call. step: decides the draws. step_at: where the device keeps it, for recorded steps.
  void set_batch(std::span<const Batch> owned, int64_t step, const uint32_t* step_at = nullptr);
  // The same of more micro-batches than there is room for: `make` gives those with the numbers `owned` by
  // this worker, one at a time, again in each call below. agree: called on every worker where all have what
  // they have summed up; what it throws, it has to throw on all.
  void set_batches(const MicroBatchRange& owned, std::function<Batch(int64_t number)> make, int64_t step,
                   std::function<void()> agree = {});

  // ---- for training steps: nothing waits for the device, and all may be recorded

  // Of the losses of a micro-batch.
  Shape loss_shape() const { return objective_.loss_shape(settings_.micro_batch_size); }
  // Sweeps and sums up. cotangent: dL/d(losses of a micro-batch), the loss scale everywhere. `swept` is set
  // where the device is through with this worker's sweeps; may be null. issued: see
  // GradientExchange::finish(). thrown: gets what a sweep of this worker throws, of the model's that is; the
  // sums, and with them the step's verdict, are not finite then on any worker. Null: it comes out, and the
  // others wait in vain.
  void issue(const Tensor& cotangent, Marker* swept, const std::function<void()>& issued = {},
             std::exception_ptr* thrown = nullptr);
  // What issue() has summed over all samples, neither divided nor unscaled: the gradient and, behind it, the
  // micro-batches' statistics, laid out as the parameter store says; (2) fp64, of losses and of weights. Of a
  // sharded optimizer the worker's own elements only. Valid until the next sweep.
  Tensor gradient() const { return exchange_->result(); }
  const double* sums() const { return exchange_->sums(); }
  // Adds the regularization's part to gradient(), for a weight of all samples times the loss scale of
  // `divisor`, by which gradient() will be divided. Returns what it adds to the loss.
  double regularize(double divisor);
  // Seconds that communication was waited for; see GradientExchange.
  double take_exposed_seconds() { return exchange_->take_exposed_seconds(); }

  // ---- for methods that look before they move: each call is collective and waits. Arrays are
  // (parameter_extent) in the type of the parameters, laid out as the parameter store says. What a sweep of
  // value(), value_and_gradient() or a product throws is an AgreedFailure on all workers.

  Value value();
  Value value_and_gradient(Tensor& gradient);
  // Of the sweep of the newest value_and_gradient(), where batches share micro-batches
  // (SamplerOptions::overlap): the gradients of the mean losses of what the batch shares with the one before
  // and with the one after, without regularization; undefined where none of it counts. Valid until the next
  // sweep. A micro-batch draws the same in both of its batches.
  struct Shared {
    Tensor before, after;
  };
  Shared shared_gradients() const;
  bool shares() const { return overlap_ > 0; }
  // What products of one kind have recorded at one point, for further ones at the same parameters and batch,
  // which need not sweep so often (with H two sweeps instead of three): of the first micro-batches, their
  // samples included where they are made one at a time, up to settings.linearization_bytes. The same bits
  // with it and without. The caller clears it when the parameters change.
  using Product = std::function<std::vector<Tensor>(std::span<const Tensor> vectors)>;
  struct Linearization {
    std::map<int64_t, Product> of;  // micro-batches by number
    size_t bytes = 0;
    bool full = false;  // one did not fit: no more are kept
    uint64_t batch_number = 0;
  };
  // H v, H the second derivative of L. Error (kUsage) in 16-bit precision, whose derivatives have no digits
  // for it.
  void hessian_product(const Tensor& vector, Tensor& product, Linearization* kept = nullptr);
  // G v, G the Gauss-Newton matrix of L: sum_i w_i J_i' H_i J_i / sum_i w_i + lambda I, J the derivative of
  // the model's outputs with respect to the parameters, H of the loss with respect to the outputs
  // (Schraudolph 2002). Positive semidefinite where the loss is convex in the outputs.
  void gauss_newton_product(const Tensor& vector, Tensor& product, Linearization* kept = nullptr);

  // out <- (sum over micro-batches of what `part` gives for each parameter) / sum_i w_i
  using Contributions = std::function<std::vector<Tensor>(const Batch& batch, ForwardContext& context)>;
  void mean_of(const Contributions& part, Tensor& out);

  // out <- sum_i sqrt(w_i) dl_i/d(theta) over targets that are drawn from what the model predicts
  // (Objective::scores); regularization takes no part. Returns sum_i w_i. The mean of out o out over it is
  // the diagonal of the Gauss-Newton matrix.
  double predicted_gradient(Tensor& out);

  // What is made of a micro-batch, with its draws and a context of its own.
  using Part = std::function<void(const Batch& batch, ForwardContext& context)>;
  // The sum over all micro-batches, by an exchange with Objective::kSums sums at least: `part` adds what one
  // brings, and add_weight() last, behind all that may throw: what it throws is an AgreedFailure on all
  // workers. Collective.
  Value sum_up(GradientExchange& exchange, const Part& part);
  // Adds what the batch's targets weigh to the sums of an exchange, a loss of 0 with it.
  void add_weight(GradientExchange& exchange, const Batch& batch) const;
  // Without sums over all: `part` of each of this worker's, while nothing is exchanged. Not collective.
  void for_owned(const Part& part);
  // Views of a flat array as the parameters lie in it, and of the parameters themselves.
  std::vector<Tensor> views(const Tensor& flat) const;
  std::vector<Tensor> parameters() const { return views(replica_.store.values()); }
  // The model's outputs of a micro-batch as a function of the parameters. What it is given must outlive its
  // calls.
  Function outputs_of(const Batch& batch, ForwardContext& context) const;
  const Objective& objective() const { return objective_; }
  Communicator& communicator() const { return communicator_; }
  int64_t micro_batches() const { return micro_batches_; }
  int64_t step() const { return step_; }
  double l2() const { return settings_.l2; }

  // Whether the sweeps so far have drawn random numbers (dropout): the objective of the next batch is then
  // another function, even of the same samples.
  bool draws() const { return draws_; }

  // How the gradients of micro-batches differ: tr(S) of the covariance S of a single target's gradient,
  // estimated as (sum_m |s_m|^2 / w_m - |s|^2 / w) / (M - 1), s_m the gradient of micro-batch m's summed
  // losses of weight w_m, s and w the sums over all M. Not a number where fewer than two micro-batches count.
  double gradient_variance();

  // The most that a micro-batch's sweeps held at once, over what was there before them.
  size_t activation_bytes() const { return activation_bytes_; }
  // The allocator's peak so far: looking at single sweeps resets it.
  size_t peak_bytes() const;
  // Held for gradients and their exchange.
  size_t bytes() const { return exchange_->bytes(); }

 private:
  // What of the exchange lies behind the gradient: what is shared with the batch before, and after.
  enum SharedPart : int { kBefore, kAfter, kSharedParts };
  std::optional<SharedPart> shared_part(const Batch& batch) const;
  int64_t offset_of(SharedPart part) const {
    return replica_.store.gradient_extent() + part * replica_.store.parameter_extent();
  }
  // Objective::sums(), and behind them the weights of the shared parts.
  void add_sums(GradientExchange& exchange, const Tensor& sums, const Batch& batch) const;
  ExchangeOptions exchange_options(std::vector<Share> shares) const;
  // Those of the micro-batch under way; none where the replica's model runs as in evaluation.
  std::vector<Tensor> take_statistics();
  void sweep(const Batch& batch, const Tensor& cotangent);
  // Runs `part` for each owned micro-batch within its random scope.
  void for_batches(const std::function<void(const Batch&)>& part);
  // The same between begin and end of the exchange. thrown: as issue().
  void for_batches(GradientExchange& exchange, const std::function<void(const Batch&)>& part,
                   std::exception_ptr* thrown = nullptr);
  // product <- (sum over micro-batches of what the products that `make` gives, or gave, make of `vector`) /
  // sum_i w_i + lambda vector
  // keep: whether a product will be asked for again.
  using MakeProduct = std::function<Product(const Batch& batch, ForwardContext& context, bool keep)>;
  void multiply(const Tensor& vector, Tensor& product, Linearization* kept, const MakeProduct& make);
  void require_products(const char* what) const;
  Value read_value(const GradientExchange& exchange);
  // Where a result is not finite, and so on every worker: AgreedFailure if that is because of thrown_.
  void agree_on_thrown();
  // out <- (the exchange's result) / divisor, whole on every worker.
  void take_mean(double divisor, Tensor& out) const;

  Replica& replica_;
  const Objective& objective_;
  const RunSettings& settings_;
  Communicator& communicator_;
  Backend& backend_;
  std::unique_ptr<GradientExchange> exchange_;
  std::unique_ptr<GradientExchange> values_;  // of sums alone; made when first needed
  int64_t micro_batches_;
  int64_t overlap_;                 // micro-batches that a batch shares with the next
  std::span<const Batch> batches_;  // or, where make_ is set, what it makes of the numbers in made_
  MicroBatchRange made_;
  std::function<Batch(int64_t)> make_;
  std::function<void()> agree_;
  uint64_t seed_;
  uint64_t batch_number_ = 0;  // how many there have been
  int64_t step_ = 0;
  const uint32_t* step_at_ = nullptr;
  bool draws_ = false;
  std::exception_ptr thrown_;  // by this worker's sweeps since agree_on_thrown()
  bool head_known_ = false;    // that Gauss-Newton products know all of the loss
  size_t peak_bytes_ = 0;      // before the allocator's peak was reset last
  size_t activation_bytes_ = 0;
};

}  // namespace lockstep
