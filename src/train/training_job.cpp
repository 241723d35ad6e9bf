// A job out of a configuration.
#include "lockstep/train/training_job.h"

namespace lockstep {

TrainingJob read_training_job(Configuration& configuration) {
  return read_training_job(configuration, read_settings(configuration));
}

TrainingJob read_training_job(Configuration& configuration, const RunSettings& settings) {
  TrainingJob job;
  job.settings = settings;
  job.model = [&configuration](const DataShape& data, const ModuleBuilder& builder) {
    Section model = configuration.section("model");
    return build_model(model, data, builder);
  };
  job.optimizer = [&configuration] {
    Section optimizer = configuration.section("optimizer");
    return make_optimizer(optimizer);
  };
  job.schedule = [&configuration, rate = job.settings.learning_rate](const RunLength& run) {
    Section schedule = configuration.section("schedule");
    return make_schedule(schedule, rate, run);
  };
  job.describe = [&configuration] {
    configuration.reject_unknown();
    return TrainingJob::Description{configuration.resolved(), configuration.at_default()};
  };
  return job;
}

}  // namespace lockstep
