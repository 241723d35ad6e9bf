// Forward passes over a data set.
#include "train/evaluation.h"

#include <algorithm>

#include "autodiff/node.h"
#include "parallel/reduction_tree.h"

namespace lockstep {

namespace {

// Samples [begin, end) of the data set as a micro-batch of `size`, filled up with the last sample.
MicroBatch gather(const Dataset& dataset, int64_t begin, int64_t end, int64_t size) {
  MicroBatch batch;
  batch.size = size;
  batch.valid = end - begin;
  const auto width = static_cast<size_t>(dataset.sample_shape.elements());
  const auto append = [](auto& target, const auto& source, size_t row, size_t row_width) {
    if (source.empty()) return;
    target.insert(target.end(), source.begin() + static_cast<std::ptrdiff_t>(row * row_width),
                  source.begin() + static_cast<std::ptrdiff_t>((row + 1) * row_width));
  };
  for (int64_t i = 0; i < size; ++i) {
    const auto row = static_cast<size_t>(std::min(begin + i, end - 1));
    append(batch.inputs_f32, dataset.inputs_f32, row, width);
    append(batch.inputs_i32, dataset.inputs_i32, row, width);
    append(batch.labels, dataset.labels, row, 1);
    append(batch.targets, dataset.targets, row, static_cast<size_t>(dataset.target_width));
  }
  return batch;
}

}  // namespace

EvaluationResult evaluate(const Replica& replica, const Objective& objective, const Dataset& dataset,
                          int64_t chunk, Communicator& communicator) {
  const RecordingScope off(false);
  ForwardContext context = replica.evaluation();
  const int64_t chunks = (dataset.size() + chunk - 1) / chunk;
  const MicroBatchRange mine = owned_micro_batches(chunks, communicator.rank(), communicator.world_size());
  const int64_t most = (chunks + communicator.world_size() - 1) / communicator.world_size();

  // Loss sum and number right of each owned chunk.
  std::vector<double> sums(static_cast<size_t>(2 * most), 0.0);
  for (int64_t i = mine.begin; i < mine.end; ++i) {
    const MicroBatch batch = gather(dataset, i * chunk, std::min((i + 1) * chunk, dataset.size()), chunk);
    const Tensor output = replica.model->forward(objective.inputs(batch), context);
    double loss = 0.0;
    for (double value : objective.losses(output, batch).to_vector<double>()) loss += value;
    const auto at = static_cast<size_t>(2 * (i - mine.begin));
    sums[at] = loss;
    if (objective.classification()) sums[at + 1] = static_cast<double>(objective.correct(output, batch));
  }
  std::vector<double> all(sums.size() * static_cast<size_t>(communicator.world_size()));
  communicator.all_gather(sums.data(), sums.size() * sizeof(double), all.data(), "evaluation")->wait();

  EvaluationResult result;
  result.samples = dataset.size();
  double loss = 0.0, correct = 0.0;
  for (int rank = 0; rank < communicator.world_size(); ++rank) {
    const MicroBatchRange range = owned_micro_batches(chunks, rank, communicator.world_size());
    for (int64_t i = 0; i < range.size(); ++i) {
      const auto at = static_cast<size_t>(2 * (rank * most + i));
      loss += all[at];
      correct += all[at + 1];
    }
  }
  result.loss = loss / static_cast<double>(result.samples);
  result.accuracy = correct / static_cast<double>(result.samples);
  return result;
}

}  // namespace lockstep
