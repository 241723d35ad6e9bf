// Recurrent layers: one fused op a sequence, with a reference out of simple ops, step by step.
#include "lockstep/ops/recurrent.h"

#include <fmt/format.h>

#include "lockstep/autodiff/node.h"
#include "lockstep/core/error.h"
#include "lockstep/ops/cast.h"
#include "lockstep/ops/elementwise.h"
#include "lockstep/ops/matmul.h"
#include "lockstep/ops/movement.h"
#include "lockstep/ops/operands.h"
#include "lockstep/ops/reduction.h"

namespace lockstep {

namespace {

const void* data_or_null(const Tensor& x) {
  return x.defined() ? x.data() : nullptr;
}
void* mutable_data_or_null(Tensor& x) {
  return x.defined() ? x.mutable_data() : nullptr;
}

// Inputs: those of recurrent(), then activations and memory, see Backend::recurrent; undefined where absent.
class RecurrentNode final : public FusedNode {
 public:
  explicit RecurrentNode(const RecurrentArguments& arguments) : arguments_(arguments) {}
  const char* name() const override { return "recurrent"; }
  Saved fused_saved() const override {
    return Saved::input(1) | Saved::input(3) | Saved::input(4) | Saved::output();
  }

  Tensor reference(std::span<const Tensor> in) const override {
    const int64_t steps = arguments_.steps, units = arguments_.units;
    const Tensor zero = Tensor::zeros({arguments_.rows, units}, in[0].dtype(), in[0].backend());
    Tensor state = zero, memory = zero;
    std::vector<Tensor> states(static_cast<size_t>(steps));
    for (int64_t i = 0; i < steps; ++i) {
      const int64_t t = arguments_.reverse ? steps - 1 - i : i;
      const Tensor z = reshape(slice(in[0], 0, t, t + 1), {arguments_.rows, arguments_.gates()});
      const Tensor s = matmul(state, in[1]);
      const auto gate = [units](const Tensor& x, int64_t index) {
        return slice(x, 1, index * units, (index + 1) * units);
      };
      switch (arguments_.cell) {
        case RecurrentCell::kTanh:
          state = tanh(add(z, s));
          break;
        case RecurrentCell::kRelu:
          state = relu(add(z, s));
          break;
        case RecurrentCell::kLstm: {
          const Tensor sum = add(z, s);
          memory = sigmoid(gate(sum, 1)) * memory + sigmoid(gate(sum, 0)) * tanh(gate(sum, 2));
          state = sigmoid(gate(sum, 3)) * tanh(memory);
          break;
        }
        case RecurrentCell::kGru: {
          const Tensor sum = add(z, s);
          const Tensor product = in[2].defined() ? gate(s, 2) + in[2] : gate(s, 2);
          const Tensor update = sigmoid(gate(sum, 1));
          const Tensor candidate = tanh(gate(z, 2) + sigmoid(gate(sum, 0)) * product);
          state = candidate + update * (state - candidate);
          break;
        }
      }
      states[static_cast<size_t>(t)] = reshape(state, {1, arguments_.rows, units});
    }
    return concatenate(states, 0);
  }

  void fused_vjp(const Tensor& output, const Tensor& cotangent, InputGradients& result) const override {
    const Tensor &inputs_z = inputs[0], &weight = inputs[1];
    const bool gru = arguments_.cell == RecurrentCell::kGru;
    Tensor dinputs = inputs_z.empty_like(), dproducts = gru ? inputs_z.empty_like() : Tensor();
    output.backend().recurrent_backward(arguments_, weight.data(), data_or_null(inputs[3]),
                                        data_or_null(inputs[4]), output.data(), cotangent.data(),
                                        dinputs.mutable_data(), mutable_data_or_null(dproducts));
    const int64_t steps = arguments_.steps, units = arguments_.units, gates = arguments_.gates();
    const Tensor& ds = gru ? dproducts : dinputs;
    if (result.wanted(1)) {
      // Every state but the last computed, against dL/ds of the step that read it: one product for all steps.
      const int64_t rows = (steps - 1) * arguments_.rows;
      const Tensor states = output.view({rows, units}, arguments_.reverse ? arguments_.rows * units : 0);
      const Tensor readers = ds.view({rows, gates}, arguments_.reverse ? 0 : arguments_.rows * gates);
      result[1] = matmul(states, readers, true, false);
    }
    if (result.wanted(2)) {
      result[2] = slice(sum(ds.view({steps * arguments_.rows, gates}), {0}), 0, 2 * units, gates);
    }
    if (result.wanted(0)) result[0] = std::move(dinputs);
  }

 private:
  RecurrentArguments arguments_;
};

}  // namespace

Tensor recurrent(RecurrentCell cell, const Tensor& inputs, const Tensor& weight, const Tensor& bias,
                 bool reverse) {
  require_one_device("recurrent", {&inputs, &weight, &bias});
  for (const Tensor* given : {&inputs, &weight, &bias}) {
    if (!given->defined() || accumulation_type(given->dtype()) == given->dtype()) continue;
    return recurrent(cell, widened(inputs), widened(weight), bias.defined() ? widened(bias) : bias, reverse);
  }
  RecurrentArguments arguments;
  arguments.cell = cell;
  arguments.dtype = inputs.dtype();
  arguments.reverse = reverse;
  const int64_t units = weight.rank() == 2 ? weight.shape()[0] : 0;
  const bool fits = inputs.rank() == 3 && inputs.elements() > 0 && units > 0 &&
                    weight.shape()[1] == gates_of(cell) * units && inputs.shape()[2] == weight.shape()[1] &&
                    weight.dtype() == inputs.dtype() &&
                    (!bias.defined() || (cell == RecurrentCell::kGru && bias.shape() == Shape{units} &&
                                         bias.dtype() == inputs.dtype()));
  if (!fits) {
    fail(ErrorKind::kUsage,
         fmt::format("recurrent: inputs (T,B,{0}*H), weight (H,{0}*H) and bias (H; GRU only) expected, got "
                     "{1} {2}, {3} {4} "
                     "and {5}",
                     gates_of(cell), inputs.shape().to_string(), name_of(inputs.dtype()),
                     weight.shape().to_string(), name_of(weight.dtype()),
                     bias.defined() ? bias.shape().to_string() : "no bias"));
  }
  arguments.steps = inputs.shape()[0];
  arguments.rows = inputs.shape()[1];
  arguments.units = units;
  Tensor states = Tensor::empty({arguments.steps, arguments.rows, units}, inputs.dtype(), inputs.backend());
  const bool gated = gates_of(cell) > 1;
  Tensor activations = gated ? inputs.empty_like() : Tensor(),
         memory = gated ? states.empty_like() : Tensor();
  inputs.backend().recurrent(arguments, inputs.data(), weight.data(), data_or_null(bias),
                             mutable_data_or_null(activations), mutable_data_or_null(memory),
                             states.mutable_data());
  return record<RecurrentNode>(std::move(states), {&inputs, &weight, &bias, &activations, &memory},
                               arguments);
}

}  // namespace lockstep
