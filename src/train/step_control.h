// The device's own side of a step's end: counters, verdict and the numbers of the update that may follow, so
// that the host need not wait for a step before it issues the next one.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "lockstep/kernels/backend.h"
#include "lockstep/optim/loss_scaler.h"
#include "lockstep/tensor/tensor.h"

namespace lockstep {

class StepControl {
 public:
  // dtype: of parameters and losses. row_size: numbers that an update needs (Optimizer::write_rows), 0 where
  // the host gives them with the update. ahead: how many steps may be under way whose reports nobody has
  // read; at most kMostAhead.
  StepControl(Backend& backend, DType dtype, const LossScaler& scaler, double max_norm, int64_t row_size,
              int64_t ahead);

  static constexpr int64_t kMostAhead = 16;
  int64_t ahead() const { return ahead_; }

  // Sets the device's counters to the host's: at the start, from a checkpoint, or when the host has decided
  // otherwise than the device did. step: the number of the step to come.
  void set(const LossScaler& scaler, int64_t updates, int64_t step);

  // The rows of updates that may come up before this is called again, where the device does not have them
  // yet: write(u, row) fills in that of update u, counted from 0. updates: done for certain; the steps under
  // way may each have been one.
  template <class Write>
  void arrange(int64_t updates, int64_t under_way, const Write& write) {
    while (row_size_ > 0 && next_row_ <= updates + under_way) {
      for (int64_t i = 0; i < kChunk; ++i) {
        write(next_row_ + i,
              std::span(chunk_).subspan(static_cast<size_t>(i * row_size_), static_cast<size_t>(row_size_)));
      }
      upload_chunk();
    }
  }
  // Rows that the device has are out of date: the schedule has learnt something. Nothing may be under way.
  void forget_rows(int64_t updates);

  // dL/d(losses) of the step to come, in the losses' shape: its loss scale everywhere. The same storage each
  // time.
  Tensor cotangent(const Shape& shape);

  // Judges a step: square_sums as ParameterShards::block_square_sums gives them, which are lost; sums (2), in
  // the device's memory, of losses and of weights.
  void judge(Tensor square_sums, const double* sums);
  // Asks for what has become of the state by now, as the report of step number `step`; read() waits for it.
  void post(int64_t step) { reports_->post(step % places_, state_.data()); }
  StepState read(int64_t step);

  // In the device's memory, for updates (UpdateContext) and draws (RandomPlace).
  const StepState* verdict() const { return static_cast<const StepState*>(state_.data()); }
  const double* row() const { return static_cast<const double*>(row_.data()); }

 private:
  void upload_chunk();

  static constexpr int64_t kChunk = 16;         // rows that are uploaded together
  static constexpr int64_t kRows = 4 * kChunk;  // those of the updates before are no longer needed then
  static_assert(kRows >= kMostAhead + 2 * kChunk);

  Backend& backend_;
  DType dtype_;
  LossScaleRule rule_;
  double max_norm_;
  int64_t row_size_, ahead_, places_;
  Tensor state_;        // a StepState
  Tensor table_, row_;  // (kRows, row_size), (row_size) fp64
  Tensor scale_;        // (1): the loss scale of the step to come, in the losses' type
  Tensor cotangent_;
  std::vector<double> chunk_;
  int64_t next_row_ = 0;  // the first that the device has not got; a multiple of kChunk
  std::unique_ptr<Mailbox> reports_;
};

}  // namespace lockstep
