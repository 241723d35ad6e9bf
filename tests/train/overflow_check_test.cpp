// Inputs beyond fp16 are found in what is gathered, with file, row and value, and are told of once.
#include "lockstep/train/overflow_check.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "lockstep/core/log.h"
#include "lockstep/train/evaluation.h"

namespace lockstep {
namespace {

Dataset table(std::vector<float> inputs) {
  Dataset data;
  data.source = "train.csv";
  data.sample_shape = {2};
  data.target_width = 1;
  data.targets.assign(inputs.size() / 2, 0.0f);
  data.inputs_f32 = std::move(inputs);
  return data;
}

// What is found in these rows, gathered as one micro-batch that is filled up with the last of them.
std::string find_of(const DataSource& source, const std::vector<int64_t>& rows, DType compute = DType::kF16) {
  OverflowCheck check(source, compute);
  check.look(gather_batch(source, rows, 4),
             [&](int64_t sample) { return rows[std::min(static_cast<size_t>(sample), rows.size() - 1)]; });
  return check.found();
}

TEST(OverflowCheck, FindsTheFirstInputThatRoundsToInfinity) {
  Dataset data = table({1, 65504, -65519.9f, 4, 5, -65520, 7e4f, 8});
  EXPECT_EQ(find_of(TableSource(data), {0, 1}), "");
  const std::string found = find_of(TableSource(data), {0, 2, 3});
  EXPECT_EQ(found.rfind("train.csv: row 3, element 2: -65520 is infinite in fp16", 0), 0u) << found;
  EXPECT_NE(found.find("bf16"), std::string::npos) << found;
  EXPECT_EQ(find_of(TableSource(data), {3}).rfind("train.csv: row 4, element 1: 70000", 0), 0u);
  for (const DType compute : {DType::kF32, DType::kBF16, DType::kF64})
    EXPECT_EQ(find_of(TableSource(data), {0, 1, 2, 3}, compute), "");
  data.columns.features = {"a", "area"};
  EXPECT_NE(find_of(TableSource(data), {2}).find("row 3, column 'area'"), std::string::npos);
}

TEST(OverflowCheck, NamesTheRowOfTheWholeFile) {
  std::vector<float> inputs(200, 1.0f);
  inputs[2 * 37] = 1e6f;
  const auto whole = std::make_shared<TableSource>(table(inputs));
  const Split split(whole->size(), 0.5, 7);
  size_t found = 0;
  for (const auto side : {PartSource::Side::kTrain, PartSource::Side::kValidation}) {
    const PartSource part(whole, split, side);
    for (int64_t row = 0; row < part.size(); ++row)
      found += find_of(part, {row}).find("row 38, element 1: 1000000") != std::string::npos ? 1 : 0;
  }
  EXPECT_EQ(found, 1u);
}

TEST(OverflowCheck, NarrowFeaturesAreLookedAtAsTheModelGetsThem) {
  Dataset bytes = table({});
  bytes.targets = {0, 0};
  bytes.input_dtype = DType::kU8;
  bytes.inputs_u8 = {1, 2, 3, 255};
  EXPECT_EQ(find_of(TableSource(bytes), {0, 1}), "");
  bytes.scale = 256.9411f;
  EXPECT_EQ(find_of(TableSource(bytes), {0, 1}), "");
  bytes.scale = 257.0f;
  EXPECT_EQ(find_of(TableSource(bytes), {0, 1}).rfind("train.csv: row 2, element 2: 65535 is infinite", 0),
            0u);
  Dataset halves = table({});
  halves.targets = {0, 0};
  halves.input_dtype = DType::kF16;
  halves.inputs_f16 = {Float16(1), Float16(2), Float16(-65504), Float16(4)};
  EXPECT_EQ(find_of(TableSource(halves), {0, 1}), "");
  halves.divisor = 0.5f;
  EXPECT_EQ(find_of(TableSource(halves), {0, 1}).rfind("train.csv: row 2, element 1: -131008 is infinite", 0),
            0u);
}

TEST(OverflowCheck, IsToldOnce) {
  const TableSource source(table({1, 2, 1e6f, 4, 1e7f, 3}));
  std::vector<std::string> said;
  set_log([&](LogLevel level, const std::string& message) {
    if (level == LogLevel::kWarning) said.push_back(message);
  });
  const std::unique_ptr<Communicator> alone = make_self_communicator();
  OverflowCheck check(source, DType::kF16);
  const auto look_at = [&](int64_t row) {
    check.look(gather_batch(source, std::vector{row}, 1), [&](int64_t) { return row; });
    check.tell(*alone);
  };
  look_at(0);
  EXPECT_TRUE(said.empty());
  look_at(1);
  look_at(2);
  set_log({});
  ASSERT_EQ(said.size(), 1u);
  EXPECT_EQ(said[0].rfind("train.csv: row 2, element 1: 1000000 is infinite in fp16", 0), 0u) << said[0];
}

}  // namespace
}  // namespace lockstep
