// Evaluation: the plain mean over the samples, and the same bits whoever owns which chunk.
#include "lockstep/train/evaluation.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "comm/threaded_communicator.h"
#include "device.h"
#include "lockstep/autodiff/node.h"
#include "lockstep/train/run_data.h"

namespace lockstep {
namespace {

// `count` samples of three features and three classes.
Dataset samples(int64_t count) {
  Dataset dataset;
  dataset.sample_shape = Shape{3};
  dataset.classes = 3;
  const PhiloxKey key = philox_key(5, RandomPurpose::kTest);
  for (int64_t i = 0; i < count; ++i) {
    const PhiloxBlock block = philox(key, {static_cast<uint32_t>(i), 0, 0, 0});
    for (int axis = 0; axis < 3; ++axis) {
      dataset.inputs_f32.push_back(static_cast<float>(2.0 * uniform_double(block.r[axis], 0) - 1.0));
    }
    dataset.labels.push_back(static_cast<int32_t>(block.r[3] % 3));
  }
  return dataset;
}

class Evaluation : public ::testing::Test {
 protected:
  Evaluation()
      : configuration_(Configuration::parse(
            "[model]\ntype = \"mlp\"\nhidden = [7]\n[optimizer]\ntype = \"sgd\"\n", "test.toml", {})),
        replica_(read_training_job(configuration_, RunSettings{}), shape_, test_backend(), *self_),
        objective_("auto", shape_, DType::kF32, test_backend()) {}

  // The result on every one of `workers` workers, which must agree.
  EvaluationResult evaluate_on(int workers, const Dataset& dataset, int64_t chunk) {
    std::vector<EvaluationResult> results(static_cast<size_t>(workers));
    const TableSource source(dataset);
    testing::run_threaded(
        workers,
        [&](Communicator& communicator) {
          results[static_cast<size_t>(communicator.rank())] =
              evaluate(replica_, objective_, source, chunk, communicator);
        },
        20.0, true);
    for (const EvaluationResult& result : results) {
      EXPECT_EQ(result.loss, results[0].loss);
      EXPECT_EQ(result.accuracy, results[0].accuracy);
      EXPECT_EQ(result.samples, dataset.size());
    }
    return results[0];
  }

  DataShape shape_{{3}, DType::kF32, 3};
  std::unique_ptr<Communicator> self_ = make_self_communicator();
  Configuration configuration_;
  Replica replica_;
  Objective objective_;
};

TEST_F(Evaluation, IsTheSameBitsOnAnyNumberOfWorkersMoreThanChunksIncluded) {
  for (const int64_t count : {1, 5, 29, 32}) {
    const Dataset dataset = samples(count);
    for (const int64_t chunk : {1, 4, 64}) {
      const EvaluationResult alone = evaluate_on(1, dataset, chunk);
      for (const int workers : {2, 3, 5}) {
        const EvaluationResult shared = evaluate_on(workers, dataset, chunk);
        EXPECT_EQ(shared.loss, alone.loss) << count << " samples in chunks of " << chunk << " on " << workers;
        EXPECT_EQ(shared.accuracy, alone.accuracy);
      }
    }
  }
}

TEST_F(Evaluation, IsTheMeanOverTheSamplesAndIgnoresTheFillingOfTheLastChunk) {
  const Dataset dataset = samples(29);
  // One forward pass over all samples, and the formula.
  const Tensor inputs = Tensor::from({dataset.size(), 3}, dataset.inputs_f32, test_backend());
  const RecordingScope off(false);
  ForwardContext context = replica_.evaluation();
  const std::vector<double> logits = replica_.model->forward(inputs, context).to_vector<double>();
  double loss = 0.0, right = 0.0;
  for (size_t i = 0; i < 29; ++i) {
    const double* row = logits.data() + 3 * i;
    const auto label = static_cast<size_t>(dataset.labels[i]);
    loss += std::log(std::exp(row[0]) + std::exp(row[1]) + std::exp(row[2])) - row[label];
    right += static_cast<size_t>(std::max_element(row, row + 3) - row) == label ? 1.0 : 0.0;
  }
  for (const int64_t chunk : {1, 4, 29, 64}) {
    const EvaluationResult result = evaluate_on(2, dataset, chunk);
    EXPECT_NEAR(result.loss, loss / 29.0, 1e-6) << chunk;
    EXPECT_EQ(result.accuracy, right / 29.0) << chunk;
  }
}

}  // namespace
}  // namespace lockstep
