// A program with a model of its own: a gated linear unit (Dauphin et al. 2017) between flattened pixels and
// class logits.
#include <lockstep/app/run_main.h>
#include <lockstep/nn/module.h>
#include <lockstep/ops/elementwise.h>
#include <lockstep/ops/matmul.h>
#include <lockstep/ops/movement.h>

namespace {

class Gated final : public lockstep::Module {
 public:
  Gated(int64_t inputs, int64_t width, int64_t outputs, const lockstep::ModuleBuilder& builder) {
    using Kind = lockstep::Initializer::Kind;
    value_ = builder.parameter("value", {inputs, width}, {Kind::kHeNormal, inputs, width, 1.0});
    gate_ = builder.parameter("gate", {inputs, width}, {Kind::kXavierNormal, inputs, width, 1.0});
    output_ = builder.parameter("output", {width, outputs}, {Kind::kXavierUniform, width, outputs, 1.0});
  }

  lockstep::Tensor forward(const lockstep::Tensor& x, lockstep::ForwardContext& context) const override {
    using namespace lockstep;
    const Tensor flat = reshape(x, {x.extent(0), -1});
    const Tensor hidden =
        matmul(flat, context.parameter(value_)) * sigmoid(matmul(flat, context.parameter(gate_)));
    return matmul(hidden, context.parameter(output_));
  }

 private:
  int value_, gate_, output_;
};

}  // namespace

int main(int argc, char** argv) {
  lockstep::register_model("gated", [](lockstep::Section& model, const lockstep::DataShape& data,
                                       const lockstep::ModuleBuilder& builder) {
    const int64_t width = model.integer("width", 32, lockstep::kPositive, "hidden units");
    return std::make_unique<Gated>(data.sample.elements(), width, data.outputs(), builder);
  });
  return lockstep::run_main(argc, argv);
}
