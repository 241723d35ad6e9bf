// Products, convolution, pooling and recurrent layers of a GPU against the CPU's, in every precision, at odd
// sizes and from unaligned arrays.
#include <algorithm>
#include <array>
#include <chrono>
#include <thread>

#include "kernels/parity.h"
#include "lockstep/core/error.h"

namespace lockstep::test {
namespace {

template <class S>
class ProductParity : public ::testing::Test {};
using AllPrecisions = ::testing::Types<float, double, BFloat16, Float16>;
TYPED_TEST_SUITE(ProductParity, AllPrecisions);

// Sums of k products of numbers up to `size`, added in different orders.
template <class S>
double sum_error(int64_t k, double size) {
  return 4 * epsilon_of(dtype_of<Accumulation<S>>) * static_cast<double>(k) * size;
}

std::string shape_name(const MatmulArguments& a) {
  return std::to_string(a.batch) + " products (" + std::to_string(a.m) + "," + std::to_string(a.k) + ")" +
         (a.transpose_a ? "'" : "") + " x (" + std::to_string(a.k) + "," + std::to_string(a.n) + ")" +
         (a.transpose_b ? "'" : "");
}

template <class S, class R>
void expect_matmul(MatmulArguments a, bool repeat_a, bool repeat_b, bool bias) {
  a.dtype = dtype_of<S>;
  a.output = dtype_of<R>;
  a.batch_stride_a = repeat_a ? 0 : a.m * a.k;
  a.batch_stride_b = repeat_b ? 0 : a.k * a.n;
  const auto x = random_values<S>((repeat_a ? 1 : a.batch) * a.m * a.k, 1, -1, 1);
  const auto y = random_values<S>((repeat_b ? 1 : a.batch) * a.k * a.n, 2, -1, 1);
  const auto added = random_values<Accumulation<S>>(a.n, 3, -1, 1);
  // A GPU rounds the bias of a 16-bit result, and that result before an activation.
  const Tolerance tolerance{2, sum_error<S>(a.k, 1) + (sizeof(R) == 2 ? 2 * epsilon_of(dtype_of<R>) : 0)};
  expect_parity(shape_name(a), tolerance, [&](Backend& backend, Arrays& arrays) {
    MatmulArguments arguments = a;
    arguments.a = arrays.input(x);
    arguments.b = arrays.input(y);
    if (bias) arguments.bias = arrays.input(added);
    arguments.c = arrays.output<R>(a.batch * a.m * a.n);
    backend.matmul(arguments);
  });
}

TYPED_TEST(ProductParity, OfEveryShapeTranspositionAndEpilogue) {
  SKIP_ON_CPU();
  using S = TypeParam;
  const int64_t shapes[][3] = {{1, 1, 1},    {3, 5, 7},    {33, 10, 65}, {64, 32, 16},
                               {1, 129, 31}, {130, 1, 97}, {5, 6, 0}};
  int variant = 0;
  for (const auto& [m, n, k] : shapes) {
    for (int transposes = 0; transposes < 4; ++transposes, ++variant) {
      MatmulArguments a;
      a.m = m, a.n = n, a.k = k;
      a.transpose_a = transposes % 2 == 1;
      a.transpose_b = transposes / 2 == 1;
      a.batch = variant % 3 == 0 ? 3 : 1;
      a.activation = static_cast<Activation>(variant / 2 % 4);
      const bool bias = variant % 2 == 1;
      expect_matmul<S, S>(a, variant % 4 == 3, variant % 5 == 0, bias);
      if constexpr (sizeof(S) == 2) expect_matmul<S, float>(a, variant % 5 == 0, variant % 4 == 3, bias);
    }
  }
}

// With multiples of 8 columns, which a library may take, and others.
TYPED_TEST(ProductParity, OfActivationsForTheBackwardPass) {
  SKIP_ON_CPU();
  using S = TypeParam;
  const double rounding = sizeof(S) == 2 ? 4 * epsilon_of(dtype_of<S>) : 0;
  for (const Activation activation : {Activation::kRelu, Activation::kGelu, Activation::kGeluTanh}) {
    for (const int64_t n : {16, 33}) {
      for (const int64_t k : {0, 21}) {
        MatmulArguments a;
        a.dtype = a.output = dtype_of<S>;
        a.batch = n == 16 ? 2 : 1, a.m = 10, a.n = n, a.k = k;
        a.batch_stride_a = a.m * k, a.batch_stride_b = k * n;
        a.activation = activation;
        const auto x = random_values<S>(a.batch * a.m * k, 1, -1, 1),
                   y = random_values<S>(a.batch * k * n, 2, -1, 1);
        const auto at = random_values<S>(a.batch * a.m * n, 3, -3, 3);
        const auto bias = random_values<Accumulation<S>>(n, 4, -1, 1);
        const Tolerance tolerance{4, 2 * sum_error<S>(k + 1, 1) + rounding};
        for (const bool stored : {false, true}) {
          expect_parity(shape_name(a), tolerance, [&](Backend& backend, Arrays& arrays) {
            MatmulArguments arguments = a;
            arguments.a = arrays.input(x);
            arguments.b = arrays.input(y);
            arguments.bias = arrays.input(bias);
            arguments.c = arrays.output<S>(a.batch * a.m * n);
            if (stored) arguments.argument = arrays.output<S>(a.batch * a.m * n);
            backend.matmul(arguments);
          });
        }
        expect_parity(shape_name(a), tolerance, [&](Backend& backend, Arrays& arrays) {
          MatmulArguments arguments = a;
          arguments.a = arrays.input(x);
          arguments.b = arrays.input(y);
          arguments.derivative_at = arrays.input(at);
          arguments.c = arrays.output<S>(a.batch * a.m * n);
          backend.matmul(arguments);
        });
      }
    }
  }
}

TYPED_TEST(ProductParity, OfTheGradientsOfAWeightAndItsBias) {
  SKIP_ON_CPU();
  using S = TypeParam;
  using Wide = Accumulation<S>;
  for (const auto& shape :
       {std::array<int64_t, 3>{7, 24, 50}, {16, 1, 9}, {3, 17, 0}, {0, 5, 6}, {4, 300, 1000}}) {
    const int64_t m = shape[0], n = shape[1], k = shape[2];
    MatmulArguments a;
    a.dtype = dtype_of<S>;
    a.output = dtype_of<Wide>;
    a.m = m, a.n = n, a.k = k;
    a.transpose_a = true;
    const auto x = random_values<S>(k * m, 1, -1, 1), dy = random_values<S>(k * n, 2, -1, 1);
    expect_parity(shape_name(a), {2, sum_error<S>(k, 1)}, [&](Backend& backend, Arrays& arrays) {
      MatmulArguments arguments = a;
      arguments.a = arrays.input(x);
      arguments.b = arrays.input(dy);
      arguments.c = arrays.output<Wide>(m * n);
      arguments.column_sums = arrays.output<Wide>(n);
      backend.matmul(arguments);
    });
  }
}

// A pass without history does not store it.
TYPED_TEST(ProductParity, ActivationsHaveTheSameBitsWhetherTheirArgumentIsStored) {
  using S = TypeParam;
  Backend& backend = test_backend();
  for (const Activation activation : {Activation::kRelu, Activation::kGelu, Activation::kGeluTanh}) {
    for (const int64_t n : {7, 8}) {
      for (const int64_t k : {0, 16}) {
        MatmulArguments a;
        a.dtype = a.output = dtype_of<S>;
        a.m = 64, a.n = n, a.k = k;
        a.activation = activation;
        const auto x = random_values<S>(a.m * k, 1, -1, 1), y = random_values<S>(k * n, 2, -1, 1);
        const auto bias = random_values<Accumulation<S>>(n, 3, -1, 1);
        std::vector<std::vector<double>> results;
        for (const bool stored : {false, true}) {
          Arrays arrays(backend, 0);
          a.a = arrays.input(x), a.b = arrays.input(y), a.bias = arrays.input(bias);
          a.c = arrays.output<S>(a.m * n);
          a.argument = stored ? arrays.output<S>(a.m * n) : nullptr;
          backend.matmul(a);
          results.push_back(arrays.results().front().values);
        }
        EXPECT_EQ(results[0], results[1]) << static_cast<int>(activation) << ", n " << n << ", k " << k;
      }
    }
  }
}

TYPED_TEST(ProductParity, OfEmptyResultsWritesNothing) {
  SKIP_ON_CPU();
  for (const auto& [batch, m, n] : {std::array<int64_t, 3>{0, 2, 2}, {1, 0, 2}, {1, 2, 0}}) {
    MatmulArguments a;
    a.batch = batch, a.m = m, a.n = n, a.k = 3;
    expect_matmul<TypeParam, TypeParam>(a, false, false, true);
  }
}

TYPED_TEST(ProductParity, OfNoColumnsHaveNoSumsOfThem) {
  MatmulArguments a;
  a.dtype = dtype_of<TypeParam>;
  a.output = dtype_of<Accumulation<TypeParam>>;
  a.m = 2, a.n = 0, a.k = 3;
  Arrays arrays(test_backend(), 0);
  a.a = arrays.input(random_values<TypeParam>(6, 1)), a.b = arrays.output<TypeParam>(0);
  a.c = arrays.output<Accumulation<TypeParam>>(0), a.column_sums = arrays.output<Accumulation<TypeParam>>(0);
  test_backend().matmul(a);
  for (const auto& result : arrays.results()) EXPECT_TRUE(result.values.empty());
}

TYPED_TEST(ProductParity, NotANumberPassesEveryActivation) {
  SKIP_ON_CPU();
  using S = TypeParam;
  const S nan(std::numeric_limits<float>::quiet_NaN());
  for (Activation activation :
       {Activation::kNone, Activation::kRelu, Activation::kGelu, Activation::kGeluTanh}) {
    expect_parity("NaN", {4, 0}, [&](Backend& backend, Arrays& arrays) {
      MatmulArguments a;
      a.dtype = a.output = dtype_of<S>;
      a.m = 2, a.n = 1, a.k = 2;
      a.activation = activation;
      a.a = arrays.input(std::vector<S>{nan, S(1.0f), S(1.0f), S(1.0f)});
      a.b = arrays.input(std::vector<S>{S(1.0f), S(1.0f)});
      a.c = arrays.output<S>(2);
      backend.matmul(a);
    });
  }
}

ConvolutionArguments convolution(DType dtype, int64_t n, int64_t h, int64_t w, int64_t c, int64_t o,
                                 int64_t kernel, int64_t stride, int64_t pad) {
  ConvolutionArguments a;
  a.dtype = dtype;
  a.n = n, a.h = h, a.w = w, a.c = c, a.o = o;
  a.kh = kernel, a.kw = kernel == 1 ? 1 : kernel - 1 + w % 2;
  a.stride_h = a.stride_w = stride;
  a.pad_h = a.pad_w = pad;
  a.oh = (h + 2 * pad - a.kh) / stride + 1;
  a.ow = (w + 2 * pad - a.kw) / stride + 1;
  return a;
}

TYPED_TEST(ProductParity, OfConvolutionsAndTheirDerivatives) {
  SKIP_ON_CPU();
  using S = TypeParam;
  using T = Accumulation<S>;
  const DType dtype = dtype_of<S>;
  for (const ConvolutionArguments& a :
       {convolution(dtype, 2, 7, 9, 5, 3, 3, 1, 1), convolution(dtype, 3, 8, 8, 16, 8, 3, 2, 1),
        convolution(dtype, 1, 6, 5, 1, 7, 5, 1, 2), convolution(dtype, 2, 5, 4, 6, 9, 1, 1, 0),
        convolution(dtype, 2, 6, 6, 4, 4, 1, 2, 0), convolution(dtype, 1, 9, 9, 2, 2, 2, 3, 0),
        convolution(dtype, 0, 4, 4, 2, 2, 3, 1, 1)}) {
    const int64_t inputs = a.n * a.h * a.w * a.c, outputs = a.n * a.oh * a.ow * a.o, taps = a.kh * a.kw * a.c;
    const auto x = random_values<S>(inputs, 4, -1, 1), w = random_values<S>(a.o * taps, 5, -1, 1),
               dy = random_values<S>(outputs, 6, -1, 1);
    const auto bias = random_values<T>(a.o, 7, -1, 1);
    const double narrow = sizeof(S) == 2 ? 2 * epsilon_of(dtype) : 0;
    const std::string name = "window " + std::to_string(a.kh) + "x" + std::to_string(a.kw);
    for (bool with_bias : {false, true}) {
      expect_parity(name, {2, sum_error<S>(taps, 1) + narrow}, [&](Backend& backend, Arrays& arrays) {
        const S* const images = arrays.input(x);
        const S* const weights = arrays.input(w);
        backend.convolution(a, images, weights, with_bias ? arrays.input(bias) : nullptr,
                            arrays.output<S>(outputs));
      });
    }
    expect_parity(
        name + ", data", {2, sum_error<S>(a.kh * a.kw * a.o, 1)}, [&](Backend& backend, Arrays& arrays) {
          const S* const gradients = arrays.input(dy);
          backend.convolution_backward_data(a, gradients, arrays.input(w), arrays.output<S>(inputs));
        });
    expect_parity(
        name + ", weights", {2, sum_error<S>(a.n * a.oh * a.ow, 1)}, [&](Backend& backend, Arrays& arrays) {
          const S* const images = arrays.input(x);
          backend.convolution_backward_weights(a, images, arrays.input(dy), arrays.output<T>(a.o * taps));
        });
  }
}

// Patches of so many images do not fit the working memory at once.
TEST(ConvolutionParity, OfSeveralRangesOfImages) {
  SKIP_ON_CPU();
  const ConvolutionArguments a = convolution(DType::kF32, 33, 64, 65, 8, 2, 3, 1, 1);
  const int64_t inputs = a.n * a.h * a.w * a.c, outputs = a.n * a.oh * a.ow * a.o, taps = a.kh * a.kw * a.c;
  const auto x = random_values<float>(inputs, 4, -1, 1), w = random_values<float>(a.o * taps, 5, -1, 1),
             dy = random_values<float>(outputs, 6, -1, 1);
  expect_parity("forward", {2, sum_error<float>(taps, 1)}, [&](Backend& backend, Arrays& arrays) {
    const float* const images = arrays.input(x);
    backend.convolution(a, images, arrays.input(w), nullptr, arrays.output<float>(outputs));
  });
  expect_parity("data", {2, sum_error<float>(taps, 1)}, [&](Backend& backend, Arrays& arrays) {
    const float* const gradients = arrays.input(dy);
    backend.convolution_backward_data(a, gradients, arrays.input(w), arrays.output<float>(inputs));
  });
  // Sums of 137,280 products, whose errors add up like a random walk.
  expect_parity("weights", {2, sum_error<float>(20000, 1)}, [&](Backend& backend, Arrays& arrays) {
    const float* const images = arrays.input(x);
    backend.convolution_backward_weights(a, images, arrays.input(dy), arrays.output<float>(a.o * taps));
  });
}

PoolArguments pooled(DType dtype, int64_t n, int64_t h, int64_t w, int64_t c, int64_t kernel, int64_t stride,
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

TYPED_TEST(ProductParity, OfPoolingIsExact) {
  SKIP_ON_CPU();
  using S = TypeParam;
  const DType dtype = dtype_of<S>;
  for (const PoolArguments& p : {pooled(dtype, 3, 8, 8, 16, 2, 2, 0), pooled(dtype, 2, 7, 9, 5, 3, 2, 1),
                                 pooled(dtype, 1, 5, 5, 33, 3, 1, 1), pooled(dtype, 4, 8, 8, 3, 8, 8, 0),
                                 pooled(dtype, 2, 4, 6, 1, 3, 1, 2), pooled(dtype, 0, 4, 4, 2, 2, 2, 0)}) {
    const int64_t inputs = p.n * p.h * p.w * p.c, outputs = p.n * p.oh * p.ow * p.c;
    std::vector<S> x = random_values<S>(inputs, 8, -3, 1);
    for (S& value : x) value = S(std::round(static_cast<float>(value) * 2));  // ties
    if (inputs > 9)
      x[4] = S(std::numeric_limits<float>::quiet_NaN()), x[9] = S(-std::numeric_limits<float>::infinity());
    const auto dy = random_values<S>(outputs, 9);
    std::vector<int32_t> where(static_cast<size_t>(outputs));
    std::vector<S> scratch(static_cast<size_t>(outputs));
    cpu_backend().max_pool(p, x.data(), scratch.data(), where.data());
    const std::string name = "window " + std::to_string(p.kh) + "x" + std::to_string(p.kw);
    expect_parity(name + ", max", {}, [&](Backend& backend, Arrays& arrays) {
      const S* const images = arrays.input(x);
      S* const y = arrays.output<S>(outputs);
      backend.max_pool(p, images, y, arrays.output<int32_t>(outputs));
    });
    expect_parity(name + ", max backward", {}, [&](Backend& backend, Arrays& arrays) {
      const int32_t* const indices = arrays.input(where);
      backend.max_pool_backward(p, indices, arrays.input(dy), arrays.output<S>(inputs));
    });
    expect_parity(name + ", gather", {}, [&](Backend& backend, Arrays& arrays) {
      const int32_t* const indices = arrays.input(where);
      backend.max_pool_gather(p, indices, arrays.input(x), arrays.output<S>(outputs));
    });
    expect_parity(name + ", average", {}, [&](Backend& backend, Arrays& arrays) {
      const S* const images = arrays.input(x);
      backend.average_pool(p, images, arrays.output<S>(outputs));
    });
    expect_parity(name + ", average backward", {}, [&](Backend& backend, Arrays& arrays) {
      const S* const gradients = arrays.input(dy);
      backend.average_pool_backward(p, gradients, arrays.output<S>(inputs));
    });
  }
}

template <class T>
class RecurrentParity : public ::testing::Test {};
TYPED_TEST_SUITE(RecurrentParity, Precisions);

TYPED_TEST(RecurrentParity, OfEveryCellInBothDirections) {
  SKIP_ON_CPU();
  using T = TypeParam;
  for (RecurrentCell cell :
       {RecurrentCell::kTanh, RecurrentCell::kRelu, RecurrentCell::kLstm, RecurrentCell::kGru}) {
    for (const auto& [steps, rows, units] :
         {std::array<int64_t, 3>{1, 1, 1}, {5, 3, 7}, {4, 9, 16}, {3, 33, 5}, {0, 2, 2}, {2, 0, 2}}) {
      RecurrentArguments a;
      a.cell = cell;
      a.dtype = dtype_of<T>;
      a.steps = steps, a.rows = rows, a.units = units;
      a.reverse = units % 2 == 1;
      const bool gru = cell == RecurrentCell::kGru, gated = gru || cell == RecurrentCell::kLstm;
      const int64_t states = steps * rows * units, gates = steps * rows * a.gates();
      const auto z = random_values<T>(gates, 10, -1, 1),
                 weight = random_values<T>(units * a.gates(), 11, -0.5, 0.5),
                 bias = random_values<T>(units, 12, -1, 1), dh = random_values<T>(states, 13, -1, 1);
      // The CPU's results are what the backward pass of both reads.
      std::vector<T> activations(gated ? static_cast<size_t>(gates) : 0),
          memory(gated ? static_cast<size_t>(states) : 0), h(static_cast<size_t>(states));
      cpu_backend().recurrent(a, z.data(), weight.data(), gru ? bias.data() : nullptr,
                              gated ? activations.data() : nullptr, gated ? memory.data() : nullptr,
                              h.data());
      const std::string name = "cell " + std::to_string(static_cast<int>(cell)) + ", " +
                               std::to_string(steps) + " x " + std::to_string(rows) + " x " +
                               std::to_string(units);
      const Tolerance tolerance{8, 64 * epsilon_of(a.dtype)};
      expect_parity(name, tolerance, [&](Backend& backend, Arrays& arrays) {
        const T* const inputs = arrays.input(z);
        const T* const matrix = arrays.input(weight);
        const T* const offset = gru ? arrays.input(bias) : nullptr;
        T* const kept = gated ? arrays.output<T>(gates) : nullptr;
        T* const cells = gated ? arrays.output<T>(states) : nullptr;
        backend.recurrent(a, inputs, matrix, offset, kept, cells, arrays.output<T>(states));
      });
      expect_parity(name + ", backward", tolerance, [&](Backend& backend, Arrays& arrays) {
        const T* const matrix = arrays.input(weight);
        const T* const kept = gated ? arrays.input(activations) : nullptr;
        const T* const cells = gated ? arrays.input(memory) : nullptr;
        const T* const outputs = arrays.input(h);
        const T* const gradients = arrays.input(dh);
        T* const dz = arrays.output<T>(gates);
        backend.recurrent_backward(a, matrix, kept, cells, outputs, gradients, dz,
                                   gru ? arrays.output<T>(gates) : nullptr);
      });
    }
  }
}

TEST(GpuMemory, LongArraysTravelInPieces) {
  SKIP_ON_CPU();
  Backend& backend = test_backend();
  // More than the pieces of pinned memory hold together, and not a whole number of them.
  const auto values = random_values<uint8_t>(int64_t{9} * 1024 * 1024 + 13, 14, 0, 256);
  const size_t room = (2 * values.size() + 255) / 256 * 256;
  void* const memory = backend.allocate(room);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(memory) % 256, 0u);
  void* const second = static_cast<uint8_t*>(memory) + values.size();
  auto sent = values;
  backend.copy_from_host(memory, sent.data(), sent.size());
  std::fill(sent.begin(), sent.end(), uint8_t{0});  // it may change when the call returns
  backend.copy(second, memory, values.size());
  std::vector<uint8_t> back(values.size());
  backend.copy_to_host(back.data(), second, back.size());
  EXPECT_EQ(back, values);
  backend.release(memory, room);
}

TEST(GpuMemory, NoRoomIsNullAndTheNextCallWorks) {
  SKIP_ON_CPU();
  Backend& backend = test_backend();
  const MemoryRoom room = backend.memory_room();
  EXPECT_GT(room.total, 0u);
  EXPECT_LE(room.free, room.total);
  EXPECT_EQ(backend.allocate(room.total + 1), nullptr);
  EXPECT_EQ(backend.allocate(0), nullptr);
  void* const memory = backend.allocate(4);
  ASSERT_NE(memory, nullptr);
  backend.fill(DType::kF32, 1, memory, 3.0);
  float value = 0;
  backend.copy_to_host(&value, memory, sizeof(value));
  EXPECT_EQ(value, 3.0f);
  backend.release(memory, 4);
}

TEST(GpuQueues, ALaneRunsBesideAndWaitsWhenAsked) {
  SKIP_ON_CPU();
  Backend& backend = test_backend();
  Backend& lane = backend.lane();
  EXPECT_NE(&lane, &backend);
  EXPECT_EQ(&lane.lane(), &lane);
  EXPECT_NE(lane.native_queue(), backend.native_queue());
  constexpr int64_t kElements = 1 << 16;
  auto* const x = static_cast<float*>(backend.allocate(kElements * sizeof(float)));
  auto* const y = static_cast<float*>(backend.allocate(kElements * sizeof(float)));
  // Back and forth: each side reads what the other wrote before.
  backend.fill(DType::kF32, kElements, x, 0.0);
  for (int round = 0; round < 8; ++round) {
    backend.scale_shift(DType::kF32, kElements, x, 1.0, 1.0, y);
    lane.wait_for(backend);
    lane.scale_shift(DType::kF32, kElements, y, 2.0, 0.0, x);
    backend.wait_for(lane);
  }
  std::vector<float> values(kElements);
  backend.copy_to_host(values.data(), x, kElements * sizeof(float));
  EXPECT_EQ(values, std::vector<float>(kElements, 510.0f));  // x = 2 (x + 1), eight times
  backend.release(x, kElements * sizeof(float));
  backend.release(y, kElements * sizeof(float));
  EXPECT_THROW(backend.wait_for(cpu_backend()), Error);
}

// Copies of coming data into one array, behind the computation that read it last and before the next one.
TEST(GpuQueues, CopiesRunAheadAndMarkersKeepThemApart) {
  SKIP_ON_CPU();
  Backend& backend = test_backend();
  Backend& copies = backend.copies();
  EXPECT_NE(&copies, &backend);
  EXPECT_NE(&copies, &backend.lane());
  EXPECT_EQ(&copies.copies(), &copies);
  EXPECT_EQ(&copies.lane(), &copies);
  EXPECT_EQ(&backend.lane().copies(), &backend.lane());
  constexpr int64_t kElements = 1 << 14, kRounds = 8;
  constexpr size_t kBytes = kElements * sizeof(float);
  auto* const x = static_cast<float*>(backend.allocate(kBytes));
  auto* const results = static_cast<float*>(backend.allocate(kRounds * kBytes));
  auto* const pinned = static_cast<float*>(copies.allocate_pinned(kBytes));
  ASSERT_NE(pinned, nullptr);
  const auto copied = copies.marker(false), computed = backend.marker(false);
  EXPECT_TRUE(copied->passed()) << "never set";
  for (int round = 0; round < kRounds; ++round) {
    copied->wait();
    std::fill_n(pinned, kElements, static_cast<float>(round));
    computed->hold(copies);
    copies.copy_from_pinned(x, pinned, kBytes);
    copied->set();
    copied->hold(backend);
    backend.scale_shift(DType::kF32, kElements, x, 2.0, 1.0, results + round * kElements);
    computed->set();
  }
  computed->wait();
  EXPECT_TRUE(computed->passed());
  std::vector<float> values(kRounds * kElements);
  backend.copy_to_host(values.data(), results, kRounds * kBytes);
  for (int64_t i = 0; i < kRounds * kElements; ++i) {
    ASSERT_EQ(values[static_cast<size_t>(i)], 2.0f * static_cast<float>(i / kElements) + 1.0f) << i;
  }
  copies.release_pinned(pinned);
  backend.release(x, kBytes);
  backend.release(results, kRounds * kBytes);
}

TEST(Markers, KeepTheTimeOfTheirQueue) {
  Backend& backend = test_backend();
  constexpr int64_t kElements = 1 << 20;
  void* const memory = backend.allocate(kElements * sizeof(float));
  const auto begin = backend.marker(true), end = backend.marker(true);
  for (int round = 0; round < 2; ++round) {
    backend.synchronize();
    const auto start = std::chrono::steady_clock::now();
    begin->set();
    for (int i = 0; i < 4 * (round + 1); ++i) backend.fill(DType::kF32, kElements, memory, 1.0);
    end->set();
    end->wait();
    const std::chrono::duration<double> most = std::chrono::steady_clock::now() - start;
    EXPECT_TRUE(begin->passed() && end->passed());
    EXPECT_GT(end->seconds_since(*begin), 0.0);
    EXPECT_LE(end->seconds_since(*begin), most.count() + 1e-5) << "round " << round;
  }
  backend.release(memory, kElements * sizeof(float));
}

TEST(GpuQueues, OtherThreadsMayCopyWhileOneComputes) {
  SKIP_ON_CPU();
  Backend& backend = test_backend();
  constexpr int64_t kElements = 1 << 12;
  auto* const x = static_cast<float*>(backend.allocate(kElements * sizeof(float)));
  auto* const y = static_cast<float*>(backend.allocate(kElements * sizeof(float)));
  const auto sent = random_values<float>(kElements, 15);
  backend.copy_from_host(x, sent.data(), kElements * sizeof(float));
  std::vector<float> back(kElements);
  std::thread reader([&] { backend.copy_to_host(back.data(), x, kElements * sizeof(float)); });
  for (int i = 0; i < 4; ++i) backend.scale_shift(DType::kF32, kElements, x, 2.0, 0.0, y);
  reader.join();
  EXPECT_EQ(back, sent);
  backend.synchronize();
  backend.release(x, kElements * sizeof(float));
  backend.release(y, kElements * sizeof(float));
}

TEST(Gpus, OneThatIsNotThereIsAUsageErrorThatSaysSo) {
  try {
    cuda_backend(1000);
    FAIL() << "GPU 1000 exists";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    EXPECT_EQ(std::string(error.what()).rfind("cuda: ", 0), 0u) << error.what();
  }
}

}  // namespace
}  // namespace lockstep::test
