// A backend that passes every call on to another one and times the kernels among them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "lockstep/kernels/backend.h"

namespace lockstep {

// What a call cannot do without: each array read or written once, and the operations of products, an addition
// and a multiplication counting as two.
struct KernelWork {
  double bytes = 0.0, operations = 0.0;
  DType operands = DType::kF32;  // of the products
};

// All calls of one kernel with the same shapes and types.
struct KernelTime {
  std::string name;  // "matmul bf16 64x784x128, bias"
  KernelWork work;   // of one call
  int64_t calls = 0;
  double seconds = 0.0;  // of all of them
};

// Stands for the backend in everything: computes what it computes, in its memory and queues. Kernels that a
// kernel calls by itself are part of it. Copies between host and device are not timed. In recordings nothing
// is.
class TimedBackend final : public Backend {
 public:
  // inner must outlive the object, and the object all tensors that were made for it.
  explicit TimedBackend(Backend& inner);

  // Calls between the two are timed, on this queue and those beside it.
  void start() { log_->on = true; }
  void stop() { log_->on = false; }
  // Of all calls that were timed so far, in the order in which kernels were called first. Waits.
  std::vector<KernelTime> times() const;

  std::string description() const override { return inner_.description(); }
  std::string native_precisions() const override { return inner_.native_precisions(); }
  PlanTable* plans() override { return inner_.plans(); }
  void use_cudnn(bool use) override { inner_.use_cudnn(use); }

  void* allocate(size_t bytes) override { return inner_.allocate(bytes); }
  void release(void* pointer, size_t bytes) noexcept override { inner_.release(pointer, bytes); }
  MemoryRoom memory_room() const override { return inner_.memory_room(); }
  void copy(void* destination, const void* source, size_t bytes) override;
  void copy_from_host(void* destination, const void* source, size_t bytes) override {
    inner_.copy_from_host(destination, source, bytes);
  }
  void copy_to_host(void* destination, const void* source, size_t bytes) override {
    inner_.copy_to_host(destination, source, bytes);
  }
  void synchronize() override { inner_.synchronize(); }
  void* allocate_pinned(size_t bytes) override { return inner_.allocate_pinned(bytes); }
  void release_pinned(void* pointer) noexcept override { inner_.release_pinned(pointer); }
  void copy_from_pinned(void* destination, const void* source, size_t bytes) override {
    inner_.copy_from_pinned(destination, source, bytes);
  }
  void fill(DType dtype, int64_t n, void* y, double value) override;
  void cast(DType from, DType to, int64_t n, const void* x, void* y) override;

  Backend& lane() override { return beside(inner_.lane(), lane_); }
  Backend& copies() override { return beside(inner_.copies(), copies_); }
  void wait_for(Backend& other) override;
  std::unique_ptr<Marker> marker(bool keeps_time) override { return inner_.marker(keeps_time); }
  void* native_queue() override { return inner_.native_queue(); }
  std::unique_ptr<Mailbox> mailbox(size_t bytes, int64_t places) override {
    return inner_.mailbox(bytes, places);
  }
  bool begin_recording() override { return inner_.begin_recording(); }
  std::unique_ptr<Recording> end_recording() override { return inner_.end_recording(); }

  void unary(UnaryOp op, DType dtype, int64_t n, const void* x, void* y) override;
  void unary_backward(UnaryOp op, DType dtype, int64_t n, const void* x, const void* y, const void* dy,
                      void* dx) override;
  void binary(BinaryOp op, DType dtype, const BroadcastPlan& plan, const void* a, const void* b,
              void* y) override;
  void scale_shift(DType dtype, int64_t n, const void* x, double scale, double shift, void* y) override;
  void accumulate(DType dtype, int64_t n, const void* x, void* y) override;
  void permute(size_t element_size, int rank, const int64_t* extents, const int* permutation, const void* x,
               void* y) override;
  void copy_rows(int64_t outer, size_t bytes, const void* x, size_t x_row_bytes, void* y,
                 size_t y_row_bytes) override;
  void reduce(ReduceOp op, DType dtype, int64_t outer, int64_t extent, int64_t inner, const void* x,
              void* y) override;
  void block_square_sums(DType dtype, int64_t n, const void* x, double* sums) override;
  bool all_finite(DType dtype, int64_t n, const void* x) override;
  void matmul(const MatmulArguments& arguments) override;
  void convolution(const ConvolutionArguments& arguments, const void* x, const void* weights,
                   const void* bias, void* y) override;
  void convolution_backward_data(const ConvolutionArguments& arguments, const void* dy, const void* weights,
                                 void* dx) override;
  void convolution_backward_weights(const ConvolutionArguments& arguments, const void* x, const void* dy,
                                    void* dweights) override;
  void max_pool(const PoolArguments& arguments, const void* x, void* y, int32_t* indices) override;
  void max_pool_backward(const PoolArguments& arguments, const int32_t* indices, const void* dy,
                         void* dx) override;
  void max_pool_gather(const PoolArguments& arguments, const int32_t* indices, const void* x,
                       void* y) override;
  void average_pool(const PoolArguments& arguments, const void* x, void* y) override;
  void average_pool_backward(const PoolArguments& arguments, const void* dy, void* dx) override;
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
  void norm(const NormArguments& arguments, const void* x, const void* change, const void* beta, void* sum,
            void* y, void* mean, void* rstd) override;
  void norm_backward(const NormArguments& arguments, const void* s, const void* mean, const void* rstd,
                     const void* dy, const void* added, void* dx, void* dx_narrow, void* dgamma,
                     void* dbeta) override;
  void add_narrow(DType narrow, int64_t n, const void* x, const void* change, void* y) override;
  void batch_norm(DType dtype, int64_t rows, int64_t channels, const void* x, const void* gamma,
                  const void* beta, double epsilon, void* y, void* mean, void* variance, void* rstd) override;
  void batch_norm_backward(DType dtype, int64_t rows, int64_t channels, const void* x, const void* gamma,
                           const void* mean, const void* rstd, const void* dy, void* dx, void* dgamma,
                           void* dbeta) override;
  void embedding(DType dtype, int64_t count, int64_t width, const void* table, const int32_t* indices,
                 void* y) override;
  void embedding_backward(DType dtype, int64_t count, int64_t rows, int64_t width, const int32_t* indices,
                          const void* dy, bool adds, void* dtable) override;
  void recurrent(const RecurrentArguments& arguments, const void* inputs, const void* weight,
                 const void* bias, void* activations, void* memory, void* states) override;
  void recurrent_backward(const RecurrentArguments& arguments, const void* weight, const void* activations,
                          const void* memory, const void* states, const void* dstates, void* dinputs,
                          void* dproducts) override;
  void attention(const AttentionArguments& arguments, const void* q, const void* k, const void* v, void* y,
                 void* log_sums) override;
  void attention_backward(const AttentionArguments& arguments, const void* q, const void* k, const void* v,
                          const void* y, const void* log_sums, const void* dy, void* dq, void* dk,
                          void* dv) override;
  void dropout_mask(DType dtype, int64_t n, const RandomStream& stream, double probability,
                    void* mask) override;
  void update(UpdateFormula formula, const UpdateArguments& arguments) override;
  void judge(const StepJudgement& judgement) override;
  void rotary(DType dtype, int64_t rows, int64_t positions, int64_t heads, int64_t turned, int64_t size,
              bool back, const void* x, const void* cosines, const void* sines, void* y) override;
  void first_keys(int64_t batch, int64_t positions, int64_t window, const int32_t* documents,
                  int32_t* first) override;
  void swiglu(DType dtype, int64_t rows, int64_t columns, const void* h, void* y) override;
  void swiglu_backward(DType dtype, int64_t rows, int64_t columns, const void* h, const void* dy,
                       void* dh) override;

 private:
  struct Call {
    std::string name;
    KernelWork work;
    std::unique_ptr<Marker> begin, end;
  };
  // Of all queues of a device.
  struct Log {
    bool on = false;
    std::vector<Call> calls;
  };
  TimedBackend(Backend& inner, std::shared_ptr<Log> log) : inner_(inner), log_(std::move(log)) {}

  Backend& beside(Backend& inner, std::unique_ptr<TimedBackend>& instance);
  // Runs the call; name() is asked where it is timed.
  template <class Name, class Run>
  void timed(const Name& name, const KernelWork& work, const Run& run);

  Backend& inner_;
  std::shared_ptr<Log> log_;
  std::unique_ptr<TimedBackend> lane_, copies_;
};

}  // namespace lockstep
