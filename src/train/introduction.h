// The first lines of a run: on what it runs, what it trains, how long, and what that takes.
#pragma once

#include "optim/schedule.h"
#include "train/device.h"
#include "train/gradient_pass.h"
#include "train/replica.h"
#include "train/run_data.h"
#include "train/run_plan.h"

namespace lockstep {

struct Introduction {
  const RunSettings& settings;
  const RunData& data;
  const Replica& replica;
  const RunPlan& plan;
  const Schedule& schedule;
  const GradientPass& pass;
  const WorkerDevice& device;
  int workers;
};

// Into the log; of one worker.
void introduce(const Introduction& run);

}  // namespace lockstep
