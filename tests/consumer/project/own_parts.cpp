// A layer and a data source of a program's own, in C++ and by name in configurations:
//   own_parts OUTPUT                       trains with both in a job that is put together here
//   own_parts train own_parts.toml ...     the command, which knows them by their names; train is one of its
//   own
#include <lockstep/app/run_main.h>
#include <lockstep/nn/linear.h>
#include <lockstep/nn/sequential.h>
#include <lockstep/ops/elementwise.h>
#include <lockstep/optim/adam.h>

#include <cmath>
#include <cstdio>

using namespace lockstep;

// Points of the square [-1,1)^2, spread evenly (Roberts' R2 sequence); class 1 is the disc that covers half
// of it.
class Disc final : public WholeSource {
 public:
  explicit Disc(int64_t points) {
    description_.source = "disc";
    description_.samples = points;
    description_.sample_shape = {2};
    description_.classes = 2;
  }

  void gather(std::span<const int64_t> rows, const SampleBuffers& out) const override {
    for (size_t i = 0; i < rows.size(); ++i) {
      const SampleBuffers place = out.from(static_cast<int64_t>(i));
      const auto n = static_cast<double>(rows[i]);
      const double x = 2.0 * std::fmod(n * 0.7548776662466927, 1.0) - 1.0;
      const double y = 2.0 * std::fmod(n * 0.5698402909980532, 1.0) - 1.0;
      auto* point = place.at<float>(DataDescription::kInputs);
      point[0] = static_cast<float>(x);
      point[1] = static_cast<float>(y);
      *place.at<int32_t>(DataDescription::kTargets) = x * x + y * y < 0.63661977 ? 1 : 0;  // 2/pi
    }
  }
};

// The gated linear unit as a layer: (features) -> (units).
class GatedLayer final : public Module {
 public:
  GatedLayer(int64_t inputs, int64_t units, const ModuleBuilder& builder)
      : value_(inputs, units, {}, builder.scope("value")),
        gate_(inputs, units, {.activation = ActivationFunction::kSigmoid}, builder.scope("gate")) {}
  Tensor forward(const Tensor& x, ForwardContext& context) const override {
    return value_.forward(x, context) * gate_.forward(x, context);
  }

 private:
  LinearLayer value_, gate_;
};

LayerSpec gated_layer(int64_t units) {
  return {"gated", [units](const Shape& input, const ModuleBuilder& builder) -> Layer {
            require_option("gated", "units", static_cast<double>(units), kSize);
            return {std::make_unique<GatedLayer>(input.elements(), units, builder), {units}};
          }};
}

void train_here(const char* output, const TrainOptions& options) {
  TrainingJob job;
  job.settings.train_data.open = [](const DatasetOptions&) { return std::make_shared<Disc>(400); };
  job.settings.validation_fraction = 0.25;
  job.settings.output = output;
  job.settings.epochs = 30;
  job.settings.micro_batches = 2;
  job.settings.learning_rate = 0.03;
  job.model = [](const DataShape& data, const ModuleBuilder& builder) {
    return make_sequential({gated_layer(24), linear_layer(2)}, data, builder);
  };
  job.optimizer = [] { return make_adam(); };
  const auto workers = make_communicator({});
  Trainer(job, options, *workers).run();
}

int main(int argc, char** argv) {
  register_layer("gated", [](Section& keys) {
    return gated_layer(keys.integer("units", 24, kSize, "gated: features that leave the layer"));
  });
  register_data_format("disc", [](Section& data) -> SourceOpener {
    const int64_t points = data.integer("points", 400, kPositive, "disc: how many there are");
    return [points](const DatasetOptions&) { return std::make_shared<Disc>(points); };
  });
  const TrainOptions options{.on_evaluation = [](int64_t step, const EvaluationResult& result) {
    std::printf("%ld %.4f\n", step, result.accuracy);
  }};
  if (argc != 2) return run_main(argc, argv, options);
  train_here(argv[1], options);
}
