// Products: against sums in double, and that wrong arguments are refused.
#include <cublasLt.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <string>

#include "device_array.h"
#include "lockstep/core/half_precision.h"
#include "settings.h"

namespace cuda_on_cpu {
namespace {

using lockstep::BFloat16;
using lockstep::Float16;

template <class T>
constexpr cudaDataType_t kType = std::is_same_v<T, double>     ? CUDA_R_64F
                                 : std::is_same_v<T, float>    ? CUDA_R_32F
                                 : std::is_same_v<T, BFloat16> ? CUDA_R_16BF
                                                               : CUDA_R_16F;

struct Case {
  int64_t m, n, k;
  bool transpose_a = false, transpose_b = false, row_major = false;
  uint32_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  int32_t batch = 1;
  double alpha = 1.0, beta = 0.0;
  int candidate = 0;
};

// A product with everything that the library wants to know; the pieces may be changed before run().
template <class S, class R>
struct Problem {
  using T = std::conditional_t<std::is_same_v<S, double>, double, float>;

  explicit Problem(const Case& c)
      : shape(c),
        a(filled<S>(c.m * c.k * c.batch, 1)),
        b(filled<S>(c.k * c.n * c.batch, 2)),
        d(filled<R>(c.m * c.n * c.batch, 3)),
        bias(filled<R>(c.m, 4)),
        auxiliary(filled<R>(auxiliary_rows(c) * c.n * c.batch, 5)) {
    cublasLtCreate(&handle);
    const bool wide = std::is_same_v<S, double>;
    cublasLtMatmulDescCreate(&description, wide ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F,
                             wide ? CUDA_R_64F : CUDA_R_32F);
    set(CUBLASLT_MATMUL_DESC_TRANSA, static_cast<int32_t>(c.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N));
    set(CUBLASLT_MATMUL_DESC_TRANSB, static_cast<int32_t>(c.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N));
    set(CUBLASLT_MATMUL_DESC_EPILOGUE, c.epilogue);
    set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, static_cast<const void*>(bias.data()));
    set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, static_cast<const void*>(auxiliary.data()));
    set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, auxiliary_rows(c));
    set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_BATCH_STRIDE, auxiliary_rows(c) * c.n);
    a_layout = layout(kType<S>, c.transpose_a ? c.k : c.m, c.transpose_a ? c.m : c.k);
    b_layout = layout(kType<S>, c.transpose_b ? c.n : c.k, c.transpose_b ? c.k : c.n);
    d_layout = layout(kType<R>, c.m, c.n);
    cudaMalloc(&workspace, kWorkspace);
    cublasLtMatmulPreferenceCreate(&preference);
    const uint64_t bytes = kWorkspace;
    cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes,
                                         sizeof(bytes));
    const uint32_t ordered = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &ordered,
                                         sizeof(ordered));
  }
  ~Problem() {
    cublasLtMatmulPreferenceDestroy(preference);
    cudaFree(workspace);
    for (cublasLtMatrixLayout_t x : {a_layout, b_layout, d_layout}) cublasLtMatrixLayoutDestroy(x);
    cublasLtMatmulDescDestroy(description);
    cublasLtDestroy(handle);
  }
  Problem(const Problem&) = delete;
  Problem& operator=(const Problem&) = delete;

  template <class V>
  void set(cublasLtMatmulDescAttributes_t attribute, const V& value) {
    ASSERT_EQ(cublasLtMatmulDescSetAttribute(description, attribute, &value, sizeof(value)),
              CUBLAS_STATUS_SUCCESS);
  }
  template <class V>
  static void set(cublasLtMatrixLayout_t x, cublasLtMatrixLayoutAttribute_t attribute, V value) {
    ASSERT_EQ(cublasLtMatrixLayoutSetAttribute(x, attribute, &value, sizeof(value)), CUBLAS_STATUS_SUCCESS);
  }
  cublasLtMatrixLayout_t layout(cudaDataType_t type, int64_t rows, int64_t columns) {
    cublasLtMatrixLayout_t x = nullptr;
    cublasLtMatrixLayoutCreate(&x, type, static_cast<uint64_t>(rows), static_cast<uint64_t>(columns),
                               shape.row_major ? columns : rows);
    if (shape.row_major) set(x, CUBLASLT_MATRIX_LAYOUT_ORDER, static_cast<int32_t>(CUBLASLT_ORDER_ROW));
    set(x, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, shape.batch);
    set(x, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, rows * columns);
    return x;
  }
  static int64_t auxiliary_rows(const Case& c) { return (c.m + 7) / 8 * 8; }
  template <class V>
  static std::vector<V> filled(int64_t n, int seed) {
    std::vector<V> values(static_cast<size_t>(n));
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = static_cast<V>(std::sin(static_cast<double>(i * 7 + static_cast<size_t>(seed) * 13)));
    }
    return values;
  }

  std::vector<cublasLtMatmulHeuristicResult_t> candidates() {
    std::vector<cublasLtMatmulHeuristicResult_t> results(8);
    int count = 0;
    cublasLtMatmulAlgoGetHeuristic(handle, description, a_layout, b_layout, d_layout, d_layout, preference, 8,
                                   results.data(), &count);
    results.resize(static_cast<size_t>(count));
    return results;
  }
  cublasStatus_t run(const cublasLtMatmulAlgo_t* algo, const void* a_data, size_t workspace_bytes) {
    const T alpha = static_cast<T>(shape.alpha), beta = static_cast<T>(shape.beta);
    return cublasLtMatmul(handle, description, &alpha, a_data, a_layout, b.data(), b_layout, &beta, d.data(),
                          d_layout, d.data(), d_layout, algo, workspace, workspace_bytes, nullptr);
  }

  // Every element against a sum in double; the error in units of the rounding of S or R, whichever is
  // coarser.
  void check() {
    const auto x = a.to_host(), y = b.to_host();
    const auto before = d.to_host(), added = bias.to_host(), argument = auxiliary.to_host();
    const auto found = candidates();
    ASSERT_GT(found.size(), static_cast<size_t>(shape.candidate));
    ASSERT_EQ(run(&found[static_cast<size_t>(shape.candidate)].algo, a.data(), kWorkspace),
              CUBLAS_STATUS_SUCCESS);
    const auto after = d.to_host(), sums = bias.to_host(), stored = auxiliary.to_host();
    const auto at = [&](int64_t rows, int64_t columns, int64_t row, int64_t column, int64_t index) {
      return static_cast<size_t>(index * rows * columns +
                                 (shape.row_major ? row * columns + column : column * rows + row));
    };
    const double rounding = sizeof(R) == 2   ? (std::is_same_v<R, BFloat16> ? 0x1p-8 : 0x1p-11)
                            : sizeof(R) == 4 ? 0x1p-24
                                             : 0x1p-53;
    const double summing = sizeof(S) == 8 ? 0x1p-53 : 0x1p-24;
    for (int64_t index = 0; index < shape.batch; ++index) {
      for (int64_t i = 0; i < shape.m; ++i) {
        for (int64_t j = 0; j < shape.n; ++j) {
          double sum = 0.0, size = 0.0;
          for (int64_t l = 0; l < shape.k; ++l) {
            const double p = static_cast<double>(shape.transpose_a ? x[at(shape.k, shape.m, l, i, index)]
                                                                   : x[at(shape.m, shape.k, i, l, index)]) *
                             static_cast<double>(shape.transpose_b ? y[at(shape.n, shape.k, j, l, index)]
                                                                   : y[at(shape.k, shape.n, l, j, index)]);
            sum += p;
            size += std::fabs(p);
          }
          const size_t place = at(shape.m, shape.n, i, j, index);
          double expected = shape.alpha * sum;
          if (shape.beta != 0.0) expected += shape.beta * static_cast<double>(before[place]);
          if ((shape.epilogue & CUBLASLT_EPILOGUE_BIAS) != 0)
            expected += static_cast<double>(added[static_cast<size_t>(i)]);
          if ((shape.epilogue & CUBLASLT_EPILOGUE_RELU) != 0) expected = std::max(expected, 0.0);
          const auto tolerance_of = [&](double value) {
            return std::fabs(value) * rounding * 2 +
                   (std::fabs(shape.alpha) * size + 4.0) * static_cast<double>(shape.k + 4) * summing;
          };
          const auto other = static_cast<size_t>((index * shape.n + j) * auxiliary_rows(shape) + i);
          if (shape.epilogue == CUBLASLT_EPILOGUE_GELU_AUX ||
              shape.epilogue == CUBLASLT_EPILOGUE_GELU_AUX_BIAS) {
            ASSERT_NEAR(static_cast<double>(stored[other]), expected, tolerance_of(expected));
          } else {
            ASSERT_EQ(static_cast<double>(stored[other]), static_cast<double>(argument[other]));
          }
          const auto gelu = [](double z) {
            return 0.5 * z * (1.0 + std::tanh(std::sqrt(2.0 / M_PI) * (z + 0.044715 * z * z * z)));
          };
          if ((shape.epilogue & CUBLASLT_EPILOGUE_GELU) != 0) expected = gelu(expected);
          if (shape.epilogue == CUBLASLT_EPILOGUE_DGELU) {
            const double z = static_cast<double>(argument[other]), h = 1e-5;
            expected *= (gelu(z + h) - gelu(z - h)) / (2.0 * h);
          }
          if (shape.epilogue == CUBLASLT_EPILOGUE_BGRADA && j == 0) {
            double column = 0.0;
            for (int64_t l = 0; l < shape.k; ++l) {
              column += static_cast<double>(shape.transpose_a ? x[at(shape.k, shape.m, l, i, index)]
                                                              : x[at(shape.m, shape.k, i, l, index)]);
            }
            ASSERT_NEAR(static_cast<double>(sums[static_cast<size_t>(i)]), column,
                        std::fabs(column) * rounding + static_cast<double>(shape.k * shape.k) * summing);
          }
          const double tolerance = tolerance_of(expected);
          ASSERT_NEAR(static_cast<double>(after[place]), expected, tolerance)
              << i << "," << j << " of " << index;
        }
      }
    }
  }

  static constexpr size_t kWorkspace = 1 << 20;
  Case shape;
  DeviceArray<S> a, b;
  DeviceArray<R> d, bias, auxiliary;
  cublasLtHandle_t handle = nullptr;
  cublasLtMatmulDesc_t description = nullptr;
  cublasLtMatrixLayout_t a_layout = nullptr, b_layout = nullptr, d_layout = nullptr;
  cublasLtMatmulPreference_t preference = nullptr;
  void* workspace = nullptr;
};

TEST(Products, EqualSumsInDoubleForEveryTypeAndTransposition) {
  for (const bool ta : {false, true}) {
    for (const bool tb : {false, true}) {
      for (const bool row_major : {false, true}) {
        const Case c{.m = 17, .n = 9, .k = 33, .transpose_a = ta, .transpose_b = tb, .row_major = row_major};
        Problem<double, double>(c).check();
        Problem<float, float>(c).check();
        Problem<BFloat16, BFloat16>(c).check();
        Problem<BFloat16, float>(c).check();
        Problem<Float16, Float16>(c).check();
        Problem<Float16, float>(c).check();
      }
    }
  }
}

TEST(Products, OfEveryShapeAndBatch) {
  for (const int64_t m : {1, 16, 40}) {
    for (const int64_t n : {1, 8, 21}) {
      for (const int64_t k : {1, 4, 130}) Problem<float, float>({.m = m, .n = n, .k = k, .batch = 3}).check();
    }
  }
}

TEST(Products, ScalesAndEpilogues) {
  Problem<float, float>({.m = 19, .n = 5, .k = 7, .alpha = -0.5, .beta = 2.0}).check();
  for (const uint32_t epilogue :
       {CUBLASLT_EPILOGUE_BIAS, CUBLASLT_EPILOGUE_RELU, CUBLASLT_EPILOGUE_RELU_BIAS, CUBLASLT_EPILOGUE_GELU,
        CUBLASLT_EPILOGUE_GELU_BIAS, CUBLASLT_EPILOGUE_GELU_AUX, CUBLASLT_EPILOGUE_GELU_AUX_BIAS,
        CUBLASLT_EPILOGUE_DGELU, CUBLASLT_EPILOGUE_BGRADA}) {
    Problem<float, float>({.m = 19, .n = 5, .k = 7, .epilogue = epilogue, .beta = 1.0}).check();
    Problem<BFloat16, BFloat16>({.m = 19, .n = 5, .k = 7, .epilogue = epilogue}).check();
    Problem<Float16, float>({.m = 16, .n = 5, .k = 7, .transpose_a = true, .epilogue = epilogue}).check();
    if (epilogue != CUBLASLT_EPILOGUE_BGRADA)
      Problem<float, float>({.m = 8, .n = 5, .k = 7, .epilogue = epilogue, .batch = 3}).check();
  }
}

TEST(Products, CandidatesDifferInTheirLastBitsAlone) {
  const Case c{.m = 40, .n = 40, .k = 300};
  std::set<std::vector<float>> results;
  const size_t count = Problem<float, float>(c).candidates().size();
  EXPECT_GE(count, 2u);
  for (size_t i = 0; i < count; ++i) {
    Case with = c;
    with.candidate = static_cast<int>(i);
    Problem<float, float> problem(with);
    problem.check();
    results.insert(problem.d.to_host());
  }
  EXPECT_EQ(results.size(), count);
}

// The clock of events tells candidates apart, and which of them takes least time is a setting.
TEST(Products, TakeTheTimeThatTheSettingsSay) {
  for (const int fastest : {0, 1, 2}) {
    configure(("fastest=" + std::to_string(fastest) + ",unlaunchable=3").c_str());
    Problem<float, float> problem({.m = 16, .n = 8, .k = 12});
    const auto found = problem.candidates();
    std::vector<float> milliseconds;
    for (const auto& candidate : found) {
      cudaEvent_t begin, end;
      cudaEventCreate(&begin);
      cudaEventCreate(&end);
      cudaEventRecord(begin, nullptr);
      ASSERT_EQ(problem.run(&candidate.algo, problem.a.data(), problem.kWorkspace), CUBLAS_STATUS_SUCCESS);
      cudaEventRecord(end, nullptr);
      cudaEventSynchronize(end);
      cudaEventElapsedTime(&milliseconds.emplace_back(), begin, end);
      cudaEventDestroy(begin);
      cudaEventDestroy(end);
    }
    ASSERT_EQ(milliseconds.size(), 3u);
    EXPECT_EQ(std::min_element(milliseconds.begin(), milliseconds.end()) - milliseconds.begin(), fastest);
  }
  configure("unlaunchable=1");
  Problem<float, float> problem({.m = 16, .n = 8, .k = 12});
  EXPECT_EQ(problem.run(&problem.candidates()[1].algo, problem.a.data(), problem.kWorkspace),
            CUBLAS_STATUS_NOT_SUPPORTED);
  configure("products=plain");
  EXPECT_EQ(problem.candidates().size(), 3u);
  EXPECT_TRUE((Problem<float, float>({.m = 16, .n = 8, .k = 12, .epilogue = CUBLASLT_EPILOGUE_BIAS})
                   .candidates()
                   .empty()));
  configure("products=none");
  EXPECT_TRUE(problem.candidates().empty());
  configure("");
}

// The first candidate adds in any order unless the preference forbids it.
TEST(Products, AtomicSumsAreOfferedAndChange) {
  Problem<float, float> problem({.m = 64, .n = 64, .k = 301});
  const uint32_t any = CUBLASLT_REDUCTION_SCHEME_MASK;
  cublasLtMatmulPreferenceSetAttribute(problem.preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &any,
                                       sizeof(any));
  const auto found = problem.candidates();
  std::set<std::vector<float>> results;
  for (int i = 0; i < 5; ++i) {
    ASSERT_EQ(problem.run(&found[0].algo, problem.a.data(), 0), CUBLAS_STATUS_SUCCESS);
    results.insert(problem.d.to_host());
  }
  EXPECT_GT(results.size(), 1u);
}

TEST(Products, WrongArgumentsAreRefused) {
  const Case c{.m = 16, .n = 8, .k = 12};
  {
    Problem<float, float> p(c);
    const auto found = p.candidates();
    EXPECT_EQ(p.run(&found[0].algo, p.a.data() + 1, p.kWorkspace), CUBLAS_STATUS_INVALID_VALUE)
        << "alignment";
    std::vector<float> host(16 * 12);
    EXPECT_EQ(p.run(&found[0].algo, host.data(), p.kWorkspace), CUBLAS_STATUS_INVALID_VALUE) << "host memory";
    EXPECT_GT(found.back().workspaceSize, 0u);
    EXPECT_EQ(p.run(&found.back().algo, p.a.data(), 0), CUBLAS_STATUS_INVALID_VALUE) << "workspace";
    cublasLtMatmulAlgo_t other = {};
    EXPECT_EQ(p.run(&other, p.a.data(), p.kWorkspace), CUBLAS_STATUS_INVALID_VALUE) << "not an algorithm";
    EXPECT_EQ(p.run(nullptr, p.a.data(), p.kWorkspace), CUBLAS_STATUS_SUCCESS);
  }
  const auto refuses = [&](auto change) {
    Problem<float, float> p(c);
    change(p);
    return p.candidates().empty() && p.run(nullptr, p.a.data(), p.kWorkspace) != CUBLAS_STATUS_SUCCESS;
  };
  using P = Problem<float, float>;
  EXPECT_TRUE(refuses([](P& p) { P::set(p.a_layout, CUBLASLT_MATRIX_LAYOUT_LD, int64_t{15}); }));
  EXPECT_TRUE(refuses([](P& p) { P::set(p.a_layout, CUBLASLT_MATRIX_LAYOUT_COLS, uint64_t{11}); }));
  EXPECT_TRUE(refuses([](P& p) { P::set(p.b_layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, int32_t{2}); }));
  EXPECT_TRUE(refuses([](P& p) { P::set(p.b_layout, CUBLASLT_MATRIX_LAYOUT_TYPE, uint32_t{CUDA_R_16F}); }));
  EXPECT_TRUE(refuses([](P& p) { P::set(p.d_layout, CUBLASLT_MATRIX_LAYOUT_TYPE, uint32_t{CUDA_R_16F}); }));
  EXPECT_TRUE(refuses([](P& p) { p.set(CUBLASLT_MATMUL_DESC_TRANSA, static_cast<int32_t>(CUBLAS_OP_T)); }));
  EXPECT_TRUE(refuses([](P& p) {
    p.set(CUBLASLT_MATMUL_DESC_EPILOGUE, static_cast<uint32_t>(CUBLASLT_EPILOGUE_BIAS));
    p.set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, static_cast<int32_t>(CUDA_R_16F));
  }));
  const auto with_auxiliary = [&](auto change) {
    return refuses([&](P& p) {
      p.set(CUBLASLT_MATMUL_DESC_EPILOGUE, static_cast<uint32_t>(CUBLASLT_EPILOGUE_DGELU));
      change(p);
    });
  };
  EXPECT_FALSE(with_auxiliary([](P&) {}));
  EXPECT_TRUE(with_auxiliary([](P& p) { p.set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, int64_t{20}); }));
  EXPECT_TRUE(with_auxiliary([](P& p) { p.set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, int64_t{8}); }));
  {
    P p(c);
    p.set(CUBLASLT_MATMUL_DESC_EPILOGUE, static_cast<uint32_t>(CUBLASLT_EPILOGUE_DGELU));
    std::vector<float> host(16 * 8);
    p.set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, static_cast<const void*>(host.data()));
    EXPECT_EQ(p.run(nullptr, p.a.data(), p.kWorkspace), CUBLAS_STATUS_INVALID_VALUE) << "host memory";
  }
  // Reads beyond the end of its buffer.
  Problem<float, float> p(c);
  P::set(p.a_layout, CUBLASLT_MATRIX_LAYOUT_LD, int64_t{17});
  EXPECT_EQ(p.run(nullptr, p.a.data(), p.kWorkspace), CUBLAS_STATUS_INVALID_VALUE);
}

}  // namespace
}  // namespace cuda_on_cpu
