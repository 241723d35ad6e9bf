// Minimizers as optimizers of a training run: methods that look at the objective where they like before they
// move, in place of one update formula.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "lockstep/minimize/minimizer.h"
#include "lockstep/optim/optimizer.h"

namespace lockstep {

// optimizer.tolerance
inline constexpr double kDefaultTolerance = 1e-8;

// A training run's optimizer of any minimizer: optimizer_of(make_lbfgs({.history = 5})). A run is over when
// the largest |element| of the gradient is at most `tolerance`; 0: when it vanishes. Error (kUsage) where
// that is negative or not finite. asked_by: of Minimization; empty: optimizer.type.
std::unique_ptr<Optimizer> optimizer_of(std::unique_ptr<Minimizer> minimizer,
                                        double tolerance = kDefaultTolerance, std::string asked_by = {});

// The same out of [optimizer], of a type that is one of these: keys are named as the options of
// minimize/minimizer.h, and their defaults are those; [optimizer.line_search] where the method searches along
// lines.
std::unique_ptr<Optimizer> read_minimizer(Section& section, const std::string& type);

// gradient_descent or momentum with a line search, where optimizer.line_search.type says so; else null.
std::unique_ptr<Optimizer> read_line_descent(
    Section& section, const std::string& type,
    const std::function<std::unique_ptr<Minimizer>(const LineSearchOptions& search)>& make);

}  // namespace lockstep
