// The table of kernels of one device type. kernels/cpu and kernels/cuda fill it; nothing above knows which
// one it calls.
//
// Rules for every entry: arrays are contiguous and row-major; sizes are in elements; results are
// deterministic and do not depend on the number of threads; an output never aliases an input unless the entry
// says so. Pointers are to memory of this backend. Entries may run asynchronously in issue order;
// copy_to_host and synchronize wait.
//
// Entries that take a dtype take fp64, fp32, bf16 and fp16, but losses and updates only fp64 and fp32. With
// 16-bit types the arithmetic is fp32, rounded to nearest even when a result is stored; sums are accumulated
// in fp32; and what stands for a parameter or a statistic rather than an activation (biases, gamma, beta,
// means, gradients of weights: each says "accumulation type") is fp32, as accumulation_type(dtype) says.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "lockstep/core/dtype.h"
#include "lockstep/core/philox.h"
#include "lockstep/kernels/math/step_verdict.h"

namespace lockstep {

enum class UnaryOp : uint8_t {
  kNegate,
  kExp,
  kLog,
  kSqrt,
  kTanh,
  kSigmoid,
  kSoftplus,
  kRelu,
  kGelu,
  kGeluTanh,
  kAbs,
  kSquare,
  kReciprocal,
  kSign,
  kErf,
  kReluSquared  // max(x, 0)^2
};

enum class BinaryOp : uint8_t {
  kAdd,
  kSubtract,
  kMultiply,
  kDivide,
  kMaximum,
  kMinimum,
  kEqual,
  kGreater,
  kGreaterEqual,  // 1 where true, else 0, in the dtype of the operands
};

enum class ReduceOp : uint8_t { kSum, kMean, kMax };

enum class Activation : uint8_t { kNone, kRelu, kGelu, kGeluTanh };

// An elementwise operation on two broadcast operands, axes already merged where possible.
// Output extent of axis i is extents[i]; a stride of 0 repeats the operand along that axis.
struct BroadcastPlan {
  static constexpr int kMaxRank = 6;
  int rank = 0;
  int64_t extents[kMaxRank] = {};
  int64_t strides_a[kMaxRank] = {};
  int64_t strides_b[kMaxRank] = {};
};

// c[i] = op(a[i]) * op(b[i]) (+ bias) for i in [0, batch): op transposes the stored matrix when asked.
// a is stored (m,k), or (k,m) when transpose_a; b is stored (k,n), or (n,k) when transpose_b; c is (m,n).
struct MatmulArguments {
  DType dtype = DType::kF32;   // of a and b
  DType output = DType::kF32;  // of c: dtype, or its accumulation type (the gradient of an fp32 parameter)
  int64_t batch = 1, m = 0, n = 0, k = 0;
  bool transpose_a = false, transpose_b = false;
  const void* a = nullptr;
  const void* b = nullptr;
  void* c = nullptr;
  int64_t batch_stride_a = 0,
          batch_stride_b = 0;                 // elements between consecutive matrices; 0 repeats one matrix
  const void* bias = nullptr;                 // (n), accumulation type, added to every row; may be null
  Activation activation = Activation::kNone;  // applied after the bias
  // (batch,m,n) of type output: what the activation is applied to, rounded, is stored there too. Null for
  // kNone, else may be.
  void* argument = nullptr;
  // (batch,m,n) of type output: where not null, c is the product times activation'(derivative_at) instead,
  // the backward pass through an activation whose argument that is (of kRelu its result does as well). Null
  // for kNone, and with a bias.
  const void* derivative_at = nullptr;
  // (n), accumulation type: where not null, gets the sums over k of the columns of b, which is not
  // transposed; batch is 1, and there is no bias. With b the gradient of x W + bias this is that of the bias.
  void* column_sums = nullptr;
};

// The elementwise operation that an activation is; not for kNone.
inline UnaryOp unary_of(Activation activation) {
  return activation == Activation::kRelu   ? UnaryOp::kRelu
         : activation == Activation::kGelu ? UnaryOp::kGelu
                                           : UnaryOp::kGeluTanh;
}

// Convolution over (N, H, W, C) activations with (O, KH, KW, C) weights, as cuDNN's NHWC/KRSC.
// Output (N, OH, OW, O), OH = (H + 2*pad_h - KH)/stride_h + 1.
struct ConvolutionArguments {
  DType dtype = DType::kF32;
  int64_t n = 0, h = 0, w = 0, c = 0, o = 0, kh = 0, kw = 0, oh = 0, ow = 0;
  int64_t stride_h = 1, stride_w = 1, pad_h = 0, pad_w = 0;
};

// Pooling over (N, H, W, C) windows.
struct PoolArguments {
  DType dtype = DType::kF32;
  int64_t n = 0, h = 0, w = 0, c = 0, kh = 0, kw = 0, oh = 0, ow = 0;
  int64_t stride_h = 1, stride_w = 1, pad_h = 0, pad_w = 0;
};

// Where random draws of one call come from: element i uses counter (i/4, op_ordinal, step, stream) and word
// i%4 (fp64 draws: counter (i/2, ...), words 2*(i%2) and 2*(i%2)+1).
struct RandomStream {
  PhiloxKey key;
  uint32_t op_ordinal = 0, step = 0, stream = 0;
  // Takes the place of `step` where not null: memory of the backend, read when the call runs.
  const uint32_t* step_at = nullptr;
};

// Cells of recurrent layers. With z = x W + b what the inputs contribute and s = h' R what the state h' of
// the step before contributes, gate by gate, sigma the logistic function and * elementwise:
//   kTanh, kRelu  h = tanh(z + s) or max(z + s, 0)                                          (Elman 1990)
//   kLstm         i, f, g, o = sigma, sigma, tanh, sigma of z + s; c = f * c' + i * g; h = o * tanh(c)
//                                                              (Hochreiter and Schmidhuber 1997, Gers et al.
//                                                              2000)
//   kGru          r, u = sigma(z + s) of their parts; n = tanh(z_n + r * (s_n + d)); h = (1 - u) * n + u * h'
//                                                    (Cho et al. 2014, reset after the product, as cuDNN
//                                                    computes it)
enum class RecurrentCell : uint8_t { kTanh, kRelu, kLstm, kGru };

constexpr int64_t gates_of(RecurrentCell cell) {
  return cell == RecurrentCell::kLstm ? 4 : cell == RecurrentCell::kGru ? 3 : 1;
}

// One recurrent layer over a whole sequence, time first. States before the first step are zero.
struct RecurrentArguments {
  RecurrentCell cell = RecurrentCell::kTanh;
  DType dtype = DType::kF32;  // fp64 or fp32
  bool reverse = false;       // from the last step to the first
  int64_t steps = 0, rows = 0, units = 0;
  int64_t gates() const { return gates_of(cell) * units; }
};

// Scaled dot-product attention of `heads` heads of `size` numbers each (Vaswani et al. 2017): every query
// weighs the values by the softmax of its products with the keys. Arrays are q (batch, queries, heads *
// size), k and v (batch, keys, heads * size); consecutive positions lie *_row elements apart, batches queries
// (of k and v: keys) such rows. A row is heads * size, or 3 * heads * size where q, k and v lie side by side
// in one array; the gradients lie as what they are the gradients of. Nothing else of a longer row is read or
// written. With causal, query t sees keys 0 to t + keys - queries, and queries <= keys.
struct AttentionArguments {
  DType dtype = DType::kF32;
  bool causal = false;
  int64_t batch = 0, heads = 0, queries = 0, keys = 0, size = 0;
  int64_t q_row = 0, k_row = 0, v_row = 0;  // of dq, dk and dv as well
  double scale = 1.0;                       // of the products q k', as a rule 1 / sqrt(size)
  // Of k and v, a divisor of heads: query head h reads number h / (heads / kv_heads) of them, and their rows
  // count kv_heads in place of heads (Ainslie et al. 2023, "GQA"). 0: heads.
  int64_t kv_heads = 0;
  // (queries) of every batch, or of batch b from b * first_keys_batch on: query t does not see keys before
  // first_keys[t], memory of the backend. They do not decrease, and each query sees one key at least. Only
  // with causal; null: all begin at key 0.
  const int32_t* first_keys = nullptr;
  int64_t first_keys_batch = 0;
  // Weights of the values are dropped with this probability, after the softmax; the others are divided by
  // 1 - dropout. Which are is a function of `draws` (every type has those of fp32): that of key s by query t
  // of head h (counted through the batch) is word s/16 % 4 of block ((h queries + t) ceil(keys/64) + s/64) 16
  // + s % 16, so that a thread's keys, 16 apart, or a vector of queries have whole blocks.
  double dropout = 0.0;
  RandomStream draws = {};

  constexpr int64_t key_heads() const { return kv_heads == 0 ? heads : kv_heads; }
  constexpr int64_t group() const { return heads / key_heads(); }  // query heads of a key head
  // Of a query that has number `query` of all heads' and batches'.
  constexpr int64_t first_draw(int64_t query) const { return query * ((keys + 63) / 64) * 16; }
};

// A norm over the last axis of s (rows, columns), which is x, or a sum x + change that is made on the way:
//   kLayer  y = (s - mean) * rstd * gamma + beta, rstd = 1/sqrt(variance + epsilon), biased variance
//                                                                                              (Ba et al.
//                                                                                              2016)
//   kRms    y = s * rstd * gamma, rstd = 1/sqrt(mean of s^2 + epsilon)              (Zhang and Sennrich 2019)
// gamma, beta, mean, rstd and the gradients of parameters are of the accumulation type.
struct NormArguments {
  enum class Kind : uint8_t { kLayer, kRms };
  Kind kind = Kind::kLayer;
  DType dtype = DType::kF32;   // of x and s, and of their gradients
  DType narrow = DType::kF32;  // of change and y, and of their gradients: dtype, or 16 bits beside fp32
  int64_t rows = 0, columns = 0;
  const void* gamma = nullptr;  // (columns)
  double epsilon = 1e-5;
};

// Which flat update formula to run, one scalar functor each in kernels/math/update.h.
enum class UpdateFormula : uint8_t {
  kSgd,
  kMomentumAveraged,
  kMomentumClassical,
  kNesterovAveraged,
  kNesterovClassical,
  kAdam,
  kAdamW,
  kAdagrad,
  kRmsProp,
  kRmsPropCentered,
  kAmsGrad,
  kAmsGradW,
  kNAdam,
  kLion,
  kLambDirection,
  kDiagonal,
  kRunning,
  kApproach
};

// One optimizer update of n consecutive elements. slots[i] is the i-th state array of the formula.
// Scalars are computed by the optimizer in fp64; the kernel casts them to the array's dtype.
struct UpdateArguments {
  static constexpr int64_t kScalars = 8;

  DType dtype = DType::kF32;
  int64_t n = 0;
  void* parameters = nullptr;
  const void* gradients = nullptr;
  void* slots[4] = {};
  double gradient_scale = 1.0;    // unscale and clip factor in one: every gradient is multiplied by it first
  double scalars[kScalars] = {};  // meaning documented at the formula
  // Numbers that the device finds out by itself: memory of the backend, read when the update runs. Each may
  // be null.
  const double* gate = nullptr;    // where it holds 0, nothing is changed
  const double* factor = nullptr;  // multiplies gradient_scale
  const double* row = nullptr;     // (kScalars) takes the place of scalars
  // Scalars for each of several runs of elements, whose rows lie behind each other from `row` on. Run k ends
  // before element ends[k], where the first element of this update counts as `first`.
  const int64_t* ends = nullptr;  // (runs) ascending, the last not below first + n; memory of the backend
  int64_t runs = 1;               // without `ends` there is one
  int64_t first = 0;
  // (n) bf16 or fp16, of fp32 parameters: what they are after the update, rounded as cast() does; written
  // where the gate is open. May be null.
  void* copy = nullptr;
  DType copy_dtype = DType::kBF16;
};

// The verdict on a step (kernels/math/step_verdict.h). All pointers are to memory of the backend.
struct StepJudgement {
  double* square_sums = nullptr;  // (blocks) of the summed gradient, as block_square_sums gives them; lost
  int64_t blocks = 0;
  DType dtype = DType::kF32;     // of cotangent: fp32 or fp64
  const double* sums = nullptr;  // (2) of the samples' losses, each times its weight, and of the weights
  double max_norm = 0.0;         // of clipping; 0: off
  LossScaleRule loss_scale;
  // The scalars of coming updates: those of update number u, counted from 0, in row u % rows of (rows,
  // row_size).
  const double* table = nullptr;
  int64_t rows = 0, row_size = 0;
  // Results: the state after the step, the scalars of its update, and the loss scale of the next step as an
  // element.
  StepState* state = nullptr;
  double* row = nullptr;  // (row_size)
  void* cotangent = nullptr;
};

// Copies of a few bytes that the host reads later than it asks for them, without making the device wait or
// waiting for what was issued since. Belongs to one backend, which must outlive it.
class Mailbox {
 public:
  virtual ~Mailbox() = default;
  // Queues a copy of what `source` (memory of the backend) holds by then into a place, counted from 0.
  virtual void post(int64_t place, const void* source) = 0;
  // Waits for the last copy into the place. Valid until the next post to it.
  virtual const void* read(int64_t place) = 0;
};

// What a queue was told during a recording, to be run again and again. Everything that the calls of the
// recording pointed to must stay where it is.
class Recording {
 public:
  virtual ~Recording() = default;
  // Issues all of it to the queue that it was recorded on.
  virtual void replay() = 0;
};

// Bytes of a device's memory, as its driver or operating system counts them.
struct MemoryRoom {
  size_t free = 0, total = 0;
};

class Backend;
class PlanTable;

// A place in a queue, behind everything issued to it before the marker was set; set anew any number of times.
// One that was never set, or while its queue was captured into a graph (whose replays do not set it), counts
// as passed and as no time.
class Marker {
 public:
  virtual ~Marker() = default;
  virtual void set() = 0;
  // Whether the queue has come past it. Does not block.
  virtual bool passed() const = 0;
  // Blocks the host until it has.
  virtual void wait() const = 0;
  // What is issued to `queue`, of the same device, from now on runs after it. Does not block.
  virtual void hold(Backend& queue) const = 0;
  // Seconds that the queue took from `earlier`, one of its own, to this one; both have been passed and keep
  // time.
  virtual double seconds_since(const Marker& earlier) const = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string description() const = 0;  // "cpu: own kernels, AVX-512"
  // In which precisions products run on the hardware's own units, and what becomes of the others:
  // "fp64, fp32, bf16 native; fp16 stored in 16 bits, computed in fp32".
  virtual std::string native_precisions() const = 0;
  // Which of the algorithms that libraries offer are used for what, where that decides about bits; of all
  // queues of the device. Null where nothing is left open.
  virtual PlanTable* plans() { return nullptr; }
  // Whether convolutions and attention go through cuDNN where the build and the machine have it, as they do
  // until told otherwise. Bits depend on it: description() says so.
  virtual void use_cudnn(bool) {}

  // ---- memory
  // ------------------------------------------------------------------------------------------------- 64-byte
  // aligned (256 on GPUs); contents undefined. Null for no bytes, and when there is no room left.
  virtual void* allocate(size_t bytes) = 0;
  virtual void release(void* pointer, size_t bytes) noexcept = 0;
  virtual MemoryRoom memory_room() const = 0;
  virtual void copy(void* destination, const void* source, size_t bytes) = 0;  // within the device
  virtual void copy_from_host(void* destination, const void* source, size_t bytes) = 0;
  virtual void copy_to_host(void* destination, const void* source, size_t bytes) = 0;  // waits
  virtual void synchronize() = 0;
  // Host memory that the device reads by itself while the host goes on. Null where the host's memory is the
  // device's, and what would be copied may be written to its place at once. Error (kUsage) when there is none
  // left.
  virtual void* allocate_pinned(size_t bytes) = 0;
  virtual void release_pinned(void* pointer) noexcept = 0;
  // Does not wait: `source`, in memory of allocate_pinned, must stay as it is until the queue is past the
  // copy.
  virtual void copy_from_pinned(void* destination, const void* source, size_t bytes) = 0;
  virtual void fill(DType dtype, int64_t n, void* y, double value) = 0;
  // y[i] = x[i] converted with round-to-nearest-even. Floating and integer dtypes in any combination.
  virtual void cast(DType from, DType to, int64_t n, const void* x, void* y) = 0;

  // ---- queues
  // ------------------------------------------------------------------------------------------------- Entries
  // run in the order in which they are issued to one queue. A GPU has a second one, the lane, for
  // communication that runs beside the computation: a backend of its own on the same device and memory. On
  // the CPU the lane is the backend itself, as are the lane and the copies of a lane or of copies. Memory
  // that a lane uses must not be released before the queue that it was allocated for waits for the lane.
  virtual Backend& lane() = 0;
  // A third queue, in the same way: for copies from the host that run ahead of the computation.
  virtual Backend& copies() = 0;
  // What is issued here from now on runs after everything issued to `other`, of the same device, so far. Does
  // not block.
  virtual void wait_for(Backend& other) = 0;
  // Of this queue, which must outlive it. One that keeps time costs the device a little more.
  virtual std::unique_ptr<Marker> marker(bool keeps_time) = 0;
  // The handle of the queue for libraries that issue work to it, a cudaStream_t on a GPU, whose device
  // becomes the calling thread's; null on the CPU, where entries have run when they return.
  virtual void* native_queue() = 0;
  // Room for `places` copies of `bytes` bytes.
  virtual std::unique_ptr<Mailbox> mailbox(size_t bytes, int64_t places) = 0;
  // From here to end_recording() nothing that is issued to this queue, or to its lane once that waits for it,
  // runs: it is recorded. The lane must have been waited for again by then. Nothing in between may wait for
  // the device or copy from or to the host, and memory that is used stays where it is. False where the
  // backend cannot record.
  virtual bool begin_recording() = 0;
  virtual std::unique_ptr<Recording> end_recording() = 0;

  // ---- elementwise
  // --------------------------------------------------------------------------------------------- y may be x.
  virtual void unary(UnaryOp op, DType dtype, int64_t n, const void* x, void* y) = 0;
  // dx[i] = dy[i] * op'(x[i]); y is op(x), already computed. For kTanh, kSigmoid, kSoftplus, kRelu, kGelu,
  // kGeluTanh, kExp, kLog, kSqrt, kSquare, kReciprocal, kAbs, kErf,
  // kReluSquared. dx may be any of the others.
  virtual void unary_backward(UnaryOp op, DType dtype, int64_t n, const void* x, const void* y,
                              const void* dy, void* dx) = 0;
  virtual void binary(BinaryOp op, DType dtype, const BroadcastPlan& plan, const void* a, const void* b,
                      void* y) = 0;
  // y[i] = x[i] * scale + shift
  virtual void scale_shift(DType dtype, int64_t n, const void* x, double scale, double shift, void* y) = 0;
  // y[i] += x[i]; the addition of the reduction tree.
  virtual void accumulate(DType dtype, int64_t n, const void* x, void* y) = 0;

  // ---- movement
  // ------------------------------------------------------------------------------------------------ y = x
  // with axes reordered: output axis i is input axis permutation[i].
  virtual void permute(size_t element_size, int rank, const int64_t* extents, const int* permutation,
                       const void* x, void* y) = 0;
  // Copies a block of (outer, bytes) between arrays whose rows lie row_bytes apart: slices and
  // concatenations.
  virtual void copy_rows(int64_t outer, size_t bytes, const void* x, size_t x_row_bytes, void* y,
                         size_t y_row_bytes) = 0;

  // ---- reductions
  // ---------------------------------------------------------------------------------------------- x is
  // (outer, extent, inner); y is (outer, inner). kMean divides by extent. Sums run in a fixed order.
  virtual void reduce(ReduceOp op, DType dtype, int64_t outer, int64_t extent, int64_t inner, const void* x,
                      void* y) = 0;
  // Sum of squares in fp64 over fixed blocks in tree order, into *y (a double in memory of this backend).
  // Sums of consecutive ranges are the caller's to combine; block boundaries are at multiples of kNormBlock.
  static constexpr int64_t kNormBlock = 4096;
  virtual void block_square_sums(DType dtype, int64_t n, const void* x,
                                 double* sums) = 0;  // ceil(n/kNormBlock) sums
  // True when every element is finite. Waits.
  virtual bool all_finite(DType dtype, int64_t n, const void* x) = 0;

  // ---- products
  // ------------------------------------------------------------------------------------------------
  virtual void matmul(const MatmulArguments& arguments) = 0;
  // y (N,OH,OW,O) = x (N,H,W,C) * weights (O,KH,KW,C) + bias (O, accumulation type, may be null)
  virtual void convolution(const ConvolutionArguments& arguments, const void* x, const void* weights,
                           const void* bias, void* y) = 0;
  virtual void convolution_backward_data(const ConvolutionArguments& arguments, const void* dy,
                                         const void* weights, void* dx) = 0;
  // dweights: accumulation type.
  virtual void convolution_backward_weights(const ConvolutionArguments& arguments, const void* x,
                                            const void* dy, void* dweights) = 0;

  // ---- pooling
  // ------------------------------------------------------------------------------------------------- indices
  // (N,OH,OW,C) int32: h*W + w of the first maximum of the window. Padding never wins.
  virtual void max_pool(const PoolArguments& arguments, const void* x, void* y, int32_t* indices) = 0;
  virtual void max_pool_backward(const PoolArguments& arguments, const int32_t* indices, const void* dy,
                                 void* dx) = 0;
  // y (N,OH,OW,C) = x at indices: the linear map that max_pool_backward is the adjoint of.
  virtual void max_pool_gather(const PoolArguments& arguments, const int32_t* indices, const void* x,
                               void* y) = 0;
  // Mean over the whole window kh*kw; padding counts as zero.
  virtual void average_pool(const PoolArguments& arguments, const void* x, void* y) = 0;
  virtual void average_pool_backward(const PoolArguments& arguments, const void* dy, void* dx) = 0;

  // ---- normalization and losses
  // ---------------------------------------------------------------------------------- Over the last axis of
  // (rows, columns); log_form gives log-softmax. Stable: the row maximum is subtracted first.
  virtual void softmax(bool log_form, DType dtype, int64_t rows, int64_t columns, const void* x, void* y) = 0;
  // dx from y = softmax(x) or log_softmax(x).
  virtual void softmax_backward(bool log_form, DType dtype, int64_t rows, int64_t columns, const void* y,
                                const void* dy, void* dx) = 0;
  // losses[r] = weight[r] * (logsumexp(logits[r]) - logits[r, label[r]]); probabilities (rows, columns) =
  // softmax(logits). weights may be null (all 1).
  virtual void cross_entropy(DType dtype, int64_t rows, int64_t columns, const void* logits,
                             const int32_t* labels, const void* weights, void* losses,
                             void* probabilities) = 0;
  // dlogits[r,c] = dlosses[r] * weight[r] * (probabilities[r,c] - [c == label[r]]). dlogits may be
  // probabilities.
  virtual void cross_entropy_backward(DType dtype, int64_t rows, int64_t columns, const void* probabilities,
                                      const int32_t* labels, const void* weights, const void* dlosses,
                                      void* dlogits) = 0;
  // See NormArguments. change may be null: s is x then, and sum is not written; else sum (rows, columns) gets
  // s. mean and rstd: (rows). RMS norm has neither beta nor mean.
  virtual void norm(const NormArguments& arguments, const void* x, const void* change, const void* beta,
                    void* sum, void* y, void* mean, void* rstd) = 0;
  // dx (rows, columns), the gradient of s, out of dy; `added`, which may be dx or null, is added to it once
  // it is rounded. dx_narrow, where not null, gets it in the narrow type as well; null where there is one
  // type alone. RMS norm has no dbeta.
  virtual void norm_backward(const NormArguments& arguments, const void* s, const void* mean,
                             const void* rstd, const void* dy, const void* added, void* dx, void* dx_narrow,
                             void* dgamma, void* dbeta) = 0;
  // Batch norm over the rows of (rows, channels): statistics of this micro-batch; variance is biased.
  // mean, variance, rstd: (channels). gamma, beta and all statistics: accumulation type.
  virtual void batch_norm(DType dtype, int64_t rows, int64_t channels, const void* x, const void* gamma,
                          const void* beta, double epsilon, void* y, void* mean, void* variance,
                          void* rstd) = 0;
  virtual void batch_norm_backward(DType dtype, int64_t rows, int64_t channels, const void* x,
                                   const void* gamma, const void* mean, const void* rstd, const void* dy,
                                   void* dx, void* dgamma, void* dbeta) = 0;

  // ---- embedding
  // ------------------------------------------------------------------------------------------------- y
  // (count, width) = table (rows, width) at indices (count). Indices have been checked.
  virtual void embedding(DType dtype, int64_t count, int64_t width, const void* table, const int32_t* indices,
                         void* y) = 0;
  // dtable (rows, width) = sum of dy over equal indices, in index order; rows not named are zero. adds: the
  // sums are added to what dtable holds, in which the rows not named stay as they are.
  virtual void embedding_backward(DType dtype, int64_t count, int64_t rows, int64_t width,
                                  const int32_t* indices, const void* dy, bool adds, void* dtable) = 0;

  // ---- recurrent layers
  // ------------------------------------------------------------------------------------------ states (steps,
  // rows, units) = h of every step, from inputs (steps, rows, gates()) = z and weight (units, gates()) = R.
  // For the backward pass: activations (steps, rows, gates()) hold i,f,g,o of kLstm and r,u,n of kGru; memory
  // (steps, rows, units) holds c of kLstm and s_n + d of kGru. kTanh and kRelu need neither (null). bias: d
  // (units) of kGru, null for none.
  virtual void recurrent(const RecurrentArguments& arguments, const void* inputs, const void* weight,
                         const void* bias, void* activations, void* memory, void* states) = 0;
  // From dstates, the derivatives with respect to what `states` was read as: dinputs (steps, rows, gates()),
  // and for kGru the derivatives dproducts with respect to s, same shape (null for the others: they equal
  // dinputs).
  virtual void recurrent_backward(const RecurrentArguments& arguments, const void* weight,
                                  const void* activations, const void* memory, const void* states,
                                  const void* dstates, void* dinputs, void* dproducts) = 0;

  // ---- attention
  // ------------------------------------------------------------------------------------------------- y
  // (batch, queries, heads * size) = softmax(scale q k') v, head by head. For the backward pass: log_sums
  // (batch, heads, queries), accumulation type, the logarithm of each query's sum of e^(scale q k'). Nothing
  // of (queries, keys) is stored (Dao et al. 2022, "FlashAttention"; Dao 2023). There is at least one key.
  // GPUs: error (kUsage) for size > 256.
  virtual void attention(const AttentionArguments& arguments, const void* q, const void* k, const void* v,
                         void* y, void* log_sums) = 0;
  // dq, dk and dv from dy; the softmax is computed again from log_sums.
  virtual void attention_backward(const AttentionArguments& arguments, const void* q, const void* k,
                                  const void* v, const void* y, const void* log_sums, const void* dy,
                                  void* dq, void* dk, void* dv) = 0;

  // ---- random
  // ----------------------------------------------------------------------------------------------------
  // mask[i] = 0 with the given probability, else 1/(1-probability); uniform draw < probability drops.
  virtual void dropout_mask(DType dtype, int64_t n, const RandomStream& stream, double probability,
                            void* mask) = 0;

  // ---- optimizer
  // -------------------------------------------------------------------------------------------------
  virtual void update(UpdateFormula formula, const UpdateArguments& arguments) = 0;
  // Adds the sums up in tree order and judges the step; see StepJudgement.
  virtual void judge(const StepJudgement& judgement) = 0;

  // ---- language models
  // ---------------------------------------------------------------------------------------------
  // The losses of cross_entropy, and beside them dlogits: what cross_entropy_backward makes of its
  // probabilities, rounded to `dtype`, any floating one. All else is of its accumulation type.
  virtual void cross_entropy_gradient(DType dtype, int64_t rows, int64_t columns, const void* logits,
                                      const int32_t* labels, const void* weights, const void* dlosses,
                                      void* losses, void* dlogits) = 0;
  // y[i] = x[i] + change[i]: x and y in fp32, change in 16 bits. y may be x.
  virtual void add_narrow(DType narrow, int64_t n, const void* x, const void* change, void* y) = 0;
  // Rotary positions (Su et al. 2021): x, y (rows, heads, size), row r at position p = r mod positions. In
  // the first `turned` heads, number j of the first half, a, and of the second, b, become a c - b s and b c +
  // a s, c and s number (p, j) of cosines and sines (positions, size / 2), accumulation type; `back` turns
  // the other way, which is the adjoint. The other heads are copied. y may be x.
  virtual void rotary(DType dtype, int64_t rows, int64_t positions, int64_t heads, int64_t turned,
                      int64_t size, bool back, const void* x, const void* cosines, const void* sines,
                      void* y) = 0;
  // first (batch, positions): the first position that position t sees of itself and those before it: of a
  // window of so many (0: of all), and of its own document, documents (batch, positions) being numbers that
  // do not decrease (null: one for all).
  virtual void first_keys(int64_t batch, int64_t positions, int64_t window, const int32_t* documents,
                          int32_t* first) = 0;

  // y (rows, columns) = a sigmoid(a) b of h (rows, 2 columns), whose rows are those of a and b side by side
  // (Shazeer 2020, "SwiGLU").
  virtual void swiglu(DType dtype, int64_t rows, int64_t columns, const void* h, void* y) = 0;
  virtual void swiglu_backward(DType dtype, int64_t rows, int64_t columns, const void* h, const void* dy,
                               void* dh) = 0;
};

// The CPU's table; lives as long as the process. Error (kUsage) where the processor lacks instructions that
// it needs.
Backend& cpu_backend();

// The table of GPU `device`, counted from 0; made on first use, lives as long as the process. Error (kUsage)
// that says which when the build has no CUDA, the machine no driver or no GPU, or no GPU of that number.
Backend& cuda_backend(int device);
// How many GPUs there are: 0 in a build without CUDA and on a machine without a driver.
int cuda_device_count();
// Tells GPU `device` from every other, here or on another host: "GPU-4f0c....", as nvidia-smi prints it.
std::string cuda_device_identity(int device);
// What the GPU kernels of this build were compiled with and for: "CUDA 13.0, sm_80 sm_90", or "none".
std::string cuda_build();

}  // namespace lockstep
