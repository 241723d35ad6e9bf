// A training job of plain C++ on a small data set of its own, for tests of the trainer.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "device.h"
#include "hdf5/scratch_directory.h"
#include "lockstep/checkpoint/checkpoint.h"
#include "lockstep/data/dataset.h"
#include "lockstep/nn/linear.h"
#include "lockstep/optim/adam.h"
#include "lockstep/train/trainer.h"

namespace lockstep::testing {

// A linear model; `outputs_name` is the scope of its parameters.
class Linear final : public Module {
 public:
  Linear(const DataShape& data, const ModuleBuilder& builder)
      : layer_(data.sample.elements(), data.outputs(), {}, builder.scope("output")) {}
  Tensor forward(const Tensor& x, ForwardContext& context) const override {
    return layer_.forward(x, context);
  }

 private:
  LinearLayer layer_;
};

class SmallJobTest : public ::testing::Test {
 protected:
  SmallJobTest() {
    Dataset data;
    data.sample_shape = Shape{2};
    data.classes = 2;
    for (int i = 0; i < 60; ++i) {
      const float side = i % 2 == 0 ? 1.0f : -1.0f;
      data.inputs_f32.push_back(side + 0.01f * static_cast<float>(i));
      data.inputs_f32.push_back(0.3f * static_cast<float>(i % 7));
      data.labels.push_back(i % 2);
    }
    write_dataset(data, scratch_.file("data.h5"));
  }

  TrainingJob job(const std::string& output) const {
    TrainingJob job;
    job.settings.output = scratch_.file(output);
    job.settings.train_data.path = scratch_.file("data.h5");
    job.settings.validation_fraction = 0.2;
    job.settings.device = test_device();
    job.settings.steps = 20;
    job.settings.micro_batches = 2;
    job.settings.micro_batch_size = 4;
    job.settings.checkpoint_every = 10;
    job.settings.learning_rate = 0.05;
    job.model = [](const DataShape& data, const ModuleBuilder& builder) {
      return std::make_unique<Linear>(data, builder);
    };
    job.optimizer = [] { return make_adamw(AdamWOptions{}); };
    return job;
  }

  std::string digest_at(const std::string& output, int step) const {
    return state_digest(read_checkpoint(scratch_.file(fmt_path(output, step))));
  }
  static std::string fmt_path(const std::string& output, int step) {
    std::string number = std::to_string(step);
    return output + "/step-" + std::string(9 - number.size(), '0') + number + ".h5";
  }

  ScratchDirectory scratch_;
  std::unique_ptr<Communicator> self_ = make_self_communicator();
};

inline const std::vector<std::byte>& bytes_of(const State& state, const std::string& path) {
  return std::ranges::find(state.arrays, path, &StateArray::path)->bytes;
}

}  // namespace lockstep::testing
