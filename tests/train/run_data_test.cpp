// The data of a run: split, standardized, and told apart by their digest; and which checkpoints go on with
// them.
#include "lockstep/train/run_data.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "data/rejection.h"
#include "hdf5/scratch_directory.h"
#include "lockstep/core/error.h"
#include "lockstep/data/loader.h"
#include "lockstep/data/prepared_file.h"
#include "lockstep/train/run_state.h"
#include "train/small_run.h"

namespace lockstep {
namespace {

class RunDataTest : public ::testing::Test {
 protected:
  RunDataTest() {
    std::string rows = "a,b,kind\n";
    for (int i = 0; i < 50; ++i)
      rows += std::to_string(i) + "," + std::to_string(3 * i % 7) + "," + std::to_string(i % 2) + "\n";
    testing::overwrite(scratch_.file("all.csv"), rows);
    testing::overwrite(scratch_.file("other.csv"), "a,b,kind\n100,2,1\n-100,4,0\n");
    settings_.train_data.path = settings_.validation_data.path = scratch_.file("all.csv");
    settings_.validation_data.path.clear();
  }
  static std::vector<float> features(const DataSource& source) {
    std::vector<int64_t> rows;
    for (int64_t i = 0; i < source.size(); ++i) rows.push_back(i);
    MicroBatch batch(source.size(), source.description().fields());
    source.gather(rows, batch.buffers());
    const auto features = batch.values<float>(kInputsName);
    return {features.begin(), features.end()};
  }

  testing::ScratchDirectory scratch_;
  RunSettings settings_;
};

TEST_F(RunDataTest, IsTheSameFromAPreparedFile) {
  settings_.validation_fraction = 0.2;
  settings_.normalize = true;
  const RunData table = read_run_data(settings_);
  prepare_dataset(settings_.train_data, scratch_.file("all.h5"));
  settings_.train_data.path = scratch_.file("all.h5");
  const RunData mapped = read_run_data(settings_);
  EXPECT_EQ(mapped.digest, table.digest);
  EXPECT_EQ(table.train->size(), 40);
  EXPECT_EQ(table.validation->size(), 10);
  EXPECT_EQ(features(*mapped.train), features(*table.train));
  EXPECT_EQ(features(*mapped.validation), features(*table.validation));
}

TEST_F(RunDataTest, ClassesOfValidationDataHaveTheNamesOfTheTrainingData) {
  Dataset data;
  data.sample_shape = {1};
  data.inputs_f32 = {1, 2, 3, 4};
  data.classes = 3;
  data.labels = {0, 1, 2, 1};
  const auto write = [&](const char* name, const std::vector<std::string>& class_names) {
    data.class_names = class_names;
    write_dataset(data, scratch_.file(name));
    return scratch_.file(name);
  };
  settings_.train_data.path = write("train.h5", {"ash", "birch", "cherry"});
  for (const std::vector<std::string>& same : {std::vector<std::string>{}, {"ash", "birch", "cherry"}}) {
    settings_.validation_data.path = write("validation.h5", same);
    EXPECT_EQ(read_run_data(settings_).validation->size(), 4);
  }
  settings_.validation_data.path = write("validation.h5", {"ash", "cherry", "birch"});
  testing::expect_rejection(ErrorKind::kData,
                            {"validation.h5: class 1 is 'cherry'", scratch_.file("train.h5") + " 'birch'"},
                            [&] { read_run_data(settings_); });
}

TEST_F(RunDataTest, ValidationIsStandardizedWithTheNumbersOfTheTrainingFile) {
  settings_.normalize = true;
  settings_.validation_data.path = scratch_.file("other.csv");
  const RunData data = read_run_data(settings_);
  double mean = 0.0, squares = 0.0;
  for (int i = 0; i < 50; ++i) mean += i / 50.0;
  for (int i = 0; i < 50; ++i) squares += (i - mean) * (i - mean) / 50.0;
  const std::vector<float> found = features(*data.validation);
  EXPECT_NEAR(found[0], (100.0 - mean) / std::sqrt(squares), 1e-5);
  EXPECT_NEAR(found[2], (-100.0 - mean) / std::sqrt(squares), 1e-5);
  settings_.normalize = false;
  EXPECT_EQ(features(*read_run_data(settings_).validation), (std::vector<float>{100, 2, -100, 4}));
}

TEST_F(RunDataTest, DigestTellsDataAndSplitsApart) {
  const std::string whole = read_run_data(settings_).digest;
  settings_.validation_fraction = 0.2;
  const std::string split = read_run_data(settings_).digest;
  settings_.seed = 1;
  const std::string other_seed = read_run_data(settings_).digest;
  settings_.validation_fraction = 0.0;
  EXPECT_EQ(read_run_data(settings_).digest, whole);
  settings_.validation_data.path = scratch_.file("other.csv");
  const std::string with_validation = read_run_data(settings_).digest;
  EXPECT_EQ((std::set<std::string>{whole, split, other_seed, with_validation}).size(), 4u);
}

// Format 1 had another order of samples: where the order matters, the run cannot go on.
TEST_F(RunDataTest, CheckpointsOfTheOlderFormatGoOnOnlyWhereOrderDoesNotMatter) {
  const std::unique_ptr<Communicator> self = make_self_communicator();
  const auto resume = [&](bool shuffle, double fraction) -> std::string {
    testing::SmallRunOptions options;
    options.settings.shuffle = shuffle;
    options.settings.validation_fraction = fraction;
    testing::SmallRun run(options, *self);
    RunState state(*run.replica, run.plan, "new", "", {});
    State found = state.describe(7);
    found.version = 1;
    found.scalars["/data/digest"] = std::string("old");
    found.scalars.erase("/data/validation_fraction");
    try {
      EXPECT_EQ(state.restore(found, "a.h5"), 7);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kCheckpoint);
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(resume(false, 0.0), "");
  for (const auto& [shuffle, fraction] : {std::pair(true, 0.0), {false, 0.2}, {true, 0.2}})
    EXPECT_NE(resume(shuffle, fraction).find("a.h5: checkpoint format 1: the order of samples"),
              std::string::npos);
}

}  // namespace
}  // namespace lockstep
