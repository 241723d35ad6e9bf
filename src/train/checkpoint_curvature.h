// Curvature of the objective at a checkpoint's weights.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "lockstep/comm/communicator.h"
#include "lockstep/core/configuration.h"
#include "lockstep/core/dtype.h"
#include "lockstep/curvature/spectrum.h"
#include "lockstep/train/data_part.h"

namespace lockstep {

struct CurvatureWants {
  // "hessian"; "gauss_newton"; or "fisher", which is the Gauss-Newton matrix once more: of the losses that
  // there are, each the negative logarithm of a likelihood in the model's outputs, that matrix is the exact
  // expectation over labels drawn from the model (Martens 2020, section 9.2).
  std::string matrix = "hessian";
  DataPart data = {};
  bool by_parameter = false;
  SpectrumOptions spectrum = {};  // its seed is the run's
  // Called behind each product, of which there are `all` at most.
  std::function<void(int64_t done, int64_t all)> progress = {};
};

struct CheckpointCurvature {
  int64_t samples = 0, parameters = 0;
  DType precision = DType::kF32;
  double loss = 0.0, gradient_norm = 0.0;
  Spectrum spectrum;
  // tr(S) / |G|^2, S the covariance of the gradient of one target and G the gradient of all: the batch size
  // up to which larger batches save steps (McCandlish et al. 2018). Not a number for a single micro-batch or
  // a gradient of zero.
  double noise_scale = 0.0;
  // Where it was asked for: of each parameter, the eigenvalue of largest magnitude of the block that it has
  // on the matrix's diagonal, with its residual.
  struct Sharpness {
    std::string parameter;
    int64_t elements = 0;
    Estimate largest;
  };
  std::vector<Sharpness> sharpness;
  int64_t products = 0;
};

// Of the objective of CheckpointProblem. The same bits on any number of workers; each holds Lanczos' vectors
// in fp64, steps of them, or those of the trace. base: of TrainedModel. Error (kNumeric) where the loss or a
// product is not finite; weights and other errors: as those of CheckpointProblem. Collective.
CheckpointCurvature measure_checkpoint(Configuration& configuration, const std::string& checkpoint,
                                       Communicator& communicator, std::string& weights,
                                       const CurvatureWants& wants, const std::string& base = "");

}  // namespace lockstep
