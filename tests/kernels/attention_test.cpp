// Attention against the formula in fp64, in every type and layout, on any number of threads; on a GPU against
// the CPU.
#include <functional>

#include "kernels/arrays.h"
#include "kernels/parity.h"
#include "lockstep/core/error.h"
#include "lockstep/kernels/plan_table.h"

namespace lockstep::test {
namespace {

struct AttentionCase {
  int64_t batch, heads, queries, keys, size;
  bool causal = false, packed = false;
  int64_t group = 1;   // query heads of a key head
  int64_t window = 0;  // keys that a query sees
  int64_t documents =
      0;  // length of the first document of the first sample; others are longer. 0: all is one
  double dropout = 0.0;

  std::string name() const {
    std::string text;
    for (int64_t extent : {batch, heads, queries, keys, size, group, window, documents})
      text += std::to_string(extent) + " ";
    return text + (causal ? "causal " : "") + (packed ? "packed " : "") + std::to_string(dropout);
  }
  int64_t width() const { return heads * size; }
  int64_t key_width() const { return heads / group * size; }
  bool bounded() const { return window > 0 || documents > 0; }
  // How much larger than without dropout what is rounded on the way may be, at most.
  double growth() const { return dropout > 0.0 ? 2.0 / (1.0 - dropout) : 1.0; }
  // The first key of query t of a sample.
  int64_t first_key(int64_t sample, int64_t t) const {
    const int64_t own = t + keys - queries, length = documents > 0 ? documents + 7 * sample : keys;
    return std::max<int64_t>({0, window > 0 ? own - window + 1 : 0, own / length * length});
  }
  // (queries), where they are the same in all samples, or (batch, queries).
  std::vector<int32_t> first_keys() const {
    std::vector<int32_t> first;
    for (int64_t i = 0; i < (documents > 0 ? batch : 1) * queries; ++i)
      first.push_back(static_cast<int32_t>(first_key(i / queries, i % queries)));
    return first;
  }
};

// One element; fewer than a vector; blocks of every kernel, whole and with a rest; more keys than queries and
// fewer; heads of each size that GPUs tell apart.
const AttentionCase kAttentionCases[] = {{1, 1, 1, 1, 1},
                                         {2, 3, 5, 5, 7, true},
                                         {2, 2, 8, 8, 4, true, true},
                                         {1, 2, 64, 64, 16},
                                         {2, 2, 65, 65, 64, true, true},
                                         {1, 1, 130, 200, 33, true},
                                         {1, 2, 3, 150, 8, true},
                                         {1, 3, 4, 1, 5},
                                         {1, 1, 130, 150, 96, true},
                                         {1, 1, 140, 140, 128, true, true},
                                         {1, 1, 65, 100, 80},
                                         {1, 1, 100, 20, 40},
                                         {1, 1, 70, 70, 130, true},
                                         {1, 2, 33, 40, 256, false},
                                         {3, 2, 70, 70, 24, false, true},
                                         {1, 4, 70, 70, 12, true, false, 2},
                                         {2, 6, 66, 66, 16, true, true, 3},
                                         {1, 2, 9, 75, 6, false, false, 2},
                                         {1, 2, 200, 200, 16, true, true, 1, 1},
                                         {2, 2, 150, 150, 40, true, true, 2, 70},
                                         {1, 1, 60, 190, 130, true, false, 1, 100},
                                         {2, 2, 200, 200, 24, true, true, 1, 0, 3},
                                         {3, 4, 140, 140, 16, true, true, 4, 30, 65},
                                         {1, 1, 1, 1, 1, true, false, 1, 0, 0, 0.2},
                                         {2, 3, 70, 130, 24, false, false, 1, 0, 0, 0.5},
                                         {2, 2, 65, 65, 64, true, true, 1, 0, 0, 0.1},
                                         {1, 2, 70, 70, 130, true, false, 1, 0, 0, 0.9},
                                         {1, 1, 3, 200, 256, true, false, 1, 0, 0, 0.3},
                                         {2, 4, 150, 150, 40, true, true, 2, 70, 0, 0.25},
                                         {2, 4, 140, 140, 16, true, true, 4, 30, 65, 0.4},
                                         {1, 2, 140, 140, 96, true, true, 2, 0, 0, 0.2},
                                         {1, 1, 75, 260, 128, true, false, 1, 120, 0, 0.2}};

AttentionArguments arguments_of(const AttentionCase& c, DType dtype) {
  AttentionArguments a;
  a.dtype = dtype;
  a.causal = c.causal;
  a.batch = c.batch;
  a.heads = c.heads;
  a.queries = c.queries;
  a.keys = c.keys;
  a.size = c.size;
  a.q_row = c.packed ? c.width() + 2 * c.key_width() : c.width();
  a.k_row = a.v_row = c.packed ? a.q_row : c.key_width();
  a.kv_heads = c.group == 1 ? 0 : c.heads / c.group;
  a.first_keys_batch = c.documents > 0 ? c.queries : 0;
  a.scale = 1.0 / std::sqrt(static_cast<double>(c.size));
  a.dropout = c.dropout;
  a.draws = {philox_key(7, RandomPurpose::kDropout), 3, 11, 2};
  return a;
}

// What dropout multiplies the weight of key s by query t of head `head` (counted through the batch) by.
double drop_factor(const AttentionArguments& a, int64_t head, int64_t t, int64_t s) {
  if (a.dropout == 0.0) return 1.0;
  const int64_t block = ((head * a.queries + t) * ((a.keys + 63) / 64) + s / 64) * 16 + s % 16;
  const PhiloxBlock words =
      philox(a.draws.key, {static_cast<uint32_t>(block), a.draws.op_ordinal, a.draws.step, a.draws.stream});
  return uniform_float(words.r[s / 16 % 4]) < static_cast<float>(a.dropout) ? 0.0 : 1.0 / (1.0 - a.dropout);
}

// q, k, v, dy as separate arrays.
template <class S>
struct Inputs {
  explicit Inputs(const AttentionCase& c, double largest = 2.0)
      : q(random_values<S>(c.batch * c.queries * c.width(), 1, -largest, largest)),
        k(random_values<S>(c.batch * c.keys * c.key_width(), 2, -largest, largest)),
        v(random_values<S>(c.batch * c.keys * c.key_width(), 3)),
        dy(random_values<S>(c.batch * c.queries * c.width(), 4)) {}
  // q, k and v side by side.
  std::vector<S> packed(const AttentionCase& c) const {
    std::vector<S> all;
    for (int64_t row = 0; row < c.batch * c.queries; ++row) {
      for (const std::vector<S>* part : {&q, &k, &v}) {
        const int64_t width = part == &q ? c.width() : c.key_width();
        all.insert(all.end(), part->begin() + row * width, part->begin() + (row + 1) * width);
      }
    }
    return all;
  }
  std::vector<S> q, k, v, dy;
};

// y, log_sums, dq, dk, dv as results of `arrays`; or y, log_sums, dqkv.
template <class S>
void run(const AttentionCase& c, const Inputs<S>& in, Backend& backend, Arrays& arrays) {
  AttentionArguments a = arguments_of(c, dtype_of<S>);
  if (c.bounded()) a.first_keys = arrays.input(c.first_keys());
  S* const y = arrays.output<S>(c.batch * c.queries * c.width());
  auto* const log_sums = arrays.output<Accumulation<S>>(c.batch * c.heads * c.queries);
  const S *q, *k, *v;
  S *dq, *dk, *dv;
  if (c.packed) {
    q = arrays.input(in.packed(c));
    dq = arrays.output<S>(c.batch * c.queries * a.q_row);
    k = q + c.width();
    v = k + c.key_width();
    dk = dq + c.width();
    dv = dk + c.key_width();
  } else {
    q = arrays.input(in.q);
    k = arrays.input(in.k);
    v = arrays.input(in.v);
    dq = arrays.output<S>(static_cast<int64_t>(in.q.size()));
    dk = arrays.output<S>(static_cast<int64_t>(in.k.size()));
    dv = arrays.output<S>(static_cast<int64_t>(in.v.size()));
  }
  backend.attention(a, q, k, v, y, log_sums);
  backend.attention_backward(a, q, k, v, y, log_sums, arrays.input(in.dy), dq, dk, dv);
}

// y, log_sums, dq, dk, dv, one behind the other.
template <class S>
std::vector<double> computed(const AttentionCase& c, const Inputs<S>& in) {
  Arrays arrays(cpu_backend(), 0);
  run(c, in, cpu_backend(), arrays);
  std::vector<Arrays::Result> results = arrays.results();
  if (c.packed) {
    const std::vector<double> all = results[2].values;
    results.resize(2);
    for (int64_t part = 0; part < 3; ++part) {
      Arrays::Result one{dtype_of<S>, {}};
      for (int64_t row = 0; row < c.batch * c.queries; ++row) {
        const auto begin = all.begin() + row * (c.width() + 2 * c.key_width()) +
                           (part == 0 ? 0 : c.width() + (part - 1) * c.key_width());
        one.values.insert(one.values.end(), begin, begin + (part == 0 ? c.width() : c.key_width()));
      }
      results.push_back(std::move(one));
    }
  }
  std::vector<double> values;
  for (const Arrays::Result& result : results)
    values.insert(values.end(), result.values.begin(), result.values.end());
  return values;
}

// The same by the formula.
template <class S>
std::vector<double> exact(const AttentionCase& c, const Inputs<S>& in) {
  const AttentionArguments a = arguments_of(c, DType::kF64);
  const std::vector<double> all_q = in_double(in.q), all_k = in_double(in.k), all_v = in_double(in.v),
                            all_dy = in_double(in.dy);
  std::vector<double> all_y(in.q.size()), log_sums, all_dq(in.q.size()), all_dk(in.k.size()),
      all_dv(in.v.size());
  const int64_t size = c.size, key_width = c.key_width();
  for (int64_t head = 0; head < c.batch * c.heads; ++head) {
    const int64_t batch = head / c.heads, column = head % c.heads * size;
    // Of key 0; those of the others follow a row apart.
    const int64_t keys = batch * c.keys * key_width + head % c.heads / c.group * size;
    for (int64_t t = 0; t < c.queries; ++t) {
      const int64_t row = (batch * c.queries + t) * c.width() + column;
      const double *const q = all_q.data() + row, *const dy = all_dy.data() + row;
      double *const y = all_y.data() + row, *const dq = all_dq.data() + row;
      const int64_t begin = c.bounded() ? c.first_key(batch, t) : 0;
      const int64_t visible = c.causal ? t + c.keys - c.queries + 1 : c.keys;
      std::vector<double> p;
      double largest = -std::numeric_limits<double>::infinity(), total = 0, product_sum = 0;
      for (int64_t s = begin; s < visible; ++s) {
        const double* const k = all_k.data() + keys + s * key_width;
        double sum = 0;
        for (int64_t i = 0; i < size; ++i) sum += q[i] * k[i];
        p.push_back(a.scale * sum);
        largest = std::max(largest, p.back());
      }
      for (double& value : p) total += value = std::exp(value - largest);
      log_sums.push_back(largest + std::log(total));
      for (int64_t s = begin; s < visible; ++s) {
        const double* const v = all_v.data() + keys + s * key_width;
        const double weight = (p[static_cast<size_t>(s - begin)] /= total) * drop_factor(a, head, t, s);
        for (int64_t i = 0; i < size; ++i) y[i] += weight * v[i];
      }
      for (int64_t i = 0; i < size; ++i) product_sum += dy[i] * y[i];
      for (int64_t s = begin; s < visible; ++s) {
        const int64_t key = keys + s * key_width;
        const double *const k = all_k.data() + key, *const v = all_v.data() + key;
        double *const dk = all_dk.data() + key, *const dv = all_dv.data() + key;
        const double weight = p[static_cast<size_t>(s - begin)];
        const double drop = drop_factor(a, head, t, s);
        double product = 0;
        for (int64_t i = 0; i < size; ++i) product += dy[i] * v[i];
        const double ds = a.scale * weight * (drop * product - product_sum);
        for (int64_t i = 0; i < size; ++i) {
          dq[i] += ds * k[i];
          dk[i] += ds * q[i];
          dv[i] += drop * weight * dy[i];
        }
      }
    }
  }
  std::vector<double> values;
  for (const std::vector<double>* part : {&all_y, &log_sums, &all_dq, &all_dk, &all_dv})
    values.insert(values.end(), part->begin(), part->end());
  return values;
}

template <class S>
class Attention : public ::testing::Test {};
using StoredTypes = ::testing::Types<double, float, BFloat16, Float16>;
TYPED_TEST_SUITE(Attention, StoredTypes);

TYPED_TEST(Attention, IsTheFormulaOnAnyNumberOfThreads) {
  // Sums of up to 200 numbers in fp64 and fp32; two roundings of y, which the backward pass reads, and of the
  // result in 16 bits.
  const double units = sizeof(TypeParam) == 2 ? 2.0 : 32.0;
  for (const AttentionCase& c : kAttentionCases) {
    SCOPED_TRACE(c.name());
    const Inputs<TypeParam> in(c);
    const std::vector<double> found = on_any_threads([&] { return computed(c, in); });
    const std::vector<double> expected = exact(c, in);
    ASSERT_EQ(found.size(), expected.size());
    for (size_t i = 0; i < found.size(); ++i) {
      const double bound =
          c.growth() * units * epsilon_of(dtype_of<TypeParam>) * std::fmax(std::fabs(expected[i]), 1.0);
      if (std::fabs(found[i] - expected[i]) <= bound) continue;
      FAIL() << "element " << i << " of " << found.size() << ": expected " << expected[i] << ", got "
             << found[i] << ", bound " << bound;
    }
  }
}

TYPED_TEST(Attention, HasTheSameBitsWhereverItsArraysLie) {
  for (AttentionCase c : {AttentionCase{2, 2, 70, 70, 24, true}, {3, 1, 9, 9, 5, false}}) {
    SCOPED_TRACE(c.name());
    const Inputs<TypeParam> in(c);
    const std::vector<double> apart = computed(c, in);
    c.packed = true;
    EXPECT_TRUE(same_bits(computed(c, in), apart));
  }
}

// Scores of some 1e7 (fp16: 1e5), far beyond what e^x holds: every query takes one key's value, and no
// gradient reaches q and k.
TYPED_TEST(Attention, OfHugeScoresIsOneKeysValue) {
  for (const bool causal : {false, true}) {
    const AttentionCase c{1, 1, 80, 80, 16, causal};
    Inputs<TypeParam> in(c);
    const double large = dtype_of<TypeParam> == DType::kF16 ? 300.0 : 3000.0;
    for (int64_t t = 0; t < c.queries; ++t) {
      for (int64_t i = 0; i < c.size; ++i) {
        const auto at = static_cast<size_t>(t * c.size + i);
        in.q[at] = static_cast<TypeParam>(i % 2 == 0 ? large : -large);
        in.k[at] = static_cast<TypeParam>((i % 2 == 0 ? large : -large) *
                                          (t == 0 ? 1.0 : -1.0));  // key 0 fits, the others oppose
      }
    }
    const std::vector<double> found = computed(c, in), expected = exact(c, in);
    for (size_t i = 0; i < found.size(); ++i) {
      // What rounding leaves of ds is multiplied by a q or a k, and summed over 80 of them.
      ASSERT_NEAR(found[i], expected[i],
                  32 * epsilon_of(dtype_of<TypeParam>) * (large + std::fabs(expected[i])))
          << i;
    }
  }
}

template <class S>
class AttentionParity : public ::testing::Test {};
TYPED_TEST_SUITE(AttentionParity, StoredTypes);

TYPED_TEST(AttentionParity, InEveryLayoutAndShape) {
  SKIP_ON_CPU();
  // Rounded once, from sums that differ in order; what 16 bits lose of y returns in the gradients.
  const double epsilon = epsilon_of(dtype_of<TypeParam>);
  for (const AttentionCase& c : kAttentionCases) {
    const double units = c.growth() * (sizeof(TypeParam) == 2 ? 2.0 : 32.0);
    const Tolerance tolerance{units, units * epsilon};
    const Inputs<TypeParam> in(c);
    expect_parity(c.name(), tolerance,
                  [&](Backend& backend, Arrays& arrays) { run<TypeParam>(c, in, backend, arrays); });
  }
}

// Has warp groups multiply, where the device has them, as long as it lives; no library takes the call.
class WarpGroups {
 public:
  explicit WarpGroups(Backend& backend) : backend_(backend) {
    backend_.plans()->set_search({.candidate = 1});
    backend_.use_cudnn(false);
  }
  WarpGroups(const WarpGroups&) = delete;
  WarpGroups& operator=(const WarpGroups&) = delete;
  ~WarpGroups() {
    backend_.plans()->set_search({});
    backend_.use_cudnn(true);
  }

 private:
  Backend& backend_;
};

template <class S>
class AttentionByWarpGroups : public ::testing::Test {};
using NarrowTypes = ::testing::Types<BFloat16, Float16>;
TYPED_TEST_SUITE(AttentionByWarpGroups, NarrowTypes);

// Calls that are for tensor cores; the types differ in an instruction's name alone.
TYPED_TEST(AttentionByWarpGroups, InEveryLayoutAndShape) {
  SKIP_ON_CPU();
  const double epsilon = epsilon_of(dtype_of<TypeParam>);
  const WarpGroups warp_groups(test_backend());
  for (const AttentionCase& c : kAttentionCases) {
    if (c.size % 8 != 0 || c.size > 128 || (dtype_of<TypeParam> == DType::kF16 && c.size < 64)) continue;
    const double units = 2.0 * c.growth();
    const Inputs<TypeParam> in(c);
    expect_parity(c.name(), Tolerance{units, units * epsilon},
                  [&](Backend& backend, Arrays& arrays) { run<TypeParam>(c, in, backend, arrays); });
  }
}

// More keys at a time of heads of 128 numbers, so that sums are carried along otherwise. First keys are
// given, so that no library takes the call.
TYPED_TEST(AttentionByWarpGroups, IsTheSecondCandidateAndHasItsOwnBitsTwice) {
  SKIP_ON_CPU();
  const AttentionCase c{1, 1, 70, 150, 128, true, false, 1, 149};
  const Inputs<TypeParam> in(c);
  const auto results = [&] {
    Arrays arrays(test_backend(), 0);
    run(c, in, test_backend(), arrays);
    std::vector<double> all;
    for (const auto& result : arrays.results())
      all.insert(all.end(), result.values.begin(), result.values.end());
    return all;
  };
  const std::vector<double> by_warps = results();
  std::vector<double> by_groups;
  {
    const WarpGroups warp_groups(test_backend());
    by_groups = results();
    EXPECT_EQ(results(), by_groups);
  }
  EXPECT_EQ(results(), by_warps);
  const std::string device = test_backend().description();
  bool has_warp_groups = false;
  for (const char* name : {"stand-in", "H100", "H200"})
    has_warp_groups = has_warp_groups || device.find(name) != std::string::npos;
  if (!has_warp_groups) GTEST_SKIP() << "this GPU has no warp groups that multiply";
  EXPECT_NE(by_groups, by_warps);
}

// Sums are carried along over hundreds of tiles of keys, of which only the first changes the maximum. First
// keys are given, so that no library takes the call.
TYPED_TEST(AttentionParity, OfManyKeysKeepsWhatTheFirstOnesGave) {
  SKIP_ON_CPU();
  const AttentionCase c{1, 1, 8, 8192, 8, true, false, 1, 8192};
  Inputs<TypeParam> in(c);
  constexpr double kFirst = 4.4375, kOther = 4.40625;
  for (size_t i = 0; i < in.q.size(); ++i)
    in.q[i] = static_cast<TypeParam>(16.0 + static_cast<double>(i / 8));
  for (size_t i = 0; i < in.k.size(); ++i) in.k[i] = static_cast<TypeParam>(i < 8 ? kFirst : kOther);
  const auto expect_log_sums = [&](const char* multiplied) {
    Arrays arrays(test_backend(), 0);
    run(c, in, test_backend(), arrays);
    const std::vector<double> log_sums = arrays.results()[1].values;
    for (size_t t = 0; t < log_sums.size(); ++t) {
      const double of_one = (16.0 + static_cast<double>(t)) * 8.0 / std::sqrt(8.0);
      const double others = 8184.0 + static_cast<double>(t);
      const double expected = kFirst * of_one + std::log1p(others * std::exp((kOther - kFirst) * of_one));
      EXPECT_NEAR(log_sums[t], expected, 0x1p-22 * expected) << t << multiplied;
    }
  };
  expect_log_sums("");
  if (sizeof(TypeParam) != 2) return;
  const WarpGroups warp_groups(test_backend());
  expect_log_sums(" by warp groups");
}

TYPED_TEST(AttentionParity, HeadsOfGpusHaveABoundedSize) {
  SKIP_ON_CPU();
  const AttentionCase c{1, 1, 1, 1, 257};
  try {
    Arrays arrays(test_backend(), 0);
    run(c, Inputs<TypeParam>(c), test_backend(), arrays);
    FAIL() << "not refused";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    EXPECT_NE(std::string(error.what()).find("heads of 257 numbers"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace lockstep::test
