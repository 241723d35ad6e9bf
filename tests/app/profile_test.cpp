// The profile command: a table of a step's kernels, and nothing left behind.
#include <regex>

#include "app/command_answer.h"
#include "device.h"

namespace lockstep::testing {
namespace {

// The number in a column of the line of a kernel; -1: there is none.
double number(const std::string& table, const std::string& kernel, int column) {
  std::string pattern = "\\| " + kernel + " ";
  for (int i = 1; i < column; ++i) pattern += "\\|[^|]*";
  std::smatch found;
  return std::regex_search(table, found, std::regex(pattern + "\\| ([0-9.]+) \\|")) ? std::stod(found[1])
                                                                                    : -1.0;
}

TEST(Profile, ListsTheKernelsOfAStepWithTheirFloors) {
  const std::string data = "data.train=" LOCKSTEP_CONFIGS "/data/digits.h5";
  const Answer answer =
      lockstep_command({"profile", LOCKSTEP_CONFIGS "/digits_mlp.toml", "--steps", "2", "--device",
                        test_device(), "--set", data, "train.micro_batches=2", "train.micro_batch_size=16"});
  ASSERT_EQ(answer.exit_code, 0) << answer.err;
  // Of both micro-batches: forward, and the gradient of the weights.
  EXPECT_EQ(number(answer.out, "matmul fp32 16x128x64, bias, relu", 1), 2.0) << answer.out;
  EXPECT_EQ(number(answer.out, "matmul fp32 64x128x16, left transposed, column sums", 1), 2.0) << answer.out;
  EXPECT_GT(number(answer.out, "matmul fp32 16x128x64, bias, relu", 3), 0.0) << answer.out;
  EXPECT_EQ(number(answer.out, "cross_entropy fp32 16x10", 1), 2.0) << answer.out;
  EXPECT_TRUE(holds(answer.out, "A step takes ")) << answer.out;
  EXPECT_TRUE(holds(answer.out, " Products in fp32: ")) << answer.out;
}

TEST(Profile, SaysThatARunIsTooShort) {
  const std::string data = "data.train=" LOCKSTEP_CONFIGS "/data/digits.h5";
  const Answer answer =
      lockstep_command({"profile", LOCKSTEP_CONFIGS "/digits_mlp.toml", "--steps", "9", "--device", "cpu",
                        "--set", data, "train.epochs=0", "train.steps=20"});
  EXPECT_EQ(answer.exit_code, 2);
  EXPECT_TRUE(holds(answer.err, "profile: --steps 9 takes 21 steps with those before it, the run has 20"))
      << answer.err;
}

}  // namespace
}  // namespace lockstep::testing
