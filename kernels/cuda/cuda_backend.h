// A GPU's filling of the kernel table: one source file per family of kernels.
//
// Everything is issued to one stream. What a kernel computes never depends on the device's size or on timing:
// sums run over trees that the extents alone define, and where a sum is cut for a number of blocks, that
// follows from the extents and from kMultiprocessors, a constant.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "lockstep/kernels/backend.h"
#include "lockstep/kernels/cuda/dialect.h"
#include "lockstep/kernels/plan_table.h"

namespace lockstep {

class Cudnn;
enum class Multiplier : uint8_t;
class PinnedRing;
class Products;

// Of a GPU that exists: {9, 0}.
std::pair<int, int> compute_capability(int device);

// Issued to by one thread at a time, but for memory and copies, which any thread may ask for.
class CudaBackend final : public Backend {
 public:
  enum class Queue : uint8_t { kComputation, kLane, kCopies };
  // A queue of GPU `device`, which exists. plans: the device's, of all its queues.
  CudaBackend(int device, Queue queue, std::shared_ptr<PlanTable> plans);
  ~CudaBackend() override;

  // cuda_backend.cu
  std::string description() const override;
  std::string native_precisions() const override;
  PlanTable* plans() override { return plans_.get(); }
  void use_cudnn(bool use) override { use_cudnn_ = use; }

  // memory.cu, but for fill and cast: cast.cu; mailbox and recordings: queues.cu
  void* allocate(size_t bytes) override;
  void release(void* pointer, size_t bytes) noexcept override;
  MemoryRoom memory_room() const override;
  void copy(void* destination, const void* source, size_t bytes) override;
  void copy_from_host(void* destination, const void* source, size_t bytes) override;
  void copy_to_host(void* destination, const void* source, size_t bytes) override;
  void synchronize() override;
  void* allocate_pinned(size_t bytes) override;
  void release_pinned(void* pointer) noexcept override;
  void copy_from_pinned(void* destination, const void* source, size_t bytes) override;
  Backend& lane() override;
  Backend& copies() override;
  void wait_for(Backend& other) override;
  std::unique_ptr<Marker> marker(bool keeps_time) override;
  void* native_queue() override;
  std::unique_ptr<Mailbox> mailbox(size_t bytes, int64_t places) override;
  bool begin_recording() override;
  std::unique_ptr<Recording> end_recording() override;
  void fill(DType dtype, int64_t n, void* y, double value) override;
  void cast(DType from, DType to, int64_t n, const void* x, void* y) override;

  // elementwise.cu
  void unary(UnaryOp op, DType dtype, int64_t n, const void* x, void* y) override;
  void unary_backward(UnaryOp op, DType dtype, int64_t n, const void* x, const void* y, const void* dy,
                      void* dx) override;

  // binary.cu
  void binary(BinaryOp op, DType dtype, const BroadcastPlan& plan, const void* a, const void* b,
              void* y) override;
  void add_narrow(DType narrow, int64_t n, const void* x, const void* change, void* y) override;
  void scale_shift(DType dtype, int64_t n, const void* x, double scale, double shift, void* y) override;
  void accumulate(DType dtype, int64_t n, const void* x, void* y) override;

  // movement.cu
  void permute(size_t element_size, int rank, const int64_t* extents, const int* permutation, const void* x,
               void* y) override;
  void copy_rows(int64_t outer, size_t bytes, const void* x, size_t x_row_bytes, void* y,
                 size_t y_row_bytes) override;

  // reductions.cu
  void reduce(ReduceOp op, DType dtype, int64_t outer, int64_t extent, int64_t inner, const void* x,
              void* y) override;

  // norm_sums.cu
  void block_square_sums(DType dtype, int64_t n, const void* x, double* sums) override;
  bool all_finite(DType dtype, int64_t n, const void* x) override;

  // matmul.cu
  void matmul(const MatmulArguments& arguments) override;

  // convolution.cu
  void convolution(const ConvolutionArguments& arguments, const void* x, const void* weights,
                   const void* bias, void* y) override;
  void convolution_backward_data(const ConvolutionArguments& arguments, const void* dy, const void* weights,
                                 void* dx) override;
  void convolution_backward_weights(const ConvolutionArguments& arguments, const void* x, const void* dy,
                                    void* dweights) override;

  // pooling.cu
  void max_pool(const PoolArguments& arguments, const void* x, void* y, int32_t* indices) override;
  void max_pool_backward(const PoolArguments& arguments, const int32_t* indices, const void* dy,
                         void* dx) override;
  void max_pool_gather(const PoolArguments& arguments, const int32_t* indices, const void* x,
                       void* y) override;
  void average_pool(const PoolArguments& arguments, const void* x, void* y) override;
  void average_pool_backward(const PoolArguments& arguments, const void* dy, void* dx) override;

  // softmax.cu
  void softmax(bool log_form, DType dtype, int64_t rows, int64_t columns, const void* x, void* y) override;
  void softmax_backward(bool log_form, DType dtype, int64_t rows, int64_t columns, const void* y,
                        const void* dy, void* dx) override;

  // cross_entropy.cu
  void cross_entropy(DType dtype, int64_t rows, int64_t columns, const void* logits, const int32_t* labels,
                     const void* weights, void* losses, void* probabilities) override;
  void cross_entropy_backward(DType dtype, int64_t rows, int64_t columns, const void* probabilities,
                              const int32_t* labels, const void* weights, const void* dlosses,
                              void* dlogits) override;
  void cross_entropy_gradient(DType dtype, int64_t rows, int64_t columns, const void* logits,
                              const int32_t* labels, const void* weights, const void* dlosses, void* losses,
                              void* dlogits) override;

  // norm.cu
  void norm(const NormArguments& arguments, const void* x, const void* change, const void* beta, void* sum,
            void* y, void* mean, void* rstd) override;
  void norm_backward(const NormArguments& arguments, const void* s, const void* mean, const void* rstd,
                     const void* dy, const void* added, void* dx, void* dx_narrow, void* dgamma,
                     void* dbeta) override;

  // batch_norm.cu
  void batch_norm(DType dtype, int64_t rows, int64_t channels, const void* x, const void* gamma,
                  const void* beta, double epsilon, void* y, void* mean, void* variance, void* rstd) override;
  void batch_norm_backward(DType dtype, int64_t rows, int64_t channels, const void* x, const void* gamma,
                           const void* mean, const void* rstd, const void* dy, void* dx, void* dgamma,
                           void* dbeta) override;

  // embedding.cu
  void embedding(DType dtype, int64_t count, int64_t width, const void* table, const int32_t* indices,
                 void* y) override;
  void embedding_backward(DType dtype, int64_t count, int64_t rows, int64_t width, const int32_t* indices,
                          const void* dy, bool adds, void* dtable) override;

  // recurrent.cu
  void recurrent(const RecurrentArguments& arguments, const void* inputs, const void* weight,
                 const void* bias, void* activations, void* memory, void* states) override;
  void recurrent_backward(const RecurrentArguments& arguments, const void* weight, const void* activations,
                          const void* memory, const void* states, const void* dstates, void* dinputs,
                          void* dproducts) override;

  // attention.cu
  void attention(const AttentionArguments& arguments, const void* q, const void* k, const void* v, void* y,
                 void* log_sums) override;
  void attention_backward(const AttentionArguments& arguments, const void* q, const void* k, const void* v,
                          const void* y, const void* log_sums, const void* dy, void* dq, void* dk,
                          void* dv) override;

  // rotary.cu
  void rotary(DType dtype, int64_t rows, int64_t positions, int64_t heads, int64_t turned, int64_t size,
              bool back, const void* x, const void* cosines, const void* sines, void* y) override;
  void first_keys(int64_t batch, int64_t positions, int64_t window, const int32_t* documents,
                  int32_t* first) override;

  // gated.cu
  void swiglu(DType dtype, int64_t rows, int64_t columns, const void* h, void* y) override;
  void swiglu_backward(DType dtype, int64_t rows, int64_t columns, const void* h, const void* dy,
                       void* dh) override;

  // random.cu
  void dropout_mask(DType dtype, int64_t n, const RandomStream& stream, double probability,
                    void* mask) override;

  // update.cu
  void update(UpdateFormula formula, const UpdateArguments& arguments) override;

  // step_verdict.cu
  void judge(const StepJudgement& judgement) override;

 private:
  // The stream to issue to; its device becomes the calling thread's, which launches and memory calls need.
  cudaStream_t stream() const;
  void make_current() const;

  // Room for `count` elements on the device, 256-byte aligned, contents undefined, for what is issued to this
  // queue before the next call of scratch.
  template <class T>
  T* scratch(int64_t count) {
    return static_cast<T*>(scratch_bytes(static_cast<size_t>(count) * sizeof(T)));
  }
  void* scratch_bytes(size_t bytes);
  // allocate(), after idle memory was given back if need be. Error (kUsage) saying what for, when even that
  // does not help.
  void* require(size_t bytes, const char* purpose);
  // Lets go of working memory that has become too small.
  void outgrow(void*& memory);
  PinnedRing& pinned();  // under mutex_
  // The queue beside the computation's, made when first asked for.
  Backend& beside(Queue queue, std::unique_ptr<CudaBackend>& instance);

  // reductions.cu: sums (columns), accumulation type, over the rows of x (rows, columns).
  void sum_columns(DType dtype, int64_t rows, int64_t columns, const void* x, void* sums);
  // matmul.cu: a product that may be added to what c holds, before the activation.
  void multiply(const MatmulArguments& arguments, bool accumulate);
  // A bias (n) in 16 bits, for what is issued before the next call.
  const void* narrow_bias(DType dtype, int64_t n, const void* bias);
  // y (elements) += bias (n), over and over; bias of the accumulation type.
  void add_bias(DType dtype, int64_t elements, int64_t n, const void* bias, void* y);
  // cuda_backend.cu: null where there is none, or it is not to be used.
  Cudnn* cudnn();
  // attention.cu: who multiplies where attention is computed on tensor cores.
  Multiplier multiplier();

  const int device_;
  const Queue queue_;
  const std::shared_ptr<PlanTable> plans_;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t issued_ = nullptr;  // what another queue waits for
  std::mutex mutex_;              // of pinned_, lane_ and copies_
  std::unique_ptr<PinnedRing> pinned_;
  std::unique_ptr<Products> products_;
  std::unique_ptr<CudaBackend> lane_, copies_;
  std::unique_ptr<Cudnn> cudnn_;
  bool use_cudnn_ = true;
  std::optional<uint64_t> multiplier_asked_;  // generation of plans_ that multiplier_ is of
  Multiplier multiplier_ = {};
  void* scratch_ = nullptr;
  size_t scratch_bytes_ = 0;
  void* product_workspace_ = nullptr;
  bool recorded_ =
      false;  // recordings may hold addresses of working memory; of the lane: as soon as any was begun
  std::vector<void*> outgrown_;  // working memory that they may still use
  void* narrow_bias_ = nullptr;  // of products: 16 bits an element
  int64_t narrow_bias_elements_ = 0;
};

}  // namespace lockstep
