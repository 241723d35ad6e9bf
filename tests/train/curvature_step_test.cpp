// Optimizers that ask for curvature: the paths of an independent program, the same bits on any number of
// workers, which layers it takes, and hostile gradients.
#include "lockstep/train/curvature_step.h"

#include <gtest/gtest.h>

#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "comm/threaded_communicator.h"
#include "lockstep/comm/device_communicator.h"
#include "lockstep/optim/layer_curvature.h"
#include "lockstep/train/curved_layers.h"
#include "lockstep/train/step_end.h"
#include "train/small_run.h"

namespace lockstep {
namespace {

using testing::SmallRun;
using testing::SmallRunOptions;

// Steps of a run, one by one, of batches that `make` makes.
class Stepped {
 public:
  using Make = std::function<Batch(const SmallRun& run, int64_t micro_batch, int64_t step)>;

  Stepped(const SmallRunOptions& options, Communicator& communicator, double rate = 0.1, Make make = {})
      : run(options, communicator), make_(std::move(make)) {
    if (!make_) make_ = [](const SmallRun& r, int64_t m, int64_t step) { return r.batch(m, step); };
    Configuration configuration = Configuration::parse("", "test.toml", {});
    Section section = configuration.section("schedule");
    schedule_ = make_schedule(section, rate, {100, 10, 12});
    end = make_step_end({*run.replica, *run.pass, *schedule_, run.settings(), run.plan.micro_batches});
    end->start(0);
  }

  StepReport step(int64_t number) {
    end->begin(0);
    run.batches.clear();
    for (int64_t m = run.owned.begin; m < run.owned.end; ++m) run.batches.push_back(make_(run, m, number));
    run.pass->set_batch(run.batches, number);
    run.pass->issue(end->cotangent(run.pass->loss_shape()), nullptr);
    end->issue();
    end->post(number + 1);
    end->decide(number + 1);
    return end->report(number + 1);
  }

  double number(const std::string& name) const {
    return run.replica->optimizer->layer_curvature()->numbers().at(name);
  }

  SmallRun run;
  std::unique_ptr<StepEnd> end;

 private:
  Make make_;
  std::unique_ptr<Schedule> schedule_;
};

const std::string kConvolution =
    "type = \"sequential\"\n[[model.layers]]\ntype = \"reshape\"\nshape = [4, 4, 2]\n"
    "[[model.layers]]\ntype = \"convolution\"\nchannels = 3\nkernel = 3\npadding = 1\nactivation = \"relu\"\n"
    "[[model.layers]]\ntype = \"flatten\"\n[[model.layers]]\ntype = \"linear\"\nunits = 3\n";

SmallRunOptions options_of(const std::string& optimizer, DType compute = DType::kF64) {
  SmallRunOptions options;
  options.optimizer = "type = \"kfac\"\n" + optimizer;
  options.settings.compute = compute;
  return options;
}

// Elements of parameters, one behind the other.
std::vector<double> packed(const SmallRun& run) {
  std::vector<double> result;
  const std::vector<double> all = run.parameters();
  for (const ParameterEntry& entry : run.replica->store.parameters()) {
    result.insert(result.end(), all.begin() + entry.offset,
                  all.begin() + entry.offset + entry.shape.elements());
  }
  return result;
}

TEST(CurvatureStep, TakesThePathsOfAnIndependentProgram) {
  std::ifstream file(LOCKSTEP_TRAIN_GOLDENS "/curvature.json");
  const nlohmann::json golden = nlohmann::json::parse(file);
  const std::unique_ptr<Communicator> self = make_self_communicator();
  const auto size = golden["micro_batch_size"].get<int64_t>(), count = golden["micro_batches"].get<int64_t>();
  for (const auto& [name, path] : golden["cases"].items()) {
    SCOPED_TRACE(name);
    const nlohmann::json& model = golden["models"][path["model"].get<std::string>()];
    SmallRunOptions options;
    options.model = model["toml"];
    options.optimizer = path["toml"];
    options.micro_batches = count;
    options.micro_batch_size = size;
    options.settings.compute = DType::kF64;
    options.settings.seed = golden["seed"];
    Shape sample;
    for (const int64_t extent : model["sample"]) sample.push_back(extent);
    const bool indices = model["indices"];
    options.data = {sample, indices ? DType::kI32 : DType::kF32, model["classes"].get<int64_t>(), 1};
    if (options.data.classes == 0) options.data.targets = 2;
    const auto inputs = model["inputs"].get<std::vector<double>>();
    const auto targets = model["targets"].get<std::vector<double>>();
    const auto weights = model["weights"].get<std::vector<double>>();
    const auto batch = [&](const SmallRun&, int64_t m, int64_t step) {
      const int64_t first = (step * count + m) * size;
      const auto part = [&](const std::vector<double>& all, Shape shape, bool whole_numbers) {
        const int64_t width = shape.elements();
        Shape batched{size};
        for (const int64_t extent : shape.extents()) batched.push_back(extent);
        const std::vector<double> values(all.begin() + first * width, all.begin() + (first + size) * width);
        if (!whole_numbers) return Tensor::from(batched, values, test_backend());
        return Tensor::from(batched, std::vector<int32_t>(values.begin(), values.end()), test_backend());
      };
      Batch made;
      made.number = m;
      made.valid = size;
      made.tensors.set(kInputsName, part(inputs, sample, indices));
      const bool regression = options.data.classes == 0;
      made.tensors.set(kTargetsName, part(targets, regression ? Shape{2} : Shape{}, !regression));
      made.tensors.set(kWeightsName, part(weights, {}, false));
      return made;
    };
    Stepped stepped(options, *self, golden["rate"], batch);
    std::vector<double> start(static_cast<size_t>(stepped.run.replica->store.parameter_extent()), 0.0);
    for (size_t i = 0; i < model["start"].size(); ++i) {
      const auto values = model["start"][i].get<std::vector<double>>();
      std::ranges::copy(values, start.begin() + stepped.run.replica->store.parameters()[i].offset);
    }
    stepped.run.set_parameters(start);
    const auto losses = path["losses"].get<std::vector<double>>();
    for (size_t i = 0; i < losses.size(); ++i) {
      EXPECT_NEAR(stepped.step(static_cast<int64_t>(i)).loss, losses[i], 1e-9 * losses[i]) << "step " << i;
    }
    std::vector<double> end;
    for (const nlohmann::json& part : path["end"]) {
      for (const double value : part) end.push_back(value);
    }
    const std::vector<double> found = packed(stepped.run);
    ASSERT_EQ(found.size(), end.size());
    for (size_t i = 0; i < end.size(); ++i) EXPECT_NEAR(found[i], end[i], 1e-9) << i;
    if (stepped.run.replica->optimizer->layer_curvature() != nullptr) {
      EXPECT_NEAR(stepped.number("damping"), path["damping"].get<double>(), 1e-12);
    }
  }
}

// What all workers end with, checked to be the same.
std::vector<double> ends_of(int workers, const SmallRunOptions& options, int64_t steps) {
  std::vector<std::vector<double>> ends(static_cast<size_t>(workers));
  testing::run_threaded(
      workers,
      [&](Communicator& communicator) {
        if (test_device() == "cuda") {
          communicator.use_device(
              make_staged_communicator(communicator, test_backend().lane().native_queue()));
        }
        Stepped stepped(options, communicator);
        for (int64_t step = 0; step < steps; ++step) stepped.step(step);
        std::vector<double> end = packed(stepped.run);
        for (const auto& [name, value] : stepped.run.replica->optimizer->layer_curvature()->numbers())
          end.push_back(value);
        ends[static_cast<size_t>(communicator.rank())] = std::move(end);
      },
      60.0, true);
  for (const std::vector<double>& end : ends) EXPECT_EQ(end, ends[0]);
  return ends[0];
}

TEST(Kfac, HasTheSameBitsOnAnyNumberOfWorkersShardedOrNot) {
  for (const std::string method : {"cholesky", "eigen", "ekfac"}) {
    for (const bool convolution : {false, true}) {
      SCOPED_TRACE(method + (convolution ? " convolution" : " mlp"));
      SmallRunOptions options = options_of(
          "method = \"" + method + "\"\nfactor_every = 2\ninverse_every = 4\nadapt_every = 3\n", DType::kF32);
      options.data.sample = {32};
      options.model = convolution ? kConvolution : "type = \"mlp\"\nhidden = [9, 5]\ndropout = 0.2\n";
      const std::vector<double> alone = ends_of(1, options, 6);
      for (const int workers : {2, 3, 4}) {
        options.settings.shard_optimizer = false;
        EXPECT_EQ(ends_of(workers, options, 6), alone) << workers;
        options.settings.shard_optimizer = true;
        EXPECT_EQ(ends_of(workers, options, 6), alone) << workers << " sharded";
      }
    }
  }
}

TEST(Kfac, RecomputationChangesNoBit) {
  SmallRunOptions options = options_of("method = \"ekfac\"\nfactor_every = 1\ninverse_every = 2\n");
  options.model = "type = \"mlp\"\nhidden = [9, 5]\ndropout = 0.2\n";
  const std::vector<double> plain = ends_of(1, options, 4);
  options.settings.recompute_every = 2;
  EXPECT_EQ(ends_of(1, options, 4), plain);
}

std::vector<std::string> layers_of(const std::string& model, DataShape data) {
  Configuration configuration = Configuration::parse("[model]\n" + model, "test.toml", {});
  ParameterStore store;
  Section section = configuration.section("model");
  const std::unique_ptr<Module> module = build_model(section, data, ModuleBuilder(store));
  store.allocate(DType::kF32, test_backend(), 1);
  std::vector<std::string> names;
  for (const CurvedLayer& layer : find_layers(*module, store, data, forward_context(store, true))) {
    names.push_back(store.parameters()[layer.weight].name + (layer.bias ? "+" : "") +
                    (layer.lookup ? " lookup" : "") + (layer.inputs_first ? "" : " outputs first"));
    const int64_t weights = store.parameters()[layer.weight].shape.elements();
    EXPECT_EQ((layer.inputs - (layer.bias ? 1 : 0)) * layer.outputs, weights) << names.back();
  }
  return names;
}

TEST(Kfac, FindsTheLayersOfModels) {
  using Names = std::vector<std::string>;
  EXPECT_EQ(layers_of("type = \"mlp\"\nhidden = [5]\n", {{4}, DType::kF32, 3}).size(), 2u);
  const Names cnn =
      layers_of("type = \"cnn\"\nchannels = [4, 8]\nstrides = [1, 2]\n", {{8, 8, 1}, DType::kF32, 10});
  EXPECT_GE(cnn.size(), 4u);
  EXPECT_NE(cnn[0].find("outputs first"), std::string::npos) << cnn[0];
  const std::string gpt =
      "type = \"gpt\"\nwidth = 8\nheads = 2\nlayers = 1\ncontext = 6\npositions = \"rotary\"\ntied_head = ";
  const DataShape text{{6}, DType::kI32, 11, 1, {6}};
  // A table that is the head as well is no layer.
  const Names tied = layers_of(gpt + "true\n", text), apart = layers_of(gpt + "false\n", text);
  EXPECT_EQ(tied.size() + 2, apart.size());
  EXPECT_EQ(apart[0], "tokens.weight lookup");
  EXPECT_EQ(apart.back(), "head.weight outputs first");
  EXPECT_EQ(tied.size(), 4u);
  const std::string linear = "[[model.layers]]\ntype = \"linear\"\nunits = 3\n",
                    norm = "[[model.layers]]\ntype = \"batch_norm\"\n";
  EXPECT_EQ(layers_of("type = \"sequential\"\n" + linear + norm + linear, {{4}, DType::kF32, 3}).size(), 2u)
      << "a norm over the samples of a batch needs two of them";
}

TEST(Kfac, DampingGrowsWhereItsOwnModelPredictsNoDecrease) {
  const std::unique_ptr<Communicator> self = make_self_communicator();
  SmallRunOptions options = options_of("adapt_every = 1\nkl_clip = 0\nmomentum = 0\n");
  // A quadratic: the model is exact but for the damping, uphill too.
  options.model = "type = \"sequential\"\n[[model.layers]]\ntype = \"linear\"\nunits = 2\n";
  options.data.classes = 0;
  options.data.targets = 2;
  Stepped stepped(options, *self, 20.0);
  const double before = stepped.number("damping"), loss = stepped.step(0).loss;
  EXPECT_GT(stepped.step(1).loss, loss);
  EXPECT_GT(stepped.number("damping"), before);
}

TEST(Kfac, WhatIsNotFiniteLeavesFactorsAlone) {
  const std::unique_ptr<Communicator> self = make_self_communicator();
  // Squares of these are no numbers of fp32, their gradients are.
  const auto huge = [](const SmallRun& run, int64_t m, int64_t step) {
    Batch batch = run.batch(m, step);
    if (step == 1) {
      const Tensor inputs = batch.inputs();
      std::vector<double> values = inputs.converted(DType::kF64).to_vector<double>();
      for (double& value : values) value *= 1e20;
      batch.tensors.set(kInputsName,
                        Tensor::from(inputs.shape(), values, test_backend()).converted(inputs.dtype()));
    }
    return batch;
  };
  Stepped stepped(options_of("factor_every = 1\ninverse_every = 1\n", DType::kF32), *self, 1e-3, huge);
  for (int64_t step = 0; step < 4; ++step) stepped.step(step);
  for (const double value : packed(stepped.run)) EXPECT_TRUE(std::isfinite(value));
  for (const OptimizerSlot& slot : stepped.run.replica->optimizer->slots()) {
    for (const double value : slot.values.converted(DType::kF64).to_vector<double>()) {
      EXPECT_TRUE(std::isfinite(value)) << slot.name;
    }
  }
}

TEST(Kfac, NotANumberAmongInputsEndsTheRun) {
  const std::unique_ptr<Communicator> self = make_self_communicator();
  Stepped stepped(options_of(""), *self, 0.1, [](const SmallRun& run, int64_t m, int64_t step) {
    Batch batch = run.batch(m, step);
    Tensor first = batch.inputs().view({1}, 0);
    if (step == 1) first.assign(first.full_like(std::numeric_limits<double>::quiet_NaN()));
    return batch;
  });
  stepped.step(0);
  const std::vector<double> before = stepped.run.parameters();
  EXPECT_THROW(stepped.step(1), Divergence);
  EXPECT_EQ(stepped.run.parameters(), before);
}

// Inputs that are all the same (singular factors), and all zero.
TEST(Kfac, SingularFactorsAndDeadInputsAreDamped) {
  const std::unique_ptr<Communicator> self = make_self_communicator();
  for (const char* method : {"cholesky", "eigen", "ekfac"}) {
    for (const double value : {0.0, 1.0}) {
      SmallRunOptions options =
          options_of("factor_every = 1\ninverse_every = 1\nmethod = \"" + std::string(method) + "\"\n");
      options.model = "type = \"mlp\"\nhidden = [1]\n";
      options.data.sample = {1};
      Stepped stepped(options, *self, 0.1, [&](const SmallRun& run, int64_t m, int64_t) {
        Batch batch = run.batch(m);
        Tensor inputs = batch.inputs();
        inputs.assign(inputs.full_like(value));
        return batch;
      });
      double first = 0.0, last = 0.0;
      for (int64_t step = 0; step < 30; ++step) (step == 0 ? first : last) = stepped.step(step).loss;
      EXPECT_LT(last, first) << method << " " << value;
    }
  }
}

TEST(Kfac, ABatchInWhichNothingCountsChangesNothing) {
  const std::unique_ptr<Communicator> self = make_self_communicator();
  Stepped stepped(options_of(""), *self, 0.1, [](const SmallRun& run, int64_t m, int64_t step) {
    return run.batch(m, step, std::vector<double>(3, step == 1 ? 0.0 : 1.0));
  });
  stepped.step(0);
  const std::vector<double> before = stepped.run.parameters();
  stepped.step(1);
  EXPECT_EQ(stepped.run.parameters(), before);
  stepped.step(2);
  EXPECT_NE(stepped.run.parameters(), before);
}

TEST(Kfac, IsRefusedWithWhatItCannotBeCombinedWith) {
  const auto refusal = [](const std::function<void(RunSettings&)>& change) -> std::string {
    SmallRunOptions options = options_of("", DType::kF32);
    change(options.settings);
    Configuration configuration = Configuration::parse("[optimizer]\ntype = \"kfac\"\n", "test.toml", {});
    Section section = configuration.section("optimizer");
    const std::unique_ptr<Optimizer> optimizer = make_optimizer(section);
    try {
      require_curvature(options.settings, *optimizer);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUsage);
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(refusal([](RunSettings&) {}), "");
  const auto begins = [&](const std::string& key, const std::function<void(RunSettings&)>& change) {
    EXPECT_TRUE(refusal(change).starts_with(key + ": not with optimizer.type = \"kfac\": "))
        << refusal(change);
  };
  begins("precision.compute", [](RunSettings& s) { s.compute = DType::kBF16; });
  begins("precision.loss_scale", [](RunSettings& s) { s.loss_scale.mode = LossScaling::kDynamic; });
  begins("clip.global_norm", [](RunSettings& s) { s.clip.global_norm = 1.0; });
  begins("clip.value", [](RunSettings& s) { s.clip.value = 1.0; });
  begins("clip.adaptive", [](RunSettings& s) { s.clip.adaptive = 0.1; });
}

// Of one model output, drawn often: the mean of the outer products is the loss's second derivative.
TEST(Scores, OfDrawnTargetsHaveTheSecondMomentsOfTheFisherInformation) {
  constexpr int64_t kRows = 40000;
  const auto moments = [&](const DataShape& data, const std::vector<double>& output) {
    const auto k = static_cast<int64_t>(output.size());
    const Objective objective("auto", data, DType::kF64, test_backend());
    std::vector<double> outputs;
    for (int64_t row = 0; row < kRows; ++row) outputs.insert(outputs.end(), output.begin(), output.end());
    Batch batch;
    if (data.classes > 0) {
      batch.tensors.set(kTargetsName, Tensor::zeros({kRows}, DType::kI32, test_backend()));
    } else {
      batch.tensors.set(kTargetsName, Tensor::zeros({kRows, k}, DType::kF64, test_backend()));
    }
    const RandomStream draws{philox_key(3, RandomPurpose::kTest)};
    const std::vector<double> scores =
        objective.scores(Tensor::from({kRows, k}, outputs, test_backend()), batch, &draws)
            .to_vector<double>();
    std::vector<double> found(static_cast<size_t>(k * k), 0.0);
    for (int64_t row = 0; row < kRows; ++row) {
      for (int64_t i = 0; i < k * k; ++i) {
        found[static_cast<size_t>(i)] += scores[static_cast<size_t>(row * k + i / k)] *
                                         scores[static_cast<size_t>(row * k + i % k)] /
                                         static_cast<double>(kRows);
      }
    }
    return found;
  };
  const auto expect_near = [](const std::vector<double>& found, const std::vector<double>& expected) {
    ASSERT_EQ(found.size(), expected.size());
    for (size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i], expected[i], 0.02) << i;
  };
  const double total = std::exp(0.5) + std::exp(-1.0) + 1.0;
  const double p[] = {std::exp(0.5) / total, std::exp(-1.0) / total, 1.0 / total};
  std::vector<double> softmax;
  for (int i = 0; i < 3; ++i) {
    for (int j = 0; j < 3; ++j) softmax.push_back((i == j ? p[i] : 0.0) - p[i] * p[j]);
  }
  expect_near(moments({{1}, DType::kF32, 3}, {0.5, -1.0, 0.0}), softmax);
  const double q = 1.0 / (1.0 + std::exp(-0.7));
  expect_near(moments({{1}, DType::kF32, 2}, {0.7}), {q * (1.0 - q)});
  expect_near(moments({{1}, DType::kF32, 0, 2}, {0.3, 4.0}), {1.0, 0.0, 0.0, 1.0});
}

}  // namespace
}  // namespace lockstep
