// Cross-entropy of softmax, fused with it, over the rows of (rows, columns), and its derivative.
#include "lockstep/kernels/cuda/cuda_backend.h"
#include "lockstep/kernels/cuda/division.h"
#include "lockstep/kernels/cuda/softmax.h"
#include "lockstep/kernels/dispatch.h"

namespace lockstep {

namespace {

template <class T, class Plan>
__global__ void __launch_bounds__(Team<Plan::kTeam>::kThreads, Plan::kBlocks)
    cross_entropy_kernel(int64_t rows, int64_t columns, const T* logits, const int32_t* labels,
                         const T* weights, T* losses, T* probabilities, bool vectors) {
  LOCKSTEP_SHARED(T, shared, [2 * Team<Plan::kTeam>::kWarps]);
  const int64_t r = Team<Plan::kTeam>::row();
  if (r >= rows) return;
  RowValues<T, 1, Plan> row({logits}, r, columns, vectors);
  const Exponentials<T> whole = row_exponentials<true>(row, shared);
  write_probabilities(row, whole, probabilities + r * columns, vectors);
  if (Team<Plan::kTeam>::lane() == 0) {
    const T value = math::log(whole.sum) - (logits[r * columns + labels[r]] - whole.maximum);
    losses[r] = weights == nullptr ? value : weights[r] * value;
  }
}

// The losses, and the gradients of the logits in place of the probabilities.
template <class S, class Plan, class T = Accumulation<S>>
__global__ void __launch_bounds__(Team<Plan::kTeam>::kThreads, Plan::kBlocks)
    cross_entropy_gradient_kernel(int64_t rows, int64_t columns, const T* logits, const int32_t* labels,
                                  const T* weights, const T* dlosses, T* losses, S* dlogits, bool vectors) {
  constexpr int N = Plan::kLanes;
  LOCKSTEP_SHARED(T, shared, [2 * Team<Plan::kTeam>::kWarps]);
  const int64_t r = Team<Plan::kTeam>::row();
  if (r >= rows) return;
  RowValues<T, 1, Plan> row({logits}, r, columns, vectors);
  const Exponentials<T> whole = row_exponentials<true>(row, shared);
  const T weight = weights == nullptr ? T(1) : weights[r];
  const T part = T(1) / whole.sum, factor = weights == nullptr ? dlosses[r] : dlosses[r] * weight;
  const auto label = static_cast<typename Plan::Index>(labels[r]);
  row.visit([&](int, typename Plan::Index i, T(&x)[1][N]) {
    T result[N];
    LOCKSTEP_UNROLL
    for (int j = 0; j < N; ++j) {
      const T probability = (Plan::kHeld ? x[0][j] : math::exp_for<T>(x[0][j] - whole.maximum)) * part;
      result[j] = factor * (probability - (i + j == label ? T(1) : T(0)));
    }
    store_row(dlogits + r * columns + i, result, vectors);
  });
  if (Team<Plan::kTeam>::lane() == 0) {
    const T value = math::log(whole.sum) - (logits[r * columns + labels[r]] - whole.maximum);
    losses[r] = weights == nullptr ? value : weight * value;
  }
}

// Vectors of N elements of a row, counted over `cells` of them from `first` on; row_cells of them a row.
template <class T, int N>
__global__ void __launch_bounds__(kFlatThreads)
    cross_entropy_backward_kernel(uint32_t cells, Divisor row_cells, const T* probabilities,
                                  const int32_t* labels, const T* weights, const T* dlosses, T* dlogits) {
  const uint32_t cell = static_cast<uint32_t>(global_thread());
  if (cell >= cells) return;
  const int64_t at = static_cast<int64_t>(cell) * N;
  const Vector<T, N> probability = load_vector<N>(probabilities + at);
  const uint32_t row = row_cells.quotient(cell);
  const T factor = weights == nullptr ? dlosses[row] : dlosses[row] * weights[row];
  const int64_t label = labels[row] - static_cast<int64_t>(cell - row * row_cells.divisor) * N;
  Vector<T, N> result;
  LOCKSTEP_UNROLL
  for (int j = 0; j < N; ++j) result.lane[j] = factor * (probability.lane[j] - (j == label ? T(1) : T(0)));
  store_vector(dlogits + at, result);
}

template <class T, int N>
void launch_backward(cudaStream_t stream, int64_t rows, int64_t columns, const T* probabilities,
                     const int32_t* labels, const T* weights, const T* dlosses, T* dlogits) {
  // As many rows at a time as a cell's index can count.
  const int64_t part = std::max<int64_t>(1, kLongestWalk / (columns / N));
  for (int64_t begin = 0; begin < rows; begin += part) {
    const int64_t cells = std::min(part, rows - begin) * (columns / N);
    LOCKSTEP_LAUNCH(
        (cross_entropy_backward_kernel<T, N>), blocks_for(cells, kFlatThreads), kFlatThreads, 0, stream,
        static_cast<uint32_t>(cells), Divisor(columns / N), probabilities + begin * columns, labels + begin,
        weights == nullptr ? nullptr : weights + begin, dlosses + begin, dlogits + begin * columns);
  }
}

}  // namespace

void CudaBackend::cross_entropy(DType dtype, int64_t rows, int64_t columns, const void* logits,
                                const int32_t* labels, const void* weights, void* losses,
                                void* probabilities) {
  if (rows <= 0) return;
  dispatch_accumulation("cross_entropy", dtype, [&](auto type) {
    using T = decltype(type);
    dispatch_rows<T>(columns, [&](auto plan) {
      using Plan = decltype(plan);
      using Rows = Team<Plan::kTeam>;
      LOCKSTEP_LAUNCH((cross_entropy_kernel<T, Plan>), blocks_for(rows, Rows::kRows), plan.threads, 0,
                      stream(), rows, columns, static_cast<const T*>(logits), labels,
                      static_cast<const T*>(weights), static_cast<T*>(losses), static_cast<T*>(probabilities),
                      aligned_to(16, logits, probabilities));
    });
  });
}

void CudaBackend::cross_entropy_gradient(DType dtype, int64_t rows, int64_t columns, const void* logits,
                                         const int32_t* labels, const void* weights, const void* dlosses,
                                         void* losses, void* dlogits) {
  if (rows <= 0) return;
  dispatch_floating("cross_entropy_gradient", dtype, [&](auto type) {
    using S = decltype(type);
    using T = Accumulation<S>;
    dispatch_rows<T>(columns, [&](auto plan) {
      using Plan = decltype(plan);
      using Rows = Team<Plan::kTeam>;
      LOCKSTEP_LAUNCH((cross_entropy_gradient_kernel<S, Plan>), blocks_for(rows, Rows::kRows), plan.threads,
                      0, stream(), rows, columns, static_cast<const T*>(logits), labels,
                      static_cast<const T*>(weights), static_cast<const T*>(dlosses), static_cast<T*>(losses),
                      static_cast<S*>(dlogits), aligned_to(16, logits, dlogits));
    });
  });
}

void CudaBackend::cross_entropy_backward(DType dtype, int64_t rows, int64_t columns,
                                         const void* probabilities, const int32_t* labels,
                                         const void* weights, const void* dlosses, void* dlogits) {
  if (rows <= 0 || columns <= 0) return;
  dispatch_accumulation("cross_entropy_backward", dtype, [&](auto type) {
    using T = decltype(type);
    constexpr int kLanes = Vector<T>::kLanes;
    const bool vectors = columns % kLanes == 0 && aligned_to(16, probabilities, dlogits);
    const auto launch_rows = vectors ? launch_backward<T, kLanes> : launch_backward<T, 1>;
    launch_rows(stream(), rows, columns, static_cast<const T*>(probabilities), labels,
                static_cast<const T*>(weights), static_cast<const T*>(dlosses), static_cast<T*>(dlogits));
  });
}

}  // namespace lockstep
