// The checks themselves, and a proof that they can fail.
#include "ops/derivative_check.h"

#include <gtest/gtest.h>

#include <cmath>
#include <ostream>

#include "device.h"
#include "lockstep/core/philox.h"
#include "lockstep/ops/elementwise.h"
#include "lockstep/ops/reduction.h"

namespace lockstep::test {

void PrintTo(const OpCase& op, std::ostream* stream) {
  *stream << op.name;
}

Tensor random_tensor(const Shape& shape, double low, double high, uint64_t stream, DType dtype) {
  const PhiloxKey key = philox_key(stream, RandomPurpose::kTest);
  std::vector<double> values(static_cast<size_t>(shape.elements()));
  for (size_t i = 0; i < values.size(); ++i) {
    const PhiloxBlock block = philox(key, {static_cast<uint32_t>(i), 0, 0, 0});
    values[i] = low + (high - low) * uniform_double(block.r[0], block.r[1]);
  }
  const Tensor exact = Tensor::from(shape, values, test_backend());
  if (dtype == DType::kF64) return exact;
  Tensor result = Tensor::empty(shape, dtype, test_backend());
  test_backend().cast(DType::kF64, dtype, shape.elements(), exact.data(), result.mutable_data());
  return result;
}

double largest_error(const Tensor& a, const Tensor& b) {
  if (!(a.shape() == b.shape())) return INFINITY;
  const std::vector<double> va = a.to_vector<double>(), vb = b.to_vector<double>();
  double worst = 0.0;
  for (size_t i = 0; i < va.size(); ++i) {
    const double error = std::abs(va[i] - vb[i]) / (1.0 + std::abs(vb[i]));
    if (!(error <= worst)) worst = error;
  }
  return worst;
}

double inner_product(const Tensor& a, const Tensor& b) {
  const std::vector<double> va = a.to_vector<double>(), vb = b.to_vector<double>();
  double total = 0.0;
  for (size_t i = 0; i < va.size(); ++i) total += va[i] * vb[i];
  return total;
}

std::vector<Tensor> central_differences(const Function& f, const std::vector<Tensor>& inputs,
                                        const Tensor& u) {
  const RecordingScope off(false);
  constexpr double kStep = 1e-5;
  std::vector<Tensor> result;
  for (size_t which = 0; which < inputs.size(); ++which) {
    std::vector<double> values = inputs[which].to_vector<double>();
    std::vector<double> slopes(values.size());
    std::vector<Tensor> moved = inputs;
    for (size_t i = 0; i < values.size(); ++i) {
      const double original = values[i];
      values[i] = original + kStep;
      moved[which] = Tensor::from(inputs[which].shape(), values, test_backend());
      const double above = inner_product(f(moved), u);
      values[i] = original - kStep;
      moved[which] = Tensor::from(inputs[which].shape(), values, test_backend());
      const double below = inner_product(f(moved), u);
      values[i] = original;
      slopes[i] = (above - below) / (2 * kStep);
    }
    result.push_back(Tensor::from(inputs[which].shape(), slopes, test_backend()));
  }
  return result;
}

void check_derivatives(const OpCase& op) {
  const Tensor value = op.function(op.inputs);
  const Tensor u = random_tensor(value.shape(), -1.0, 1.0, 1001);
  std::vector<Tensor> v, w;
  for (size_t i = 0; i < op.inputs.size(); ++i) {
    v.push_back(random_tensor(op.inputs[i].shape(), -1.0, 1.0, 2000 + i));
    w.push_back(random_tensor(op.inputs[i].shape(), -1.0, 1.0, 3000 + i));
  }

  // Reverse mode against central differences.
  const auto [reverse_value, cotangents] = vjp(op.function, op.inputs, u);
  EXPECT_EQ(largest_error(reverse_value, value), 0.0) << "recording changed the value";
  const std::vector<Tensor> differences = central_differences(op.function, op.inputs, u);
  for (size_t i = 0; i < op.inputs.size(); ++i) {
    EXPECT_LT(largest_error(cotangents[i], differences[i]), 2e-8) << "vjp of input " << i;
  }

  // Forward mode: <u, J v> = <J' u, v>.
  const Tensor pushed = jvp(op.function, op.inputs, v).second;
  double pulled = 0.0;
  for (size_t i = 0; i < op.inputs.size(); ++i) pulled += inner_product(cotangents[i], v[i]);
  EXPECT_NEAR(inner_product(u, pushed), pulled, 1e-11 * (1.0 + std::abs(pulled)) * 100) << "adjoint identity";

  // The graph that is built when the sweep is recorded gives the same first derivatives (fused against
  // reference).
  const Function scalar = [&](std::span<const Tensor> x) { return sum(multiply(op.function(x), u)); };
  const std::vector<Tensor> recorded = grad(scalar, op.inputs, true);
  for (size_t i = 0; i < op.inputs.size(); ++i) {
    EXPECT_LT(largest_error(recorded[i], cotangents[i]), 1e-11) << "recorded vjp of input " << i;
  }

  // Second derivatives of sum(u f^2), which are there even when f is linear: <w, H v> = <v, H w>, and H v
  // against differences of the gradient.
  const Function curved = [&](std::span<const Tensor> x) {
    const Tensor y = op.function(x);
    return sum(multiply(multiply(y, y), u));
  };
  const std::vector<Tensor> hv = hvp(curved, op.inputs, v), hw = hvp(curved, op.inputs, w);
  // One recording serves any number of products.
  const SecondDerivative second(curved, op.inputs);
  for (const bool of_v : {true, false, true}) {
    const std::vector<Tensor> again = second.times(of_v ? v : w);
    for (size_t i = 0; i < op.inputs.size(); ++i) {
      EXPECT_EQ(again[i].to_vector<double>(), (of_v ? hv : hw)[i].to_vector<double>()) << "input " << i;
    }
  }
  double whv = 0.0, vhw = 0.0;
  for (size_t i = 0; i < op.inputs.size(); ++i) {
    whv += inner_product(w[i], hv[i]);
    vhw += inner_product(v[i], hw[i]);
  }
  EXPECT_NEAR(whv, vhw, 1e-10 * (1.0 + std::abs(whv))) << "Hessian symmetry";
  constexpr double kStep = 1e-5;
  std::vector<Tensor> ahead, behind;
  for (size_t i = 0; i < op.inputs.size(); ++i) {
    ahead.push_back(add(op.inputs[i], scale(v[i], kStep)));
    behind.push_back(add(op.inputs[i], scale(v[i], -kStep)));
  }
  const std::vector<Tensor> g_ahead = grad(curved, ahead), g_behind = grad(curved, behind);
  for (size_t i = 0; i < op.inputs.size(); ++i) {
    const Tensor slope = scale(subtract(g_ahead[i], g_behind[i]), 1.0 / (2 * kStep));
    EXPECT_LT(largest_error(hv[i], slope), 1e-7) << "Hessian-vector product of input " << i;
  }
}

namespace {

// y = x^2 with a vjp that is wrong by a factor.
class WrongNode final : public Node {
 public:
  const char* name() const override { return "wrong"; }
  Saved saved() const override { return Saved::input(0); }
  void vjp(const Tensor&, const Tensor& cotangent, InputGradients& result) const override {
    result[0] = multiply(cotangent, inputs[0]);
  }
  Tensor jvp(const Tensor&, std::span<const Tensor> tangents) const override {
    return multiply(scale(inputs[0], 2.0), tangents[0]);
  }
};

TEST(DerivativeCheck, CentralDifferencesRejectAWrongVjp) {
  const Function wrong = [](std::span<const Tensor> x) {
    return record<WrongNode>(square(x[0].detach()), {&x[0]});
  };
  const std::vector<Tensor> inputs = {random_tensor({3}, 0.5, 1.5, 1)};
  const Tensor u = random_tensor({3}, -1, 1, 2);
  const auto cotangents = vjp(wrong, inputs, u).second;
  EXPECT_GT(largest_error(cotangents[0], central_differences(wrong, inputs, u)[0]), 1e-2);
  const std::vector<Tensor> v = {random_tensor({3}, -1, 1, 3)};
  EXPECT_GT(std::abs(inner_product(u, jvp(wrong, inputs, v).second) - inner_product(cotangents[0], v[0])),
            1e-3);
}

}  // namespace
}  // namespace lockstep::test
