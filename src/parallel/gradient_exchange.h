// Lockstep reduction of a flat gradient over micro-batches and workers, bucket by bucket, while the backward
// sweep runs.
//
// Use, once a step on every worker:
//   exchange.begin_step();
//   for each owned micro-batch m, in order: exchange.begin_micro_batch(m);
//        add(offset, n, values) for every slice of the gradient, each element exactly once, any order;
//        exchange.end_micro_batch();
//   exchange.finish();   // result() now holds the sum over all micro-batches, bitwise the same on every
//   worker (of a sharded optimizer: what the worker needs of it)
// Slices that no add() touched count as zero.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "lockstep/comm/communicator.h"
#include "lockstep/parallel/parameter_shards.h"
#include "lockstep/parallel/reduction_tree.h"
#include "lockstep/tensor/tensor.h"

namespace lockstep {

enum class ReductionMode { kLockstep, kLibrary };

struct ExchangeOptions {
  int64_t micro_batches = 1;
  ReductionMode mode = ReductionMode::kLockstep;
  int64_t bucket_bytes = 25 << 20;
  // Who needs which elements of the sum, for a sharded optimizer; they are not shared with the others. What
  // lies behind the last share, and everything when there are none, goes to all. Library mode gives all to
  // all.
  std::vector<Share> shares = {};
  // Numbers of fp64 that travel behind the gradient, whatever its type, and are summed in the same way: of
  // losses, of weights. At most 32.
  int64_t sums = 0;
};

class GradientExchange {
 public:
  // `extent` elements of `dtype` (fp32 or fp64). `slice_offsets`: ascending starts of the slices that add()
  // will be called with; buckets are unions of whole slices, filled from the end of the array because
  // backward sweeps end first. Communicator and backend must outlive the exchange. Error (kUsage) when there
  // are more workers than micro-batches.
  GradientExchange(Communicator& communicator, Backend& backend, DType dtype, int64_t extent,
                   std::vector<int64_t> slice_offsets, const ExchangeOptions& options);
  ~GradientExchange();

  void begin_step();
  void begin_micro_batch(int64_t micro_batch);
  // Where the current micro-batch's slice at `offset`, of this shape, may be written before it is added,
  // which spares a copy; undefined where it would be added to others.
  Tensor room(int64_t offset, const Shape& shape) const;
  // values: n elements of the gradient at `offset`, a whole slice, of the current micro-batch. A slice may be
  // shorter than the way to the next one, but always by as much; the elements between are zero.
  void add(int64_t offset, int64_t n, const void* values);
  // The micro-batch's options.sums numbers, in the backend's memory.
  void add_sums(const double* values);
  void end_micro_batch();
  // In place of what the current micro-batch will not bring: the step's sums are not finite then, or, where
  // the micro-batch has brought its own, its gradient in front of element `end` is not, on every worker.
  // False where nothing is left that could say so.
  bool spoil(int64_t end);
  // Waits for every bucket; on a GPU, what the backend is told from now on does. issued: called when the last
  // collective has been issued, which is the same place in their order on every worker: what it issues on the
  // same communicator travels beside the last messages.
  void finish(const std::function<void()>& issued = {});

  // (>= extent): the summed gradient; within options.shares, only this worker's are sums. Valid from finish()
  // to the next begin_step().
  const Tensor& result() const;
  // (options.sums): what add_sums() was given, summed; on every worker. In the backend's memory, valid as
  // long as result().
  const double* sums() const;

  // Seconds since the last call that the computation spent in finish() waiting for workers: communication
  // that the backward sweep did not hide. On a GPU the device measures them, and the steps that it has not
  // finished yet enter later; steps that are replayed from a recording are not measured. Does not block.
  double take_exposed_seconds();
  int64_t buckets() const;
  // Held for gradients and their exchange.
  size_t bytes() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lockstep
