// An own model in an own training loop: own_loop DATA OUTPUT. Run it alone or under mpirun: the weights are
// the same bits.
#include <lockstep/nn/linear.h>
#include <lockstep/ops/elementwise.h>
#include <lockstep/ops/movement.h>
#include <lockstep/optim/adam.h>
#include <lockstep/train/trainer.h>

#include <cstdio>
#include <limits>

using namespace lockstep;

// A gated linear unit (Dauphin et al. 2017) between features and class logits.
class Gated final : public Module {
 public:
  Gated(int64_t inputs, int64_t width, int64_t outputs, const ModuleBuilder& builder)
      : value_(inputs, width, {}, builder.scope("value")),
        gate_(inputs, width, {.activation = ActivationFunction::kSigmoid}, builder.scope("gate")),
        output_(width, outputs, {}, builder.scope("output")) {}

  Tensor forward(const Tensor& x, ForwardContext& context) const override {
    const Tensor flat = reshape(x, {x.extent(0), -1});
    return output_.forward(value_.forward(flat, context) * gate_.forward(flat, context), context);
  }

 private:
  LinearLayer value_, gate_, output_;
};

int main(int, char** argv) {
  TrainingJob job;
  job.settings.train_data.path = argv[1];
  job.settings.validation_fraction = 0.2;
  job.settings.output = argv[2];
  job.settings.epochs = 10;
  job.settings.micro_batches = 2;
  job.settings.learning_rate = 0.01;
  job.model = [](const DataShape& data, const ModuleBuilder& builder) {
    return std::make_unique<Gated>(data.sample.elements(), 48, data.outputs(), builder);
  };
  job.optimizer = [] { return make_adamw({.weight_decay = 0.1}); };

  const auto workers = make_communicator({});
  Trainer trainer(job, {.progress = false}, *workers);
  double best = std::numeric_limits<double>::infinity();
  while (trainer.steps_done() < trainer.total_steps()) {
    trainer.step();
    if (trainer.steps_done() % 20 != 0) continue;
    const EvaluationResult result = trainer.evaluate();
    if (result.loss >= best) break;  // early stopping
    best = result.loss;
    trainer.save();
    if (workers->rank() == 0) std::printf("%ld %.6f %.4f\n", trainer.steps_done(), best, result.accuracy);
  }
  trainer.finish();
}
