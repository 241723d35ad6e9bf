// Optimizer updates against their equations written out in double.
#include "lockstep/kernels/math/update.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <limits>
#include <map>
#include <tuple>

#include "kernels/arrays.h"
#include "lockstep/core/error.h"

namespace lockstep::test {
namespace {

template <class T>
class Update : public Kernels<T> {};
TYPED_TEST_SUITE(Update, Precisions);

constexpr double kRate = 0.05, kDecay = 0.02, kScale = 0.25, kBeta = 0.9, kBeta2 = 0.98, kEpsilon = 1e-6;

struct State {
  double p, slot0, slot1, slot2, slot3;
};
struct Case {
  UpdateFormula formula;
  std::vector<double> scalars;
  std::function<void(State&, double)> exact;  // one element; the gradient comes scaled
  bool squares_first = false;                 // slots[0] averages squares: positive, and above slots[1]^2
};

std::vector<Case> cases() {
  const double correction1 = 1 - std::pow(kBeta, 3), correction2 = 1 - std::pow(kBeta2, 3);
  const auto adam = [=](State& s, double g) {
    s.slot0 = kBeta * s.slot0 + (1 - kBeta) * g;
    s.slot1 = kBeta2 * s.slot1 + (1 - kBeta2) * g * g;
    s.p -= kRate * (s.slot0 / correction1) / (std::sqrt(s.slot1 / correction2) + kEpsilon);
  };
  const auto amsgrad = [=](State& s, double g) {
    s.slot0 = kBeta * s.slot0 + (1 - kBeta) * g;
    s.slot1 = kBeta2 * s.slot1 + (1 - kBeta2) * g * g;
    s.slot2 = std::max(s.slot2, s.slot1);
    s.p -= kRate * (s.slot0 / correction1) / (std::sqrt(s.slot2 / correction2) + kEpsilon);
  };
  const auto rmsprop = [](State& s, double g, bool centered) {
    g += kDecay * s.p;
    s.slot0 = kBeta * s.slot0 + (1 - kBeta) * g * g;
    if (centered) s.slot1 = kBeta * s.slot1 + (1 - kBeta) * g;
    const double spread = centered ? s.slot0 - s.slot1 * s.slot1 : s.slot0;
    s.p -= kRate * g / (std::sqrt(spread) + kEpsilon);
  };
  // slot0, slot1: parameter and gradient of the update before; slot2, slot3: what is known of the curvature.
  const auto diagonal = [](State& s, double g, double counts) {
    g += kDecay * s.p;
    const double change = counts * (s.p - s.slot0);
    s.slot2 = kBeta * s.slot2 + (1 - kBeta) * change * (g - s.slot1);
    s.slot3 = kBeta * s.slot3 + (1 - kBeta) * change * change;
    s.slot0 = s.p;
    s.slot1 = g;
    s.p -= kRate * g / (s.slot3 > 0 ? std::max(std::fabs(s.slot2) / s.slot3, 0.5) : 2.0);
  };
  return {
      {UpdateFormula::kSgd, {kRate, kDecay}, [](State& s, double g) { s.p -= kRate * (g + kDecay * s.p); }},
      {UpdateFormula::kMomentumAveraged,
       {kRate, kDecay, kBeta},
       [](State& s, double g) {
         s.slot0 = kBeta * s.slot0 + (1 - kBeta) * (g + kDecay * s.p);
         s.p -= kRate * s.slot0;
       }},
      {UpdateFormula::kMomentumClassical,
       {kRate, kDecay, kBeta, 0.1},
       [](State& s, double g) {
         s.slot0 = kBeta * s.slot0 + 0.9 * (g + kDecay * s.p);
         s.p -= kRate * s.slot0;
       }},
      {UpdateFormula::kNesterovAveraged,
       {kRate, kDecay, kBeta},
       [](State& s, double g) {
         s.slot0 = kBeta * s.slot0 + (1 - kBeta) * (g + kDecay * s.p);
         s.p = s.slot1 - kRate * s.slot0;
       }},
      {UpdateFormula::kNesterovClassical,
       {kRate, kDecay, kBeta},
       [](State& s, double g) {
         g += kDecay * s.p;
         s.slot0 = kBeta * s.slot0 + g;
         s.p -= kRate * (g + kBeta * s.slot0);
       }},
      {UpdateFormula::kAdam,
       {kRate, kDecay, kBeta, kBeta2, kEpsilon, correction1, correction2},
       [=](State& s, double g) { adam(s, g + kDecay * s.p); }},
      {UpdateFormula::kAdamW,
       {kRate, kDecay, kBeta, kBeta2, kEpsilon, correction1, correction2},
       [=](State& s, double g) {
         s.p -= kRate * kDecay * s.p;
         adam(s, g);
       }},
      {UpdateFormula::kAdagrad,
       {kRate, kDecay, kEpsilon},
       [](State& s, double g) {
         g += kDecay * s.p;
         s.slot0 += g * g;
         s.p -= kRate * g / (std::sqrt(s.slot0) + kEpsilon);
       },
       true},
      {UpdateFormula::kRmsProp,
       {kRate, kDecay, kBeta, kEpsilon},
       [=](State& s, double g) { rmsprop(s, g, false); },
       true},
      {UpdateFormula::kRmsPropCentered,
       {kRate, kDecay, kBeta, kEpsilon},
       [=](State& s, double g) { rmsprop(s, g, true); },
       true},
      {UpdateFormula::kAmsGrad,
       {kRate, kDecay, kBeta, kBeta2, kEpsilon, correction1, correction2},
       [=](State& s, double g) { amsgrad(s, g + kDecay * s.p); }},
      {UpdateFormula::kAmsGradW,
       {kRate, kDecay, kBeta, kBeta2, kEpsilon, correction1, correction2},
       [=](State& s, double g) {
         s.p -= kRate * kDecay * s.p;
         amsgrad(s, g);
       }},
      {UpdateFormula::kNAdam,
       {kRate, kDecay, kBeta, kBeta2, kEpsilon, 0.7, 1.3, correction2},
       [=](State& s, double g) {
         g += kDecay * s.p;
         s.slot0 = kBeta * s.slot0 + (1 - kBeta) * g;
         s.slot1 = kBeta2 * s.slot1 + (1 - kBeta2) * g * g;
         s.p -= kRate * (0.7 * g + 1.3 * s.slot0) / (std::sqrt(s.slot1 / correction2) + kEpsilon);
       }},
      {UpdateFormula::kLion,
       {kRate, kDecay, kBeta, kBeta2},
       [](State& s, double g) {
         const double u = kBeta * s.slot0 + (1 - kBeta) * g;
         s.p -= kRate * ((u > 0 ? 1.0 : u < 0 ? -1.0 : 0.0) + kDecay * s.p);
         s.slot0 = kBeta2 * s.slot0 + (1 - kBeta2) * g;
       }},
      {UpdateFormula::kLambDirection,
       {kRate, kDecay, kBeta, kBeta2, kEpsilon, correction1, correction2},
       [=](State& s, double g) {
         s.slot0 = kBeta * s.slot0 + (1 - kBeta) * g;
         s.slot1 = kBeta2 * s.slot1 + (1 - kBeta2) * g * g;
         s.slot2 = s.slot0 / correction1 / (std::sqrt(s.slot1 / correction2) + kEpsilon) + kDecay * s.p;
       }},
      {UpdateFormula::kDiagonal,
       {kRate, kDecay, kBeta, 2.0, 0.5, 1.0},
       [=](State& s, double g) { diagonal(s, g, 1.0); }},
      {UpdateFormula::kDiagonal,
       {kRate, kDecay, kBeta, 2.0, 0.5, 0.0},
       [=](State& s, double g) { diagonal(s, g, 0.0); }},
      {UpdateFormula::kApproach, {0, 0, 0.3}, [](State& s, double g) { s.p += 0.3 * (g - s.p); }},
      {UpdateFormula::kApproach, {0, 0, 0.0}, [](State&, double) {}},
      {UpdateFormula::kApproach, {0, 0, 1.0}, [](State& s, double g) { s.p = g; }},
      {UpdateFormula::kRunning, {0, 0, 0.1}, [](State& s, double g) { s.p = 0.9 * s.p + g; }},
  };
}

// Drawn once: that takes longer than most of what is tested.
template <class T>
const std::vector<T>& drawn(int64_t n, uint32_t salt, double low = -2.0, double high = 2.0) {
  static std::map<std::tuple<int64_t, uint32_t, double, double>, std::vector<T>> known;
  std::vector<T>& values = known[{n, salt, low, high}];
  if (values.empty()) values = random_values<T>(n, salt, low, high);
  return values;
}

template <class T>
struct Arrays {
  std::vector<T> p, g, slot0, slot1, slot2, slot3;
  explicit Arrays(const Case& c, int64_t n)
      : p(drawn<T>(n, 71)),
        g(drawn<T>(n, 72)),
        slot0(drawn<T>(n, 73)),
        slot1(drawn<T>(n, 74, 0.01, 1.0)),
        slot2(drawn<T>(n, 75, 0.01, 1.0)),
        slot3(drawn<T>(n, 76, 0.5, 2.0)) {
    for (T& value : slot0) value = c.squares_first ? T(2) + std::fabs(value) : value;
  }

  // The formula itself on one element: compiled here for a processor without fused multiply-adds.
  void update_element(const Case& c, size_t i) {
    std::vector<double> scalars = c.scalars;
    scalars.resize(8);
    visit_update<T>(c.formula, [&](auto identity) {
      using Formula = typename decltype(identity)::type;
      const Formula formula(scalars.data());
      const T gradient = T(kScale) * g[i];
      if constexpr (Formula::kSlots == 0) {
        formula(p[i], gradient);
      } else if constexpr (Formula::kSlots == 1) {
        formula(p[i], gradient, slot0[i]);
      } else if constexpr (Formula::kSlots == 2) {
        formula(p[i], gradient, slot0[i], slot1[i]);
      } else if constexpr (Formula::kSlots == 3) {
        formula(p[i], gradient, slot0[i], slot1[i], slot2[i]);
      } else {
        formula(p[i], gradient, slot0[i], slot1[i], slot2[i], slot3[i]);
      }
    });
  }

  void update(
      const Case& c, int64_t begin, int64_t end,
      const std::function<void(UpdateArguments&)>& change = [](UpdateArguments&) {}) {
    UpdateArguments arguments;
    arguments.dtype = dtype_of<T>;
    arguments.n = end - begin;
    arguments.parameters = p.data() + begin;
    arguments.gradients = g.data() + begin;
    arguments.slots[0] = slot0.data() + begin;
    arguments.slots[1] = slot1.data() + begin;
    arguments.slots[2] = slot2.data() + begin;
    arguments.slots[3] = slot3.data() + begin;
    arguments.gradient_scale = kScale;
    std::copy(c.scalars.begin(), c.scalars.end(), arguments.scalars);
    change(arguments);
    cpu_backend().update(c.formula, arguments);
  }
  std::vector<T> all() const {
    std::vector<T> values = p;
    values.insert(values.end(), slot0.begin(), slot0.end());
    values.insert(values.end(), slot1.begin(), slot1.end());
    values.insert(values.end(), slot2.begin(), slot2.end());
    values.insert(values.end(), slot3.begin(), slot3.end());
    return values;
  }
};

TYPED_TEST(Update, EveryFormulaFollowsItsEquation) {
  using T = TypeParam;
  for (int64_t n : {int64_t{1}, int64_t{15}, int64_t{1000}, int64_t{70'001}}) {
    for (const Case& c : cases()) {
      const Arrays<T> start(c, n);
      const std::vector<T> result = on_any_threads([&] {
        Arrays<T> arrays = start;
        arrays.update(c, 0, n);
        return arrays.all();
      });
      std::vector<double> expected(static_cast<size_t>(5 * n));
      for (size_t i = 0; i < static_cast<size_t>(n); ++i) {
        State state{static_cast<double>(start.p[i]), static_cast<double>(start.slot0[i]),
                    static_cast<double>(start.slot1[i]), static_cast<double>(start.slot2[i]),
                    static_cast<double>(start.slot3[i])};
        c.exact(state, kScale * static_cast<double>(start.g[i]));
        expected[i] = state.p;
        expected[i + static_cast<size_t>(n)] = state.slot0;
        expected[i + static_cast<size_t>(2 * n)] = state.slot1;
        expected[i + static_cast<size_t>(3 * n)] = state.slot2;
        expected[i + static_cast<size_t>(4 * n)] = state.slot3;
      }
      expect_close(result, expected, 8.0);
    }
  }
}

TYPED_TEST(Update, SplittingTheArraysGivesTheSameBits) {
  using T = TypeParam;
  const int64_t n = 1000;
  for (const Case& c : cases()) {
    Arrays<T> whole(c, n), split(c, n);
    whole.update(c, 0, n);
    for (int64_t begin = 0, size = 1; begin < n; begin += size, size = size * 2 + 1) {
      split.update(c, begin, std::min(n, begin + size));
    }
    EXPECT_TRUE(same_bits(whole.all(), split.all())) << static_cast<int>(c.formula);
  }
}

TYPED_TEST(Update, EveryFormulaIsAmongTheCases) {
  for (int formula = 0; formula <= static_cast<int>(UpdateFormula::kApproach); ++formula) {
    int count = 0;
    for (const Case& c : cases()) count += static_cast<int>(c.formula) == formula;
    EXPECT_GT(count, 0) << formula;
  }
}

TYPED_TEST(Update, AnElementHasTheBitsOfTheFormulaInTheVectorBodyAndInTheTail) {
  using T = TypeParam;
  constexpr int64_t kMost = 1000;
  for (const Case& c : cases()) {
    SCOPED_TRACE("formula " + std::to_string(static_cast<int>(c.formula)));
    const Arrays<T> start(c, kMost);
    for (const int64_t begin : {0, 1, 3}) {
      for (int64_t end = begin + 1; end <= kMost; end = end < begin + 70 ? end + 1 : end + 233) {
        Arrays<T> arrays = start, expected = start;
        arrays.update(c, begin, end);
        for (size_t i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
          expected.update_element(c, i);
        }
        ASSERT_TRUE(same_bits(arrays.all(), expected.all())) << "elements " << begin << " to " << end;
      }
    }
  }
}

TYPED_TEST(Update, NumbersThatTheDeviceReadsGiveTheBitsOfThoseThatTheHostGives) {
  using T = TypeParam;
  const int64_t n = 1000;
  for (const Case& c : cases()) {
    Arrays<T> given(c, n), read(c, n), closed(c, n);
    const std::vector<T> before = closed.all();
    given.update(c, 0, n);
    std::vector<double> row = c.scalars;
    row.resize(8);
    const double open = 1.0, shut = 0.0, factor = kScale / 0.5;
    read.update(c, 0, n, [&](UpdateArguments& arguments) {
      std::fill_n(arguments.scalars, 8, NAN);
      arguments.gradient_scale = 0.5;
      arguments.factor = &factor;
      arguments.row = row.data();
      arguments.gate = &open;
    });
    EXPECT_TRUE(same_bits(read.all(), given.all())) << static_cast<int>(c.formula);
    closed.update(c, 0, n, [&](UpdateArguments& arguments) { arguments.gate = &shut; });
    EXPECT_TRUE(same_bits(closed.all(), before)) << static_cast<int>(c.formula);
  }
}

TYPED_TEST(Update, RunsOfElementsHaveTheBitsOfUpdatesOfTheirOwn) {
  using T = TypeParam;
  const int64_t n = 5000;
  const std::vector<int64_t> ends = {100, 103, 103, 110, 2048, 4999, 5200};  // one of them empty
  for (const Case& c : cases()) {
    std::vector<double> rows;
    for (size_t run = 0; run < ends.size(); ++run) {
      std::vector<double> row = c.scalars;
      row.resize(UpdateArguments::kScalars);
      row[0] *= static_cast<double>(run);
      rows.insert(rows.end(), row.begin(), row.end());
    }
    const double factor = kScale / 0.5;
    const auto numbers_of_the_device = [&](UpdateArguments& arguments) {
      arguments.gradient_scale = 0.5;
      arguments.factor = &factor;
      arguments.row = rows.data();
    };
    for (int64_t first : {0, 101, 2048}) {
      Arrays<T> together(c, n), apart(c, n);
      together.update(c, first, n, [&](UpdateArguments& arguments) {
        numbers_of_the_device(arguments);
        arguments.ends = ends.data();
        arguments.runs = static_cast<int64_t>(ends.size());
        arguments.first = first;
      });
      for (size_t run = 0; run < ends.size(); ++run) {
        const int64_t begin = std::max(first, run == 0 ? 0 : ends[run - 1]), end = std::min(ends[run], n);
        if (begin >= end) continue;
        apart.update(c, begin, end, [&](UpdateArguments& arguments) {
          numbers_of_the_device(arguments);
          arguments.row = &rows[run * UpdateArguments::kScalars];
        });
      }
      EXPECT_TRUE(same_bits(together.all(), apart.all()))
          << "formula " << static_cast<int>(c.formula) << " from " << first;
    }
  }
}

TYPED_TEST(Update, AZeroGradientAndStateLeaveAGapAtZero) {
  using T = TypeParam;
  for (const Case& c : cases()) {
    Arrays<T> arrays(c, 64);
    for (auto* values : {&arrays.p, &arrays.g, &arrays.slot0, &arrays.slot1, &arrays.slot2, &arrays.slot3})
      std::fill(values->begin(), values->end(), T(0));
    arrays.update(c, 0, 64);
    for (T value : arrays.all()) EXPECT_EQ(value, T(0));
  }
}

// Of a unit that gets no gradients any more, a little above the smallest normal number.
TYPED_TEST(Update, AnAverageThatDecaysEndsAtZeroAndNotAmongTheSubnormalNumbers) {
  using T = TypeParam;
  for (const Case& c : cases()) {
    Arrays<T> arrays(c, 70);
    for (auto* values : {&arrays.slot0, &arrays.slot1, &arrays.slot2, &arrays.slot3})
      std::fill(values->begin(), values->end(), std::numeric_limits<T>::min() * T(1.01));
    std::ranges::fill(arrays.g, T(0));
    // The running statistic is the parameter itself.
    std::ranges::fill(arrays.p, c.formula == UpdateFormula::kRunning ? std::numeric_limits<T>::min() : T(0));
    arrays.update(c, 0, 70);
    std::vector<T> averages = arrays.all();
    if (c.formula != UpdateFormula::kRunning) averages.erase(averages.begin(), averages.begin() + 70);
    for (const T value : averages)
      ASSERT_NE(std::fpclassify(value), FP_SUBNORMAL) << "formula " << static_cast<int>(c.formula);
  }
}

// The copy of `n` updated parameters, the arrays beginning `skipped` elements and the copy `copy_skipped`
// elements behind an aligned address; elements around the copy must stay.
template <class S>
void expect_copy(const Case& c, int64_t n, int64_t skipped, int64_t copy_skipped) {
  SCOPED_TRACE("n " + std::to_string(n) + ", formula " + std::to_string(static_cast<int>(c.formula)));
  const Arrays<float> start(c, skipped + n);
  const S around(123.0f);
  for (const double gate : {1.0, 0.0}) {
    Arrays<float> plain = start;
    plain.update(c, skipped, skipped + n, [&](UpdateArguments& arguments) { arguments.gate = &gate; });
    const std::vector<S> copy = on_any_threads([&] {
      Arrays<float> arrays = start;
      std::vector<S> values(static_cast<size_t>(copy_skipped + n + 1), around);
      arrays.update(c, skipped, skipped + n, [&](UpdateArguments& arguments) {
        arguments.gate = &gate;
        arguments.copy = values.data() + copy_skipped;
        arguments.copy_dtype = dtype_of<S>;
      });
      EXPECT_TRUE(same_bits(arrays.all(), plain.all())) << "a copy changes what is updated";
      return values;
    });
    std::vector<S> expected(copy.size(), around);
    if (gate != 0.0) {
      cpu_backend().cast(DType::kF32, dtype_of<S>, n, plain.p.data() + skipped,
                         expected.data() + copy_skipped);
    }
    EXPECT_TRUE(same_bits(copy, expected)) << "gate " << gate;
  }
}

// Averages that only some updates enter are told so by the number of the update, which the device alone may
// know.
TYPED_TEST(Update, AnApproachByNothingTouchesNoElement) {
  using T = TypeParam;
  const double shut = 0.0;
  const std::vector<double> row(UpdateArguments::kScalars, 0.0);
  UpdateArguments arguments;  // without arrays: to read or write any is a fault
  arguments.dtype = dtype_of<T>;
  arguments.n = 1000;
  EXPECT_EXIT(
      {
        cpu_backend().update(UpdateFormula::kApproach, arguments);
        arguments.row = row.data();
        cpu_backend().update(UpdateFormula::kApproach, arguments);
        arguments.gate = &shut;
        cpu_backend().update(UpdateFormula::kApproach, arguments);
        std::_Exit(0);
      },
      ::testing::ExitedWithCode(0), "");
}

template <class S>
class UpdateCopy : public ::testing::Test {};
using HalfPrecisions = ::testing::Types<BFloat16, Float16>;
TYPED_TEST_SUITE(UpdateCopy, HalfPrecisions);

TYPED_TEST(UpdateCopy, IsTheCastOfTheUpdatedParametersAndStaysWhereTheGateIsShut) {
  for (const Case& c : cases()) {
    for (const int64_t n : {1, 15, 1023, 1024, 1025, 70'001}) {
      expect_copy<TypeParam>(c, n, 0, 0);
      expect_copy<TypeParam>(c, n, 3, 1);
    }
  }
}

TYPED_TEST(UpdateCopy, IsTheCastAlsoWhereItIsSoLargeThatItIsWrittenPastTheCaches) {
  constexpr int64_t kCount = 8'400'001;
  std::vector<float> parameters(kCount), gradients(kCount, 0.25f);
  for (size_t i = 0; i < parameters.size(); ++i) parameters[i] = 1e-6f * static_cast<float>(i) - 3.0f;
  std::vector<TypeParam> copy(kCount + 6), expected(kCount + 6);
  UpdateArguments arguments;
  arguments.n = kCount;
  arguments.parameters = parameters.data();
  arguments.gradients = gradients.data();
  arguments.scalars[0] = kRate;
  arguments.copy = copy.data() + 5;
  arguments.copy_dtype = dtype_of<TypeParam>;
  cpu_backend().update(UpdateFormula::kSgd, arguments);
  cpu_backend().cast(DType::kF32, dtype_of<TypeParam>, kCount, parameters.data(), expected.data() + 5);
  EXPECT_TRUE(same_bits(copy, expected));
}

TEST(CopyOfUpdate, IsOfSinglePrecisionInSixteenBitsOrAnError) {
  const Case c = cases()[0];
  Arrays<double> wide(c, 4);
  Arrays<float> single(c, 4);
  std::vector<float> copy(4);
  EXPECT_THROW(wide.update(c, 0, 4, [&](UpdateArguments& a) { a.copy = copy.data(); }), Error);
  EXPECT_THROW(single.update(c, 0, 4,
                             [&](UpdateArguments& a) {
                               a.copy = copy.data();
                               a.copy_dtype = DType::kF32;
                             }),
               Error);
}

}  // namespace
}  // namespace lockstep::test
