// The CPU's filling of the kernel table: one source file per family of kernels.
//
// Work is split into tiles whose size is fixed here or at the kernel, never derived from the number of
// threads, so that every result is the same on any number of threads.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "lockstep/kernels/backend.h"

namespace lockstep {

// Elements of a tile of a memory-bound kernel: small enough for a few tiles a thread at a megabyte, large
// enough that handing a tile out (about a microsecond) is noise, and below it a call stays on the calling
// thread.
inline constexpr int64_t kElementGrain = 32768;

class CpuBackend final : public Backend {
 public:
  // cpu_backend.cpp
  std::string description() const override;
  std::string native_precisions() const override;

  // memory.cpp
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

  // unary.cpp
  void unary(UnaryOp op, DType dtype, int64_t n, const void* x, void* y) override;
  void unary_backward(UnaryOp op, DType dtype, int64_t n, const void* x, const void* y, const void* dy,
                      void* dx) override;

  // binary.cpp
  void binary(BinaryOp op, DType dtype, const BroadcastPlan& plan, const void* a, const void* b,
              void* y) override;
  void add_narrow(DType narrow, int64_t n, const void* x, const void* change, void* y) override;
  void scale_shift(DType dtype, int64_t n, const void* x, double scale, double shift, void* y) override;
  void accumulate(DType dtype, int64_t n, const void* x, void* y) override;

  // movement.cpp
  void permute(size_t element_size, int rank, const int64_t* extents, const int* permutation, const void* x,
               void* y) override;
  void copy_rows(int64_t outer, size_t bytes, const void* x, size_t x_row_bytes, void* y,
                 size_t y_row_bytes) override;

  // reductions.cpp
  void reduce(ReduceOp op, DType dtype, int64_t outer, int64_t extent, int64_t inner, const void* x,
              void* y) override;
  void block_square_sums(DType dtype, int64_t n, const void* x, double* sums) override;
  bool all_finite(DType dtype, int64_t n, const void* x) override;

  // matmul.cpp
  void matmul(const MatmulArguments& arguments) override;

  // convolution.cpp
  void convolution(const ConvolutionArguments& arguments, const void* x, const void* weights,
                   const void* bias, void* y) override;
  void convolution_backward_data(const ConvolutionArguments& arguments, const void* dy, const void* weights,
                                 void* dx) override;
  void convolution_backward_weights(const ConvolutionArguments& arguments, const void* x, const void* dy,
                                    void* dweights) override;

  // pooling.cpp
  void max_pool(const PoolArguments& arguments, const void* x, void* y, int32_t* indices) override;
  void max_pool_backward(const PoolArguments& arguments, const int32_t* indices, const void* dy,
                         void* dx) override;
  void max_pool_gather(const PoolArguments& arguments, const int32_t* indices, const void* x,
                       void* y) override;
  void average_pool(const PoolArguments& arguments, const void* x, void* y) override;
  void average_pool_backward(const PoolArguments& arguments, const void* dy, void* dx) override;

  // softmax.cpp
  void softmax(bool log_form, DType dtype, int64_t rows, int64_t columns, const void* x, void* y) override;
  void softmax_backward(bool log_form, DType dtype, int64_t rows, int64_t columns, const void* y,
                        const void* dy, void* dx) override;
  void cross_entropy(DType dtype, int64_t rows, int64_t columns, const void* logits, const int32_t* labels,
                     const void* weights, void* losses, void* probabilities) override;
  void cross_entropy_backward(DType dtype, int64_t rows, int64_t columns, const void* probabilities,
                              const int32_t* labels, const void* weights, const void* dlosses,
                              void* dlogits) override;
  void cross_entropy_gradient(DType dtype, int64_t rows, int64_t columns, const void* logits,
                              const int32_t* labels, const void* weights, const void* dlosses, void* losses,
                              void* dlogits) override;

  // norm.cpp
  void norm(const NormArguments& arguments, const void* x, const void* change, const void* beta, void* sum,
            void* y, void* mean, void* rstd) override;
  void norm_backward(const NormArguments& arguments, const void* s, const void* mean, const void* rstd,
                     const void* dy, const void* added, void* dx, void* dx_narrow, void* dgamma,
                     void* dbeta) override;

  // batch_norm.cpp
  void batch_norm(DType dtype, int64_t rows, int64_t channels, const void* x, const void* gamma,
                  const void* beta, double epsilon, void* y, void* mean, void* variance, void* rstd) override;
  void batch_norm_backward(DType dtype, int64_t rows, int64_t channels, const void* x, const void* gamma,
                           const void* mean, const void* rstd, const void* dy, void* dx, void* dgamma,
                           void* dbeta) override;

  // embedding.cpp
  void embedding(DType dtype, int64_t count, int64_t width, const void* table, const int32_t* indices,
                 void* y) override;
  void embedding_backward(DType dtype, int64_t count, int64_t rows, int64_t width, const int32_t* indices,
                          const void* dy, bool adds, void* dtable) override;

  // recurrent.cpp
  void recurrent(const RecurrentArguments& arguments, const void* inputs, const void* weight,
                 const void* bias, void* activations, void* memory, void* states) override;
  void recurrent_backward(const RecurrentArguments& arguments, const void* weight, const void* activations,
                          const void* memory, const void* states, const void* dstates, void* dinputs,
                          void* dproducts) override;

  // attention.cpp
  void attention(const AttentionArguments& arguments, const void* q, const void* k, const void* v, void* y,
                 void* log_sums) override;
  void attention_backward(const AttentionArguments& arguments, const void* q, const void* k, const void* v,
                          const void* y, const void* log_sums, const void* dy, void* dq, void* dk,
                          void* dv) override;

  // rotary.cpp
  void rotary(DType dtype, int64_t rows, int64_t positions, int64_t heads, int64_t turned, int64_t size,
              bool back, const void* x, const void* cosines, const void* sines, void* y) override;
  void first_keys(int64_t batch, int64_t positions, int64_t window, const int32_t* documents,
                  int32_t* first) override;

  // gated.cpp
  void swiglu(DType dtype, int64_t rows, int64_t columns, const void* h, void* y) override;
  void swiglu_backward(DType dtype, int64_t rows, int64_t columns, const void* h, const void* dy,
                       void* dh) override;

  // random.cpp
  void dropout_mask(DType dtype, int64_t n, const RandomStream& stream, double probability,
                    void* mask) override;

  // update.cpp
  void update(UpdateFormula formula, const UpdateArguments& arguments) override;
  void judge(const StepJudgement& judgement) override;

 private:
  // reductions.cpp: sums (columns), accumulation type, over the rows of x (rows, columns).
  void sum_columns(DType dtype, int64_t rows, int64_t columns, const void* x, void* sums);
};

// cpu_backend.cpp: the single instance of this copy of the kernels. cpu_backend() hands out that of the copy
// that the process uses (kernels/kernel_set.h).
Backend& cpu_kernels();

}  // namespace lockstep
