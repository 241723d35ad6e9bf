// Planes through the loss around a checkpoint: what they tell while they are computed.
#include "lockstep/train/loss_slice.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "train/small_job.h"

namespace lockstep {
namespace {

using LossSliceTest = testing::SmallJobTest;

TEST_F(LossSliceTest, TellsOfProductsAndOfLosses) {
  const std::string text = fmt::format(
      "[run]\noutput = \"{}\"\n[data]\ntrain = \"{}\"\n[model]\ntype = \"mlp\"\nhidden = [3]\n"
      "[train]\nsteps = 2\nmicro_batch_size = 4\n[device]\ntype = \"{}\"\n",
      scratch_.file("run"), scratch_.file("data.h5"), test_device());
  Configuration trained = Configuration::parse(text, "run.toml", {});
  Trainer(read_training_job(trained), {}, *self_).run();

  const auto told = [&](const std::string& directions) {
    std::vector<std::string> lines;
    SliceWants wants;
    wants.directions = directions;
    wants.points = 2;
    wants.lanczos_steps = 3;
    wants.progress = [&](const std::string& what, int64_t done, int64_t all) {
      lines.push_back(fmt::format("{} of {} {}", done, all, what));
    };
    Configuration configuration = Configuration::parse(text, "run.toml", {});
    std::string weights;
    slice_loss(configuration, scratch_.file(fmt_path("run", 2)), *self_, weights, wants);
    return lines;
  };
  const std::vector<std::string> losses = {"1 of 4 losses", "2 of 4 losses", "3 of 4 losses",
                                           "4 of 4 losses"};
  EXPECT_EQ(told("random"), losses);
  // Three steps, and the residuals of two pairs.
  std::vector<std::string> all = {"1 of 5 products", "2 of 5 products", "3 of 5 products", "4 of 5 products",
                                  "5 of 5 products"};
  all.insert(all.end(), losses.begin(), losses.end());
  EXPECT_EQ(told("eigen"), all);
}

}  // namespace
}  // namespace lockstep
