// Keeping the device's counters, and reading its reports.
#include "lockstep/train/step_control.h"

#include <cstring>

#include "lockstep/core/error.h"

namespace lockstep {

static_assert(sizeof(StepState) % sizeof(double) == 0);

StepControl::StepControl(Backend& backend, DType dtype, const LossScaler& scaler, double max_norm,
                         int64_t row_size, int64_t ahead)
    : backend_(backend),
      dtype_(dtype),
      rule_(scaler.rule()),
      max_norm_(max_norm),
      row_size_(row_size),
      ahead_(ahead),
      places_(ahead + 1),
      state_(Tensor::zeros({static_cast<int64_t>(sizeof(StepState) / sizeof(double))}, DType::kF64, backend)),
      table_(Tensor::zeros({kRows * row_size}, DType::kF64, backend)),
      row_(Tensor::zeros({row_size}, DType::kF64, backend)),
      scale_(Tensor::full({1}, dtype, backend, scaler.scale())),
      chunk_(static_cast<size_t>(kChunk * row_size)),
      reports_(backend.mailbox(sizeof(StepState), places_)) {
  if (ahead < 0 || ahead > kMostAhead) fail(ErrorKind::kInternal, "step control: too many steps ahead");
}

void StepControl::set(const LossScaler& scaler, int64_t updates, int64_t step) {
  StepState state;
  state.loss_scale = scaler.counters();
  state.updates = static_cast<double>(updates);
  state.random_step = static_cast<uint32_t>(step);
  backend_.copy_from_host(state_.mutable_data(), &state, sizeof state);
  backend_.fill(dtype_, 1, scale_.mutable_data(), scaler.scale());
  forget_rows(updates);
}

void StepControl::forget_rows(int64_t updates) {
  next_row_ = updates / kChunk * kChunk;
}

void StepControl::upload_chunk() {
  const int64_t first = next_row_ % kRows * row_size_;
  backend_.copy_from_host(table_.mutable_data_as<double>() + first, chunk_.data(),
                          chunk_.size() * sizeof(double));
  next_row_ += kChunk;
}

Tensor StepControl::cotangent(const Shape& shape) {
  const bool fresh = !cotangent_.defined() || cotangent_.elements() != shape.elements();
  if (fresh) cotangent_ = Tensor::empty({shape.elements()}, dtype_, backend_);
  // The larger of the scale and itself, again and again.
  BroadcastPlan everywhere;
  everywhere.rank = 1;
  everywhere.extents[0] = shape.elements();
  backend_.binary(BinaryOp::kMaximum, dtype_, everywhere, scale_.data(), scale_.data(),
                  cotangent_.mutable_data());
  return cotangent_.view(shape);
}

void StepControl::judge(Tensor square_sums, const double* sums) {
  StepJudgement judgement;
  judgement.square_sums = square_sums.mutable_data_as<double>();
  judgement.blocks = square_sums.elements();
  judgement.dtype = dtype_;
  judgement.sums = sums;
  judgement.max_norm = max_norm_;
  judgement.loss_scale = rule_;
  judgement.table = table_.data_as<double>();
  judgement.rows = kRows;
  judgement.row_size = row_size_;
  judgement.state = static_cast<StepState*>(state_.mutable_data());
  judgement.row = row_.mutable_data_as<double>();
  judgement.cotangent = scale_.mutable_data();
  backend_.judge(judgement);
}

StepState StepControl::read(int64_t step) {
  StepState state;
  std::memcpy(&state, reports_->read(step % places_), sizeof state);
  return state;
}

}  // namespace lockstep
