// Forward passes over a data set.
#include "lockstep/train/evaluation.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <numeric>
#include <optional>

#include "lockstep/autodiff/node.h"
#include "lockstep/autodiff/random_scope.h"
#include "lockstep/parallel/gradient_exchange.h"
#include "lockstep/parallel/reduction_tree.h"
#include "lockstep/train/agreement.h"
#include "lockstep/train/data_checks.h"
#include "lockstep/train/overflow_check.h"

namespace lockstep {

MicroBatch gather_batch(const DataSource& data, std::span<const int64_t> rows, int64_t size) {
  MicroBatch batch(size, data.description().fields());
  batch.valid = std::ssize(rows);
  std::vector<int64_t> filled(rows.begin(), rows.end());
  filled.resize(static_cast<size_t>(size), rows.back());
  if (data.waits()) data.read_ahead(rows);
  gather_rows(data, filled, batch);
  return batch;
}

MicroBatch AgreedGather::operator()(std::span<const int64_t> rows, int64_t size) {
  try {
    if (!missing_) return gather_batch(data_, rows, size);
  } catch (const Error& error) {
    missing_ = error;
  }
  return MicroBatch(size, data_.description().fields());
}

void AgreedGather::agree(Communicator& communicator, const std::string& label) const {
  run_agreed(
      communicator,
      [&] {
        if (missing_) throw *missing_;
      },
      label);
}

namespace {

// Losses of each position, as integers: their sums do not depend on who adds what.
class PositionSums {
 public:
  explicit PositionSums(int64_t positions) : sums_(static_cast<size_t>(positions * kSums)) {}
  // (B, positions) each, a loss times its weight already.
  void add(std::span<const double> losses, std::span<const double> weights) {
    const size_t positions = sums_.size() / kSums;
    for (size_t i = 0; i < losses.size(); ++i) {
      int64_t* const at = &sums_[i % positions * kSums];
      const bool number = std::abs(losses[i]) < kLargest;
      at[0] += number ? std::llround(losses[i] * kUnit) : 0;
      at[1] += std::llround(weights[i] * kUnit);
      at[2] += number ? 0 : 1;
    }
  }
  const std::vector<int64_t>& sums() const { return sums_; }
  static std::vector<double> means(std::span<const int64_t> sums) {
    std::vector<double> means;
    for (size_t i = 0; i < sums.size(); i += kSums) {
      const bool none = sums[i + 1] == 0 || sums[i + 2] > 0;
      means.push_back(none ? std::nan("") : static_cast<double>(sums[i]) / static_cast<double>(sums[i + 1]));
    }
    return means;
  }

 private:
  static constexpr size_t kSums = 3;         // losses, weights, losses that are no numbers
  static constexpr double kUnit = 16777216;  // 2^24 a nat
  static constexpr double kLargest = 1e6;    // so that 10^5 of them fit
  std::vector<int64_t> sums_;
};

}  // namespace

EvaluationResult evaluate(const Replica& replica, const Objective& objective, const DataSource& data,
                          int64_t chunk, Communicator& communicator, const EvaluationWants& wants) {
  const RecordingScope off(false);
  ForwardContext context = replica.evaluation();
  const auto classes = static_cast<size_t>(data.description().classes);
  const int64_t chunks = (data.size() + chunk - 1) / chunk;
  const MicroBatchRange mine = owned_micro_batches(chunks, communicator.rank(), communicator.world_size());
  const int64_t most = (chunks + communicator.world_size() - 1) / communicator.world_size();

  // Loss sum and weight of each owned chunk; counts of all of them.
  std::vector<double> sums(static_cast<size_t>(2 * most), 0.0);
  Objective::Counts counts;
  PositionSums positions(wants.by_position ? data.description().positions.elements() : 0);
  if (wants.confusion) counts.confusion.assign(classes * classes, 0);
  // A sample that an op refuses is one worker's find, and everybody's end.
  run_agreed(
      communicator,
      [&] {
        std::vector<int64_t> rows;
        for (int64_t i = mine.begin; i < mine.end; ++i) {
          rows.resize(static_cast<size_t>(std::min((i + 1) * chunk, data.size()) - i * chunk));
          std::iota(rows.begin(), rows.end(), i * chunk);
          const MicroBatch samples = gather_batch(data, rows, chunk);
          if (wants.overflow != nullptr) {
            wants.overflow->look(samples, [&](int64_t sample) {
              return rows[static_cast<size_t>(std::min(sample, std::ssize(rows) - 1))];
            });
          }
          const Batch batch = to_device(samples, replica.store.dtype(), replica.store.backend());
          const Tensor losses = objective.evaluated_losses(*replica.model, batch, samples, context, counts);
          double loss = 0.0;
          const std::vector<double> values = losses.to_vector<double>();
          for (const double value : values) loss += value;
          if (wants.by_position) positions.add(values, objective.target_weights(samples));
          const auto at = static_cast<size_t>(2 * (i - mine.begin));
          sums[at] = loss;
          sums[at + 1] = objective.weight(samples);
        }
      },
      "evaluation");
  if (wants.overflow != nullptr) wants.overflow->tell(communicator);
  std::vector<double> all(sums.size() * static_cast<size_t>(communicator.world_size()));
  communicator.all_gather(sums.data(), sums.size() * sizeof(double), all.data(), "evaluation")->wait();

  std::vector<int64_t> counted = {counts.counted, counts.correct, counts.in_top};
  counted.insert(counted.end(), counts.confusion.begin(), counts.confusion.end());
  counted.insert(counted.end(), positions.sums().begin(), positions.sums().end());
  std::vector<int64_t> all_counted(counted.size() * static_cast<size_t>(communicator.world_size()));
  communicator.all_gather(counted.data(), counted.size() * sizeof(int64_t), all_counted.data(), "evaluation")
      ->wait();
  for (size_t i = counted.size(); i < all_counted.size(); ++i)
    all_counted[i % counted.size()] += all_counted[i];

  EvaluationResult result;
  result.samples = data.size();
  double loss = 0.0, weight = 0.0;
  for (int rank = 0; rank < communicator.world_size(); ++rank) {
    const MicroBatchRange range = owned_micro_batches(chunks, rank, communicator.world_size());
    for (int64_t i = 0; i < range.size(); ++i) {
      const auto at = static_cast<size_t>(2 * (rank * most + i));
      loss += all[at];
      weight += all[at + 1];
    }
  }
  result.loss = weight == 0.0 ? std::nan("") : loss / weight;
  if (objective.classification()) {
    result.samples = all_counted[0];
    const double all_targets = std::max<double>(1.0, static_cast<double>(result.samples));
    result.accuracy = static_cast<double>(all_counted[1]) / all_targets;
    result.top5_accuracy = static_cast<double>(all_counted[2]) / all_targets;
  }
  const auto tables = all_counted.begin() + 3;
  result.confusion.assign(tables, tables + std::ssize(counts.confusion));
  result.position_losses = PositionSums::means(
      std::span(all_counted).subspan(3 + counts.confusion.size(), positions.sums().size()));
  const DataDescription& description = data.description();
  if (tokens_of_sample(description) > 0) {
    const double bytes = description.bytes_per_target;
    result.text = {std::exp(result.loss), bytes > 0.0 ? result.loss / std::numbers::ln2 / bytes : 0.0};
  }
  return result;
}

Tensor mean_statistics(Replica& replica, const DataSource& data, const RunSettings& settings,
                       Communicator& communicator) {
  const ParameterStore& store = replica.store;
  if (store.statistics().empty()) return store.statistic_values();
  const RecordingScope off(false);
  const int64_t size = settings.micro_batch_size;
  // Shuffled, whatever data.shuffle says: in a file that is sorted, neighbours are alike, and their
  // statistics are not those of the data.
  Sampler sampler(
      {.samples = data.size(), .global_batch = size, .seed = settings.seed, .last_batch = LastBatch::kPad});
  const int64_t count = sampler.steps_per_epoch();
  // Fewer micro-batches than workers cannot be shared out: each does all of them.
  const std::unique_ptr<Communicator> alone = make_self_communicator();
  Communicator& sharing = count < communicator.world_size() ? *alone : communicator;
  std::vector<int64_t> offsets;
  for (const StatisticEntry& entry : store.statistics()) offsets.push_back(entry.offset);
  GradientExchange exchange(sharing, store.backend(), store.dtype(), store.statistic_extent(), offsets,
                            {count, ReductionMode::kLockstep, settings.bucket_bytes});
  exchange.begin_step();
  AgreedGather gather(data);
  const MicroBatchRange mine = owned_micro_batches(count, sharing.rank(), sharing.world_size());
  for (int64_t i = mine.begin; i < mine.end; ++i) {
    const RandomScope random(settings.seed, 0, static_cast<uint32_t>(i));
    const Batch batch = to_device(gather(sampler.batch(i).samples, size), store.dtype(), store.backend());
    exchange.begin_micro_batch(i);
    forward(*replica.model, batch, replica.training);
    const std::vector<Tensor> statistics = take_batch_statistics(replica.training, store);
    for (size_t s = 0; s < statistics.size(); ++s) {
      exchange.add(offsets[s], statistics[s].elements(), statistics[s].data());
    }
    exchange.end_micro_batch();
  }
  exchange.finish();
  gather.agree(communicator, "running statistics");
  const Tensor& sums = exchange.result();
  Tensor means = sums.empty_like();
  sums.backend().scale_shift(sums.dtype(), sums.elements(), sums.data(), 1.0 / static_cast<double>(count),
                             0.0, means.mutable_data());
  return means;
}

}  // namespace lockstep
