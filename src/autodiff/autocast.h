// Autocast: which type each family of ops runs in while a 16-bit compute type is asked for (Micikevicius et
// al. 2018).
//
// The table, for compute = bf16 or fp16. fp64 is never lowered, and enters no product with anything else.
//
//   family         ops                                                        runs in
//   product        matmul, linear, convolution, attention                     compute type
//   exponential    exp, log, sqrt, square, reciprocal, softplus               fp32
//   reduction      sum, mean                                                  fp32
//   softmax        softmax, log_softmax, log_sum_exp                          fp32
//   binary         add, subtract, multiply, divide, maximum, minimum,         widest operand
//                  comparisons, concatenate
//
// Every other op (norms, activations, rearrangements, lookups) runs in the type that it is given, and asks
// nobody; but norms made for products to read (add_layer_norm, add_rms_norm) give the compute type beside
// fp32. With or without a scope, losses, the states of recurrent cells, and the statistics and parameters of
// norms are fp32. Gradients come back in the type of what they are the gradient of: that of an fp32 weight
// leaves a 16-bit product in fp32. Sweeps run outside of the table, in the types that were recorded.
#pragma once

#include <memory>
#include <unordered_map>

#include "lockstep/tensor/tensor.h"

namespace lockstep {

enum class OpFamily : uint8_t { kProduct, kExponential, kReduction, kSoftmax, kBinary };

enum class CastRule : uint8_t { kCompute, kSingle, kWidest };

// The table above.
constexpr CastRule cast_rule(OpFamily family) {
  switch (family) {
    case OpFamily::kProduct:
      return CastRule::kCompute;
    case OpFamily::kExponential:
    case OpFamily::kReduction:
    case OpFamily::kSoftmax:
      return CastRule::kSingle;
    case OpFamily::kBinary:
      break;
  }
  return CastRule::kWidest;
}

// Turns autocast on for this thread: AutocastScope scope(DType::kBF16). fp32 and fp64 turn it off.
//
// The scope owns the 16-bit copies of leaves (parameters): each is made when it is first needed and serves
// every pass until the scope ends. So parameters must not change inside a scope; a step's scope ends before
// its update. A scope of the same compute type inside of another, with autocast off in between or not, shares
// its copies.
//
// Copies that the caller keeps beside the leaves, beyond any scope, are served instead of making some.
// Whoever keeps them answers for it that they hold the leaves' present elements, rounded.
class AutocastScope {
 public:
  struct Copies;

  // kept: null, or of the type `compute`, which must be 16-bit, otherwise Error (kUsage). It must outlive
  // the scope; leaves that it does not have are copied as ever.
  explicit AutocastScope(DType compute, const Copies* kept = nullptr);
  ~AutocastScope();
  AutocastScope(const AutocastScope&) = delete;
  AutocastScope& operator=(const AutocastScope&) = delete;

  // Copies by leaf; looked up, never walked through. The original is held so that its node is not another
  // leaf's later.
  struct Copies {
    struct Pair {
      Tensor original, lowered;
    };
    DType dtype;
    std::unordered_map<const Node*, Pair> pairs;
    const Copies* kept = nullptr;  // by the caller of the scope; looked at first
  };

 private:
  DType previous_compute_;
  Copies* previous_copies_;
  std::unique_ptr<Copies> own_;
};

// bf16 or fp16 inside of such a scope, else fp32.
DType autocast_compute();

// The type that an op of the family runs in, its operand being of the `given` type.
DType autocast_type(OpFamily family, DType given);
// The same for two operands. Error (kUsage) "WHERE: dtypes differ: ..." when they differ and nothing
// brings them together.
DType autocast_type(OpFamily family, DType a, DType b, const char* where);

// The elements of a tensor as a kernel takes them: its own, or a copy in `dtype`. The copy of a leaf in the
// compute type of a scope is made once. Must not outlive x.
class Operand {
 public:
  Operand(const Tensor& x, DType dtype) : data_(x.dtype() == dtype ? x.data() : convert(x, dtype)) {}
  const void* data() const { return data_; }

 private:
  const void* convert(const Tensor& x, DType dtype);

  Tensor copy_;
  const void* data_;
};

}  // namespace lockstep
