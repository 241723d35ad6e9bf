// Pooling against window loops, and the backward kernels as adjoints of the forward ones.
#include "kernels/arrays.h"
#include "lockstep/core/error.h"

namespace lockstep::test {
namespace {

template <class T>
class Pooling : public Kernels<T> {};
TYPED_TEST_SUITE(Pooling, Precisions);

PoolArguments pool(DType dtype, int64_t n, int64_t h, int64_t w, int64_t c, int64_t kernel, int64_t stride,
                   int64_t pad) {
  PoolArguments p;
  p.dtype = dtype;
  p.n = n, p.h = h, p.w = w, p.c = c;
  p.kh = kernel, p.kw = kernel + (w > h ? 1 : 0);
  p.stride_h = p.stride_w = stride;
  p.pad_h = p.pad_w = pad;
  p.oh = (h + 2 * pad - p.kh) / stride + 1;
  p.ow = (w + 2 * pad - p.kw) / stride + 1;
  return p;
}

std::vector<PoolArguments> cases(DType dtype) {
  return {pool(dtype, 3, 8, 8, 16, 2, 2, 0), pool(dtype, 2, 7, 9, 5, 3, 2, 1),
          pool(dtype, 1, 5, 5, 33, 3, 1, 1), pool(dtype, 40, 8, 8, 32, 8, 8, 0),
          pool(dtype, 2, 4, 6, 1, 3, 1, 2),  pool(dtype, 70, 16, 16, 3, 2, 2, 0)};
}

int64_t input_size(const PoolArguments& p) {
  return p.n * p.h * p.w * p.c;
}
int64_t output_size(const PoolArguments& p) {
  return p.n * p.oh * p.ow * p.c;
}

// visit(output index, input index) for each position of each window inside the input.
template <class Visit>
void for_pairs(const PoolArguments& p, const Visit& visit) {
  for (int64_t n = 0; n < p.n; ++n) {
    for (int64_t i = 0; i < p.oh; ++i) {
      for (int64_t j = 0; j < p.ow; ++j) {
        for (int64_t c = 0; c < p.c; ++c) {
          for (int64_t a = 0; a < p.kh; ++a) {
            for (int64_t b = 0; b < p.kw; ++b) {
              const int64_t h = i * p.stride_h - p.pad_h + a, w = j * p.stride_w - p.pad_w + b;
              if (h < 0 || w < 0 || h >= p.h || w >= p.w) continue;
              visit(static_cast<size_t>(((n * p.oh + i) * p.ow + j) * p.c + c),
                    static_cast<size_t>(((n * p.h + h) * p.w + w) * p.c + c));
            }
          }
        }
      }
    }
  }
}

template <class T>
double dot(const std::vector<T>& a, const std::vector<T>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

TYPED_TEST(Pooling, MaximaAndTheirFirstPositions) {
  using T = TypeParam;
  for (const PoolArguments& p : cases(this->kDType)) {
    std::vector<T> x = random_values<T>(input_size(p), 31, -5.0, -1.0);  // padding with zeros would win
    for (T& value : x) value = std::round(value * 4);                    // ties
    std::vector<int32_t> indices(static_cast<size_t>(output_size(p)));
    const std::vector<T> y = on_any_threads([&] {
      std::vector<T> values(indices.size());
      this->backend.max_pool(p, x.data(), values.data(), indices.data());
      return values;
    });
    std::vector<T> expected(y.size(), -std::numeric_limits<T>::infinity());
    std::vector<int32_t> where(y.size(), -1);
    for_pairs(p, [&](size_t output, size_t input) {
      if (x[input] > expected[output]) {
        expected[output] = x[input];
        where[output] = static_cast<int32_t>(static_cast<int64_t>(input) / p.c % (p.h * p.w));
      }
    });
    EXPECT_EQ(y, expected);
    EXPECT_EQ(indices, where);

    std::vector<T> gathered(y.size());
    this->backend.max_pool_gather(p, indices.data(), x.data(), gathered.data());
    EXPECT_EQ(gathered, y);

    // <gather(u), dy> = <u, scatter(dy)>
    const std::vector<T> dy = random_values<T>(output_size(p), 32), u = random_values<T>(input_size(p), 33);
    const std::vector<T> dx = on_any_threads([&] {
      std::vector<T> values(x.size(), T(77));
      this->backend.max_pool_backward(p, indices.data(), dy.data(), values.data());
      return values;
    });
    this->backend.max_pool_gather(p, indices.data(), u.data(), gathered.data());
    EXPECT_NEAR(dot(gathered, dy), dot(u, dx),
                50 * std::numeric_limits<T>::epsilon() * static_cast<double>(x.size()));
  }
}

TYPED_TEST(Pooling, NanAndMinusInfinityAreTakenFromTheWindow) {
  using T = TypeParam;
  const T inf = std::numeric_limits<T>::infinity(), nan = std::numeric_limits<T>::quiet_NaN();
  const PoolArguments p = pool(this->kDType, 1, 2, 2, 2, 2, 1, 0);
  const std::vector<T> x = {-inf, 1, -inf, nan, -inf, 9, -inf, nan};  // (2, 2, channels): channel 0 all -inf
  std::vector<T> y(2);
  std::vector<int32_t> indices(2);
  this->backend.max_pool(p, x.data(), y.data(), indices.data());
  EXPECT_EQ(y[0], -inf);
  EXPECT_EQ(indices[0], 0);
  EXPECT_TRUE(std::isnan(y[1]));
  EXPECT_EQ(indices[1], 1);
}

TYPED_TEST(Pooling, AveragesCountPaddingAsZeroAndBackwardIsTheAdjoint) {
  using T = TypeParam;
  for (const PoolArguments& p : cases(this->kDType)) {
    const std::vector<T> x = random_values<T>(input_size(p), 34), dy = random_values<T>(output_size(p), 35);
    const std::vector<T> y = on_any_threads([&] {
      std::vector<T> values(dy.size());
      this->backend.average_pool(p, x.data(), values.data());
      return values;
    });
    std::vector<double> expected(y.size());
    for_pairs(p, [&](size_t output, size_t input) {
      expected[output] += static_cast<double>(x[input]) / static_cast<double>(p.kh * p.kw);
    });
    expect_close(y, expected, 40.0, 0.1);
    const std::vector<T> dx = on_any_threads([&] {
      std::vector<T> values(x.size(), T(77));
      this->backend.average_pool_backward(p, dy.data(), values.data());
      return values;
    });
    EXPECT_NEAR(dot(y, dy), dot(x, dx),
                50 * std::numeric_limits<T>::epsilon() * static_cast<double>(x.size()));
  }
}

TYPED_TEST(Pooling, WindowsThatHoldNoInputAreRefused) {
  using T = TypeParam;
  std::vector<T> x(64), y(64);
  std::vector<int32_t> indices(64);
  PoolArguments p = pool(this->kDType, 1, 4, 4, 1, 2, 2, 0);
  p.pad_h = 2;
  EXPECT_THROW(this->backend.max_pool(p, x.data(), y.data(), indices.data()), Error);
  p = pool(this->kDType, 1, 4, 4, 1, 2, 2, 0);
  p.oh = 3;
  EXPECT_THROW(this->backend.average_pool(p, x.data(), y.data()), Error);
}

}  // namespace
}  // namespace lockstep::test
