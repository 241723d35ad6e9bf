// The lockstep command as a function, so that programs with their own models can offer the same command line.
#pragma once

#include "lockstep/train/trainer.h"

namespace lockstep {

// Parses the command line, runs the subcommand, reports failures in one line, and returns the exit code: 0
// done, 1 states differ (diff) or internal, 2 usage, 3 data, 4 checkpoint, 5 numeric, 6 communication, 75
// stopped by a signal after saving. Log, signals, standard descriptors and MPI of the process are its own.
// train: a program's callbacks and reasons to stop for `lockstep train`; the command line says the rest.
int run_main(int argc, char** argv, const TrainOptions& train = {});

}  // namespace lockstep
