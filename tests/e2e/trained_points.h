// A model that has been trained on a table of points, for commands that look at its checkpoint.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "e2e/training_run.h"

namespace lockstep::testing {

class TrainedPoints : public ::testing::Test {
 protected:
  std::string file(const std::string& name) const { return scratch_.file(name); }
  // Trains `model`; more: further sections; data: further lines of [data].
  void train_on(const std::string& csv, const std::string& model, const std::string& more = "",
                const std::string& data = "") {
    write_file(file("points.csv"), csv);
    write_file(file("run.toml"),
               configuration("train = \"" + file("points.csv") + "\"\n" + data, model, kAdam) + more);
    train(kNoLauncher, {file("run.toml"), "--output", file("out")});
  }
  // lockstep COMMAND CONFIG --checkpoint F MORE.
  Outcome look(const std::string& command, int workers, std::vector<std::string> more, int step = 12) const {
    more.insert(more.begin(), {command, file("run.toml"), "--checkpoint", checkpoint_of(file("out"), step)});
    return run(workers, more);
  }

 private:
  ScratchDirectory scratch_;
};

}  // namespace lockstep::testing
