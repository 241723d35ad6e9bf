// The GPU's own kernels against the CPU's table: the same bits where the order of operations is defined,
// close values where sums have an order of their own. Run where LOCKSTEP_TEST_DEVICE=cuda, skipped elsewhere.
#include <algorithm>
#include <array>
#include <functional>
#include <initializer_list>
#include <numeric>

#include "device.h"
#include "kernels/arrays.h"
#include "lockstep/core/error.h"

namespace lockstep::test {
namespace {

// Values in memory of a backend, `skipped` elements behind an aligned address; the elements around them must
// stay as they are.
template <class T>
class Placed {
 public:
  Placed(Backend& backend, const std::vector<T>& values, int64_t skipped = 0)
      : backend_(backend), skipped_(static_cast<size_t>(skipped)), count_(values.size()) {
    around_.assign(count_ + 2 * skipped_ + 1, static_cast<T>(77));
    std::copy(values.begin(), values.end(), around_.begin() + static_cast<std::ptrdiff_t>(skipped_));
    memory_ = backend.allocate(bytes());
    backend.copy_from_host(memory_, around_.data(), bytes());
  }
  // Room for n results.
  Placed(Backend& backend, int64_t n, int64_t skipped = 0)
      : Placed(backend, std::vector<T>(static_cast<size_t>(n), static_cast<T>(55)), skipped) {}
  Placed(const Placed&) = delete;
  ~Placed() { backend_.release(memory_, bytes()); }

  T* data() const { return static_cast<T*>(memory_) + skipped_; }
  std::vector<T> values() const {
    std::vector<T> now(around_.size());
    backend_.copy_to_host(now.data(), memory_, bytes());
    for (size_t i = 0; i < now.size(); ++i) {
      if (i >= skipped_ && i < skipped_ + count_) continue;
      EXPECT_EQ(static_cast<double>(now[i]), 77.0) << "written outside of the array";
    }
    const auto begin = now.begin() + static_cast<std::ptrdiff_t>(skipped_);
    return {begin, begin + static_cast<std::ptrdiff_t>(count_)};
  }

 private:
  size_t bytes() const { return around_.size() * sizeof(T); }
  Backend& backend_;
  size_t skipped_, count_;
  std::vector<T> around_;
  void* memory_ = nullptr;
};

template <class T>
bool same(T a, T b) {
  return std::memcmp(&a, &b, sizeof(T)) == 0 ||
         (std::isnan(static_cast<double>(a)) && std::isnan(static_cast<double>(b)));
}

template <class T>
void expect_same(const std::vector<T>& device, const std::vector<T>& cpu) {
  ASSERT_EQ(device.size(), cpu.size());
  for (size_t i = 0; i < cpu.size(); ++i) {
    ASSERT_TRUE(same(device[i], cpu[i]))
        << "element " << i << " of " << cpu.size() << ": cpu " << static_cast<double>(cpu[i]) << ", device "
        << static_cast<double>(device[i]);
  }
}

template <class T>
constexpr double kUnitRoundoff = std::is_same_v<T, BFloat16>  ? 0x1p-7
                                 : std::is_same_v<T, Float16> ? 0x1p-10
                                 : std::is_same_v<T, float>   ? 0x1p-23
                                                              : 0x1p-52;

// |device - cpu| <= units epsilons of max(|cpu|, scale), two of them for 16-bit results, which are rounded
// sums in fp32.
template <class T>
void expect_near(const std::vector<T>& device, const std::vector<T>& cpu, double units, double scale = 1.0) {
  ASSERT_EQ(device.size(), cpu.size());
  for (size_t i = 0; i < cpu.size(); ++i) {
    const double expected = static_cast<double>(cpu[i]), got = static_cast<double>(device[i]);
    if (same(device[i], cpu[i])) continue;
    const double bound =
        (sizeof(T) == 2 ? 2.0 : units) * kUnitRoundoff<T> * std::max(std::fabs(expected), scale);
    if (std::fabs(got - expected) <= bound) continue;
    FAIL() << "element " << i << " of " << cpu.size() << ": cpu " << expected << ", device " << got
           << ", bound " << bound;
  }
}

template <class T>
class CudaKernels : public ::testing::Test {
 protected:
  void SetUp() override {
    if (test_device() != "cuda") GTEST_SKIP() << "the device is the CPU";
    device_ = &test_backend();
  }
  // Expects the same from compute(backend, skipped) on the CPU and, aligned and not, on the device.
  template <class Compute, class Compare>
  void compare(const Compute& compute, const Compare& comparison) {
    const auto expected = compute(cpu_backend(), int64_t{0});
    for (int64_t skipped : {int64_t{0}, int64_t{3}}) {
      SCOPED_TRACE("skipped " + std::to_string(skipped));
      comparison(compute(*device_, skipped), expected);
      if (this->HasFatalFailure()) return;
    }
  }
  template <class R, class Compute>
  void compare_bits(const Compute& compute) {
    compare(compute,
            [](const std::vector<R>& device, const std::vector<R>& cpu) { expect_same(device, cpu); });
  }
  template <class R, class Compute>
  void compare_near(double units, double scale, const Compute& compute) {
    compare(compute, [=](const std::vector<R>& device, const std::vector<R>& cpu) {
      expect_near(device, cpu, units, scale);
    });
  }

  template <class Compute>
  void compare_unary(const Compute& compute) {
    if constexpr (std::is_same_v<T, double>) {
      compare_near<T>(8, 1, compute);
    } else {
      compare_bits<T>(compute);
    }
  }

  static constexpr DType kDType = dtype_of<T>;
  Backend* device_ = nullptr;
};
using StoredTypes = ::testing::Types<double, float, BFloat16, Float16>;
TYPED_TEST_SUITE(CudaKernels, StoredTypes);

template <class T>
class CudaLosses : public CudaKernels<T> {};
TYPED_TEST_SUITE(CudaLosses, Precisions);

constexpr int64_t kGpuSizes[] = {0, 1, 2, 7, 31, 32, 33, 1023, 1024, 1025, 5003};

// Random values with the extremes among them.
template <class T>
std::vector<T> wild_values(int64_t n, uint32_t salt) {
  std::vector<T> values = random_values<T>(n, salt, -6.0, 6.0);
  const double inf = std::numeric_limits<double>::infinity();
  const double wild[] = {0.0,  -0.0, 1e4, -1e4, inf, -inf, std::numeric_limits<double>::quiet_NaN(),
                         1e-7, -1e-7};
  if (n < 20) return values;
  for (size_t i = 0; i < std::size(wild); ++i) values[2 * i + 1] = static_cast<T>(wild[i]);
  return values;
}

// Own formulas up to fp32; in fp64 exp, log, tanh and erf are those of the C library and of CUDA, each right
// to a unit or two.
TYPED_TEST(CudaKernels, UnaryOperationsAndDerivativesHaveTheCpusBitsUpToFp64Functions) {
  using T = TypeParam;
  for (int op = 0; op <= static_cast<int>(UnaryOp::kReluSquared); ++op) {
    const UnaryOp unary = static_cast<UnaryOp>(op);
    for (int64_t n : {0, 1, 33, 1025}) {
      SCOPED_TRACE("op " + std::to_string(op) + ", n " + std::to_string(n));
      const std::vector<T> x = wild_values<T>(n, 1), dy = random_values<T>(n, 2);
      this->compare_unary([&](Backend& backend, int64_t skipped) {
        const Placed<T> in(backend, x, skipped), out(backend, n);
        backend.unary(unary, this->kDType, n, in.data(), out.data());
        return out.values();
      });
      if (unary == UnaryOp::kNegate || unary == UnaryOp::kSign) continue;
      this->compare_unary([&](Backend& backend, int64_t skipped) {
        const Placed<T> in(backend, x, skipped), gradient(backend, dy, 2 * skipped), out(backend, n, skipped);
        const Placed<T> value(backend, n);
        backend.unary(unary, this->kDType, n, in.data(), value.data());
        backend.unary_backward(unary, this->kDType, n, in.data(), value.data(), gradient.data(), out.data());
        return out.values();
      });
    }
  }
}

// Their zeros, bounds and reciprocals are instructions of the device's own.
TYPED_TEST(CudaKernels, GelusOfEvery16BitArgumentHaveTheCpusBits) {
  using T = TypeParam;
  if constexpr (sizeof(T) == 2) {
    std::vector<T> x(65536);
    for (size_t i = 0; i < x.size(); ++i) x[i].bits = static_cast<uint16_t>(i);
    const int64_t n = 65536;
    const std::vector<T> dy(x.size(), T(1.0f));
    for (const UnaryOp op : {UnaryOp::kGelu, UnaryOp::kGeluTanh}) {
      SCOPED_TRACE("op " + std::to_string(static_cast<int>(op)));
      this->template compare_bits<T>([&](Backend& backend, int64_t skipped) {
        const Placed<T> in(backend, x, skipped), out(backend, n);
        backend.unary(op, this->kDType, n, in.data(), out.data());
        return out.values();
      });
      this->template compare_bits<T>([&](Backend& backend, int64_t skipped) {
        const Placed<T> in(backend, x, skipped), gradient(backend, dy, skipped), out(backend, n, skipped);
        backend.unary_backward(op, this->kDType, n, in.data(), in.data(), gradient.data(), out.data());
        return out.values();
      });
    }
  }
}

TYPED_TEST(CudaKernels, ScalingAccumulationAndFillsHaveTheCpusBits) {
  using T = TypeParam;
  for (int64_t n : kGpuSizes) {
    SCOPED_TRACE("n " + std::to_string(n));
    const std::vector<T> x = wild_values<T>(n, 3), y = random_values<T>(n, 4);
    this->template compare_bits<T>([&](Backend& backend, int64_t skipped) {
      const Placed<T> in(backend, x, skipped), out(backend, n, skipped);
      backend.scale_shift(this->kDType, n, in.data(), 1.7, -0.3, out.data());
      return out.values();
    });
    this->template compare_bits<T>([&](Backend& backend, int64_t skipped) {
      const Placed<T> in(backend, x), sum(backend, y, skipped);
      backend.accumulate(this->kDType, n, in.data(), sum.data());
      return sum.values();
    });
    this->template compare_bits<T>([&](Backend& backend, int64_t skipped) {
      const Placed<T> out(backend, n, skipped);
      backend.fill(this->kDType, n, out.data(), 2.0 / 3.0);
      return out.values();
    });
  }
}

template <class From, class To>
void compare_cast(Backend& device) {
  if constexpr (!std::is_same_v<From, To>) {
    for (int64_t n : {0, 1, 31, 1025}) {
      std::vector<From> x;
      for (double value : wild_values<double>(n, 5)) {
        if constexpr (std::is_integral_v<From>) {
          const double bounded = std::isfinite(value) ? value * 40.0 : 0.0;
          x.push_back(
              static_cast<From>(std::is_unsigned_v<From> ? std::min(std::fabs(bounded), 255.0) : bounded));
        } else {
          x.push_back(static_cast<From>(value * 100.0));
        }
      }
      const auto compute = [&](Backend& backend, int64_t skipped) {
        const Placed<From> in(backend, x, skipped);
        const Placed<To> out(backend, n, 2 * skipped);
        backend.cast(dtype_of<From>, dtype_of<To>, n, in.data(), out.data());
        return out.values();
      };
      const std::vector<To> expected = compute(cpu_backend(), 0);
      expect_same(compute(device, 0), expected);
      expect_same(compute(device, 1), expected);
    }
  }
}

TYPED_TEST(CudaKernels, CastsToAndFromEveryTypeHaveTheCpusBits) {
  using T = TypeParam;
  const auto both = [&]<class Other>(Other) {
    compare_cast<T, Other>(*this->device_);
    compare_cast<Other, T>(*this->device_);
  };
  both(double{});
  both(float{});
  both(BFloat16{});
  both(Float16{});
  both(int32_t{});
  both(int64_t{});
  both(uint8_t{});
}

TYPED_TEST(CudaKernels, BroadcastsOfEveryKindHaveTheCpusBits) {
  using T = TypeParam;
  struct Case {
    int rank;
    std::array<int64_t, 4> extents;
    std::array<int64_t, 4> a, b;
  };
  const Case cases[] = {
      {0, {}, {}, {}},
      {1, {1025}, {1}, {1}},
      {1, {1025}, {1}, {0}},
      {1, {1025}, {0}, {1}},
      {1, {70}, {0}, {0}},
      {1, {70}, {3}, {1}},
      {2, {33, 64}, {64, 1}, {0, 1}},  // row vector
      {2, {33, 64}, {1, 0}, {64, 1}},  // column vector
      {2, {33, 64}, {1, 0}, {0, 1}},   // outer product
      {2, {33, 10}, {10, 1}, {0, 1}},  // rows that are no vectors
      {2, {1, 64}, {64, 1}, {64, 0}},
      {2, {5, 0}, {0, 1}, {0, 1}},
      {3, {3, 5, 16}, {80, 16, 1}, {16, 0, 1}},
      {3, {3, 5, 16}, {0, 16, 1}, {5, 1, 0}},
      {4, {2, 3, 4, 7}, {84, 0, 7, 1}, {0, 28, 0, 1}},
      {3, {3, 5, 16}, {80, 1, 5}, {80, 16, 1}},  // neither 0 nor 1 along the last axis
  };
  const std::vector<T> a = wild_values<T>(4000, 6), b = random_values<T>(4000, 7);
  for (const Case& c : cases) {
    BroadcastPlan plan;
    plan.rank = c.rank;
    int64_t n = 1;
    for (int axis = 0; axis < c.rank; ++axis) {
      const size_t i = static_cast<size_t>(axis);
      plan.extents[axis] = c.extents[i];
      plan.strides_a[axis] = c.a[i];
      plan.strides_b[axis] = c.b[i];
      n *= c.extents[i];
    }
    for (int op = 0; op <= static_cast<int>(BinaryOp::kGreaterEqual); ++op) {
      SCOPED_TRACE("case " + std::to_string(&c - cases) + ", op " + std::to_string(op));
      this->template compare_bits<T>([&](Backend& backend, int64_t skipped) {
        const Placed<T> left(backend, a, skipped), right(backend, b), out(backend, n, skipped);
        backend.binary(static_cast<BinaryOp>(op), this->kDType, plan, left.data(), right.data(), out.data());
        return out.values();
      });
    }
  }
}

TYPED_TEST(CudaKernels, PermutationsMoveEveryElementToItsPlace) {
  using T = TypeParam;
  struct Case {
    std::vector<int64_t> extents;
    std::vector<int> permutation;
  };
  const Case cases[] = {{{70, 130}, {1, 0}},
                        {{3, 65, 66}, {0, 2, 1}},
                        {{66, 3, 65}, {2, 1, 0}},
                        {{2, 9, 4, 16}, {0, 2, 1, 3}},
                        {{2, 9, 4, 7}, {0, 2, 1, 3}},
                        {{5, 3, 100}, {1, 2, 0}},
                        {{100, 2}, {1, 0}},
                        {{1, 1, 5}, {2, 0, 1}},
                        {{0, 5}, {1, 0}},
                        {{2, 3, 4, 5, 6, 7}, {5, 3, 1, 0, 4, 2}}};
  for (const Case& c : cases) {
    SCOPED_TRACE("case " + std::to_string(&c - cases));
    const int64_t n = std::accumulate(c.extents.begin(), c.extents.end(), int64_t{1}, std::multiplies<>());
    const std::vector<T> x = random_values<T>(n, 8);
    this->template compare_bits<T>([&](Backend& backend, int64_t skipped) {
      const Placed<T> in(backend, x, skipped), out(backend, n, skipped);
      backend.permute(sizeof(T), static_cast<int>(c.extents.size()), c.extents.data(), c.permutation.data(),
                      in.data(), out.data());
      return out.values();
    });
  }
}

TYPED_TEST(CudaKernels, BlocksOfRowsAreCopiedBetweenArraysOfAnyPitch) {
  using T = TypeParam;
  struct Case {
    int64_t outer, width, x_pitch, y_pitch;
  };
  for (const Case& c :
       {Case{1, 9, 20, 30}, {5, 16, 32, 48}, {5, 7, 9, 11}, {300, 1, 3, 2}, {0, 4, 4, 4}, {4, 0, 4, 4}}) {
    SCOPED_TRACE("width " + std::to_string(c.width));
    const std::vector<T> x = random_values<T>(c.outer * c.x_pitch, 9);
    this->template compare_bits<T>([&](Backend& backend, int64_t skipped) {
      const Placed<T> in(backend, x, skipped), out(backend, c.outer * c.y_pitch, skipped);
      const auto bytes = [](int64_t elements) { return static_cast<size_t>(elements) * sizeof(T); };
      backend.copy_rows(c.outer, bytes(c.width), in.data(), bytes(c.x_pitch), out.data(), bytes(c.y_pitch));
      return out.values();
    });
  }
}

TYPED_TEST(CudaKernels, ReductionsOverAnyAxisComeCloseAndMaximaAreExact) {
  using T = TypeParam;
  struct Case {
    int64_t outer, extent, inner;
  };
  const Case cases[] = {{1, 1, 1},    {3, 31, 1},     {9, 33, 1},     {5, 1024, 1},    {3, 1025, 1},
                        {2, 5000, 1}, {1, 40'001, 1}, {2, 40'000, 1}, {1, 0, 1},       {2, 0, 3},
                        {1, 3, 1},    {4, 7, 5},      {1, 1000, 3},   {1, 3000, 16},   {2, 100, 64},
                        {1, 5, 1000}, {1, 9000, 33},  {3, 1, 8},      {1, 20'000, 2},  {0, 4, 4},
                        {1, 16, 40},  {1, 2048, 40},  {1, 2049, 8},   {1, 300'000, 8}, {1, 700, 1000},
                        {3, 3000, 24}};
  for (const Case& c : cases) {
    SCOPED_TRACE(std::to_string(c.outer) + "," + std::to_string(c.extent) + "," + std::to_string(c.inner));
    std::vector<T> x = random_values<T>(c.outer * c.extent * c.inner, 10);
    for (ReduceOp op : {ReduceOp::kSum, ReduceOp::kMean, ReduceOp::kMax}) {
      const auto compute = [&](Backend& backend, int64_t skipped) {
        const Placed<T> in(backend, x, skipped), out(backend, c.outer * c.inner, skipped);
        backend.reduce(op, this->kDType, c.outer, c.extent, c.inner, in.data(), out.data());
        return out.values();
      };
      if (op == ReduceOp::kMax) {
        this->template compare_bits<T>(compute);
      } else {
        const double spread = op == ReduceOp::kSum ? std::sqrt(static_cast<double>(c.extent)) : 1.0;
        this->template compare_near<T>(8.0, std::max(1.0, 2.0 * spread), compute);
      }
      EXPECT_TRUE(same_bits(compute(*this->device_, 0), compute(*this->device_, 1)))
          << "the order of a sum depends on where the array begins";
    }
    if (x.size() > 2) {
      x[x.size() / 2] = static_cast<T>(std::numeric_limits<double>::quiet_NaN());
      this->template compare_bits<T>([&](Backend& backend, int64_t) {
        const Placed<T> in(backend, x), out(backend, c.outer * c.inner);
        backend.reduce(ReduceOp::kMax, this->kDType, c.outer, c.extent, c.inner, in.data(), out.data());
        return out.values();
      });
    }
  }
}

TYPED_TEST(CudaKernels, SquareSumsHaveTheCpusBits) {
  using T = TypeParam;
  for (int64_t n : {0, 1, 33, 4095, 4096, 4097, 40'000}) {
    const std::vector<T> x = random_values<T>(n, 11);
    this->template compare_bits<double>([&](Backend& backend, int64_t skipped) {
      const Placed<T> in(backend, x, skipped);
      const Placed<double> sums(backend, (n + Backend::kNormBlock - 1) / Backend::kNormBlock);
      backend.block_square_sums(this->kDType, n, in.data(), sums.data());
      return sums.values();
    });
  }
}

TYPED_TEST(CudaKernels, OneNonFiniteElementAnywhereIsFound) {
  using T = TypeParam;
  const double inf = std::numeric_limits<double>::infinity();
  for (int64_t n : {0, 1, 33, 5003}) {
    for (int64_t skipped : {0, 3}) {
      std::vector<T> x = random_values<T>(n, 12, -1e4, 1e4);
      EXPECT_TRUE(this->device_->all_finite(this->kDType, n, Placed<T>(*this->device_, x, skipped).data()));
      for (int64_t at : {int64_t{0}, n / 2, n - 1}) {
        if (n == 0) break;
        for (double bad : {inf, -inf, std::numeric_limits<double>::quiet_NaN()}) {
          std::vector<T> y = x;
          y[static_cast<size_t>(at)] = static_cast<T>(bad);
          EXPECT_FALSE(
              this->device_->all_finite(this->kDType, n, Placed<T>(*this->device_, y, skipped).data()));
        }
      }
    }
  }
}

struct Extents {
  int64_t rows, columns;
};
constexpr Extents kExtents[] = {{1, 1},    {33, 10},    {5, 16},     {9, 31},    {4, 32},    {3, 33},
                                {5, 256},  {3, 257},    {4, 768},    {2, 1023},  {2, 1024},  {2, 1025},
                                {2, 2048}, {2, 3000},   {2, 4097},   {2, 8192},  {1, 8200},  {1, 20'001},
                                {40, 130}, {1000, 24},  {300, 64},   {3, 512},   {13, 1000}, {13, 1001},
                                {9, 4096}, {1, 16'384}, {1, 30'000}, {1, 33'000}};

TYPED_TEST(CudaKernels, SoftmaxAndItsDerivativeComeClose) {
  using T = TypeParam;
  for (const Extents& e : kExtents) {
    if (e.rows > 100) continue;
    const int64_t n = e.rows * e.columns;
    const std::vector<T> x = random_values<T>(n, 13, -8.0, 8.0), dy = random_values<T>(n, 14);
    for (bool log_form : {false, true}) {
      SCOPED_TRACE(std::to_string(e.rows) + "," + std::to_string(e.columns) + (log_form ? " log" : ""));
      const auto forward = [&](Backend& backend, int64_t skipped) {
        const Placed<T> in(backend, x, skipped), out(backend, n, skipped);
        backend.softmax(log_form, this->kDType, e.rows, e.columns, in.data(), out.data());
        return out.values();
      };
      this->template compare_near<T>(16.0, log_form ? 1.0 : 1e-6, forward);
      const std::vector<T> y = forward(cpu_backend(), 0);
      this->template compare_near<T>(16.0, 1.0, [&](Backend& backend, int64_t skipped) {
        const Placed<T> value(backend, y, skipped), gradient(backend, dy, skipped), out(backend, n, skipped);
        backend.softmax_backward(log_form, this->kDType, e.rows, e.columns, value.data(), gradient.data(),
                                 out.data());
        return out.values();
      });
      EXPECT_TRUE(same_bits(forward(*this->device_, 0), forward(*this->device_, 1)));
    }
  }
}

TYPED_TEST(CudaKernels, SoftmaxTreatsInfinitiesAndNanAsTheCpuDoes) {
  using T = TypeParam;
  const double inf = std::numeric_limits<double>::infinity();
  // One warp's row, one block's, one that is read again.
  for (int64_t columns : {8, 7, 2000, 9001}) {
    const double marks[][2] = {{1e4, -1e4}, {-inf, 1.0}, {inf, 1.0}, {-inf, -inf}, {0.0, std::nan("")}};
    for (const auto& mark : marks) {
      std::vector<T> x(static_cast<size_t>(columns), static_cast<T>(mark[1] == -inf ? -inf : -1e4));
      for (size_t i = 0; i < x.size() / 2; ++i) x[i] = static_cast<T>(mark[0]);
      x.back() = static_cast<T>(mark[1]);
      for (bool log_form : {false, true}) {
        SCOPED_TRACE(std::to_string(columns) + ": " + std::to_string(mark[0]) + ", " +
                     std::to_string(mark[1]));
        this->template compare_near<T>(4.0, 1e-30, [&](Backend& backend, int64_t) {
          const Placed<T> in(backend, x), out(backend, columns);
          backend.softmax(log_form, this->kDType, 1, columns, in.data(), out.data());
          return out.values();
        });
      }
    }
  }
}

TYPED_TEST(CudaLosses, CrossEntropyAndItsDerivativeComeClose) {
  using T = TypeParam;
  for (const Extents& e : kExtents) {
    if (e.rows > 100) continue;
    SCOPED_TRACE(std::to_string(e.rows) + "," + std::to_string(e.columns));
    const int64_t n = e.rows * e.columns;
    const std::vector<T> logits = random_values<T>(n, 15, -8.0, 8.0),
                         weights = random_values<T>(e.rows, 16, 0.0, 2.0);
    const std::vector<T> dlosses = random_values<T>(e.rows, 17);
    const std::vector<int32_t> labels = random_indices(e.rows, 18, static_cast<int32_t>(e.columns));
    for (bool weighted : {false, true}) {
      this->template compare_near<T>(32.0, 1e-4, [&](Backend& backend, int64_t skipped) {
        const Placed<T> x(backend, logits, skipped), weight(backend, weights), loss(backend, e.rows),
            p(backend, n, skipped);
        const Placed<int32_t> label(backend, labels);
        backend.cross_entropy(this->kDType, e.rows, e.columns, x.data(), label.data(),
                              weighted ? weight.data() : nullptr, loss.data(), p.data());
        std::vector<T> all = p.values();
        for (T value : loss.values()) all.push_back(value);
        return all;
      });
      this->template compare_bits<T>([&](Backend& backend, int64_t skipped) {
        const Placed<T> p(backend, logits, skipped), weight(backend, weights), loss(backend, dlosses);
        const Placed<T> out(backend, n, skipped);
        const Placed<int32_t> label(backend, labels);
        backend.cross_entropy_backward(this->kDType, e.rows, e.columns, p.data(), label.data(),
                                       weighted ? weight.data() : nullptr, loss.data(), out.data());
        return out.values();
      });
    }
  }
}

TYPED_TEST(CudaKernels, LayerNormAndItsDerivativesComeClose) {
  using T = TypeParam;
  using A = Accumulation<T>;
  for (const Extents& e : kExtents) {
    SCOPED_TRACE(std::to_string(e.rows) + "," + std::to_string(e.columns));
    const int64_t n = e.rows * e.columns;
    const std::vector<T> x = random_values<T>(n, 19, -1.0, 4.0), dy = random_values<T>(n, 20);
    const std::vector<A> gamma = random_values<A>(e.columns, 21), beta = random_values<A>(e.columns, 22);
    const std::vector<A> mean = random_values<A>(e.rows, 23), rstd = random_values<A>(e.rows, 24, 0.5, 1.0);
    this->template compare_near<T>(64.0, 1.0, [&](Backend& backend, int64_t skipped) {
      const Placed<T> in(backend, x, skipped), out(backend, n, skipped);
      const Placed<A> scale(backend, gamma), shift(backend, beta), center(backend, e.rows),
          inverse(backend, e.rows);
      backend.norm({.dtype = this->kDType,
                    .narrow = this->kDType,
                    .rows = e.rows,
                    .columns = e.columns,
                    .gamma = scale.data(),
                    .epsilon = 1e-5},
                   in.data(), nullptr, shift.data(), nullptr, out.data(), center.data(), inverse.data());
      return out.values();
    });
    std::vector<A> dgamma, dbeta;
    const double spread = 8.0 * std::sqrt(static_cast<double>(e.rows));
    this->template compare_near<T>(64.0, 4.0, [&](Backend& backend, int64_t skipped) {
      const Placed<T> in(backend, x, skipped), gradient(backend, dy, skipped), out(backend, n, skipped);
      const Placed<A> scale(backend, gamma), center(backend, mean), inverse(backend, rstd);
      const Placed<A> scale_sums(backend, e.columns), shift_sums(backend, e.columns, skipped);
      backend.norm_backward({.dtype = this->kDType,
                             .narrow = this->kDType,
                             .rows = e.rows,
                             .columns = e.columns,
                             .gamma = scale.data()},
                            in.data(), center.data(), inverse.data(), gradient.data(), nullptr, out.data(),
                            nullptr, scale_sums.data(), shift_sums.data());
      if (&backend == &cpu_backend()) {
        dgamma = scale_sums.values();
        dbeta = shift_sums.values();
      } else {
        expect_near(scale_sums.values(), dgamma, 16.0, spread);
        expect_near(shift_sums.values(), dbeta, 16.0, spread);
      }
      return out.values();
    });
  }
}

// An infinite dy makes infinities of either sign and NaN of its own row, the same as on the CPU, wherever in
// the row it is: lanes that have no columns must add nothing of those that they read in their place.
TYPED_TEST(CudaKernels, LayerNormBackwardOfInfinitiesIsTheCpus) {
  using T = TypeParam;
  using A = Accumulation<T>;
  const double inf = std::numeric_limits<double>::infinity();
  const int64_t rows = 3;
  for (int64_t columns : {1, 7, 8, 24, 33, 200, 264, 520, 768, 1000, 1001, 2056, 4104, 4100, 8200, 8208}) {
    const int64_t n = rows * columns;
    const std::vector<T> x = random_values<T>(n, 61, -1.0, 4.0), finite = random_values<T>(n, 62);
    const std::vector<A> gamma = random_values<A>(columns, 63), mean = random_values<A>(rows, 64),
                         rstd = random_values<A>(rows, 65, 0.5, 1.0);
    std::vector<int64_t> positions;
    for (int64_t i = 0; i < columns; i += std::max<int64_t>(1, columns / 5)) positions.push_back(i);
    for (int64_t i = std::max<int64_t>(0, columns - 9); i < columns; ++i) positions.push_back(i);
    for (const int64_t position : positions) {
      const double value = position % 2 == 0 ? inf : -inf;
      SCOPED_TRACE(std::to_string(columns) + " columns, " + std::to_string(value) + " at " +
                   std::to_string(position));
      std::vector<T> dy = finite;
      dy[static_cast<size_t>(columns + position)] = static_cast<T>(value);
      std::vector<A> dgamma, dbeta;
      this->template compare_near<T>(64.0, 4.0, [&](Backend& backend, int64_t skipped) {
        const Placed<T> in(backend, x, skipped), gradient(backend, dy, skipped), out(backend, n, skipped);
        const Placed<A> scale(backend, gamma), center(backend, mean), inverse(backend, rstd),
            scale_sums(backend, columns), shift_sums(backend, columns);
        backend.norm_backward({.dtype = this->kDType,
                               .narrow = this->kDType,
                               .rows = rows,
                               .columns = columns,
                               .gamma = scale.data()},
                              in.data(), center.data(), inverse.data(), gradient.data(), nullptr, out.data(),
                              nullptr, scale_sums.data(), shift_sums.data());
        if (&backend == &cpu_backend()) {
          dgamma = scale_sums.values();
          dbeta = shift_sums.values();
        } else {
          expect_near(scale_sums.values(), dgamma, 16.0, 16.0);
          expect_near(shift_sums.values(), dbeta, 16.0, 16.0);
        }
        return out.values();
      });
    }
  }
}

TYPED_TEST(CudaKernels, BatchNormAndItsDerivativesComeClose) {
  using T = TypeParam;
  using A = Accumulation<T>;
  for (const Extents& e :
       {Extents{1, 1}, {7, 3}, {33, 16}, {100, 17}, {64, 64}, {4097, 8}, {10'001, 3}, {200, 300}}) {
    SCOPED_TRACE(std::to_string(e.rows) + "," + std::to_string(e.columns));
    const int64_t n = e.rows * e.columns;
    const std::vector<T> x = random_values<T>(n, 25, -1.0, 4.0), dy = random_values<T>(n, 26);
    const std::vector<A> gamma = random_values<A>(e.columns, 27), beta = random_values<A>(e.columns, 28);
    std::vector<A> statistics[3];
    this->template compare_near<T>(64.0, 1.0, [&](Backend& backend, int64_t skipped) {
      const Placed<T> in(backend, x, skipped), out(backend, n, skipped);
      const Placed<A> scale(backend, gamma), shift(backend, beta);
      const Placed<A> results[3] = {
          {backend, e.columns, skipped}, {backend, e.columns}, {backend, e.columns}};
      backend.batch_norm(this->kDType, e.rows, e.columns, in.data(), scale.data(), shift.data(), 1e-5,
                         out.data(), results[0].data(), results[1].data(), results[2].data());
      for (size_t k = 0; k < 3; ++k) {
        if (&backend == &cpu_backend()) {
          statistics[k] = results[k].values();
        } else {
          expect_near(results[k].values(), statistics[k], 32.0);
        }
      }
      return out.values();
    });
    std::vector<A> sums[2];
    this->template compare_near<T>(64.0, 4.0, [&](Backend& backend, int64_t skipped) {
      const Placed<T> in(backend, x, skipped), gradient(backend, dy, skipped), out(backend, n, skipped);
      const Placed<A> scale(backend, gamma), center(backend, statistics[0]), inverse(backend, statistics[2]);
      const Placed<A> results[2] = {{backend, e.columns}, {backend, e.columns}};
      backend.batch_norm_backward(this->kDType, e.rows, e.columns, in.data(), scale.data(), center.data(),
                                  inverse.data(), gradient.data(), out.data(), results[0].data(),
                                  results[1].data());
      for (size_t k = 0; k < 2; ++k) {
        if (&backend == &cpu_backend()) {
          sums[k] = results[k].values();
        } else {
          expect_near(results[k].values(), sums[k], 16.0, 8.0 * std::sqrt(static_cast<double>(e.rows)));
        }
      }
      return out.values();
    });
  }
}

TYPED_TEST(CudaKernels, BatchNormOfInfinitiesAndNaNIsTheCpus) {
  using T = TypeParam;
  using A = Accumulation<T>;
  const double inf = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
  const int64_t columns = 8;
  for (int64_t rows : {1, 2, 40, 5000}) {
    SCOPED_TRACE(std::to_string(rows) + " rows");
    std::vector<T> x = random_values<T>(rows * columns, 29);
    const auto put = [&](int64_t row, size_t column, double value) {
      x[static_cast<size_t>(row * columns) + column] = static_cast<T>(value);
    };
    put(0, 0, inf);
    put(rows / 2, 1, -inf);
    put(rows - 1, 2, inf);
    put(0, 3, inf), put(rows - 1, 3, -inf);
    for (int64_t r = 0; r < rows; ++r) put(r, 4, -inf);
    put(rows / 2, 5, nan);
    put(0, 6, inf), put(rows / 2, 6, inf);
    const std::vector<A> ones(columns, A(1));
    this->template compare_near<A>(32.0, 1.0, [&](Backend& backend, int64_t skipped) {
      const Placed<T> in(backend, x, skipped), out(backend, rows * columns, skipped);
      const Placed<A> scale(backend, ones), mean(backend, columns), variance(backend, columns),
          rstd(backend, columns);
      backend.batch_norm(this->kDType, rows, columns, in.data(), scale.data(), scale.data(), 1e-5, out.data(),
                         mean.data(), variance.data(), rstd.data());
      std::vector<A> all = mean.values();
      for (const std::vector<A>& more : {variance.values(), rstd.values()})
        all.insert(all.end(), more.begin(), more.end());
      for (T value : out.values()) all.push_back(static_cast<A>(value));
      return all;
    });
  }
}

TYPED_TEST(CudaKernels, EmbeddingAndItsOrderedDerivativeHaveTheCpusBits) {
  using T = TypeParam;
  struct Case {
    int64_t count, rows, width;
  };
  for (const Case& c :
       {Case{0, 5, 8}, {1, 1, 1}, {33, 7, 16}, {300, 3, 33}, {1000, 1, 24}, {257, 3000, 8}, {500, 50, 300}}) {
    SCOPED_TRACE("count " + std::to_string(c.count) + ", rows " + std::to_string(c.rows));
    const std::vector<T> table = random_values<T>(c.rows * c.width, 29),
                         dy = random_values<T>(c.count * c.width, 30);
    const std::vector<int32_t> indices = random_indices(c.count, 31, static_cast<int32_t>(c.rows));
    this->template compare_bits<T>([&](Backend& backend, int64_t skipped) {
      const Placed<T> from(backend, table, skipped), out(backend, c.count * c.width, skipped);
      const Placed<int32_t> at(backend, indices);
      backend.embedding(this->kDType, c.count, c.width, from.data(), at.data(), out.data());
      return out.values();
    });
    for (const bool adds : {false, true}) {
      this->template compare_bits<T>([&](Backend& backend, int64_t skipped) {
        const Placed<T> gradient(backend, dy, skipped), out(backend, table, skipped);
        const Placed<int32_t> at(backend, indices);
        backend.embedding_backward(this->kDType, c.count, c.rows, c.width, at.data(), gradient.data(), adds,
                                   out.data());
        return out.values();
      });
    }
  }
}

TYPED_TEST(CudaKernels, DropoutMasksAreTheCpus) {
  using T = TypeParam;
  const RandomStream stream{philox_key(5, RandomPurpose::kDropout), 3, 11, 2};
  for (int64_t n : kGpuSizes) {
    for (double probability : {0.0, 0.1, 0.5}) {
      this->template compare_bits<T>([&](Backend& backend, int64_t skipped) {
        const Placed<T> mask(backend, n, skipped);
        backend.dropout_mask(this->kDType, n, stream, probability, mask.data());
        return mask.values();
      });
    }
  }
}

// The arrays of an update of n elements: parameters, gradients and slots.
template <class T>
class PlacedUpdate {
 public:
  PlacedUpdate(Backend& backend, int64_t n, int64_t skipped, int64_t skipped_of_gradients)
      : n_(n),
        parameters_(backend, random_values<T>(n, 32), skipped),
        gradients_(backend, random_values<T>(n, 33), skipped_of_gradients),
        slots_{{backend, random_values<T>(n, 34, 0.0, 1.0), skipped},
               {backend, random_values<T>(n, 35, 0.0, 1.0), skipped},
               {backend, random_values<T>(n, 36, 0.0, 1.0), skipped},
               {backend, random_values<T>(n, 37, 0.0, 1.0), skipped}} {}

  UpdateArguments arguments() const {
    UpdateArguments arguments;
    arguments.dtype = dtype_of<T>;
    arguments.n = n_;
    arguments.parameters = parameters_.data();
    arguments.gradients = gradients_.data();
    for (int k = 0; k < 4; ++k) arguments.slots[k] = slots_[k].data();
    return arguments;
  }
  const T* parameters() const { return parameters_.data(); }
  // What an update changes.
  std::vector<T> values() const {
    std::vector<T> all = parameters_.values();
    for (const Placed<T>& slot : slots_) {
      for (T value : slot.values()) all.push_back(value);
    }
    return all;
  }

 private:
  int64_t n_;
  Placed<T> parameters_, gradients_;
  Placed<T> slots_[4];
};

constexpr double kUpdateScalars[] = {1e-2, 1e-1, 0.9, 0.99, 1e-8, 0.19, 0.0199, 0.03};

TYPED_TEST(CudaLosses, EveryUpdateFormulaHasTheCpusBits) {
  using T = TypeParam;
  for (int formula = 0; formula <= static_cast<int>(UpdateFormula::kApproach); ++formula) {
    for (int64_t n : {0, 1, 33, 1025}) {
      SCOPED_TRACE("formula " + std::to_string(formula) + ", n " + std::to_string(n));
      this->template compare_bits<T>([&](Backend& backend, int64_t skipped) {
        const PlacedUpdate<T> placed(backend, n, skipped, skipped == 0 ? 0 : 2);
        UpdateArguments arguments = placed.arguments();
        arguments.gradient_scale = 0.125;
        std::ranges::copy(kUpdateScalars, arguments.scalars);
        backend.update(static_cast<UpdateFormula>(formula), arguments);
        return placed.values();
      });
    }
  }
}

using HalfPrecisions = ::testing::Types<BFloat16, Float16>;
template <class T>
class CudaCopies : public CudaKernels<T> {};
TYPED_TEST_SUITE(CudaCopies, HalfPrecisions);

// The copy lies like the parameters, or not, and is the CPU's; where the gate is shut it stays as it is.
TYPED_TEST(CudaCopies, UpdatesLeaveTheCpusCopyOfTheParameters) {
  using S = TypeParam;
  for (int formula = 0; formula <= static_cast<int>(UpdateFormula::kApproach); ++formula) {
    for (double open : {1.0, 0.0}) {
      for (int64_t n : {0, 1, 33, 1025}) {
        for (int64_t apart : {0, 1}) {
          SCOPED_TRACE("formula " + std::to_string(formula) + ", n " + std::to_string(n) + ", open " +
                       std::to_string(open));
          this->template compare_bits<S>([&](Backend& backend, int64_t skipped) {
            const PlacedUpdate<float> placed(backend, n, skipped, skipped);
            const Placed<S> copy(backend, n, skipped + apart);
            const Placed<double> gate(backend, std::vector<double>{open}, 0);
            UpdateArguments arguments = placed.arguments();
            std::ranges::copy(kUpdateScalars, arguments.scalars);
            arguments.gate = gate.data();
            arguments.copy = copy.data();
            arguments.copy_dtype = this->kDType;
            backend.update(static_cast<UpdateFormula>(formula), arguments);
            const Placed<S> rounded(backend, n);
            backend.cast(DType::kF32, this->kDType, n, placed.parameters(), rounded.data());
            const std::vector<S> kept = copy.values();
            expect_same(kept,
                        open != 0.0 ? rounded.values() : std::vector<S>(kept.size(), static_cast<S>(55)));
            return kept;
          });
        }
      }
    }
  }
}

TYPED_TEST(CudaLosses, UpdatesWithNumbersOfTheDeviceHaveTheCpusBits) {
  using T = TypeParam;
  for (int formula = 0; formula <= static_cast<int>(UpdateFormula::kApproach); ++formula) {
    for (double open : {1.0, 0.0}) {
      for (int64_t n : {1, 33, 1025}) {
        SCOPED_TRACE("formula " + std::to_string(formula) + ", n " + std::to_string(n));
        this->template compare_bits<T>([&](Backend& backend, int64_t skipped) {
          const PlacedUpdate<T> placed(backend, n, skipped, skipped == 0 ? 0 : 2);
          const Placed<double> row(
              backend, std::vector<double>(std::begin(kUpdateScalars), std::end(kUpdateScalars)), 0);
          const Placed<double> gate(backend, std::vector<double>{open}, 0),
              factor(backend, std::vector<double>{0.3}, 0);
          UpdateArguments arguments = placed.arguments();
          arguments.gradient_scale = 0.125;
          arguments.gate = gate.data();
          arguments.factor = factor.data();
          arguments.row = row.data();
          backend.update(static_cast<UpdateFormula>(formula), arguments);
          return placed.values();
        });
      }
    }
  }
}

TYPED_TEST(CudaLosses, AnApproachByNothingTouchesNoElement) {
  const std::vector<double> numbers(UpdateArguments::kScalars, 0.0), open = {1.0};
  Backend& backend = test_backend();
  const Placed<double> row(backend, numbers), gate(backend, open);
  UpdateArguments arguments;  // without arrays: to read or write any is a fault
  arguments.dtype = this->kDType;
  for (const int64_t n : {1, 1000, 100'000}) {
    arguments.n = n;
    arguments.row = nullptr;
    backend.update(UpdateFormula::kApproach, arguments);
    arguments.row = row.data();
    arguments.gate = gate.data();
    backend.update(UpdateFormula::kApproach, arguments);
  }
  backend.synchronize();
}

// They end within vectors, at their edges, and more than one within one; the arrays lie alike or not.
TYPED_TEST(CudaLosses, UpdatesOfManyRunsHaveTheCpusBits) {
  using T = TypeParam;
  const std::vector<int64_t> ends = {5, 6, 6, 7, 16, 40, 41, 1024, 1025, 1030, 3000};
  for (int formula = 0; formula <= static_cast<int>(UpdateFormula::kApproach); ++formula) {
    for (int64_t first : {0, 3, 1024}) {
      for (int64_t n : {1, 33, 1800}) {
        SCOPED_TRACE("formula " + std::to_string(formula) + ", n " + std::to_string(n) + " from " +
                     std::to_string(first));
        std::vector<double> numbers;
        for (size_t run = 0; run < ends.size(); ++run) {
          const double rate = 1e-2 * static_cast<double>(1 + run), decay = run % 2 == 0 ? 0.1 : 0.0;
          numbers.insert(numbers.end(), {rate, decay, 0.9, 0.99, 1e-8, 0.19, 0.0199, 0.03});
        }
        this->template compare_bits<T>([&](Backend& backend, int64_t skipped) {
          const PlacedUpdate<T> placed(backend, n, skipped, skipped == 0 ? 0 : 2);
          const Placed<double> rows(backend, numbers, 0);
          const Placed<int64_t> places(backend, ends, 0);
          UpdateArguments arguments = placed.arguments();
          arguments.gradient_scale = 0.125;
          arguments.row = rows.data();
          arguments.ends = places.data();
          arguments.runs = static_cast<int64_t>(ends.size());
          arguments.first = first;
          backend.update(static_cast<UpdateFormula>(formula), arguments);
          return placed.values();
        });
      }
    }
  }
}

TYPED_TEST(CudaLosses, AVerdictHasTheCpusBits) {
  using T = TypeParam;
  for (int64_t blocks : {0, 1, 2, 3, 7, 1000, 2049, 5000}) {
    for (double infinity : {0.0, HUGE_VAL}) {
      SCOPED_TRACE("blocks " + std::to_string(blocks));
      std::vector<double> sums = random_values<double>(blocks, 41, 0.0, 1.0);
      if (blocks > 0) sums.back() += infinity;
      this->template compare_bits<double>([&](Backend& backend, int64_t) {
        const Placed<double> squares(backend, sums, 0);
        const Placed<double> loss(backend, std::vector<double>{3.5, 48.0}, 0);  // and the samples' weights
        const Placed<T> cotangent(backend, std::vector<T>{T(0)}, 0);
        const Placed<double> table(backend, random_values<double>(3 * 1100, 42), 0);
        const Placed<double> row(backend, std::vector<double>(1100), 0);
        StepState start;
        start.updates = 4.0;
        start.random_step = 9;
        start.loss_scale = {1024.0, 1.0, 0.0, 2.0};
        std::vector<double> state(sizeof(StepState) / sizeof(double));
        std::memcpy(state.data(), &start, sizeof start);
        const Placed<double> held(backend, state, 0);
        StepJudgement judgement;
        judgement.square_sums = squares.data();
        judgement.blocks = blocks;
        judgement.dtype = this->kDType;
        judgement.sums = loss.data();
        judgement.max_norm = 0.01;
        judgement.loss_scale = {true, 4.0, 0.5, 2.0, 1.0, 1e6};
        judgement.table = table.data();
        judgement.rows = 3;
        judgement.row_size = 1100;
        judgement.state = reinterpret_cast<StepState*>(held.data());
        judgement.row = row.data();
        judgement.cotangent = cotangent.data();
        for (int step = 0; step < 2; ++step) backend.judge(judgement);
        std::vector<double> all = held.values();
        for (double value : row.values()) all.push_back(value);
        all.push_back(static_cast<double>(cotangent.values()[0]));
        return all;
      });
    }
  }
}

TYPED_TEST(CudaKernels, WhatTheTableDoesNotHaveIsRefused) {
  using T = TypeParam;
  const Placed<T> x(*this->device_, 4), y(*this->device_, 4);
  EXPECT_THROW(
      this->device_->unary_backward(UnaryOp::kSign, this->kDType, 4, x.data(), x.data(), x.data(), y.data()),
      Error);
  EXPECT_THROW(this->device_->unary(UnaryOp::kExp, DType::kI32, 4, x.data(), y.data()), Error);
  const int64_t extents[] = {2, 2};
  const int permutation[] = {1, 0};
  EXPECT_THROW(this->device_->permute(3, 2, extents, permutation, x.data(), y.data()), Error);
}

}  // namespace
}  // namespace lockstep::test
