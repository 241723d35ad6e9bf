// Recurrent kernels: the same bits on any number of threads, and for a row whatever rows surround it. Values
// and derivatives are checked where the op has a reference (tests/ops) and against PyTorch (tests/nn).
#include <gtest/gtest.h>

#include "kernels/arrays.h"

namespace lockstep::test {
namespace {

template <class T>
class Recurrent : public Kernels<T> {
 protected:
  // States and input derivatives of the first `kept` rows of a batch of `rows`, one after the other, step by
  // step.
  std::vector<T> run(RecurrentCell cell, bool reverse, int64_t rows, int64_t kept) {
    RecurrentArguments a;
    a.cell = cell;
    a.dtype = this->kDType;
    a.reverse = reverse;
    a.steps = 6;
    a.rows = rows;
    a.units = 37;
    const int64_t states_size = a.steps * rows * a.units, gates_size = a.steps * rows * a.gates();
    const std::vector<T> inputs = batch(a.steps, rows, a.gates(), 1),
                         dstates = batch(a.steps, rows, a.units, 2);
    const std::vector<T> weight = random_values<T>(a.units * a.gates(), 3),
                         bias = random_values<T>(a.units, 4);
    const bool gated = a.gates() > a.units;
    std::vector<T> activations = nothing(gates_size), memory = nothing(states_size),
                   states = nothing(states_size);
    std::vector<T> dinputs = nothing(gates_size), dproducts = nothing(gates_size);
    const bool gru = cell == RecurrentCell::kGru;
    this->backend.recurrent(a, inputs.data(), weight.data(), gru ? bias.data() : nullptr,
                            gated ? activations.data() : nullptr, gated ? memory.data() : nullptr,
                            states.data());
    this->backend.recurrent_backward(a, weight.data(), gated ? activations.data() : nullptr,
                                     gated ? memory.data() : nullptr, states.data(), dstates.data(),
                                     dinputs.data(), gru ? dproducts.data() : nullptr);
    std::vector<T> result;
    const auto keep = [&](const std::vector<T>& array, int64_t width) {
      for (int64_t step = 0; step < a.steps; ++step) {
        const auto first = array.begin() + step * rows * width;
        result.insert(result.end(), first, first + kept * width);
      }
    };
    keep(states, a.units);
    keep(dinputs, a.gates());
    if (gru) keep(dproducts, a.gates());
    return result;
  }

 private:
  static std::vector<T> nothing(int64_t n) {
    return std::vector<T>(static_cast<size_t>(n), std::numeric_limits<T>::quiet_NaN());
  }
  // (steps, rows, width), each row a function of its step and number alone.
  static std::vector<T> batch(int64_t steps, int64_t rows, int64_t width, uint32_t salt) {
    std::vector<T> values;
    for (int64_t i = 0; i < steps * rows; ++i) {
      const int64_t row = i / rows * 1000 + i % rows;
      const std::vector<T> next = random_values<T>(width, salt + 10 * static_cast<uint32_t>(row));
      values.insert(values.end(), next.begin(), next.end());
    }
    return values;
  }
};
TYPED_TEST_SUITE(Recurrent, Precisions);

TYPED_TEST(Recurrent, ARowHasTheSameBitsOnAnyThreadsAndInAnyBatch) {
  for (const RecurrentCell cell :
       {RecurrentCell::kTanh, RecurrentCell::kRelu, RecurrentCell::kLstm, RecurrentCell::kGru}) {
    for (const bool reverse : {false, true}) {
      // Enough work for two threads, and too little.
      const std::vector<TypeParam> many = on_any_threads([&] { return this->run(cell, reverse, 83, 3); });
      const std::vector<TypeParam> few = on_any_threads([&] { return this->run(cell, reverse, 3, 3); });
      EXPECT_TRUE(same_bits(many, few)) << "cell " << static_cast<int>(cell) << ", reverse " << reverse;
      for (const TypeParam value : few) ASSERT_EQ(value, value) << "an element was not written";
    }
  }
}

}  // namespace
}  // namespace lockstep::test
