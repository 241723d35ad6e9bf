// Inverses and eigenbases of the factors of preconditioners, of all sizes that are cut into halves.
#include "lockstep/optim/matrix_roots.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>

#include "core/limited_memory.h"
#include "device.h"
#include "lockstep/core/philox.h"
#include "lockstep/core/thread_pool.h"
#include "sanitized.h"

namespace lockstep {
namespace {

// B B' / n of B (n, rank) with elements in [-1, 1).
std::vector<double> second_moments(int64_t n, int64_t rank) {
  std::vector<double> b(static_cast<size_t>(n * rank)), a(static_cast<size_t>(n * n), 0.0);
  const PhiloxKey key = philox_key(5, RandomPurpose::kTest);
  for (size_t i = 0; i < b.size(); ++i) {
    const PhiloxBlock block = philox(key, {static_cast<uint32_t>(i), static_cast<uint32_t>(n), 0, 0});
    b[i] = 2.0 * uniform_double(block.r[0], block.r[1]) - 1.0;
  }
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      for (int64_t k = 0; k < rank; ++k) {
        a[static_cast<size_t>(i * n + j)] += b[static_cast<size_t>(i * rank + k)] *
                                             b[static_cast<size_t>(j * rank + k)] / static_cast<double>(n);
      }
    }
  }
  return a;
}

Tensor matrix(int64_t n, const std::vector<double>& elements) {
  return Tensor::from({n, n}, elements, test_backend());
}

TEST(DampedInverses, AreInversesOnAnyNumberOfThreads) {
  for (const int64_t n : {1, 2, 47, 48, 49, 97, 200}) {
    // Singular without damping.
    const std::vector<double> a = second_moments(n, (n + 1) / 2);
    std::vector<double> alone;
    for (const int threads : {1, 3}) {
      set_threads(threads);
      std::vector<InverseTask> tasks{
          {{matrix(n, a), Tensor::zeros({n, n}, DType::kF64, test_backend()), n}, 2.0, 0.01}};
      damped_inverses(tasks);
      EXPECT_FALSE(tasks[0].kept);
      const std::vector<double> x = tasks[0].root.to_vector<double>();
      if (threads == 1) alone = x;
      EXPECT_EQ(x, alone);
      for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < n; ++j) {
          double sum = 0.0;
          for (int64_t k = 0; k < n; ++k) {
            const double element = 2.0 * a[static_cast<size_t>(i * n + k)] + (i == k ? 0.01 : 0.0);
            sum += element * x[static_cast<size_t>(k * n + j)];
          }
          ASSERT_NEAR(sum, i == j ? 1.0 : 0.0, 1e-9) << n << ": " << i << ", " << j;
          ASSERT_EQ(x[static_cast<size_t>(i * n + j)], x[static_cast<size_t>(j * n + i)]);
        }
      }
    }
  }
}

TEST(DampedInverses, ReadTheLowerTriangleAlone) {
  constexpr int64_t kSize = 100;
  std::vector<double> a = second_moments(kSize, kSize);
  const auto inverse_of = [&] {
    std::vector<InverseTask> tasks{
        {{matrix(kSize, a), Tensor::zeros({kSize, kSize}, DType::kF64, test_backend()), kSize}, 1.0, 0.1}};
    damped_inverses(tasks);
    return tasks[0].root.to_vector<double>();
  };
  const std::vector<double> whole = inverse_of();
  for (int64_t i = 0; i < kSize; ++i) {
    for (int64_t j = i + 1; j < kSize; ++j) a[static_cast<size_t>(i * kSize + j)] = 0.0;
  }
  EXPECT_EQ(inverse_of(), whole);
}

TEST(DampedInverses, WhatCannotBeInvertedStaysOrBecomesTheUnitMatrix) {
  for (const int64_t n : {2, 60}) {
    for (const double spoilt : {std::numeric_limits<double>::quiet_NaN(), -100.0}) {
      std::vector<double> a = second_moments(n, n);
      a[static_cast<size_t>(n * n - 1)] = spoilt;
      const Tensor before = Tensor::full({n, n}, DType::kF64, test_backend(), 3.0);
      std::vector<InverseTask> tasks{
          {{matrix(n, a), Tensor::zeros({n, n}, DType::kF64, test_backend()), n}, 1.0, 0.1},
          {{matrix(n, a), before, n}, 1.0, 0.1}};
      damped_inverses(tasks);
      EXPECT_TRUE(tasks[0].kept && tasks[1].kept);
      const std::vector<double> unit = tasks[0].root.to_vector<double>();
      for (size_t i = 0; i < unit.size(); ++i)
        EXPECT_EQ(unit[i], i % static_cast<size_t>(n + 1) == 0 ? 1.0 : 0.0);
      for (const double element : tasks[1].root.to_vector<double>()) EXPECT_EQ(element, 3.0);
    }
  }
}

TEST(EigenDecompositions, GiveTheMatrixBack) {
  for (const int64_t n : {1, 7, 60}) {
    const std::vector<double> a = second_moments(n, (n + 1) / 2);
    std::vector<EigenTask> tasks{{{matrix(n, a), Tensor::zeros({n, n}, DType::kF64, test_backend()), n},
                                  Tensor::zeros({n}, DType::kF64, test_backend()),
                                  2.0}};
    eigen_decompositions(tasks);
    const std::vector<double> q = tasks[0].root.to_vector<double>(),
                              values = tasks[0].values.to_vector<double>();
    for (int64_t i = 0; i < n; ++i) {
      EXPECT_GE(values[static_cast<size_t>(i)], 0.0);
      for (int64_t j = 0; j < n; ++j) {
        double sum = 0.0;
        for (int64_t k = 0; k < n; ++k) {
          sum += q[static_cast<size_t>(i * n + k)] * values[static_cast<size_t>(k)] *
                 q[static_cast<size_t>(j * n + k)];
        }
        EXPECT_NEAR(sum, 2.0 * a[static_cast<size_t>(i * n + j)], 1e-12);
      }
    }
  }
}

// Gram and Schmidt's orthogonalization, twice, of the columns of A Q in the order of q'Aq; Householder's R
// has a diagonal of the sign against that of the column it reflects, so that columns are compared up to their
// sign.
TEST(RefinedBasis, IsAStepOfOrthogonalIterationOnAnyNumberOfThreads) {
  for (const int64_t n : {1, 5, 64, 65, 160}) {
    const auto at = [n](int64_t i, int64_t j) { return static_cast<size_t>(i * n + j); };
    const std::vector<double> a = second_moments(n, n), start = second_moments(n, n + 3);
    const std::vector<double> q = eigenbasis(matrix(n, start)).to_vector<double>();
    std::vector<double> columns(a.size(), 0.0);
    std::vector<double> estimates;
    for (int64_t j = 0; j < n; ++j) {
      double estimate = 0.0;
      for (int64_t i = 0; i < n; ++i) {
        for (int64_t k = 0; k < n; ++k) columns[at(j, i)] += a[at(i, k)] * q[at(k, j)];
        estimate += q[at(i, j)] * columns[at(j, i)];
      }
      estimates.push_back(estimate);
    }
    set_threads(1);
    const RefinedBasis refined = refined_basis(matrix(n, a), matrix(n, q));
    const std::vector<double> found = refined.basis.to_vector<double>();
    set_threads(3);
    const RefinedBasis again = refined_basis(matrix(n, a), matrix(n, q));
    set_threads(1);
    EXPECT_EQ(again.basis.to_vector<double>(), found);
    EXPECT_EQ(again.order, refined.order);
    std::vector<std::vector<double>> done;
    for (int64_t j = 0; j < n; ++j) {
      const int64_t from = refined.order[static_cast<size_t>(j)];
      if (j > 0) {
        EXPECT_GE(estimates[static_cast<size_t>(refined.order[static_cast<size_t>(j - 1)])],
                  estimates[static_cast<size_t>(from)]);
      }
      std::vector<double> x(columns.begin() + from * n, columns.begin() + (from + 1) * n);
      for (int pass = 0; pass < 2; ++pass) {
        for (const std::vector<double>& other : done) {
          const double along = std::inner_product(x.begin(), x.end(), other.begin(), 0.0);
          for (size_t i = 0; i < x.size(); ++i) x[i] -= along * other[i];
        }
      }
      const double length = std::sqrt(std::inner_product(x.begin(), x.end(), x.begin(), 0.0));
      double cosine = 0.0;
      for (int64_t i = 0; i < n; ++i) {
        x[static_cast<size_t>(i)] /= length;
        cosine += x[static_cast<size_t>(i)] * found[at(i, j)];
      }
      for (int64_t i = 0; i < n; ++i) {
        ASSERT_NEAR(found[at(i, j)], (cosine > 0.0 ? 1.0 : -1.0) * x[static_cast<size_t>(i)], 1e-9)
            << n << ": " << i << ", " << j;
      }
      done.push_back(std::move(x));
    }
  }
}

TEST(RefinedBasis, OfAMatrixThatIsNotFiniteStays) {
  std::vector<double> a = second_moments(70, 70);
  a[69] = std::numeric_limits<double>::infinity();
  const Tensor basis = eigenbasis(matrix(70, second_moments(70, 70)));
  const RefinedBasis refined = refined_basis(matrix(70, a), basis);
  EXPECT_EQ(refined.basis.to_vector<double>(), basis.to_vector<double>());
  EXPECT_TRUE(std::ranges::is_sorted(refined.order));
}

#if !defined(LOCKSTEP_TEST_SANITIZED)
class LittleMemory : public ::testing::Test {
 protected:
  static constexpr int64_t kSize = 300;
  void SetUp() override {
    if (&test_backend() != &cpu_backend()) GTEST_SKIP() << "is of the host";
    set_threads(1);
  }
  // Of matrices that take 41 MiB together, and more on the way, against that of each by itself.
  template <class Task, class Function>
  static std::string compared(const Task& task, const Function& compute) {
    std::vector<Task> alone{task};
    compute(alone);
    const std::vector<double> expected = alone[0].root.template to_vector<double>();
    std::vector<Task> tasks(60, task);
    for (Task& each : tasks) each.root = task.root.full_like(0.0);
    return testing::within_mebibytes(40, [&] {
      compute(tasks);
      const bool same = std::ranges::all_of(
          tasks, [&](const Task& each) { return each.root.template to_vector<double>() == expected; });
      return std::string(same ? "the same" : "others");
    });
  }
};

TEST_F(LittleMemory, IsEnoughForManyMatricesOneAfterTheOther) {
  const Tensor a = matrix(kSize, second_moments(kSize, kSize)), root = a.full_like(0.0);
  EXPECT_EQ(compared(InverseTask{{a, root, kSize}, 2.0, 0.01}, damped_inverses), "the same");
  EXPECT_EQ(compared(EigenTask{{a, root, kSize}, Tensor::zeros({kSize}, DType::kF64, cpu_backend()), 2.0},
                     eigen_decompositions),
            "the same");
  EXPECT_EQ(compared(RootTask{a, root, kSize},
                     [](std::vector<RootTask>& tasks) { inverse_roots(tasks, 1.0, 0.25, 1e-6); }),
            "the same");
}

TEST_F(LittleMemory, ThatIsTooLittleForOneMatrixIsSaidBeforeItIsTaken) {
  const Tensor a = matrix(kSize, second_moments(kSize, kSize));
  std::vector<InverseTask> tasks{{{a, a.full_like(0.0), kSize}, 2.0, 0.01}};
  const std::string said = testing::within_mebibytes(2, [&] {
    damped_inverses(tasks);
    return std::string("done");
  });
  EXPECT_TRUE(said.starts_with(
      "optimizer: a matrix of 300 x 300 in fp64 on the host: takes 2880000 bytes of memory: "))
      << said;
}
#endif

}  // namespace
}  // namespace lockstep
