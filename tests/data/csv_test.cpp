// CSV: numbers are read exactly, the target column decides the task, and every bad field is named by row and
// column.
#include <gtest/gtest.h>
#include <zstd.h>

#include <array>
#include <cmath>
#include <limits>
#include <memory>

#include "data/rejection.h"
#include "hdf5/scratch_directory.h"
#include "lockstep/core/log.h"
#include "lockstep/data/loader.h"

namespace lockstep {
namespace {

using testing::expect_rejection;
using testing::overwrite;

class Csv : public ::testing::Test {
 protected:
  Dataset read(const std::string& text, const std::string& target = "", int64_t classes = 0) {
    overwrite(path_, text);
    return read_dataset({.path = path_, .target = target, .classes = classes});
  }
  void reject(std::initializer_list<std::string> parts, const std::string& text,
              const std::string& target = "", int64_t classes = 0) {
    expect_rejection(ErrorKind::kData, parts, [&] { read(text, target, classes); });
  }

  testing::ScratchDirectory directory_;
  std::string path_ = directory_.file("iris.csv");
};

TEST_F(Csv, ReadsFeaturesAndLabelsFromTheLastColumn) {
  const Dataset data = read("a,b,kind\n1,2.5,0\n-3e-2,4,2\n");
  EXPECT_EQ(data.size(), 2);
  EXPECT_EQ(data.sample_shape, (Shape{2}));
  EXPECT_EQ(data.inputs_f32, (std::vector<float>{1.0f, 2.5f, -3e-2f, 4.0f}));
  EXPECT_EQ(data.labels, (std::vector<int32_t>{0, 2}));
  EXPECT_EQ(data.classes, 3);
  EXPECT_EQ(data.target_width, 0);
}

TEST_F(Csv, ReadsZstdAsItReadsGzip) {
  const std::string text = "a,b,kind\n1,2.5,0\n3,4,2\n";
  std::string packed(ZSTD_compressBound(text.size()), '\0');
  packed.resize(ZSTD_compress(packed.data(), packed.size(), text.data(), text.size(), 3));
  EXPECT_EQ(read(packed).inputs_f32, (std::vector<float>{1.0f, 2.5f, 3.0f, 4.0f}));
  reject({"iris.csv", "corrupted zstd stream"}, packed.substr(0, packed.size() - 2));
}

TEST_F(Csv, TakesTheNamedColumnAsTarget) {
  const Dataset data = read("a,kind,b\n1,0,2\n3,1,4\n", "kind");
  EXPECT_EQ(data.inputs_f32, (std::vector<float>{1, 2, 3, 4}));
  EXPECT_EQ(data.labels, (std::vector<int32_t>{0, 1}));
}

TEST_F(Csv, FractionalTargetsMakeARegression) {
  const Dataset data = read("a,y\n1,3\n2,0.25\n");
  EXPECT_EQ(data.classes, 0);
  EXPECT_EQ(data.target_width, 1);
  EXPECT_EQ(data.size(), 2);
  EXPECT_EQ(data.targets, (std::vector<float>{3, 0.25f}));
  EXPECT_TRUE(data.labels.empty());
}

TEST_F(Csv, WholeTargetsAreARegressionOnRequest) {
  EXPECT_EQ(read("a,y\n1,3\n2,-4\n", "", -1).targets, (std::vector<float>{3, -4}));
}

TEST_F(Csv, AcceptsWhatSpreadsheetsWrite) {
  const Dataset plain = read("a,b c,kind\n1,2,0\n3,4,1\n");
  for (const char* text : {"\xEF\xBB\xBF"
                           "a,b c,kind\r\n1,2,0\r\n3,4,1\r\n",
                           "a,b c,kind\n1,2,0\n3,4,1", " a , b c,kind\n 1 ,\t2, 0\n+3,4,1 \n\n\n",
                           "\"a\",\"b c\",\"kind\"\n\"1\",\"2\",0\n3, \"4\" ,1\n"}) {
    const Dataset data = read(text, "kind");
    EXPECT_EQ(data.inputs_f32, plain.inputs_f32) << text;
    EXPECT_EQ(data.labels, plain.labels) << text;
  }
  EXPECT_EQ(read("\"x, \"\"new\"\"\",y\n1,0\n", "x, \"new\"").labels, (std::vector<int32_t>{1}));
}

TEST_F(Csv, ReadsNumbersToTheNearestFloat) {
  const Dataset data =
      read("a,b,c,d,e,f,y\n0.1,16777217,1e-45,1e-60,3.4028235e38,1.00000005960464477540,0\n");
  EXPECT_EQ(data.inputs_f32[0], 0.1f);
  EXPECT_EQ(data.inputs_f32[1], 16777216.0f);
  EXPECT_EQ(data.inputs_f32[2], std::numeric_limits<float>::denorm_min());
  EXPECT_EQ(data.inputs_f32[3], 0.0f);
  EXPECT_EQ(data.inputs_f32[4], std::numeric_limits<float>::max());
  // Above the middle between 1 and its successor by less than a double shows: reading through a double would
  // give 1.
  EXPECT_EQ(data.inputs_f32[5], std::nextafter(1.0f, 2.0f));
}

TEST_F(Csv, RejectsFieldsThatAreNoFiniteNumber) {
  for (const char* field : {"", "abc", "1.5x", "1 2", "0x10", "--1", "nan", "NaN", "inf", "-Infinity", "1e39",
                            "-1e39", "1e999", "1\"", "\"1", "\"1\"2", "1e", "+", "+-1"}) {
    reject({path_, "row 2", "column 'b'"}, std::string("a,b,y\n1,2,0\n1,") + field + ",0\n");
  }
  reject({"row 1", "column 'y'", "finite", "nan"}, "a,y\n1,nan\n");
  reject({"row 1", "column 'a'", "not a number"}, std::string("a,y\n1\0,0\n", 9));
  reject({"row 2", "column 'y'", "fp32", "1e+39"}, "a,y\n1,0.5\n2,1e39\n");
}

TEST_F(Csv, RejectsRaggedRows) {
  reject({path_, "row 2", "3 fields", "got 2"}, "a,b,y\n1,2,0\n1,2\n1,2,0\n");
  reject({path_, "row 1", "3 fields", "got 4"}, "a,b,y\n1,2,0,7\n");
  reject({path_, "row 2", "not a number"}, "a,b,y\n1,2,0\n\n1,2,0\n");
}

TEST_F(Csv, RejectsLabelsThatAreNotClasses) {
  reject({path_, "row 2", "column 'y'", "[0, 3)", "got 3"}, "a,y\n1,2\n1,3\n", "", 3);
  reject({path_, "row 1", "column 'y'", "got -1"}, "a,y\n1,-1\n1,1\n");
  reject({path_, "row 2", "column 'y'", "whole", "1.5"}, "a,y\n1,1\n1,1.5\n", "", 3);
  reject({path_, "row 1", "column 'y'", "label"}, "a,y\n1,1e18\n");
  reject({path_, "row 1", "got 9223372036854775807 or more"}, "a,y\n1,9223372036854775813\n");
  reject({path_, "row 1", "got -9223372036854775808 or less"}, "a,y\n1,-1e300\n");
  reject({path_, "row 1", "column 'y'", "label"}, "a,y\n1,-1e300\n");
}

TEST_F(Csv, RejectsHeadersThatNameNoTarget) {
  reject({path_, "kind", "a, b"}, "a,b\n1,0\n", "kind");
  reject({path_, "two columns 'b': 1 and 3"}, "b,a,b\n1,0,2\n", "b");
  reject({path_, "two columns 'a': 1 and 2"}, "a,a,b\n1,0,2\n");
  reject({path_, "two columns", "a"}, "a\n1\n");
  reject({path_, "column 2 has no name"}, "a,,b\n1,2,0\n");
  reject({path_, "quote"}, "a,\"b\n1,0\n");
  reject({path_, "NUL byte", "UTF-8"}, std::string("\xff\xfe\x61\0,\0y\0\n\0", 10));  // UTF-16
}

// Real targets may be whole numbers for the most part: no error, but a line.
TEST_F(Csv, OneTargetThatIsNoLabelAmongLabelsIsSaid) {
  std::string text = "x,kind\n";
  for (int row = 0; row < 99; ++row) text += "1," + std::to_string(row % 3) + "\n";
  std::vector<std::string> said;
  set_log([&](LogLevel, const std::string& message) { said.push_back(message); });
  EXPECT_EQ(read(text).classes, 3);
  EXPECT_TRUE(said.empty());
  EXPECT_EQ(read(text + "1,0.5\n").target_width, 1);
  ASSERT_EQ(said.size(), 1u);
  EXPECT_NE(said[0].find("row 100, column 'kind': 0.5 makes a regression of targets of which 99 of 100"),
            std::string::npos)
      << said[0];
  EXPECT_EQ(read(text + "1,0.5\n1,1.5\n").target_width, 1);
  EXPECT_EQ(said.size(), 1u);
  set_log({});
}

TEST_F(Csv, RejectsAFirstRowOfNumbersAsHeader) {
  reject({path_, "only numbers (5.1, 3.5, 1.4, ...)", "must name the columns"},
         "5.1,3.5,1.4,0\n4.9,3,1.3,1\n");
  reject({path_, "only numbers (1, 1, 0)"}, "1,1,0\n2,2,1\n");
  reject({path_, "(1, -2)"}, "1,\"-2\"\n3,4\n");
  EXPECT_EQ(read("1,2,kind\n3,4,0\n").size(), 1);
}

TEST_F(Csv, RejectsFilesWithoutRows) {
  reject({path_, "empty"}, "");
  reject({path_, "no header"}, "\n\n");
  reject({path_, "no rows"}, "a,b\n");
}

TEST_F(Csv, ReadsManyRowsInOrder) {
  std::string text = "x,y\n";
  for (int i = 0; i < 20000; ++i)
    text += std::to_string(i) + "." + std::to_string(i % 10) + "," + std::to_string(i % 3) + "\n";
  const Dataset data = read(text);
  ASSERT_EQ(data.size(), 20000);
  for (int i = 0; i < 20000; ++i) {
    ASSERT_EQ(data.inputs_f32[static_cast<size_t>(i)], static_cast<float>(i + (i % 10) / 10.0)) << i;
    ASSERT_EQ(data.labels[static_cast<size_t>(i)], i % 3);
  }
}

// Pieces of the file are cut at lines: at any place in the text, and blank lines are none only at its end.
TEST_F(Csv, ReadsLinesThatLieAcrossPieces) {
  for (const size_t header : {size_t{1}, (size_t{1} << 20) - 12, (size_t{1} << 20) - 4, size_t{3} << 20}) {
    const std::string name(header, 'h');
    std::string text = name + ",b,y\r\n";
    for (int row = 0; row < 100000; ++row) {
      text +=
          std::to_string(row) + ", \"" + std::to_string(row % 7) + "\" ," + std::to_string(row % 3) + "\r\n";
    }
    const Dataset data = read(text + std::string((2 << 20) + 5, '\n'));
    ASSERT_EQ(data.size(), 100000) << header;
    for (size_t row = 0; row < 100000; ++row) {
      ASSERT_EQ(data.inputs_f32[2 * row], static_cast<float>(row));
      ASSERT_EQ(data.inputs_f32[2 * row + 1], static_cast<float>(row % 7));
      ASSERT_EQ(data.labels[row], static_cast<int32_t>(row % 3));
    }
    EXPECT_EQ(data.columns.features, (std::vector<std::string>{name, "b"}));
    reject({"row 100001"}, text + std::string((2 << 20) + 5, '\n') + "1,2,0\n");
  }
}

TEST_F(Csv, KeepsTheNamesOfColumns) {
  EXPECT_EQ(read("a, b ,\"c, d\"\n1,2,0\n3,4,1\n").columns, (ColumnNames{{"a", "b"}, "c, d"}));
  EXPECT_EQ(read("kind,b,c\n0,1,2\n1,3,4\n", "kind").columns, (ColumnNames{{"b", "c"}, "kind"}));
}

TEST_F(Csv, TheTargetOfOtherDataIsLookedForByItsName) {
  overwrite(path_, "kind,b,c\n0,1,2\n1,3,4\n");
  EXPECT_EQ(read_dataset({.path = path_, .expected_target = "kind"}).columns.target, "kind");
  EXPECT_EQ(read_dataset({.path = path_, .target = "b", .expected_target = "kind"}).columns.target, "b");
  expect_rejection(ErrorKind::kData, {path_, "'sort', the target", "kind, b, c"},
                   [&] { read_dataset({.path = path_, .expected_target = "sort"}); });
}

// What is predicted for needs no target; others say what stands there.
TEST_F(Csv, ATextInQuotesMayHaveCommasAndQuotes) {
  overwrite(path_, "a,kind,b\n1,\"tall, red\",2\n3,\"6\"\" wide, \",4\n");
  const Dataset data = read_dataset({.path = path_, .target = "kind", .unlabelled = true});
  EXPECT_EQ(data.inputs_f32, (std::vector<float>{1, 2, 3, 4}));
  reject({path_, "row 1, column 'kind'", "is not a number: 'tall, red'"}, "a,kind\n1,\"tall, red\"\n");
  reject({path_, "row 1, column 'a'", "is not a number: '1,5'"}, "a,kind\n\"1,5\",0\n");
}

TEST_F(Csv, ColumnsAreMatchedByName) {
  const ColumnNames wanted{{"a", "b", "c"}, "y"};
  const auto table = [&](const std::string& text, const std::string& target = "") {
    return std::make_shared<TableSource>(read(text, target));
  };
  const auto data = match_columns(table("c,y,a,b\n3,0,1,2\n6,1,4,5\n", "y"), wanted, "train.csv");
  MicroBatch batch(2, data->description().fields());
  data->gather(std::array<int64_t, 2>{0, 1}, batch.buffers());
  const auto inputs = batch.values<float>(kInputsName);
  const auto targets = batch.values<int32_t>(kTargetsName);
  const std::vector<float> features(inputs.begin(), inputs.end());
  const std::vector<int32_t> labels(targets.begin(), targets.end());
  EXPECT_EQ(features, (std::vector<float>{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(labels, (std::vector<int32_t>{0, 1}));
  EXPECT_EQ(data->description().columns, wanted);
  const auto refuse = [&](const std::string& header, std::initializer_list<std::string> parts) {
    const auto other = table(header + "\n1,2,3,0\n4,5,6,1\n");
    expect_rejection(ErrorKind::kData, parts, [&] { match_columns(other, wanted, "train.csv"); });
  };
  refuse("a,b,d,y", {path_, "no column 'c'", "train.csv"});
  refuse("d,e,f,y", {path_, "no column 'a', 'b', 'c'", "train.csv"});
  refuse("a,b,c,z", {path_, "'z'", "train.csv", "'y'"});
  const auto more = table("a,b,c,d,y\n1,2,3,4,0\n1,2,3,4,1\n");
  expect_rejection(ErrorKind::kData, {path_, "the column 'd'", "train.csv"},
                   [&] { match_columns(more, wanted, "train.csv"); });
  EXPECT_EQ(match_columns(more, {}, "images.h5"), more);
}

}  // namespace
}  // namespace lockstep
