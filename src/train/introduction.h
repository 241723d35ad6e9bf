// The first lines of a run: on what it runs, what it trains, how long, and what that takes.
#pragma once

#include <string>

#include "lockstep/optim/schedule.h"
#include "lockstep/train/device.h"
#include "lockstep/train/gradient_pass.h"
#include "lockstep/train/model_operations.h"
#include "lockstep/train/replica.h"
#include "lockstep/train/run_data.h"
#include "lockstep/train/run_plan.h"

namespace lockstep {

struct Introduction {
  const RunSettings& settings;
  const RunData& data;
  const Replica& replica;
  const RunPlan& plan;
  const Schedule& schedule;
  const GradientPass& pass;
  const WorkerDevice& device;
  const ModelOperations& operations;
  std::string loss;  // Objective::loss_of()
  int workers;
};

// Into the log; of one worker.
void introduce(const Introduction& run);

}  // namespace lockstep
