// What a run checks and says about its data: classes, columns, table indices.
#include "lockstep/train/data_checks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>

#include "data/rejection.h"
#include "lockstep/data/loader.h"

namespace lockstep {
namespace {

using testing::expect_rejection;

RunData run_of(Dataset train) {
  RunData data;
  data.train = std::make_shared<TableSource>(std::move(train));
  return data;
}

Dataset labelled_rows(std::vector<int32_t> labels, int64_t classes) {
  Dataset train;
  train.source = "train.csv";
  train.sample_shape = {1};
  train.inputs_f32.assign(labels.size(), 0.0f);
  train.labels = std::move(labels);
  train.classes = classes;
  return train;
}

TEST(DataChecks, TheTaskIsSaidInOneLine) {
  DataDescription digits;
  digits.classes = 10;
  EXPECT_EQ(describe_task(digits, "cross_entropy"), "classification of 10 classes, loss cross_entropy");
  digits.columns = {{"a"}, "digit"};
  EXPECT_EQ(describe_task(digits, "cross_entropy"),
            "classification of 10 classes, target column 'digit', loss cross_entropy");
  DataDescription two;
  two.classes = 2;
  EXPECT_EQ(describe_task(two, "logistic"), "classification of 2 classes, loss logistic");
  DataDescription prices;
  prices.target_width = 1;
  prices.columns.target = "price";
  EXPECT_EQ(describe_task(prices, "mean_squared_error"),
            "regression of 1 target, target column 'price', loss mean_squared_error");
  prices.columns = {};
  prices.target_width = 3;
  EXPECT_EQ(describe_task(prices, "mean_squared_error"), "regression of 3 targets, loss mean_squared_error");
}

TEST(DataChecks, OneClassIsRefusedWithItsColumn) {
  RunData one = run_of(labelled_rows({0, 0, 0}, 1));
  expect_rejection(ErrorKind::kData, {"train.csv: labels: all 3 samples are of class 0"},
                   [&] { check_classes(one); });
  Dataset trees = labelled_rows({4, 4}, 10);
  trees.columns = {{"a"}, "kind"};
  trees.class_names.assign(10, "elm");
  one = run_of(trees);
  expect_rejection(ErrorKind::kData, {"target column 'kind'", "class 4 (elm)", "data.target"},
                   [&] { check_classes(one); });
}

TEST(DataChecks, ClassesWithoutSamplesAreHintedAt) {
  RunData data = run_of(labelled_rows({0, 1, 2}, 3));
  check_classes(data);
  EXPECT_TRUE(data.hints.empty());
  data = run_of(labelled_rows({0, 1, 9, 3}, 10));
  check_classes(data);
  ASSERT_EQ(data.hints.size(), 1u);
  EXPECT_EQ(data.hints[0], "train.csv: 6 of 10 classes have no training samples: 2, 4, 5, 6, 7, ...");
  Dataset trees = labelled_rows({0, 2}, 3);
  trees.class_names = {"ash", "birch", "cherry"};
  data = run_of(trees);
  check_classes(data);
  EXPECT_EQ(data.hints.at(0), "train.csv: 1 of 3 classes have no training samples: 1 (birch)");
  Dataset numbers = labelled_rows({}, 0);
  numbers.inputs_f32 = {1, 2, 3};
  numbers.target_width = 1;
  numbers.targets = {1, 1, 1};
  RunData regression = run_of(numbers);
  check_classes(regression);
  EXPECT_TRUE(regression.hints.empty());
}

Dataset tokens(const std::string& source, std::vector<int32_t> values) {
  Dataset data;
  data.source = source;
  data.sample_shape = {2};
  data.input_dtype = DType::kI32;
  data.target_width = 1;
  data.targets.assign(values.size() / 2, 0.0f);
  data.inputs_i32 = std::move(values);
  return data;
}

TEST(DataChecks, IndicesOutsideOfTheTableAreRefusedWithFileAndRow) {
  RunData data = run_of(tokens("train.h5", {0, 1, 2, 3, 5, 7, 7, 1}));
  check_indices(data, 8);
  check_indices(data, 0);
  data.validation = std::make_shared<TableSource>(tokens("validation.h5", {0, 9}));
  expect_rejection(ErrorKind::kData, {"validation.h5: row 1: index 9 is outside [0, 9)"},
                   [&] { check_indices(data, 9); });
  expect_rejection(ErrorKind::kData, {"train.h5: row 3: index 7 is outside [0, 7)"},
                   [&] { check_indices(data, 7); });
}

class Columns : public ::testing::Test {
 protected:
  static RunData table(const ColumnNames& names) {
    Dataset data;
    data.source = "table.csv";
    data.sample_shape = {std::max<int64_t>(1, std::ssize(names.features))};
    data.columns = names;
    for (const std::string& name : names.features) data.inputs_f32.push_back(static_cast<float>(name[0]));
    if (names.features.empty()) data.inputs_f32 = {0.0f};
    data.target_width = 1;
    data.targets = {0.0f};
    return run_of(data);
  }
  static void put_columns(const ColumnNames& names, State& state) {
    const RunData data = table(names);
    KeptColumns(data).describe(state);
  }
  static void require_same_columns(const ColumnNames& now, const State& state) {
    const RunData data = table(now);
    KeptColumns(data).restore(state, "step-1.h5");
  }
  const ColumnNames trained_{{"a", "b", "c"}, "y"};
};

TEST_F(Columns, TravelWithTheCheckpoint) {
  State state;
  put_columns(trained_, state);
  EXPECT_EQ(state.scalars.at("/data/feature_names"), Scalar(std::string("a\nb\nc")));
  EXPECT_EQ(state.scalars.at("/data/target_name"), Scalar(std::string("y")));
  RunData other = table({{"c", "a", "b"}, "y"});
  other.validation = other.train;
  match_columns(other, columns_text(state), "step-1.h5");
  for (const auto& part : {other.train, other.validation}) {
    MicroBatch batch(1, part->description().fields());
    const int64_t row = 0;
    part->gather({&row, 1}, batch.buffers());
    const auto features = batch.values<float>(kInputsName);
    EXPECT_EQ(std::vector<float>(features.begin(), features.end()), (std::vector<float>{'a', 'b', 'c'}));
    EXPECT_EQ(part->description().columns, trained_);
  }
  RunData fewer = table({{"a", "c"}, "y"});
  expect_rejection(ErrorKind::kData, {"table.csv", "'b'", "step-1.h5"},
                   [&] { match_columns(fewer, columns_text(state), "step-1.h5"); });
}

TEST_F(Columns, OfDataWithoutNamesLeaveNothingBehind) {
  State state;
  put_columns({}, state);
  EXPECT_TRUE(state.scalars.empty());
  RunData data = table(trained_);
  match_columns(data, columns_text(state), "step-1.h5");
  require_same_columns(trained_, state);
  EXPECT_EQ(data.train->description().columns, trained_);
}

TEST_F(Columns, StayTheSameWhenARunIsResumed) {
  State state;
  put_columns(trained_, state);
  require_same_columns(trained_, state);
  require_same_columns({}, state);
  const auto refuse = [&](const ColumnNames& now, std::initializer_list<std::string> parts) {
    expect_rejection(ErrorKind::kData, parts, [&] { require_same_columns(now, state); });
  };
  refuse({{"a", "c", "b"}, "y"}, {"table.csv: column 2 is 'c', in step-1.h5 column 2 is 'b'"});
  refuse({{"a", "b"}, "y"}, {"there are 2 columns", "column 3 is 'c'"});
  refuse({{"a", "b", "c"}, "z"}, {"the target is 'z'", "the target is 'y'"});
}

}  // namespace
}  // namespace lockstep
