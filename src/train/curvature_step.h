// What an optimizer that asks for curvature (optim/layer_curvature.h, optim/diagonal_curvature.h) needs
// around its update.
#pragma once

#include <memory>
#include <string>

#include "lockstep/train/gradient_pass.h"
#include "lockstep/train/run_state.h"

namespace lockstep {

// Error (kUsage), naming both keys, where the optimizer asks for curvature and is to be combined with a
// setting that has no meaning for it.
void require_curvature(const RunSettings& settings, Optimizer& optimizer);

// Every call is collective. What a model throws in its sweeps is an AgreedFailure on all workers, which
// leaves the replica's parameters, statistics and optimizer, and what is kept here, as they were before the
// update.
class CurvatureStep : public Checkpointed {
 public:
  // What an update needs, once the verdict on the step is known and before anything moves. update: as
  // Replica::update will get it. loss: of the batch, regularization included. The pass's gradient is what it
  // was afterwards.
  virtual void before_update(const UpdateContext& update, double loss) = 0;
  virtual void after_update() {}
  // Held on this worker, beside the optimizer's slots.
  virtual size_t bytes() const { return 0; }
  void describe(State& state) const override { (void)state; }
  void restore(const State& found, const std::string& path) override {
    (void)found;
    (void)path;
  }
};

// For the replica's optimizer; null where it asks for nothing. Everything must outlive the object.
std::unique_ptr<CurvatureStep> make_curvature_step(Replica& replica, GradientPass& pass,
                                                   const RunSettings& settings);

}  // namespace lockstep
