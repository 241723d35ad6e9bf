// The whole data as one global batch, a micro-batch at a time.
#include "lockstep/train/checkpoint_problem.h"

#include <fmt/format.h>

#include <algorithm>

#include "lockstep/train/agreement.h"

namespace lockstep {

CheckpointProblem::CheckpointProblem(const std::string& who, Configuration& configuration,
                                     const std::string& checkpoint, Communicator& communicator,
                                     std::string& weights, const DataPart& part, const std::string& base)
    : model_(configuration, checkpoint, communicator, weights, TrainedModel::Data::kRead, true, base) {
  weights = model_.weights();
  const RunSettings& settings = model_.settings();
  Replica& replica = model_.replica();
  if (part.validation && !model_.data().validation) {
    fail_together(communicator, ErrorKind::kUsage,
                  "--data validation: the configuration has no validation data "
                  "(data.validation, data.validation_fraction)");
  }
  const DataSource& source = part.validation ? *model_.data().validation : *model_.data().train;
  const int64_t size = settings.micro_batch_size;
  samples_ = source.size();
  if (part.samples > 0) samples_ = std::min(samples_, part.samples);
  if (part.micro_batches > 0) samples_ = std::min(samples_, part.micro_batches * size);

  RunPlan plan;
  plan.micro_batches = (samples_ + size - 1) / size;
  plan.micro_batch_size = size;
  plan.sampler.seed = settings.seed;
  if (plan.micro_batches < communicator.world_size()) {
    fail_together(
        communicator, ErrorKind::kUsage,
        fmt::format("{}: {} samples are {} micro-batches of train.micro_batch_size = {}, too few for {} "
                    "workers",
                    who, samples_, plan.micro_batches, size, communicator.world_size()));
  }
  replica.training = replica.evaluation();
  pass_.emplace(replica, model_.objective(), plan, settings, communicator);
  order_.emplace(settings.seed, RandomPurpose::kShuffle, 0, source.size());
  gather_.emplace(source);
  pass_->set_batches(
      owned_micro_batches(plan.micro_batches, communicator.rank(), communicator.world_size()),
      [this, &replica, size](int64_t number) {
        std::vector<int64_t> rows(static_cast<size_t>(std::min(size, samples_ - number * size)));
        order_->rows(number * size, rows);
        Batch batch = to_device((*gather_)(rows, size), replica.store.dtype(), replica.store.backend());
        batch.number = number;
        return batch;
      },
      0, [this, &communicator] { gather_->agree(communicator, "samples"); });
  problem_.emplace(*pass_, replica);
}

}  // namespace lockstep
