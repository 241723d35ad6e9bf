// Steps of minimizers: a step of a run is one of a minimizer's on the global batch of that step, however
// often it evaluates the objective for it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "lockstep/train/step_end.h"

namespace lockstep {

// Error (kUsage), naming both keys, where a minimizer is to be combined with a setting that has no meaning
// for it, and where it cannot take so many parameters.
void require_minimizable(const RunSettings& settings, const Optimizer& optimizer, const Schedule& schedule,
                         const ParameterStore& store);

// Of a checkpoint: that there was no way on, which is true of the settings that it was found with.
void forget_end(State& found);

// Of an optimizer that minimizes (Optimizer::minimization()). Every worker holds all of the minimizer's
// vectors, in fp64 and on the host, and decides by numbers that are the same bits everywhere.
std::unique_ptr<StepEnd> make_minimizer_step_end(const StepEnd::Parts& parts);

}  // namespace lockstep
