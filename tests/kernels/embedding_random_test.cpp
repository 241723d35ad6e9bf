// Table lookup, its adjoint, and dropout masks.
#include <algorithm>

#include "kernels/arrays.h"

namespace lockstep::test {
namespace {

template <class T>
class EmbeddingAndRandom : public Kernels<T> {};
TYPED_TEST_SUITE(EmbeddingAndRandom, Precisions);

TYPED_TEST(EmbeddingAndRandom, LookupAndItsAdjointInIndexOrder) {
  using T = TypeParam;
  struct Extents {
    int64_t count, rows, width;
  };
  for (const Extents& e : {Extents{1, 1, 1}, Extents{0, 3, 4}, Extents{50, 7, 5}, Extents{300, 40, 768},
                           Extents{5000, 100, 16}}) {
    const std::vector<T> table = random_values<T>(e.rows * e.width, 61),
                         dy = random_values<T>(e.count * e.width, 62);
    const std::vector<int32_t> indices = random_indices(e.count, 63, static_cast<int32_t>(e.rows));
    const std::vector<T> y = on_any_threads([&] {
      std::vector<T> values(dy.size());
      this->backend.embedding(this->kDType, e.count, e.width, table.data(), indices.data(), values.data());
      return values;
    });
    const std::vector<T> dtable = on_any_threads([&] {
      std::vector<T> values(table.size(), T(5));
      this->backend.embedding_backward(this->kDType, e.count, e.rows, e.width, indices.data(), dy.data(),
                                       false, values.data());
      return values;
    });
    const std::vector<T> added = on_any_threads([&] {
      std::vector<T> values = table;
      this->backend.embedding_backward(this->kDType, e.count, e.rows, e.width, indices.data(), dy.data(),
                                       true, values.data());
      return values;
    });
    std::vector<T> expected(table.size(), T(0));
    for (int64_t i = 0; i < e.count; ++i) {
      for (int64_t c = 0; c < e.width; ++c) {
        const size_t row = static_cast<size_t>(indices[static_cast<size_t>(i)] * e.width + c);
        const size_t element = static_cast<size_t>(i * e.width + c);
        ASSERT_EQ(y[element], table[row]);
        expected[row] += dy[element];
      }
    }
    EXPECT_EQ(dtable, expected);  // the same order of additions, so the same bits
    for (size_t i = 0; i < expected.size(); ++i) {
      const bool named =
          std::ranges::count(indices, static_cast<int32_t>(i / static_cast<size_t>(e.width))) > 0;
      ASSERT_EQ(added[i], named ? table[i] + expected[i] : table[i]);
    }
  }
}

// One element by the documented rule.
template <class T>
T mask_element(int64_t i, const RandomStream& stream, double probability) {
  const int64_t draws = sizeof(T) == 4 ? 4 : 2;
  const PhiloxBlock block =
      philox(stream.key, {static_cast<uint32_t>(i / draws), stream.op_ordinal, stream.step, stream.stream});
  const size_t word = static_cast<size_t>(i % draws);
  const double draw = sizeof(T) == 4 ? static_cast<double>(uniform_float(block.r[word]))
                                     : uniform_double(block.r[2 * word], block.r[2 * word + 1]);
  return draw < static_cast<double>(static_cast<T>(probability)) ? T(0)
                                                                 : static_cast<T>(1.0 / (1.0 - probability));
}

TYPED_TEST(EmbeddingAndRandom, DropoutMaskIsAFunctionOfTheCounterAlone) {
  using T = TypeParam;
  const RandomStream stream{philox_key(123, RandomPurpose::kDropout), 4, 1000, 77};
  for (int64_t n : {int64_t{0}, int64_t{1}, int64_t{255}, int64_t{257}, int64_t{100'001}}) {
    const std::vector<T> mask = on_any_threads([&] {
      std::vector<T> values(static_cast<size_t>(n));
      this->backend.dropout_mask(this->kDType, n, stream, 0.3, values.data());
      return values;
    });
    for (int64_t i = 0; i < n; ++i)
      ASSERT_EQ(mask[static_cast<size_t>(i)], mask_element<T>(i, stream, 0.3)) << i;
  }
}

TYPED_TEST(EmbeddingAndRandom, DropoutDropsTheStatedShareAndKeepsTheMean) {
  using T = TypeParam;
  const int64_t n = 1'000'000;
  std::vector<T> mask(static_cast<size_t>(n));
  for (double probability : {0.0, 0.1, 0.5, 0.9}) {
    this->backend.dropout_mask(this->kDType, n, {philox_key(5, RandomPurpose::kDropout), 0, 0, 0},
                               probability, mask.data());
    double sum = 0;
    for (T value : mask) sum += static_cast<double>(value);
    const double deviation = std::sqrt(probability / (1 - probability) / static_cast<double>(n));
    EXPECT_NEAR(sum / static_cast<double>(n), 1.0, 5 * deviation + 1e-6);
  }
}

TYPED_TEST(EmbeddingAndRandom, EveryPartOfTheStreamChangesTheMask) {
  using T = TypeParam;
  const RandomStream base{philox_key(5, RandomPurpose::kDropout), 1, 2, 3};
  std::vector<RandomStream> others(5, base);
  others[0].key = philox_key(6, RandomPurpose::kDropout);
  others[1].key = philox_key(5, RandomPurpose::kTest);
  others[2].op_ordinal = 9;
  others[3].step = 9;
  others[4].stream = 9;
  std::vector<T> mask(256), other(256);
  this->backend.dropout_mask(this->kDType, 256, base, 0.5, mask.data());
  for (const RandomStream& stream : others) {
    this->backend.dropout_mask(this->kDType, 256, stream, 0.5, other.data());
    EXPECT_NE(mask, other);
  }
}

}  // namespace
}  // namespace lockstep::test
