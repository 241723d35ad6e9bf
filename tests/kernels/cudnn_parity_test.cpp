// A GPU's convolutions and attention through cuDNN against its own kernels, at shapes that the library's
// tensor-core engines take, and that they give the same bits every time. Skipped where there is no cuDNN.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "device.h"
#include "kernels/arrays.h"
#include "lockstep/kernels/backend.h"

namespace lockstep::test {
namespace {

// An array in memory of the device.
template <class S>
class OnDevice {
 public:
  OnDevice(Backend& backend, const std::vector<S>& values) : backend_(backend), n_(values.size()) {
    memory_ = backend.allocate(n_ * sizeof(S));
    backend.copy_from_host(memory_, values.data(), n_ * sizeof(S));
  }
  OnDevice(Backend& backend, int64_t n)
      : OnDevice(backend, std::vector<S>(static_cast<size_t>(n), static_cast<S>(55.0f))) {}
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  ~OnDevice() { backend_.release(memory_, n_ * sizeof(S)); }

  S* data() const { return static_cast<S*>(memory_); }
  std::vector<S> values() const {
    std::vector<S> values(n_);
    backend_.copy_to_host(values.data(), memory_, n_ * sizeof(S));
    return values;
  }

 private:
  Backend& backend_;
  size_t n_;
  void* memory_ = nullptr;
};

template <class S>
constexpr double kRounding = std::is_same_v<S, BFloat16>  ? 0x1p-7
                             : std::is_same_v<S, Float16> ? 0x1p-10
                                                          : 0x1p-20;

template <class S>
class CudnnParity : public ::testing::Test {
 protected:
  void SetUp() override {
    if (test_device() != "cuda") GTEST_SKIP() << "the device is the CPU";
    device_ = &test_backend();
    if (device_->description().find("no cuDNN") != std::string::npos)
      GTEST_SKIP() << "this machine has no cuDNN";
  }
  void TearDown() override {
    if (device_ != nullptr) device_->use_cudnn(true);
  }

  // What call(y) writes: thrice the same through cuDNN, and the same as by own kernels up to `tolerance`,
  // absolute.
  template <class R>
  void expect_parity(const std::string& what, int64_t n, double tolerance,
                     const std::function<void(R*)>& call) {
    SCOPED_TRACE(what);
    const auto results = [&] {
      OnDevice<R> y(*device_, n);
      call(y.data());
      return y.values();
    };
    device_->use_cudnn(true);
    const std::vector<R> first = results();
    for (int again = 0; again < 2; ++again) EXPECT_TRUE(same_bits(results(), first));
    device_->use_cudnn(false);
    const std::vector<R> own = results();
    for (size_t i = 0; i < own.size(); ++i) {
      const double a = static_cast<double>(first[i]), b = static_cast<double>(own[i]);
      ASSERT_LE(std::fabs(a - b), 2 * kRounding<R> * std::fabs(b) + tolerance)
          << "element " << i << ": cuDNN " << a << ", own " << b;
    }
  }

  Backend* device_ = nullptr;
};
using ServedTypes = ::testing::Types<float, BFloat16, Float16>;
TYPED_TEST_SUITE(CudnnParity, ServedTypes);

TYPED_TEST(CudnnParity, OfConvolutionsAndTheirDerivatives) {
  using S = TypeParam;
  using T = Accumulation<S>;
  Backend& device = *this->device_;
  struct Shape {
    int64_t n, side, c, o, kernel, stride, pad;
  };
  for (const Shape& s : {Shape{4, 14, 64, 64, 3, 1, 1},
                         {8, 8, 32, 64, 1, 1, 0},
                         {4, 15, 16, 32, 3, 2, 1},
                         {4, 12, 3, 16, 5, 1, 2}}) {
    ConvolutionArguments a;
    a.dtype = dtype_of<S>;
    a.n = s.n, a.h = a.w = s.side, a.c = s.c, a.o = s.o, a.kh = a.kw = s.kernel;
    a.stride_h = a.stride_w = s.stride, a.pad_h = a.pad_w = s.pad;
    a.oh = a.ow = (s.side + 2 * s.pad - s.kernel) / s.stride + 1;
    const int64_t inputs = a.n * a.h * a.w * a.c, outputs = a.n * a.oh * a.ow * a.o, taps = a.kh * a.kw * a.c;
    const OnDevice<S> x(device, random_values<S>(inputs, 1, -1, 1)),
        w(device, random_values<S>(a.o * taps, 2, -1, 1));
    const OnDevice<S> dy(device, random_values<S>(outputs, 3, -1, 1));
    const OnDevice<T> bias(device, random_values<T>(a.o, 4, -1, 1));
    const std::string name = std::to_string(a.c) + " to " + std::to_string(a.o) + ": ";
    // Sums of k products of numbers up to 1, in fp32; a bias that is rounded.
    const auto sums = [](int64_t k) { return 0x1p-22 * static_cast<double>(k); };
    this->template expect_parity<S>(name + "forward", outputs, sums(taps),
                                    [&](S* y) { device.convolution(a, x.data(), w.data(), nullptr, y); });
    this->template expect_parity<S>(name + "with bias", outputs, sums(taps) + 2 * kRounding<S>,
                                    [&](S* y) { device.convolution(a, x.data(), w.data(), bias.data(), y); });
    this->template expect_parity<S>(name + "data", inputs, sums(a.kh * a.kw * a.o), [&](S* dx) {
      device.convolution_backward_data(a, dy.data(), w.data(), dx);
    });
    this->template expect_parity<T>(name + "weights", a.o * taps, sums(a.n * a.oh * a.ow), [&](T* dw) {
      device.convolution_backward_weights(a, x.data(), dy.data(), dw);
    });
  }
}

TYPED_TEST(CudnnParity, OfAttentionAndItsDerivative) {
  using S = TypeParam;
  using T = Accumulation<S>;
  Backend& device = *this->device_;
  struct Shape {
    int64_t batch, heads, queries, keys, size;
    bool causal;
  };
  for (const Shape& s : {Shape{2, 2, 128, 128, 64, true},
                         {1, 2, 100, 100, 32, true},
                         {2, 1, 70, 128, 40, false},
                         {1, 1, 64, 64, 128, true}}) {
    AttentionArguments a;
    a.dtype = dtype_of<S>;
    a.causal = s.causal;
    a.batch = s.batch, a.heads = s.heads, a.queries = s.queries, a.keys = s.keys, a.size = s.size;
    const int64_t width = a.heads * a.size;
    a.q_row = a.k_row = a.v_row = width;
    a.scale = 1.0 / std::sqrt(static_cast<double>(a.size));
    const int64_t of_queries = a.batch * a.queries * width, of_keys = a.batch * a.keys * width,
                  rows = a.batch * a.heads * a.queries;
    const OnDevice<S> q(device, random_values<S>(of_queries, 1)), k(device, random_values<S>(of_keys, 2)),
        v(device, random_values<S>(of_keys, 3)), dy(device, random_values<S>(of_queries, 4));
    const OnDevice<S> y(device, of_queries);
    const OnDevice<T> log_sums(device, rows);
    const std::string name = std::to_string(a.queries) + " queries of " + std::to_string(a.size) + ": ";
    // Weights and their gradients are rounded to the type before they are multiplied by values.
    const double tolerance = 4 * kRounding<S>;
    this->template expect_parity<S>(name + "forward", of_queries, tolerance, [&](S* out) {
      device.attention(a, q.data(), k.data(), v.data(), out, log_sums.data());
    });
    this->template expect_parity<T>(name + "log sums", rows, 0x1p-16, [&](T* out) {
      device.attention(a, q.data(), k.data(), v.data(), y.data(), out);
    });
    this->template expect_parity<S>(name + "backward", of_queries + 2 * of_keys, 4 * tolerance, [&](S* dq) {
      device.attention_backward(a, q.data(), k.data(), v.data(), y.data(), log_sums.data(), dy.data(), dq,
                                dq + of_queries, dq + of_queries + of_keys);
    });
  }
}

}  // namespace
}  // namespace lockstep::test
