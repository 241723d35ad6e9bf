// The verdict on a step, from the sums of squares of its gradient.
#include "lockstep/kernels/cuda/cuda_backend.h"
#include "lockstep/kernels/dispatch.h"

namespace lockstep {

namespace {

constexpr int kAdders = 512;
constexpr int kCopiers = 64;

// One block: the sums of pairs of neighbours, of neighbouring pairs and so on, which is the tree that splits
// at the largest power of two. The total lands in sums[0].
__global__ void __launch_bounds__(kAdders) add_up_kernel(int64_t blocks, double* sums) {
  for (int64_t distance = 1; distance < blocks; distance *= 2) {
    for (int64_t i = 2 * distance * threadIdx.x; i + distance < blocks; i += 2 * distance * kAdders) {
      sums[i] += sums[i + distance];
    }
    __syncthreads();
  }
}

// One block: copies the row of the update, whose number is that of the updates before it; then its first
// thread judges.
template <class T>
__global__ void __launch_bounds__(kCopiers) judge_kernel(StepJudgement judgement) {
  const int64_t update = static_cast<int64_t>(judgement.state->updates);
  const double* const source = judgement.table + update % judgement.rows * judgement.row_size;
  for (int64_t i = threadIdx.x; i < judgement.row_size; i += kCopiers) judgement.row[i] = source[i];
  __syncthreads();
  if (threadIdx.x > 0) return;
  judge_step(judgement.blocks > 0 ? judgement.square_sums[0] : 0.0, judgement.sums[0], judgement.sums[1],
             judgement.max_norm, judgement.loss_scale, *judgement.state);
  *static_cast<T*>(judgement.cotangent) = static_cast<T>(judgement.state->loss_scale.scale);
}

}  // namespace

void CudaBackend::judge(const StepJudgement& judgement) {
  if (judgement.blocks > 1) {
    LOCKSTEP_LAUNCH(add_up_kernel, 1, kAdders, 0, stream(), judgement.blocks, judgement.square_sums);
  }
  dispatch_accumulation("judge", judgement.dtype, [&](auto type) {
    LOCKSTEP_LAUNCH(judge_kernel<decltype(type)>, 1, kCopiers, 0, stream(), judgement);
  });
}

}  // namespace lockstep
