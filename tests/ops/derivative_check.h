// Checks that every derivative of an op must pass: central differences, the adjoint identity, symmetry of
// second derivatives, and the fused backward kernel against the reference composition. All in fp64.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "lockstep/autodiff/derivatives.h"

namespace lockstep::test {

struct OpCase {
  std::string name;
  Function function;
  std::vector<Tensor> inputs;  // fp64; all are differentiated
};

void PrintTo(const OpCase& op, std::ostream* stream);

// Reproducible values in [low, high), different for every element and stream.
Tensor random_tensor(const Shape& shape, double low, double high, uint64_t stream, DType dtype = DType::kF64);

// Largest |a-b| / (1 + |b|) over the elements.
double largest_error(const Tensor& a, const Tensor& b);
double inner_product(const Tensor& a, const Tensor& b);

// The gradient of <u, f(x)> with respect to every input, by central differences.
std::vector<Tensor> central_differences(const Function& f, const std::vector<Tensor>& inputs,
                                        const Tensor& u);

void check_derivatives(const OpCase& op);

}  // namespace lockstep::test
