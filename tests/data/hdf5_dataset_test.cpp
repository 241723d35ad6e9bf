// Data sets in HDF5: files of h5py's (files/, written by make_files.py), files of ours, and damaged ones.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "data/rejection.h"
#include "hdf5/scratch_directory.h"
#include "lockstep/data/dataset.h"
#include "lockstep/hdf5/file.h"
#include "lockstep/hdf5/sealed_file.h"

namespace lockstep {
namespace {

using testing::bytes_of;
using testing::expect_rejection;
using testing::files_in;
using testing::overwrite;
using testing::ScratchDirectory;

std::string foreign(const std::string& name) {
  return std::string(LOCKSTEP_DATA_FILES) + "/" + name;
}

class Hdf5Dataset : public ::testing::Test {
 protected:
  // A sealed file with any content.
  void make(const std::function<void(Hdf5File&)>& fill) {
    Hdf5File file = Hdf5File::create(path_, ErrorKind::kData);
    fill(file);
    file.close();
    seal_file(path_, ErrorKind::kData);
  }
  void reject(std::initializer_list<std::string> parts, int64_t classes = 0) {
    expect_rejection(ErrorKind::kData, parts, [&] { read_dataset({.path = path_, .classes = classes}); });
  }

  ScratchDirectory directory_;
  std::string path_ = directory_.file("set.h5");
};

TEST_F(Hdf5Dataset, ReadsByteImagesWithTheirScale) {
  const Dataset data = read_dataset({.path = foreign("images_uint8.h5"), .texts = true});
  EXPECT_EQ(data.size(), 5);
  EXPECT_EQ(data.sample_shape, (Shape{2, 3}));
  ASSERT_EQ(data.inputs_f32.size(), 30u);
  for (size_t i = 0; i < 30; ++i) EXPECT_EQ(data.inputs_f32[i], static_cast<float>(i) / 32.0f);
  EXPECT_EQ(data.labels, (std::vector<int32_t>{0, 2, 1, 2, 0}));
  EXPECT_EQ(data.classes, 4);
  EXPECT_EQ(data.class_names, (std::vector<std::string>{"ash", "birch", "cherry", "dogwood"}));
  EXPECT_EQ(data.attribution.at("licence"), "CC BY 4.0");
}

TEST_F(Hdf5Dataset, ReadsCompressedDoublesOfTheNewestLayout) {
  const Dataset data = read_dataset({.path = foreign("features_latest.h5")});
  EXPECT_EQ(data.sample_shape, (Shape{3}));
  ASSERT_EQ(data.inputs_f32.size(), 12u);
  for (size_t i = 0; i < 12; ++i)
    EXPECT_NEAR(data.inputs_f32[i], 2.0 * (-1.0 + 2.0 * static_cast<double>(i) / 11.0), 1e-6);
  EXPECT_EQ(data.labels, (std::vector<int32_t>{1, 0, 1, 1}));
  EXPECT_EQ(data.classes, 2);
}

TEST_F(Hdf5Dataset, ReadsTargetsAndTokens) {
  const Dataset regression = read_dataset({.path = foreign("regression.h5")});
  EXPECT_EQ(regression.target_width, 2);
  EXPECT_EQ(regression.classes, 0);
  EXPECT_EQ(regression.targets, (std::vector<float>{0.5, 1.5, 2.5, 3.5, 4.5, 5.5}));
  const Dataset tokens = read_dataset({.path = foreign("tokens.h5")});
  EXPECT_EQ(tokens.input_dtype, DType::kI32);
  EXPECT_EQ(tokens.inputs_i32, (std::vector<int32_t>{7, 0, 3, 1, 2, 65535}));
  EXPECT_TRUE(tokens.inputs_f32.empty());
  EXPECT_EQ(tokens.classes, 2);
}

TEST_F(Hdf5Dataset, LabelsAreTargetsOnRequest) {
  const Dataset data = read_dataset({.path = foreign("images_uint8.h5"), .classes = -1});
  EXPECT_EQ(data.target_width, 1);
  EXPECT_EQ(data.targets, (std::vector<float>{0, 2, 1, 2, 0}));
}

TEST_F(Hdf5Dataset, RejectsAnUnsealedFileThatWasCutOff) {
  for (const char* name : {"images_uint8.h5", "features_latest.h5", "regression.h5"}) {
    const std::string whole = bytes_of(foreign(name));
    for (size_t size = 8; size < whole.size(); size += size < 128 ? 1 : 97) {
      overwrite(path_, whole.substr(0, size));
      reject({path_});
    }
    overwrite(path_, whole.substr(0, whole.size() - 1));
    reject({path_, "truncated", std::to_string(whole.size() - 1), std::to_string(whole.size())});
  }
}

TEST_F(Hdf5Dataset, RejectsShapesThatTheFileCannotHold) {
  expect_rejection(ErrorKind::kData, {"terabyte.h5", "/x", "(274877906944,4)"},
                   [] { read_dataset({.path = foreign("terabyte.h5")}); });
}

TEST_F(Hdf5Dataset, RejectsWhatIsNoHdf5File) {
  reject({path_});
  overwrite(path_, "");
  reject({path_, "empty"});
  overwrite(path_, "a,y\n1,0\n");
  expect_rejection(ErrorKind::kData, {path_}, [&] { read_dataset({.path = path_, .format = "hdf5"}); });
}

TEST_F(Hdf5Dataset, WritesWhatItReadsBack) {
  Dataset data;
  data.source = path_;
  data.sample_shape = {2, 1, 2};
  data.inputs_f32 = {0.1f, -1e-40f, 3e38f, -0.0f, 5, 6, 7, 8};
  data.classes = 3;
  data.labels = {2, 0};
  data.class_names = {"a", "b b", "c"};
  data.columns = {{"length", "width, cm", "gr\u00fcn", "d"}, "kind"};
  data.attribution = {{"citation", "Somebody (1998)"}, {"licence", "CC BY 4.0"}, {"source", "here"}};
  write_dataset(data, path_);
  EXPECT_EQ(verify_seal(path_, ErrorKind::kData, true), SealState::kSealed);
  EXPECT_EQ(files_in(directory_.path()), 1u);
  const Dataset found = read_dataset({.path = path_});
  EXPECT_EQ(found.sample_shape, data.sample_shape);
  EXPECT_EQ(found.inputs_f32, data.inputs_f32);
  EXPECT_TRUE(std::signbit(found.inputs_f32[3]));
  EXPECT_EQ(found.labels, data.labels);
  EXPECT_EQ(found.classes, 3);
  EXPECT_EQ(found.class_names, data.class_names);
  EXPECT_EQ(found.columns, data.columns);
  EXPECT_EQ(found.attribution, data.attribution);
  EXPECT_EQ(found.target_width, 0);
}

TEST_F(Hdf5Dataset, WritesTokensAndTargets) {
  Dataset data;
  data.sample_shape = {3};
  data.input_dtype = DType::kI32;
  data.inputs_i32 = {0, 1, 2147483647, 3, 4, 5};
  data.target_width = 2;
  data.targets = {1, 2, 3, 4};
  write_dataset(data, path_);
  const Dataset found = read_dataset({.path = path_});
  EXPECT_EQ(found.input_dtype, DType::kI32);
  EXPECT_EQ(found.inputs_i32, data.inputs_i32);
  EXPECT_EQ(found.targets, data.targets);
  EXPECT_EQ(found.target_width, 2);
  EXPECT_EQ(found.classes, 0);
}

TEST_F(Hdf5Dataset, FailedWritesLeaveTheOldFileAndNothingElse) {
  const Dataset data = read_dataset({.path = foreign("tokens.h5")});
  write_dataset(data, path_);
  const std::string before = bytes_of(path_);
  Dataset broken = data;
  broken.attribution["source"] = std::string("a\0b", 3);
  expect_rejection(ErrorKind::kData, {"NUL"}, [&] { write_dataset(broken, path_); });
  EXPECT_EQ(bytes_of(path_), before);
  EXPECT_EQ(files_in(directory_.path()), 1u);
  expect_rejection(ErrorKind::kUsage, {directory_.file("none/set.h5"), "no directory"},
                   [&] { write_dataset(data, directory_.file("none/set.h5")); });
}

TEST_F(Hdf5Dataset, WritesOverDataSetsButNotOverTheSourceOrAnythingElse) {
  Dataset data = read_dataset({.path = foreign("tokens.h5")});
  overwrite(path_, "");
  write_dataset(data, path_);
  write_dataset(data, path_);
  data = read_dataset({.path = path_});
  const std::string before = bytes_of(path_), csv = directory_.file("labels.csv");
  expect_rejection(ErrorKind::kUsage, {path_, "was read"}, [&] { write_dataset(data, path_); });
  expect_rejection(ErrorKind::kUsage, {"was read"},
                   [&] { write_dataset(data, directory_.path() + "/./set.h5"); });
  overwrite(csv, "a,b\n1,2\n");
  expect_rejection(ErrorKind::kUsage, {csv, "not an HDF5 file"}, [&] { write_dataset(data, csv); });
  expect_rejection(ErrorKind::kUsage, {directory_.path(), "no plain file"},
                   [&] { write_dataset(data, directory_.path()); });
  EXPECT_EQ(bytes_of(path_), before);
  EXPECT_EQ(bytes_of(csv), "a,b\n1,2\n");
}

// What h5jam put before the superblock and h5unjam took away again stays in its addresses.
TEST_F(Hdf5Dataset, ReadsFilesThatOnceStoodBehindAUserBlock) {
  write_dataset(read_dataset({.path = foreign("tokens.h5")}), path_);
  const std::string unjammed = bytes_of(path_).substr(4096);
  overwrite(path_, unjammed);
  EXPECT_EQ(read_dataset({.path = path_}).inputs_i32, (std::vector<int32_t>{7, 0, 3, 1, 2, 65535}));
  overwrite(path_, unjammed.substr(0, unjammed.size() - 1));
  reject({path_, "truncated"});
}

// HDF5 follows damaged numbers out of its memory.
TEST_F(Hdf5Dataset, NoChangedBitOfAnUnsealedFileEndsTheProcess) {
#if defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "the HDF5 library leaks what it has read of a damaged file";
#endif
  const std::string whole = bytes_of(foreign("images_uint8.h5"));
  int refused = 0, crashes = 0;
  for (size_t at = 0; at < whole.size(); at += 11) {
    std::string damaged = whole;
    damaged[at] = static_cast<char>(damaged[at] ^ (1 << (at * 5 % 8)));
    overwrite(path_, damaged);
    const DatasetOptions options{.path = path_, .texts = true};
    try {
      try_dataset(options, {.seconds = 1});
      read_dataset(options);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kData) << error.what();
      ++refused;
      if (std::string(error.what()).find("crashes the HDF5 library") != std::string::npos) ++crashes;
    }
  }
  EXPECT_GT(refused, 10);
  std::printf("%d refused, of which %d would have ended the process\n", refused, crashes);
}

TEST_F(Hdf5Dataset, ATrialThatIsGivenUpLeavesNoProcess) {
  EXPECT_FALSE(try_dataset({.path = foreign("images_uint8.h5")}, {.gives_up = [] { return true; }}));
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1);
  EXPECT_TRUE(try_dataset({.path = foreign("images_uint8.h5")}, {.gives_up = [] { return false; }}));
}

TEST_F(Hdf5Dataset, TryingSoundOrOtherFilesSaysNothing) {
  EXPECT_TRUE(try_dataset({.path = foreign("images_uint8.h5")}));
  try_dataset({.path = std::string(LOCKSTEP_CONFIGS) + "/data/digits.h5"});
  try_dataset({.path = directory_.file("absent.h5")});
  overwrite(path_, "no HDF5");
  try_dataset({.path = path_});
  try_dataset({.path = "table.csv"});
}

TEST_F(Hdf5Dataset, RejectsEveryChangedByteOfASealedFile) {
  write_dataset(read_dataset({.path = foreign("tokens.h5")}), path_);
  const std::string whole = bytes_of(path_);
  for (size_t at = 0; at < whole.size(); at += at < 32 ? 1 : 61) {
    std::string damaged = whole;
    damaged[at] = static_cast<char>(damaged[at] ^ 4);
    overwrite(path_, damaged);
    reject({path_});
  }
  overwrite(path_, whole.substr(0, whole.size() - 1));
  reject({path_});
}

TEST_F(Hdf5Dataset, RejectsMissingAndMisshapenParts) {
  const float values[6] = {1, 2, 3, 4, 5, 6};
  const int32_t labels[3] = {0, 1, 0};
  make([&](Hdf5File& file) { file.write("/x", DType::kF32, {3, 2}, values); });
  reject({path_, "/y"});
  make([&](Hdf5File& file) { file.write("/y", DType::kI32, {3}, labels); });
  reject({path_, "/x"});
  make([&](Hdf5File& file) {
    file.write("/x", DType::kF32, {2, 3}, values);
    file.write("/y", DType::kI32, {3}, labels);
  });
  reject({path_, "/y", "(3)", "(2,3)"});
  make([&](Hdf5File& file) {
    file.write("/x", DType::kF32, {3}, values);
    file.write("/y", DType::kI32, {3}, labels);
  });
  reject({path_, "/x", "(3)"});
  make([&](Hdf5File& file) {
    file.write("/x", DType::kF32, {0, 2}, values);
    file.write("/y", DType::kI32, {0}, labels);
  });
  reject({path_, "empty", "(0,2)"});
  make([&](Hdf5File& file) {
    file.create_group("/x");
    file.write("/y", DType::kI32, {3}, labels);
  });
  reject({path_, "/x", "array"});
  make([&](Hdf5File& file) {
    file.write_text("/x", "hello");
    file.write("/y", DType::kI32, {3}, labels);
  });
  reject({path_, "/x", "array"});
}

TEST_F(Hdf5Dataset, RejectsValuesThatAreNotFinite) {
  const int32_t labels[3] = {0, 1, 0};
  const auto make_with = [&](double value) {
    const double values[6] = {1, 2, 3, 4, 5, value};
    make([&](Hdf5File& file) {
      file.write("/x", DType::kF64, {3, 2}, values);
      file.write("/y", DType::kI32, {3}, labels);
    });
  };
  make_with(std::nan(""));
  reject({path_, "/x", "row 3", "element 2", "finite", "nan"});
  make_with(-std::numeric_limits<double>::infinity());
  reject({path_, "row 3", "-inf"});
  make_with(1e300);
  reject({path_, "row 3", "inf"});
  make_with(1e30);
  EXPECT_EQ(read_dataset({.path = path_}).inputs_f32[5], 1e30f);

  const float values[6] = {1, 2, 3, 4, 5, 6};
  const float targets[3] = {0, std::numeric_limits<float>::quiet_NaN(), 0};
  make([&](Hdf5File& file) {
    file.write("/x", DType::kF32, {3, 2}, values);
    file.write("/y", DType::kF32, {3}, targets);
  });
  reject({path_, "/y", "row 2", "finite"});
}

TEST_F(Hdf5Dataset, RejectsLabelsAndTokensOutOfRange) {
  const int64_t values[6] = {1, 2, 3, 4, 5, int64_t{1} << 31};
  const int64_t labels[3] = {0, 1, -1};
  make([&](Hdf5File& file) {
    file.write("/x", DType::kI64, {3, 2}, values);
    file.write("/y", DType::kI64, {3}, labels);
  });
  reject({path_, "/y", "row 3", "got -1"});
  const int64_t good_labels[3] = {0, 1, int64_t{5000000000}};
  const auto make_with = [&](int64_t tokens, int64_t classes) {
    make([&](Hdf5File& file) {
      file.write("/x", DType::kI64, {3, 2}, values);
      file.write("/y", DType::kI64, {3}, good_labels);
      file.write_attribute("/x", "tokens", tokens);
      file.write_attribute("/", "classes", classes);
    });
  };
  make_with(0, 7);
  reject({path_, "/y", "row 3", "[0, 7)", "got 5000000000"});
  reject({path_, "/y", "row 3", "[0, 9)"}, 9);
  make_with(0, 0);
  reject({path_, "classes", "0"});
  const int64_t labels_in_range[3] = {0, 1, 2};
  make([&](Hdf5File& file) {
    file.write("/x", DType::kI64, {3, 2}, values);
    file.write("/y", DType::kI64, {3}, labels_in_range);
    file.write_attribute("/x", "tokens", int64_t{1});
  });
  reject({path_, "/x", "row 3", "token", "2147483648"});
}

TEST_F(Hdf5Dataset, RejectsLabelsThatAreNotWholeOrNotOneARow) {
  const float values[6] = {1, 2, 3, 4, 5, 6};
  make([&](Hdf5File& file) {
    file.write("/x", DType::kF32, {3, 2}, values);
    file.write("/y", DType::kF32, {3}, values);
  });
  reject({path_, "/y", "integers", "fp32"}, 10);
  make([&](Hdf5File& file) {
    file.write("/x", DType::kF32, {3, 2}, values);
    file.write("/y", DType::kF32, {3, 2}, values);
    file.write_attribute("/", "classes", int64_t{10});
  });
  reject({path_, "/y", "(3,2)", "labels"});
}

TEST_F(Hdf5Dataset, RejectsANumberOfNamesOtherThanOfClasses) {
  const float values[6] = {1, 2, 3, 4, 5, 6};
  const int32_t labels[3] = {0, 1, 0};
  make([&](Hdf5File& file) {
    file.write("/x", DType::kF32, {3, 2}, values);
    file.write("/y", DType::kI32, {3}, labels);
    file.write_attribute("/", "class_names", std::string("a\nb\nc"));
  });
  reject({path_, "class_names", "3 names", "2 classes"});
  EXPECT_EQ(read_dataset({.path = path_, .classes = 3}).class_names.size(), 3u);
}

TEST_F(Hdf5Dataset, TheDigitsAreComplete) {
  const Dataset digits = read_dataset({.path = std::string(LOCKSTEP_CONFIGS) + "/data/digits.h5"});
  EXPECT_EQ(digits.size(), 1797);
  EXPECT_EQ(digits.sample_shape, (Shape{8, 8, 1}));
  EXPECT_EQ(digits.classes, 10);
  // Images of each digit, as the original's description lists them.
  std::vector<int64_t> counts(10);
  for (int32_t label : digits.labels) ++counts[static_cast<size_t>(label)];
  EXPECT_EQ(counts, (std::vector<int64_t>{178, 182, 177, 183, 181, 182, 181, 179, 174, 180}));
  double sum = 0.0;
  for (float value : digits.inputs_f32) {
    ASSERT_TRUE(value >= 0.0f && value <= 1.0f && value * 16.0f == std::floor(value * 16.0f));
    sum += value * 16.0;
  }
  EXPECT_EQ(sum, 561718.0);  // of the values 0 to 16 in the original
  EXPECT_EQ(digits.attribution.at("licence"), "CC BY 4.0");
}

}  // namespace
}  // namespace lockstep
