// The samples of coming steps on their way to the device, while it computes.
//
// Two steps have their tensors at fixed places in device memory and take turns. Use, in the loop:
//   queue.stage(step 0);
//   for each step n: queue.next();              // what is issued from now on sees step n
//                    queue.stage(step n + 1);   // travels while step n is computed
//                    for each micro-batch i: ... queue.batch(i) ...
// On a GPU the host only writes to pinned memory, and the copies run in a queue of their own
// (Backend::copies()): they wait until the step before the last, which had the same place, has been computed,
// and the computation waits for them in next(). On the CPU the samples are written to their place at once.
//
// A CUDA graph of a step holds the addresses of one of the two places: capture one for each place(), between
// next() and the following stage() or later, never across them, since both deal with other queues.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "lockstep/data/loader.h"
#include "lockstep/train/batch.h"

namespace lockstep {

class InputQueue {
 public:
  static constexpr int kPlaces = 2;

  // For steps of `micro_batches` micro-batches (those of this worker) of `micro_batch_size` samples of these
  // fields; real numbers become `dtype`, fp32 or fp64. The backend must outlive the queue. Error (kUsage): no
  // memory.
  InputQueue(Backend& backend, const std::vector<Field>& fields, DType dtype, int64_t micro_batches,
             int64_t micro_batch_size);
  ~InputQueue();

  // Starts bringing a step's samples to the device; `batch` may change when the call returns. Waits only
  // where the pinned memory of the place still travels: for a copy, two steps back. Error (kInternal) when
  // the place is taken: a step is staged that next() has not turned to.
  void stage(const StepBatch& batch);
  // Turns to the step that was staged first. The tensors of the one before belong to the queue again: what
  // was issued to the backend so far is the last that may read them. Error (kInternal) when none is staged.
  void next();
  // The micro-batches of the step that next() turned to.
  std::span<const Batch> batches() const;
  const Batch& batch(int64_t i) const { return batches()[static_cast<size_t>(i)]; }
  // Samples of that step's whole global batch that count.
  int64_t valid() const;
  // Which of the places it is in: its tensors are where they were the last time that the place was this one.
  int place() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lockstep
