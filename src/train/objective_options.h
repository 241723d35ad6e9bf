// Options of the training objective.
#pragma once

#include <vector>

namespace lockstep {

// How a classification's loss differs from the plain one.
struct ObjectiveOptions {
  // What of a label goes to all classes alike, in training: y (1 - s) + s / classes (Szegedy et al. 2016).
  double label_smoothing = 0.0;
  // What a sample of each class counts; empty: 1. The loss is the weighted mean.
  std::vector<double> class_weights = {};
};

}  // namespace lockstep
