// Softmax, cross-entropy, layer norm and batch norm against long double formulas, backward kernels included.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <functional>

#include "kernels/parity.h"

namespace lockstep::test {
namespace {

template <class T>
class Normalization : public Kernels<T> {};
TYPED_TEST_SUITE(Normalization, Precisions);

struct RowsAndColumns {
  int64_t rows, columns;
};
constexpr RowsAndColumns kRowsAndColumns[] = {{1, 1},     {3, 2},     {32, 10},    {5, 16},     {7, 17},
                                              {4, 100},   {64, 768},  {2, 5000},   {3, 50'257}, {300, 33},
                                              {4096, 16}, {4097, 24}, {10'001, 3}, {1000, 64},  {40, 130}};

using Row = std::vector<long double>;

template <class T>
Row row_of(const std::vector<T>& x, int64_t row, int64_t columns) {
  return Row(x.begin() + row * columns, x.begin() + (row + 1) * columns);
}

long double log_sum_exp(const Row& x) {
  const long double maximum = *std::max_element(x.begin(), x.end());
  long double sum = 0;
  for (long double value : x) sum += std::exp(value - maximum);
  return maximum + std::log(sum);
}

TYPED_TEST(Normalization, SoftmaxAndLogSoftmaxAndTheirBackwards) {
  using T = TypeParam;
  for (const RowsAndColumns& e : kRowsAndColumns) {
    const std::vector<T> x = random_values<T>(e.rows * e.columns, 41, -8.0, 8.0);
    const std::vector<T> dy = random_values<T>(e.rows * e.columns, 42);
    for (bool log_form : {false, true}) {
      const std::vector<T> y = on_any_threads([&] {
        std::vector<T> values(x.size());
        this->backend.softmax(log_form, this->kDType, e.rows, e.columns, x.data(), values.data());
        return values;
      });
      const std::vector<T> dx = on_any_threads([&] {
        std::vector<T> values(x.size());
        this->backend.softmax_backward(log_form, this->kDType, e.rows, e.columns, y.data(), dy.data(),
                                       values.data());
        return values;
      });
      std::vector<double> expected_y, expected_dx;
      for (int64_t r = 0; r < e.rows; ++r) {
        const Row row = row_of(x, r, e.columns), gradient = row_of(dy, r, e.columns);
        const long double total = log_sum_exp(row);
        long double sum = 0;
        for (size_t c = 0; c < row.size(); ++c)
          sum += gradient[c] * (log_form ? 1 : std::exp(row[c] - total));
        for (size_t c = 0; c < row.size(); ++c) {
          const long double probability = std::exp(row[c] - total);
          expected_y.push_back(static_cast<double>(log_form ? row[c] - total : probability));
          expected_dx.push_back(static_cast<double>(log_form ? gradient[c] - probability * sum
                                                             : probability * (gradient[c] - sum)));
        }
      }
      expect_close(y, expected_y, 16.0, log_form ? 1.0 : 1e-6);
      expect_close(dx, expected_dx, 8.0);
    }
  }
}

TYPED_TEST(Normalization, SoftmaxHoldsAtTheExtremes) {
  using T = TypeParam;
  const T inf = std::numeric_limits<T>::infinity();
  const std::vector<T> x = {T(1e4), T(-1e4), 0, -inf, T(1e4), T(1e4)};
  std::vector<T> y(6);
  this->backend.softmax(false, this->kDType, 2, 3, x.data(), y.data());
  EXPECT_EQ(y, (std::vector<T>{1, 0, 0, 0, T(0.5), T(0.5)}));
  this->backend.softmax(true, this->kDType, 2, 3, x.data(), y.data());
  EXPECT_EQ(y[0], T(0));
  EXPECT_EQ(y[1], T(-2e4));
  EXPECT_EQ(y[3], -inf);
  EXPECT_NEAR(static_cast<double>(y[4]), -std::log(2.0), 1e-6);
}

TYPED_TEST(Normalization, ANanStaysInItsRow) {
  using T = TypeParam;
  std::vector<T> x = random_values<T>(60, 43), y(60);
  x[25] = std::numeric_limits<T>::quiet_NaN();
  this->backend.softmax(false, this->kDType, 3, 20, x.data(), y.data());
  for (size_t i = 0; i < 60; ++i) EXPECT_EQ(std::isnan(y[i]), i / 20 == 1) << i;
}

// `count` elements that end where the memory ends: whatever is read or written behind them is a fault, under
// a mask as well.
template <class T>
class AtTheEnd {
 public:
  explicit AtTheEnd(int64_t count) {
    const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
    const size_t bytes = static_cast<size_t>(count) * sizeof(T);
    const size_t before = (bytes + page - 1) / page * page;
    size_ = before + page;
    pages_ = static_cast<char*>(
        ::mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (pages_ == MAP_FAILED || ::mprotect(pages_ + before, page, PROT_NONE) != 0) std::abort();
    data_ = reinterpret_cast<T*>(pages_ + before - bytes);
  }
  ~AtTheEnd() { ::munmap(pages_, size_); }
  AtTheEnd(const AtTheEnd&) = delete;
  AtTheEnd& operator=(const AtTheEnd&) = delete;
  T* data() const { return data_; }

 private:
  char* pages_;
  size_t size_;
  T* data_;
};

TYPED_TEST(Normalization, RowsAtTheEndOfMemoryAreNotPassed) {
  using T = TypeParam;
  for (int64_t columns = 1; columns <= 40; ++columns) {
    for (const int64_t rows : {1, 5}) {
      const int64_t n = rows * columns;
      const AtTheEnd<T> x(n), y(n), dy(n), dx(n), losses(rows), dlosses(rows);
      const AtTheEnd<int32_t> labels(rows);
      const std::vector<T> values = random_values<T>(n, 41);
      std::ranges::copy(values, x.data());
      std::ranges::copy(values, dy.data());
      std::fill_n(dlosses.data(), rows, T(1));
      std::fill_n(labels.data(), rows, 0);
      for (const bool log_form : {false, true}) {
        this->backend.softmax(log_form, this->kDType, rows, columns, x.data(), y.data());
        this->backend.softmax_backward(log_form, this->kDType, rows, columns, y.data(), dy.data(), dx.data());
      }
      this->backend.cross_entropy(this->kDType, rows, columns, x.data(), labels.data(), nullptr,
                                  losses.data(), y.data());
      this->backend.cross_entropy_backward(this->kDType, rows, columns, y.data(), labels.data(), nullptr,
                                           dlosses.data(), dx.data());
      EXPECT_TRUE(std::isfinite(dx.data()[n - 1]));
    }
  }
}

TYPED_TEST(Normalization, CrossEntropyWithAndWithoutWeights) {
  using T = TypeParam;
  for (const RowsAndColumns& e : kRowsAndColumns) {
    const std::vector<T> x = random_values<T>(e.rows * e.columns, 44, -8.0, 8.0);
    const std::vector<int32_t> labels = random_indices(e.rows, 45, static_cast<int32_t>(e.columns));
    const std::vector<T> weights = random_values<T>(e.rows, 46, 0.0, 2.0),
                         dlosses = random_values<T>(e.rows, 47);
    for (const T* weight : {static_cast<const T*>(nullptr), weights.data()}) {
      std::vector<T> probabilities(x.size());
      const std::vector<T> losses = on_any_threads([&] {
        std::vector<T> values(static_cast<size_t>(e.rows));
        this->backend.cross_entropy(this->kDType, e.rows, e.columns, x.data(), labels.data(), weight,
                                    values.data(), probabilities.data());
        return values;
      });
      const std::vector<T> dx = on_any_threads([&] {
        std::vector<T> values(x.size());
        this->backend.cross_entropy_backward(this->kDType, e.rows, e.columns, probabilities.data(),
                                             labels.data(), weight, dlosses.data(), values.data());
        return values;
      });
      std::vector<double> expected_loss, expected_probability, expected_dx;
      for (int64_t r = 0; r < e.rows; ++r) {
        const Row row = row_of(x, r, e.columns);
        const size_t i = static_cast<size_t>(r), label = static_cast<size_t>(labels[i]);
        const long double w = weight == nullptr ? 1 : static_cast<long double>(weight[i]);
        const long double total = log_sum_exp(row);
        expected_loss.push_back(static_cast<double>(w * (total - row[label])));
        for (size_t c = 0; c < row.size(); ++c) {
          const long double probability = std::exp(row[c] - total);
          expected_probability.push_back(static_cast<double>(probability));
          expected_dx.push_back(static_cast<double>(w * static_cast<long double>(dlosses[i]) *
                                                    (probability - (c == label ? 1 : 0))));
        }
      }
      expect_close(losses, expected_loss, 16.0);
      expect_close(probabilities, expected_probability, 16.0, 1e-6);
      expect_close(dx, expected_dx, 8.0);
    }
  }
}

TYPED_TEST(Normalization, CrossEntropyOfExtremeLogitsIsFinite) {
  using T = TypeParam;
  const std::vector<T> x = {T(1e4), T(-1e4), T(-1e4), T(1e4)};
  const std::vector<int32_t> labels = {0, 0};
  std::vector<T> losses(2), probabilities(4);
  this->backend.cross_entropy(this->kDType, 2, 2, x.data(), labels.data(), nullptr, losses.data(),
                              probabilities.data());
  EXPECT_EQ(losses, (std::vector<T>{0, T(2e4)}));
}

// Statistics of the normalized groups: rows for layer norm, columns for batch norm.
struct Moments {
  long double mean = 0, variance = 0;
};
Moments moments(const Row& x) {
  Moments m;
  for (long double value : x) m.mean += value / static_cast<long double>(x.size());
  for (long double value : x)
    m.variance += (value - m.mean) * (value - m.mean) / static_cast<long double>(x.size());
  return m;
}

// Common to both norms: x grouped so that each group is normalized, gamma and beta given per element.
template <class T>
void check_norm(const RowsAndColumns& e, bool batch, const std::vector<T>& x) {
  Backend& backend = cpu_backend();
  const double epsilon = 1e-5;
  const size_t rows = static_cast<size_t>(e.rows), columns = static_cast<size_t>(e.columns);
  const size_t groups = batch ? columns : rows, members = batch ? rows : columns;
  const std::vector<T> gamma = random_values<T>(e.columns, 51), beta = random_values<T>(e.columns, 52);
  const std::vector<T> dy = random_values<T>(e.rows * e.columns, 53);
  std::vector<T> mean(groups), variance(groups), rstd(groups), dgamma(columns), dbeta(columns);
  const std::vector<T> y = on_any_threads([&] {
    std::vector<T> values(x.size());
    if (batch) {
      backend.batch_norm(dtype_of<T>, e.rows, e.columns, x.data(), gamma.data(), beta.data(), epsilon,
                         values.data(), mean.data(), variance.data(), rstd.data());
    } else {
      backend.norm({.dtype = dtype_of<T>,
                    .narrow = dtype_of<T>,
                    .rows = e.rows,
                    .columns = e.columns,
                    .gamma = gamma.data(),
                    .epsilon = epsilon},
                   x.data(), nullptr, beta.data(), nullptr, values.data(), mean.data(), rstd.data());
    }
    return values;
  });
  const std::vector<T> gradients = on_any_threads([&] {
    std::vector<T> values(x.size() + 2 * columns);  // dx, dgamma, dbeta
    T* dx = values.data();
    T* parameter_gradients = dx + x.size();
    if (batch) {
      backend.batch_norm_backward(dtype_of<T>, e.rows, e.columns, x.data(), gamma.data(), mean.data(),
                                  rstd.data(), dy.data(), dx, parameter_gradients,
                                  parameter_gradients + columns);
    } else {
      backend.norm_backward({.dtype = dtype_of<T>,
                             .narrow = dtype_of<T>,
                             .rows = e.rows,
                             .columns = e.columns,
                             .gamma = gamma.data()},
                            x.data(), mean.data(), rstd.data(), dy.data(), nullptr, dx, nullptr,
                            parameter_gradients, parameter_gradients + columns);
    }
    return values;
  });
  const auto element = [&](size_t group, size_t member) {
    return batch ? member * columns + group : group * columns + member;
  };
  std::vector<double> expected_mean, expected_variance, expected_rstd, expected_y(x.size()),
      expected_dx(x.size());
  std::vector<long double> sum_products(columns, 0), sums(columns, 0);
  for (size_t g = 0; g < groups; ++g) {
    Row values;
    for (size_t i = 0; i < members; ++i) values.push_back(static_cast<long double>(x[element(g, i)]));
    const Moments m = moments(values);
    const long double inverse = 1 / std::sqrt(m.variance + static_cast<long double>(epsilon));
    expected_mean.push_back(static_cast<double>(m.mean));
    expected_variance.push_back(static_cast<double>(m.variance));
    expected_rstd.push_back(static_cast<double>(inverse));
    long double mean_gradient = 0, mean_product = 0;
    for (size_t i = 0; i < members; ++i) {
      const size_t column = element(g, i) % columns;
      const long double h = (values[i] - m.mean) * inverse, d = static_cast<long double>(dy[element(g, i)]);
      const long double scale = static_cast<long double>(gamma[column]);
      expected_y[element(g, i)] = static_cast<double>(h * scale + static_cast<long double>(beta[column]));
      mean_gradient += d * scale / static_cast<long double>(members);
      mean_product += d * scale * h / static_cast<long double>(members);
      sum_products[column] += d * h;
      sums[column] += d;
    }
    for (size_t i = 0; i < members; ++i) {
      const long double h = (values[i] - m.mean) * inverse;
      const long double d = static_cast<long double>(dy[element(g, i)]) *
                            static_cast<long double>(gamma[element(g, i) % columns]);
      expected_dx[element(g, i)] = static_cast<double>(inverse * (d - mean_gradient - h * mean_product));
    }
  }
  std::vector<double> expected_gradients(expected_dx);
  for (long double sum : sum_products) expected_gradients.push_back(static_cast<double>(sum));
  for (long double sum : sums) expected_gradients.push_back(static_cast<double>(sum));
  const double spread = 1.0 / *std::max_element(expected_rstd.begin(), expected_rstd.end());
  expect_close(mean, expected_mean, 8.0);
  if (batch) expect_close(variance, expected_variance, 16.0);
  expect_close(rstd, expected_rstd, 16.0);
  // An error of the mean, relative to the spread, moves every normalized element.
  const double largest = std::fabs(*std::max_element(expected_mean.begin(), expected_mean.end()));
  const double units = 32.0 * std::fmax(1.0, largest / spread);
  expect_close(y, expected_y, units);
  expect_close(gradients, expected_gradients, units * 8, std::fmax(1.0, 1.0 / spread));
  for (size_t i = x.size(); i < gradients.size(); ++i) {
    ASSERT_NEAR(static_cast<double>(gradients[i]), expected_gradients[i],
                units * std::numeric_limits<T>::epsilon() * 2 * static_cast<double>(rows));
  }
}

TYPED_TEST(Normalization, LayerNormAndItsBackward) {
  for (const RowsAndColumns& e : kRowsAndColumns)
    check_norm(e, false, random_values<TypeParam>(e.rows * e.columns, 50));
}

TYPED_TEST(Normalization, BatchNormAndItsBackward) {
  for (const RowsAndColumns& e : kRowsAndColumns)
    check_norm(e, true, random_values<TypeParam>(e.rows * e.columns, 50));
}

TYPED_TEST(Normalization, AMeanFarAboveTheSpreadDoesNotCancelTheVariance) {
  using T = TypeParam;
  // Spread 1 around 1000: in fp32, E[x^2] - E[x]^2 would leave an error of 0.1 in a variance of 1/3.
  const RowsAndColumns e{4096, 16};
  const std::vector<T> x = random_values<T>(e.rows * e.columns, 54, 999.0, 1001.0);
  const std::vector<T> ones(16, T(1)), zeros(16, T(0));
  std::vector<T> y(x.size()), mean(4096), variance(16), rstd(4096);
  this->backend.batch_norm(this->kDType, e.rows, e.columns, x.data(), ones.data(), zeros.data(), 0.0,
                           y.data(), mean.data(), variance.data(), rstd.data());
  for (T value : variance) EXPECT_NEAR(static_cast<double>(value), 1.0 / 3, 0.02);
  for (int64_t c = 0; c < 16; ++c) {
    Row column;
    for (int64_t r = 0; r < e.rows; ++r)
      column.push_back(static_cast<long double>(x[static_cast<size_t>(r * 16 + c)]));
    EXPECT_NEAR(static_cast<double>(variance[static_cast<size_t>(c)]),
                static_cast<double>(moments(column).variance),
                40 * static_cast<double>(std::numeric_limits<T>::epsilon()));
  }
  this->backend.norm({.dtype = this->kDType,
                      .narrow = this->kDType,
                      .rows = 16,
                      .columns = 4096,
                      .gamma = std::vector<T>(4096, T(1)).data(),
                      .epsilon = 0.0},
                     x.data(), nullptr, std::vector<T>(4096, T(0)).data(), nullptr, y.data(), mean.data(),
                     rstd.data());
  for (int64_t r = 0; r < 16; ++r) {
    const long double exact = 1 / std::sqrt(moments(row_of(x, r, 4096)).variance);
    EXPECT_NEAR(static_cast<double>(rstd[static_cast<size_t>(r)]), static_cast<double>(exact),
                40 * static_cast<double>(std::numeric_limits<T>::epsilon()));
  }
}

// Of a mean 1e4 times the spread, one pass over x keeps no digit of E[x^2] - E[x]^2 in fp32; nor must a value
// that x is taken relative to cost digits, when it is one far away from all others.
TYPED_TEST(Normalization, ALargeCommonOffsetDoesNotCancelOnAnyDevice) {
  using T = TypeParam;
  const double offset = 1e4, unit = offset * static_cast<double>(std::numeric_limits<T>::epsilon());
  std::vector<Backend*> devices = {&cpu_backend()};
  if (test_device() != "cpu") devices.push_back(&test_backend());
  for (Backend* device : devices) {
    for (const RowsAndColumns& e :
         {RowsAndColumns{40, 64}, {2048, 16}, {4099, 5}, {50'000, 8}, {3000, 520}}) {
      for (const bool outlier : {false, true}) {
        SCOPED_TRACE(std::to_string(e.rows) + "x" + std::to_string(e.columns) + (outlier ? ", outlier" : "") +
                     (device == devices[0] ? " on the CPU" : " on the device"));
        const size_t columns = static_cast<size_t>(e.columns);
        const double side = std::sqrt(3.0);  // of a uniform distribution with spread 1
        std::vector<T> x = random_values<T>(e.rows * e.columns, 56, offset - side, offset + side);
        if (outlier) std::fill_n(x.begin(), columns, T(2 * offset));
        Arrays arrays(*device, 0);
        const T* const in = arrays.input(x);
        const T* const gamma = arrays.input(std::vector<T>(columns, T(1)));
        const T* const beta = arrays.input(std::vector<T>(columns, T(0)));
        T* const y = arrays.output<T>(e.rows * e.columns);
        T* const statistics[3] = {arrays.output<T>(e.columns), arrays.output<T>(e.columns),
                                  arrays.output<T>(e.columns)};
        device->batch_norm(this->kDType, e.rows, e.columns, in, gamma, beta, 0.0, y, statistics[0],
                           statistics[1], statistics[2]);
        const std::vector<Arrays::Result> results = arrays.results();
        for (size_t c = 0; c < columns; ++c) {
          Row column;
          for (size_t i = c; i < x.size(); i += columns) column.push_back(static_cast<long double>(x[i]));
          const Moments exact = moments(column);
          const double mean = static_cast<double>(exact.mean), variance = static_cast<double>(exact.variance);
          const double rstd = 1 / std::sqrt(variance);
          ASSERT_NEAR(results[1].values[c], mean, 4 * unit);
          ASSERT_NEAR(results[2].values[c], variance, unit * variance);
          ASSERT_NEAR(results[3].values[c], rstd, unit * rstd);
          for (size_t i = c; i < x.size(); i += columns) {
            const double normalized =
                static_cast<double>((static_cast<long double>(x[i]) - exact.mean)) * rstd;
            ASSERT_NEAR(results[0].values[i], normalized,
                        (4 * unit + unit * std::fabs(normalized)) * std::fmax(rstd, 1e-3));
          }
        }
      }
    }
  }
}

TYPED_TEST(Normalization, ConstantInputNormalizesToBeta) {
  using T = TypeParam;
  const std::vector<T> x(96, T(3)), gamma(8, T(2)), beta = random_values<T>(8, 55);
  std::vector<T> y(96), mean(12), variance(8), rstd(12);
  this->backend.batch_norm(this->kDType, 12, 8, x.data(), gamma.data(), beta.data(), 1e-5, y.data(),
                           mean.data(), variance.data(), rstd.data());
  for (size_t i = 0; i < 96; ++i) EXPECT_EQ(y[i], beta[i % 8]);
  this->backend.norm({.dtype = this->kDType,
                      .narrow = this->kDType,
                      .rows = 12,
                      .columns = 8,
                      .gamma = gamma.data(),
                      .epsilon = 1e-5},
                     x.data(), nullptr, beta.data(), nullptr, y.data(), mean.data(), rstd.data());
  for (size_t i = 0; i < 96; ++i) EXPECT_EQ(y[i], beta[i % 8]);
}

}  // namespace
}  // namespace lockstep::test
