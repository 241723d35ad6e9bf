// Sets of CPU kernels: which one is chosen, and that all of them compute the same bits wherever products are
// not left to units of the processor.
#include "lockstep/kernels/kernel_set.h"

#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <cstring>
#include <functional>
#include <list>
#include <string>
#include <type_traits>
#include <vector>

#include "kernels/arrays.h"
#include "lockstep/core/error.h"

namespace lockstep::test {
namespace {

const KernelSet kWide = {instructions_named({"AVX2", "FMA", "AVX-512F"}), "wide", nullptr};
const KernelSet kNarrow = {instructions_named({"AVX2", "FMA"}), "narrow", nullptr};
const std::array<const KernelSet*, 2> kBoth = {&kWide, &kNarrow};

std::string refusal(InstructionSet present, const std::string& requested) {
  try {
    choose_kernel_set(kBoth, present, 0, requested);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    return error.what();
  }
  return "";
}

TEST(KernelSets, TheMostDemandingThatTheProcessorHasIsTaken) {
  EXPECT_EQ(&choose_kernel_set(kBoth, kWide.instructions, 0, ""), &kWide);
  EXPECT_EQ(&choose_kernel_set(kBoth, kNarrow.instructions, 0, ""), &kNarrow);
  EXPECT_EQ(&choose_kernel_set(kBoth, kNarrow.instructions | instructions_named({"BMI2"}), 0, ""), &kNarrow);
}

// Only where the processor has none without them, or somebody asks for it.
TEST(KernelSets, OneWithInstructionsThatAreSlowerThanOthersIsPassedOver) {
  const InstructionSet slow = instructions_named({"AVX-512F"});
  EXPECT_EQ(&choose_kernel_set(kBoth, kWide.instructions, slow, ""), &kNarrow);
  EXPECT_EQ(&choose_kernel_set(kBoth, kWide.instructions, slow, "wide"), &kWide);
  EXPECT_EQ(&choose_kernel_set(std::span(kBoth).first(1), kWide.instructions, slow, ""), &kWide);
  EXPECT_EQ(&choose_kernel_set(kBoth, kWide.instructions, instructions_named({"AVX2"}), ""), &kWide);
  EXPECT_EQ(slow_instructions() & ~processor_instructions(), 0u);
}

TEST(KernelSets, AnotherIsTakenOnRequest) {
  EXPECT_EQ(&choose_kernel_set(kBoth, kWide.instructions, 0, "narrow"), &kNarrow);
  EXPECT_EQ(&choose_kernel_set(kBoth, kWide.instructions, 0, "wide"), &kWide);
}

TEST(KernelSets, WhatCannotBeTakenIsRefused) {
  EXPECT_NE(refusal(kNarrow.instructions, "wide").find("lacks: AVX-512F;"), std::string::npos);
  EXPECT_NE(refusal(instructions_named({"AVX2"}), "").find("lacks: FMA;"), std::string::npos);
  EXPECT_EQ(refusal(kWide.instructions, "avx9"),
            "LOCKSTEP_CPU_KERNELS: this build has no kernels called \"avx9\", it has: wide, narrow");
}

TEST(KernelSets, ThisProcessRunsOneOfItsOwn) {
  EXPECT_EQ(missing_instructions(kernel_set().instructions, processor_instructions()), "");
  EXPECT_EQ(&cpu_backend(), &kernel_set().kernels());
  EXPECT_EQ(kernel_sets_text().find(kernel_sets().size() > 1 ? "portable: " : kernel_set().name), 0u);
#if defined(__x86_64__)
  for (const KernelSet* const set : kernel_sets()) EXPECT_NE(set->instructions, 0u) << set->name;
#endif
}

// The arrays that a call writes, of zeros at first.
class Outputs {
 public:
  template <class T>
  T* of(const std::vector<T>& values) {
    arrays_.emplace_back(values.size() * sizeof(T));
    std::memcpy(arrays_.back().data(), values.data(), values.size() * sizeof(T));
    return reinterpret_cast<T*>(arrays_.back().data());
  }
  template <class T>
  T* of(int64_t n) {
    return of(std::vector<T>(static_cast<size_t>(n)));
  }
  bool operator==(const Outputs& other) const { return arrays_ == other.arrays_; }

 private:
  std::list<std::vector<std::byte>> arrays_;
};

struct KernelCall {
  std::string what;
  std::function<void(Backend&, Outputs&)> run;
};

template <class S>
std::vector<S> values(int64_t n, uint32_t salt, double low = -2.0, double high = 2.0) {
  const auto wide = random_values<Accumulation<S>>(n, salt, low, high);
  return std::vector<S>(wide.begin(), wide.end());
}

// Entries that multiply matrices: in bf16 some processors have units for that.
template <class S>
std::vector<KernelCall> product_calls() {
  using T = Accumulation<S>;
  constexpr DType kType = dtype_of<S>;
  std::vector<KernelCall> calls;
  struct Extents {
    int64_t batch, m, n, k;
  };
  for (const Extents e :
       {Extents{1, 1, 1, 1}, {2, 3, 5, 7}, {1, 33, 70, 1001}, {1, 200, 130, 800}, {3, 17, 64, 96}}) {
    for (int form = 0; form < 6; ++form) {
      calls.push_back({"matmul " + std::to_string(e.k) + " form " + std::to_string(form),
                       [=](Backend& backend, Outputs& outputs) {
                         const auto a = values<S>(e.batch * e.m * e.k, 1),
                                    b = values<S>(e.batch * e.k * e.n, 2);
                         const auto bias = values<T>(e.n, 3);
                         MatmulArguments p;
                         p.dtype = p.output = kType;
                         p.batch = e.batch, p.m = e.m, p.n = e.n, p.k = e.k;
                         p.batch_stride_a = e.m * e.k, p.batch_stride_b = e.k * e.n;
                         p.transpose_a = form % 2 == 1, p.transpose_b = form / 2 == 1;
                         p.a = a.data(), p.b = b.data(), p.c = outputs.of<S>(e.batch * e.m * e.n);
                         if (form >= 4) {
                           p.bias = bias.data();
                           p.activation = form == 4 ? Activation::kGelu : Activation::kGeluTanh;
                         }
                         backend.matmul(p);
                       }});
    }
  }
  ConvolutionArguments wide, narrow, strided;
  wide = {kType, 3, 9, 11, 16, 24, 3, 3, 9, 11, 1, 1, 1, 1};
  narrow = {kType, 5, 12, 12, 3, 7, 3, 3, 12, 12, 1, 1, 1, 1};
  strided = {kType, 2, 15, 13, 33, 40, 5, 3, 8, 7, 2, 2, 2, 1};
  for (const ConvolutionArguments& c : {wide, narrow, strided}) {
    calls.push_back({"convolution of " + std::to_string(c.c), [=](Backend& backend, Outputs& outputs) {
                       const int64_t inputs = c.n * c.h * c.w * c.c, weights = c.o * c.kh * c.kw * c.c,
                                     results = c.n * c.oh * c.ow * c.o;
                       const auto x = values<S>(inputs, 4), w = values<S>(weights, 5),
                                  dy = values<S>(results, 6);
                       const auto bias = values<T>(c.o, 7);
                       backend.convolution(c, x.data(), w.data(), bias.data(), outputs.of<S>(results));
                       backend.convolution_backward_data(c, dy.data(), w.data(), outputs.of<S>(inputs));
                       backend.convolution_backward_weights(c, x.data(), dy.data(), outputs.of<T>(weights));
                     }});
  }
  for (const bool causal : {false, true}) {
    for (const int64_t size : {20, 64}) {
      calls.push_back({"attention of " + std::to_string(size), [=](Backend& backend, Outputs& outputs) {
                         AttentionArguments a{kType, causal, 2, 3, 70, 150, size};
                         a.q_row = a.k_row = a.v_row = 3 * size;
                         a.scale = 0.25;
                         a.dropout = causal ? 0.3 : 0.0;
                         a.draws = {philox_key(16, RandomPurpose::kTest), 1, 2, 3};
                         const int64_t queries = 2 * 70 * 3 * size, keys = 2 * 150 * 3 * size;
                         const auto q = values<S>(queries, 8), k = values<S>(keys, 9),
                                    v = values<S>(keys, 10), dy = values<S>(queries, 11);
                         S* const y = outputs.of<S>(queries);
                         T* const log_sums = outputs.of<T>(2 * 3 * 70);
                         backend.attention(a, q.data(), k.data(), v.data(), y, log_sums);
                         backend.attention_backward(a, q.data(), k.data(), v.data(), y, log_sums, dy.data(),
                                                    outputs.of<S>(queries), outputs.of<S>(keys),
                                                    outputs.of<S>(keys));
                       }});
    }
  }
  return calls;
}

template <class S>
std::vector<KernelCall> other_calls() {
  using T = Accumulation<S>;
  constexpr DType kType = dtype_of<S>;
  std::vector<KernelCall> calls;
  constexpr int64_t kCount = 70001;
  for (int index = 0; index <= static_cast<int>(UnaryOp::kErf); ++index) {
    const UnaryOp op = static_cast<UnaryOp>(index);
    calls.push_back(
        {"unary " + std::to_string(index), [=](Backend& backend, Outputs& outputs) {
           const bool positive = op == UnaryOp::kLog || op == UnaryOp::kSqrt;
           const auto x = values<S>(kCount, 12, positive ? 0.01 : -9.0, 9.0), dy = values<S>(kCount, 13);
           S* const y = outputs.of<S>(kCount);
           backend.unary(op, kType, kCount, x.data(), y);
           if (op == UnaryOp::kNegate || op == UnaryOp::kSign) return;
           backend.unary_backward(op, kType, kCount, x.data(), y, dy.data(), outputs.of<S>(kCount));
         }});
  }
  calls.push_back({"elementwise", [=](Backend& backend, Outputs& outputs) {
                     const auto a = values<S>(kCount, 14), b = values<S>(kCount, 15, 0.5, 3.0);
                     for (int op = 0; op <= static_cast<int>(BinaryOp::kGreaterEqual); ++op) {
                       backend.binary(static_cast<BinaryOp>(op), kType, {1, {kCount}, {1}, {1}}, a.data(),
                                      b.data(), outputs.of<S>(kCount));
                     }
                     backend.scale_shift(kType, kCount, a.data(), 0.3, -0.7, outputs.of<S>(kCount));
                     backend.accumulate(kType, kCount, a.data(), outputs.of(b));
                     backend.dropout_mask(kType, kCount, {philox_key(16, RandomPurpose::kTest), 1, 2, 3}, 0.3,
                                          outputs.of<S>(kCount));
                     backend.cast(kType, DType::kF64, kCount, a.data(), outputs.of<double>(kCount));
                     backend.cast(kType, DType::kF32, kCount, a.data(), outputs.of<float>(kCount));
                     backend.cast(kType, DType::kBF16, kCount, a.data(), outputs.of<BFloat16>(kCount));
                     backend.cast(kType, DType::kF16, kCount, a.data(), outputs.of<Float16>(kCount));
                     backend.cast(kType, DType::kI32, kCount, a.data(), outputs.of<int32_t>(kCount));
                   }});
  struct Reduced {
    int64_t outer, extent, inner;
  };
  for (const Reduced r : {Reduced{7, 5000, 1}, {1, 300, 130}, {3, 50, 7}, {2, 90000, 1}, {1, 4000, 3}}) {
    calls.push_back({"reduction of " + std::to_string(r.extent), [=](Backend& backend, Outputs& outputs) {
                       const auto x = values<S>(r.outer * r.extent * r.inner, 17);
                       for (const ReduceOp op : {ReduceOp::kSum, ReduceOp::kMean, ReduceOp::kMax})
                         backend.reduce(op, kType, r.outer, r.extent, r.inner, x.data(),
                                        outputs.of<S>(r.outer * r.inner));
                     }});
  }
  for (const int64_t columns : {3, 13, 64, 1000, 5001}) {
    calls.push_back(
        {"rows of " + std::to_string(columns), [=](Backend& backend, Outputs& outputs) {
           constexpr int64_t kRows = 37;
           const int64_t n = kRows * columns;
           const auto x = values<S>(n, 18), dy = values<S>(n, 19);
           const auto gamma = values<T>(columns, 20), beta = values<T>(columns, 21);
           for (const bool log_form : {false, true}) {
             S* const y = outputs.of<S>(n);
             backend.softmax(log_form, kType, kRows, columns, x.data(), y);
             backend.softmax_backward(log_form, kType, kRows, columns, y, dy.data(), outputs.of<S>(n));
           }
           T *mean = outputs.of<T>(kRows), *rstd = outputs.of<T>(kRows);
           backend.norm({.dtype = kType,
                         .narrow = kType,
                         .rows = kRows,
                         .columns = columns,
                         .gamma = gamma.data(),
                         .epsilon = 1e-5},
                        x.data(), nullptr, beta.data(), nullptr, outputs.of<S>(n), mean, rstd);
           backend.norm_backward(
               {.dtype = kType, .narrow = kType, .rows = kRows, .columns = columns, .gamma = gamma.data()},
               x.data(), mean, rstd, dy.data(), nullptr, outputs.of<S>(n), nullptr, outputs.of<T>(columns),
               outputs.of<T>(columns));
           backend.norm({.kind = NormArguments::Kind::kRms,
                         .dtype = kType,
                         .narrow = kType,
                         .rows = kRows,
                         .columns = columns,
                         .gamma = gamma.data(),
                         .epsilon = 1e-5},
                        x.data(), nullptr, nullptr, nullptr, outputs.of<S>(n), nullptr, rstd);
           backend.norm_backward({.kind = NormArguments::Kind::kRms,
                                  .dtype = kType,
                                  .narrow = kType,
                                  .rows = kRows,
                                  .columns = columns,
                                  .gamma = gamma.data()},
                                 x.data(), nullptr, rstd, dy.data(), nullptr, outputs.of<S>(n), nullptr,
                                 outputs.of<T>(columns), nullptr);
           const auto halves = values<S>(2 * n, 34);
           backend.swiglu(kType, kRows, columns, halves.data(), outputs.of<S>(n));
           backend.swiglu_backward(kType, kRows, columns, halves.data(), dy.data(), outputs.of<S>(2 * n));
           const auto angles = values<T>(kRows * columns, 35);
           backend.rotary(kType, kRows, kRows, 1, 1, 2 * columns, false, halves.data(), angles.data(),
                          angles.data(), outputs.of<S>(2 * n));
           mean = outputs.of<T>(columns), rstd = outputs.of<T>(columns);
           backend.batch_norm(kType, kRows, columns, x.data(), gamma.data(), beta.data(), 1e-5,
                              outputs.of<S>(n), mean, outputs.of<T>(columns), rstd);
           backend.batch_norm_backward(kType, kRows, columns, x.data(), gamma.data(), mean, rstd, dy.data(),
                                       outputs.of<S>(n), outputs.of<T>(columns), outputs.of<T>(columns));
         }});
  }
  calls.push_back({"pooling", [=](Backend& backend, Outputs& outputs) {
                     const PoolArguments p{kType, 2, 9, 10, 21, 3, 2, 5, 6, 2, 2, 1, 1};
                     const int64_t inputs = p.n * p.h * p.w * p.c, results = p.n * p.oh * p.ow * p.c;
                     const auto x = values<S>(inputs, 22), dy = values<S>(results, 23);
                     int32_t* const indices = outputs.of<int32_t>(results);
                     backend.max_pool(p, x.data(), outputs.of<S>(results), indices);
                     backend.max_pool_backward(p, indices, dy.data(), outputs.of<S>(inputs));
                     backend.average_pool(p, x.data(), outputs.of<S>(results));
                     backend.average_pool_backward(p, dy.data(), outputs.of<S>(inputs));
                   }});
  calls.push_back({"embedding", [=](Backend& backend, Outputs& outputs) {
                     const auto indices = random_indices(300, 24, 50);
                     const auto table = values<S>(50 * 33, 25), dy = values<S>(300 * 33, 26);
                     backend.embedding(kType, 300, 33, table.data(), indices.data(), outputs.of<S>(300 * 33));
                     backend.embedding_backward(kType, 300, 50, 33, indices.data(), dy.data(), false,
                                                outputs.of<T>(50 * 33));
                   }});
  if constexpr (!std::is_same_v<S, T>) return calls;
  calls.push_back({"losses and norms", [=](Backend& backend, Outputs& outputs) {
                     constexpr int64_t kRows = 37, kColumns = 1000;
                     const auto x = values<S>(kRows * kColumns, 27), weights = values<S>(kRows, 28),
                                dlosses = values<S>(kRows, 29);
                     const auto labels = random_indices(kRows, 30, kColumns);
                     S* const probabilities = outputs.of<S>(kRows * kColumns);
                     backend.cross_entropy(kType, kRows, kColumns, x.data(), labels.data(), weights.data(),
                                           outputs.of<S>(kRows), probabilities);
                     backend.cross_entropy_backward(kType, kRows, kColumns, probabilities, labels.data(),
                                                    weights.data(), dlosses.data(),
                                                    outputs.of<S>(kRows * kColumns));
                     backend.cross_entropy_gradient(kType, kRows, kColumns, x.data(), labels.data(),
                                                    weights.data(), dlosses.data(), outputs.of<S>(kRows),
                                                    outputs.of<S>(kRows * kColumns));
                     backend.block_square_sums(kType, kRows * kColumns, x.data(), outputs.of<double>(10));
                   }});
  for (const RecurrentCell cell :
       {RecurrentCell::kTanh, RecurrentCell::kRelu, RecurrentCell::kLstm, RecurrentCell::kGru}) {
    calls.push_back(
        {"recurrent cell " + std::to_string(static_cast<int>(cell)), [=](Backend& backend, Outputs& outputs) {
           const RecurrentArguments a{cell, kType, false, 5, 9, 37};
           const int64_t gates = 5 * 9 * a.gates(), states = 5 * 9 * 37;
           const auto z = values<S>(gates, 31), w = values<S>(37 * a.gates(), 32, -0.3, 0.3),
                      d = values<S>(37, 33), dh = values<S>(states, 34);
           const bool gated = cell == RecurrentCell::kLstm || cell == RecurrentCell::kGru;
           const bool gru = cell == RecurrentCell::kGru;
           S* const activations = gated ? outputs.of<S>(gates) : nullptr;
           S* const memory = gated ? outputs.of<S>(states) : nullptr;
           S* const h = outputs.of<S>(states);
           backend.recurrent(a, z.data(), w.data(), gru ? d.data() : nullptr, activations, memory, h);
           backend.recurrent_backward(a, w.data(), activations, memory, h, dh.data(), outputs.of<S>(gates),
                                      gru ? outputs.of<S>(gates) : nullptr);
         }});
  }
  for (int index = 0; index <= static_cast<int>(UpdateFormula::kApproach); ++index) {
    calls.push_back({"update " + std::to_string(index), [=](Backend& backend, Outputs& outputs) {
                       constexpr int64_t kNumbers = 1003;
                       const auto gradients = values<S>(kNumbers, 35);
                       UpdateArguments u;
                       u.dtype = kType;
                       u.n = kNumbers;
                       u.parameters = outputs.of(values<S>(kNumbers, 36));
                       u.gradients = gradients.data();
                       for (uint32_t slot = 0; slot < 4; ++slot)
                         u.slots[slot] = outputs.of(values<S>(kNumbers, 37 + slot, 0.1, 1.0));
                       u.gradient_scale = 0.37;
                       const double scalars[8] = {0.013, 0.91, 0.87, 0.01, 0.11, 0.7, 0.6, 0.3};
                       std::copy(std::begin(scalars), std::end(scalars), u.scalars);
                       backend.update(static_cast<UpdateFormula>(index), u);
                     }});
  }
  return calls;
}

// What this processor runs of this build.
std::vector<const KernelSet*> sets_here() {
  std::vector<const KernelSet*> sets;
  for (const KernelSet* const set : kernel_sets())
    if (missing_instructions(set->instructions, processor_instructions()).empty()) sets.push_back(set);
  return sets;
}

// Of each call the same bits as the least demanding set's, or, where `alike` says so, of sets that multiply
// the same types by themselves only.
void expect_same_bits(const std::vector<KernelCall>& calls, bool alike) {
  const std::vector<const KernelSet*> sets = sets_here();
  for (const KernelCall& call : calls) {
    for (const KernelSet* const set : sets) {
      Backend &backend = set->kernels(), &least = sets.back()->kernels();
      if (alike && backend.native_precisions() != least.native_precisions()) continue;
      Outputs mine, leasts;
      call.run(backend, mine);
      call.run(least, leasts);
      EXPECT_TRUE(mine == leasts) << call.what << ": " << set->name << " and " << sets.back()->name
                                  << " differ";
    }
  }
}

// Otherwise the comparison below could leave bf16 out for nothing.
TEST(KernelSets, UnitsForBFloat16ComputeOtherBits) {
  const std::vector<const KernelSet*> sets = sets_here();
  for (const KernelSet* const set : sets) {
    Backend &backend = set->kernels(), &least = sets.back()->kernels();
    if (backend.native_precisions() == least.native_precisions()) continue;
    int differ = 0;
    for (const KernelCall& call : product_calls<BFloat16>()) {
      Outputs mine, leasts;
      call.run(backend, mine);
      call.run(least, leasts);
      differ += mine == leasts ? 0 : 1;
    }
    EXPECT_GT(differ, 0) << set->name << " and " << sets.back()->name;
    return;
  }
  GTEST_SKIP() << "no two sets of kernels that multiply bf16 differently";
}

template <class S>
class KernelSetBits : public ::testing::Test {};
using AllPrecisions = ::testing::Types<float, double, BFloat16, Float16>;
TYPED_TEST_SUITE(KernelSetBits, AllPrecisions);

TYPED_TEST(KernelSetBits, AllSetsComputeTheSame) {
  if (sets_here().size() < 2) GTEST_SKIP() << "one set of kernels";
  expect_same_bits(product_calls<TypeParam>(), std::is_same_v<TypeParam, BFloat16>);
  expect_same_bits(other_calls<TypeParam>(), false);
}

}  // namespace
}  // namespace lockstep::test
