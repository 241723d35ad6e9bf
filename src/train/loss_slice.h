// A plane through the loss around a checkpoint.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "lockstep/comm/communicator.h"
#include "lockstep/core/configuration.h"
#include "lockstep/core/dtype.h"
#include "lockstep/curvature/spectrum.h"
#include "lockstep/train/data_part.h"
#include "lockstep/train/slice_plane.h"

namespace lockstep {

struct SliceWants {
  // "random": two filter-normalized directions (filter_normalized_direction); as in the paper not made
  // orthogonal, which in many dimensions they nearly are. "eigen": the eigenvectors of the two eigenvalues of
  // the Hessian of largest magnitude, of length 1. "trajectory": the first two principal components of the
  // checkpoints of the run, of length 1; where they lie on a line, the second direction is a random one, made
  // orthogonal to it (Li et al. 2018, section 7).
  std::string directions = "random";
  // The plane reaches from -span to span along both directions. None: 1; of "trajectory", around the path.
  std::optional<double> span = {};
  int64_t points = 25;                // along each direction
  int64_t lanczos_steps = 200;        // at most, of "eigen"
  std::optional<uint64_t> seed = {};  // of random directions; none: run.seed
  DataPart data = {};
  // Called behind each of the "products" of "eigen", of which fewer than all may be enough, and then
  // behind each of the "losses" of the grid.
  std::function<void(const std::string& what, int64_t done, int64_t all)> progress = {};
};

struct LossSlice {
  int64_t samples = 0, parameters = 0;
  DType precision = DType::kF32;
  double loss = 0.0;  // at the checkpoint, where both coordinates are 0
  std::array<double, 2> lengths = {};
  double cosine = 0.0;        // between the directions
  std::vector<double> at[2];  // (points) coordinates along each direction
  // (points, points), a row a coordinate along the second direction; what is not finite stays so.
  std::vector<double> values;
  std::vector<Estimate> eigenvalues;  // (2) with residuals; of "eigen"
  std::vector<double> shares;         // (2) of the variance of the path; of "trajectory"
  bool second_is_random = false;      // of "trajectory"
  // The checkpoints of the run's directory in the order of their steps, projected onto the plane; empty where
  // the checkpoint is not one of several.
  struct Stop {
    int64_t step = 0;
    PlanePoint at = {};
  };
  std::vector<Stop> path;
  double explained = 0.0;  // the share of the path's variance within the plane; not a number without a path
  int64_t products = 0;
};

// Of the objective of CheckpointProblem; the same bits on any number of workers and threads. Rank 0 reads the
// checkpoints beside the one asked for; those that cannot be read or are of another model are warned of and
// left out. A worker holds the vectors of all of them, or of Lanczos' method, in fp64; a path that is only to
// be drawn is left out with a warning where there is no memory for it. base: of TrainedModel. Error (kUsage)
// where there are too few parameters or checkpoints, or too little memory; Error (kNumeric) where the loss at
// the checkpoint is not finite, or the directions span no plane. Other errors: those of CheckpointProblem.
// Collective.
LossSlice slice_loss(Configuration& configuration, const std::string& checkpoint, Communicator& communicator,
                     std::string& weights, const SliceWants& wants, const std::string& base = "");

}  // namespace lockstep
