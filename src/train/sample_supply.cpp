// Staging, and failing to.
#include "lockstep/train/sample_supply.h"

#include <fmt/format.h>

#include <chrono>
#include <exception>

namespace lockstep {

SampleSupply::SampleSupply(const DataSource& data, const RunPlan& plan, const RunSettings& settings,
                           MicroBatchRange owned, int64_t first, Backend& backend, Communicator& communicator)
    : source_(data.description().source),
      communicator_(communicator),
      order_(plan.sampler),
      loader_(data, plan.sampler, plan.micro_batch_size, owned.begin, owned.end, first,
              plan.same_batch ? 1 : settings.prefetch),
      overflow_(data, settings.compute),
      inputs_(backend, data.description().fields(), settings.parameters(), owned.size(),
              plan.micro_batch_size) {}

void SampleSupply::stage() {
  const auto begin = std::chrono::steady_clock::now();
  const StepBatch* batch = nullptr;
  try {
    batch = &loader_.next();
  } catch (const Error& error) {
    missing_ = error;
  } catch (const std::exception& error) {  // a source of the program's own
    missing_.emplace(ErrorKind::kData, fmt::format("{}: {}", source_, error.what()));
  }
  if (batch != nullptr) {
    for (const MicroBatch& micro : batch->micro_batches) {
      overflow_.look(micro, [&](int64_t sample) {
        return Sampler(order_)
            .batch(batch->step)
            .samples[static_cast<size_t>(micro.number * micro.size + sample)];
      });
    }
    inputs_.stage(*batch);
    staged_ = true;
  }
  seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

bool SampleSupply::agree() {
  try {
    run_agreed(
        communicator_,
        [&] {
          if (missing_) throw *missing_;
        },
        "samples");
  } catch (const AgreedFailure& failure) {
    failure_ = failure;
  }
  return failure_.has_value();
}

void SampleSupply::next() {
  if (staged_) inputs_.next();
  staged_ = false;
}

}  // namespace lockstep
