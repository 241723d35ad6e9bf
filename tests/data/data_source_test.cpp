// Samples are the same through every source, damaged ones are named, and sources are made of sources.
#include "lockstep/data/data_source.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <numeric>

#include "data/rejection.h"
#include "hdf5/scratch_directory.h"
#include "lockstep/core/mapped_file.h"
#include "lockstep/data/loader.h"
#include "lockstep/data/prepared_file.h"
#include "lockstep/data/stored_features.h"
#include "lockstep/hdf5/file.h"

namespace lockstep {
namespace {

using testing::bytes_of;
using testing::expect_rejection;
using testing::overwrite;
using testing::ScratchDirectory;

// Pseudo-random bytes: enough of them for several blocks.
Dataset images(int64_t n, int64_t width, DType dtype) {
  Dataset data;
  data.source = "made up";
  data.sample_shape = {width, 1};
  data.input_dtype = dtype;
  data.classes = 5;
  uint64_t state = 7;
  for (int64_t i = 0; i < n * width; ++i) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    const auto byte = static_cast<uint8_t>(state >> 56);
    if (dtype == DType::kU8) data.inputs_u8.push_back(byte);
    if (dtype == DType::kF16) data.inputs_f16.emplace_back(static_cast<float>(byte) / 8.0f - 7.0f);
    if (dtype == DType::kF32) data.inputs_f32.push_back(static_cast<float>(byte) * 0.37f - 40.0f);
    if (dtype == DType::kI32) data.inputs_i32.push_back(byte);
  }
  for (int64_t i = 0; i < n; ++i) data.labels.push_back(static_cast<int32_t>(i * i % 5));
  return data;
}

struct Samples {
  std::vector<float> inputs, targets;
  std::vector<int32_t> tokens, labels;
  bool operator==(const Samples&) const = default;
};

Samples gather(const DataSource& source, const std::vector<int64_t>& rows) {
  MicroBatch batch(std::ssize(rows), source.description().fields());
  source.gather(rows, batch.buffers());
  Samples samples;
  const auto copy = [&]<class T>(const char* name, std::vector<T>& to) {
    if (batch.field(name).dtype != dtype_of<T>) return;
    const auto values = std::as_const(batch).values<T>(name);
    to.assign(values.begin(), values.end());
  };
  if (batch.field(kInputsName).dtype != DType::kI32) samples.inputs = batch.real_values(kInputsName);
  copy(kInputsName, samples.tokens);
  copy(kTargetsName, samples.targets);
  copy(kTargetsName, samples.labels);
  return samples;
}

std::vector<int64_t> all_rows(const DataSource& source) {
  std::vector<int64_t> rows(static_cast<size_t>(source.size()));
  std::iota(rows.begin(), rows.end(), 0);
  return rows;
}

class Source : public ::testing::Test {
 protected:
  std::shared_ptr<const WholeSource> prepared(const Dataset& data) {
    write_dataset(data, path_);
    return open_data_source({.path = path_});
  }
  ScratchDirectory directory_;
  std::string path_ = directory_.file("set.h5");
};

TEST_F(Source, OfATableGivesItsRowsInAnyOrder) {
  Dataset data;
  data.sample_shape = {2};
  data.input_dtype = DType::kI32;
  data.inputs_i32 = {7, 8, 9, 10, 11, 12};
  data.target_width = 2;
  data.targets = {0, 1, 2, 3, 4, 5};
  const TableSource source(data);
  EXPECT_EQ(source.size(), 3);
  const Samples samples = gather(source, {2, 0, 2});
  EXPECT_EQ(samples.tokens, (std::vector<int32_t>{11, 12, 7, 8, 11, 12}));
  EXPECT_EQ(samples.targets, (std::vector<float>{4, 5, 0, 1, 4, 5}));
  EXPECT_TRUE(samples.inputs.empty() && samples.labels.empty());
}

TEST_F(Source, FeaturesAreValueTimesScaleByDivisorInFp32) {
  Dataset data = images(3, 2, DType::kU8);
  data.scale = 0.3f;
  data.divisor = 255.0f;
  const Samples samples = gather(TableSource(data), {0, 1, 2});
  for (size_t i = 0; i < 6; ++i)
    EXPECT_EQ(samples.inputs[i], static_cast<float>(data.inputs_u8[i]) * 0.3f / 255.0f);
}

TEST_F(Source, MappedGivesTheBitsAndTheDigestOfTheTable) {
  for (const DType dtype : {DType::kF32, DType::kU8, DType::kF16, DType::kI32}) {
    SCOPED_TRACE(name_of(dtype));
    Dataset data = images(3001, 700, dtype);  // rows cross the borders of blocks
    if (dtype == DType::kU8) data.divisor = 255.0f;
    if (dtype == DType::kF16) data.scale = 0.1f;
    const TableSource table(data);
    const std::shared_ptr<const WholeSource> mapped = prepared(data);
    ASSERT_NE(dynamic_cast<const MappedSource*>(mapped.get()), nullptr);
    EXPECT_EQ(mapped->size(), 3001);
    EXPECT_EQ(mapped->description().sample_shape, (Shape{700, 1}));
    EXPECT_EQ(mapped->description().classes, 5);
    EXPECT_EQ(mapped->digest(), table.digest());
    EXPECT_EQ(gather(*mapped, {3000, 0, 1499, 1500, 0}), gather(table, {3000, 0, 1499, 1500, 0}));
    EXPECT_EQ(gather(*mapped, all_rows(table)), gather(table, all_rows(table)));
    if (dtype == DType::kI32) continue;
    EXPECT_EQ(mapped->statistics().mean, table.statistics().mean);
    EXPECT_EQ(mapped->statistics().deviation, table.statistics().deviation);
  }
}

TEST_F(Source, MappedTargetsAndLabelsAsTargets) {
  Dataset data;
  data.source = "made up";
  data.sample_shape = {1};
  data.inputs_f32 = {1, 2, 3};
  data.target_width = 2;
  data.targets = {1, 2, 3, 4, 5, 6};
  EXPECT_EQ(gather(*prepared(data), {2, 1}).targets, (std::vector<float>{5, 6, 3, 4}));
  expect_rejection(ErrorKind::kData, {path_, "real targets", "2"},
                   [&] { open_data_source({.path = path_, .classes = 2}); });

  prepared(images(10, 1, DType::kF32));
  const auto regression = open_data_source({.path = path_, .classes = -1});
  EXPECT_EQ(regression->description().classes, 0);
  EXPECT_EQ(regression->description().target_width, 1);
  EXPECT_EQ(gather(*regression, {2, 3}).targets, (std::vector<float>{4, 4}));
  EXPECT_EQ(open_data_source({.path = path_, .classes = 9})->description().classes, 9);
  // As of a file that is read, with the row.
  expect_rejection(ErrorKind::kData, {path_, "/y: row 3: label must be in [0, 4): got 4"},
                   [&] { open_data_source({.path = path_, .classes = 4}); });
  Dataset few = images(10, 1, DType::kF32);
  few.labels.assign(10, 3);
  few.labels[4] = -1;
  few.ignore_label = -1;
  prepared(few);
  expect_rejection(ErrorKind::kData, {path_, "has 5 classes, 4 were asked for"},
                   [&] { open_data_source({.path = path_, .classes = 4}); });
}

// What stands behind the seal must not be taken for a file that never had one.
TEST_F(Source, APreparedFileWhoseSealIsGoneIsRefused) {
  prepared(images(2000, 3, DType::kU8));
  const std::string whole = testing::bytes_of(path_);
  for (const size_t erased : {8, 24, 496, 512, 4096}) {
    testing::overwrite(path_, std::string(erased, '\0') + whole.substr(erased));
    expect_rejection(ErrorKind::kData, {path_}, [&] { open_data_source({.path = path_}); });
  }
}

TEST_F(Source, OptionsThatAPreparedFileCannotFollowAreRefused) {
  prepared(images(10, 3, DType::kU8));
  expect_rejection(ErrorKind::kUsage, {path_, "target column"},
                   [&] { open_data_source({.path = path_, .target = "a"}); });
  expect_rejection(ErrorKind::kUsage, {path_, "labels file"},
                   [&] { open_data_source({.path = path_, .labels = "l"}); });
  const std::string other = directory_.file("other.h5");
  expect_rejection(ErrorKind::kUsage, {path_, "classes must be"},
                   [&] { prepare_dataset({.path = path_, .classes = -5}, other); });
  EXPECT_FALSE(std::filesystem::exists(other));
}

TEST_F(Source, DigestTellsSamplesAndTypesApart) {
  Dataset data = images(10, 3, DType::kU8);
  const std::string digest = TableSource(data).digest();
  data.inputs_u8[7] ^= 1;
  EXPECT_NE(TableSource(data).digest(), digest);
  data.inputs_u8[7] ^= 1;
  EXPECT_EQ(TableSource(data).digest(), digest);
  data.labels[9] ^= 1;
  EXPECT_NE(TableSource(data).digest(), digest);
  data.labels[9] ^= 1;
  data.divisor = 255.0f;
  EXPECT_NE(TableSource(data).digest(), digest);
}

// Opening looks at no sample; the first use of one finds the damage, and names block and rows.
TEST_F(Source, NamesADamagedBlockWhenItIsTouched) {
  const Dataset data = images(3001, 700, DType::kU8);  // 2 MB: three blocks of inputs
  prepared(data);
  const std::string whole = bytes_of(path_);
  const size_t x = whole.find(std::string(data.inputs_u8.begin(), data.inputs_u8.begin() + 64));
  ASSERT_EQ(x % 4096, 0u);
  std::string damaged = whole;
  damaged[x + (1 << 20) + 5] ^= 16;
  overwrite(path_, damaged);
  const auto source = open_data_source({.path = path_});
  EXPECT_EQ(gather(*source, {0, 1496, 2996, 3000}).labels, (std::vector<int32_t>{0, 1, 1, 0}));
  // Row 1497, counted from 0, ends at byte 1048600: with the second block.
  for (const int64_t row : {1497, 2000, 2995}) {
    expect_rejection(ErrorKind::kData, {path_, "block 1 of /x", "rows 1498 to 2996"}, [&] {
      gather(*source, {0, row});
    });
  }
  expect_rejection(ErrorKind::kData, {path_, "damaged"}, [&] { read_dataset({.path = path_}); });

  const std::vector<int32_t> labels(data.labels.begin(), data.labels.begin() + 20);
  const size_t y =
      whole.find(std::string(reinterpret_cast<const char*>(labels.data()), 80), x + data.inputs_u8.size());
  damaged = whole;
  damaged[y + 4] ^= 1;
  overwrite(path_, damaged);
  const auto other = open_data_source({.path = path_});
  expect_rejection(ErrorKind::kData, {"block 0 of /y", "rows 1 to 3001"}, [&] { gather(*other, {0}); });
}

// Whatever HDF5 reads, the table of digests and the statistics included, is verified before it opens the
// file.
TEST_F(Source, RefusesEveryOtherChangedByteWhenItIsOpened) {
  prepared(images(3, 2, DType::kF32));
  const std::string whole = bytes_of(path_);
  int at_opening = 0;
  for (size_t at = 0; at < whole.size(); at += 13) {
    std::string damaged = whole;
    damaged[at] = static_cast<char>(damaged[at] ^ 8);
    overwrite(path_, damaged);
    std::shared_ptr<const WholeSource> source;
    try {
      source = open_data_source({.path = path_});
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kData) << error.what();
      ++at_opening;
      continue;
    }
    expect_rejection(ErrorKind::kData, {path_, "block 0"}, [&] { gather(*source, {0, 1, 2}); });
  }
  EXPECT_GT(at_opening, static_cast<int>(whole.size() / 13) - 5);
  overwrite(path_, whole.substr(0, whole.size() - 1));
  expect_rejection(ErrorKind::kData, {path_, "truncated"}, [&] { open_data_source({.path = path_}); });
}

TEST_F(Source, VerifyingLooksAtEveryBlock) {
  const Dataset data = images(3001, 700, DType::kU8);
  prepared(data);
  std::string bytes = bytes_of(path_);
  const size_t x = bytes.find(std::string(data.inputs_u8.begin(), data.inputs_u8.begin() + 64));
  bytes[x + (2 << 20)] ^= 1;
  overwrite(path_, bytes);
  const MappedSource source({.path = path_}, *verify_outline(path_, ErrorKind::kData));
  EXPECT_EQ(source.blocks(), 4);
  std::vector<std::string> damage;
  int64_t block = 0;
  for (std::string text; source.verify_next(block, text);) damage.push_back(text);
  ASSERT_EQ(damage.size(), 4u);
  EXPECT_EQ(damage[0] + damage[1] + damage[3], "");
  EXPECT_NE(damage[2].find("block 2 of /x"), std::string::npos) << damage[2];
}

// In h5py's words: what the header of the file says.
TEST_F(Source, H5pyReadsPreparedFiles) {
  Dataset data = images(100, 3, DType::kU8);
  data.divisor = 255.0f;
  prepared(data);
  if (!testing::shell("/usr/bin/python3 -c 'import h5py'")) GTEST_SKIP() << "h5py is not installed";
  const std::string script = R"(
import h5py, numpy as np, sys
f = h5py.File(sys.argv[1], 'r')
x, y = f['x'], f['y']
assert x.shape == (100, 3, 1) and x.dtype == np.uint8 and x.attrs['divisor'] == 255.0 and x.chunks is None
assert (y[...] == np.arange(100) ** 2 % 5).all() and y.dtype == np.int32 and f.attrs['classes'] == 5
features = x[...].astype(np.float64) / 255.0
assert np.allclose(f['mean'][...], features.mean(0), rtol=1e-6) and np.allclose(f['deviation'][...], features.std(0), rtol=1e-6)
assert f['digests'].shape == (2, 16) and f.attrs['layout'] == 1
assert x.id.get_offset() % 4096 == 0 and y.id.get_offset() % 4096 == 0
raw = open(sys.argv[1], 'rb').read()
assert raw[x.id.get_offset():][:300] == x[...].tobytes() and raw[y.id.get_offset():][:400] == y[...].tobytes()
)";
  overwrite(directory_.file("check.py"), script);
  EXPECT_TRUE(testing::shell("/usr/bin/python3 " + directory_.file("check.py") + " " + path_));
}

// In pieces, from h5py's chunked and unchunked files, and again from what was prepared.
TEST_F(Source, PrepareKeepsWhatOtherFilesHold) {
  for (const std::string name : {"images_uint8.h5", "features_latest.h5", "regression.h5", "tokens.h5"}) {
    SCOPED_TRACE(name);
    const std::string source = std::string(LOCKSTEP_DATA_FILES) + "/" + name,
                      again = directory_.file("again.h5");
    const TableSource table(read_dataset({.path = source}));
    prepare_dataset({.path = source}, path_);
    prepare_dataset({.path = path_}, again);
    for (const std::string& file : {path_, again}) {
      const auto mapped = open_data_source({.path = file});
      EXPECT_EQ(gather(*mapped, all_rows(table)), gather(table, all_rows(table)));
      EXPECT_EQ(mapped->description().classes, table.description().classes);
    }
    EXPECT_EQ(bytes_of(path_), bytes_of(again));
  }
  EXPECT_EQ(open_data_source({.path = path_})->description().input_dtype, DType::kI32);
  prepare_dataset({.path = std::string(LOCKSTEP_DATA_FILES) + "/images_uint8.h5"}, path_);
  EXPECT_EQ(Hdf5File::open(path_, ErrorKind::kData).describe("/x").dtype, DType::kU8);
  expect_rejection(ErrorKind::kUsage, {path_, "was read"}, [&] { prepare_dataset({.path = path_}, path_); });
}

TEST_F(Source, StatisticsAreThoseOfTwoPasses) {
  Dataset data = images(1000, 4, DType::kF32);
  for (size_t row = 0; row < 1000; ++row) {
    data.inputs_f32[4 * row] += 1e6f;      // far from zero
    data.inputs_f32[4 * row + 1] = 3.25f;  // constant
  }
  const FeatureStatistics found = TableSource(data).statistics();
  for (size_t feature = 0; feature < 4; ++feature) {
    double mean = 0.0, squares = 0.0;
    for (size_t row = 0; row < 1000; ++row)
      mean += static_cast<double>(data.inputs_f32[4 * row + feature]) / 1000.0;
    for (size_t row = 0; row < 1000; ++row)
      squares += std::pow(static_cast<double>(data.inputs_f32[4 * row + feature]) - mean, 2);
    EXPECT_NEAR(found.mean[feature], mean, 1e-12 * std::abs(mean) + 1e-12);
    EXPECT_NEAR(found.deviation[feature], std::sqrt(squares / 1000.0), 1e-9);
  }
  EXPECT_EQ(found.deviation[1], 0.0);
  expect_rejection(ErrorKind::kUsage, {"tokens", "normalize"},
                   [] { TableSource(images(2, 2, DType::kI32)).statistics(); });
}

TEST_F(Source, StandardizedHasMeanZeroAndDeviationOne) {
  Dataset data = images(1000, 4, DType::kF32);
  for (size_t row = 0; row < 1000; ++row) data.inputs_f32[4 * row + 1] = 3.25f;
  const auto table = std::make_shared<TableSource>(data);
  const StandardizedSource source(table, table->statistics());
  Dataset result = images(1000, 4, DType::kF32);
  result.inputs_f32 = gather(source, all_rows(source)).inputs;
  const FeatureStatistics found = TableSource(result).statistics();
  for (const size_t feature : {0u, 2u, 3u}) {
    EXPECT_NEAR(found.mean[feature], 0.0, 1e-6);
    EXPECT_NEAR(found.deviation[feature], 1.0, 1e-6);
  }
  EXPECT_EQ(result.inputs_f32[1], 0.0f);
  EXPECT_EQ(found.deviation[1], 0.0);
  expect_rejection(ErrorKind::kData, {"4 features", "3"}, [&] {
    StandardizedSource(table, {{1, 2, 3}, {1, 1, 1}});
  });
}

TEST_F(Source, PartsGiveTheRowsOfTheSplit) {
  const auto table = std::make_shared<TableSource>(images(1000, 3, DType::kF32));
  const Split split(1000, 0.3, 4);
  const PartSource train(table, split, PartSource::Side::kTrain),
      validation(table, split, PartSource::Side::kValidation);
  EXPECT_EQ(train.size(), 700);
  EXPECT_EQ(validation.size(), 300);
  std::vector<int64_t> rows;
  for (int64_t i = 0; i < 300; ++i) rows.push_back(split.validation_row(i));
  EXPECT_EQ(gather(validation, all_rows(validation)), gather(*table, rows));
  rows.clear();
  for (int64_t i = 0; i < 700; ++i) rows.push_back(split.train_row(699 - i));
  std::vector<int64_t> backwards = all_rows(train);
  std::reverse(backwards.begin(), backwards.end());
  EXPECT_EQ(gather(train, backwards), gather(*table, rows));
}

// What is not yet prepared of data that a prepared file cannot describe yet is an error, not another reading
// of it.
TEST_F(Source, RefusesLayoutsOfLaterVersions) {
  Hdf5File file = Hdf5File::create(path_, ErrorKind::kData, 4096, 4096);
  const int64_t x = file.allocate("/x", DType::kF32, {2, 2}), y = file.allocate("/y", DType::kI32, {2});
  const int64_t table = file.allocate("/digests", DType::kU8, {2, 16});
  file.write_attribute("/", kLayoutAttribute, kPreparedLayoutIgnoring + 1);
  file.close();
  seal_blocked_file(path_, ErrorKind::kData, {{x, 16}, {y, 8}}, table);
  expect_rejection(ErrorKind::kData, {path_, "layout 3", "knows 2"},
                   [&] { open_data_source({.path = path_}); });
}

TEST_F(Source, NarrowFeaturesAreGatheredAsTheyAreStored) {
  for (const DType dtype : {DType::kU8, DType::kF16}) {
    SCOPED_TRACE(name_of(dtype));
    Dataset data = images(40, 6, dtype);
    data.scale = 0.3f;
    data.divisor = 7.0f;
    data.columns.features = {"a", "b", "c", "d", "e", "f"};
    const auto table = std::make_shared<TableSource>(data);
    const std::shared_ptr<const DataSource> mapped = prepared(data);
    const auto part = std::make_shared<PartSource>(mapped, Split(40, 0.25, 3), PartSource::Side::kTrain);
    const ReorderedSource reordered(part, {5, 4, 3, 2, 1, 0}, {});
    for (const DataSource* source :
         std::initializer_list<const DataSource*>{table.get(), mapped.get(), part.get(), &reordered}) {
      const Field inputs = source->description().fields()[DataDescription::kInputs];
      EXPECT_EQ(inputs.dtype, dtype);
      EXPECT_EQ(inputs.scale, 0.3f);
      EXPECT_EQ(inputs.divisor, 7.0f);
      EXPECT_EQ(source->description().input_dtype, DType::kF32);
    }
    std::vector<float> backwards = gather(*part, {4, 2}).inputs;
    std::reverse(backwards.begin(), backwards.begin() + 6);
    std::reverse(backwards.begin() + 6, backwards.end());
    EXPECT_EQ(gather(reordered, {4, 2}).inputs, backwards);
    // Standardized ones are fp32.
    const StandardizedSource standardized(table, table->statistics());
    EXPECT_EQ(standardized.description().fields()[DataDescription::kInputs].dtype, DType::kF32);
    const std::vector<float> raw = gather(*table, {7}).inputs, scaled = gather(standardized, {7}).inputs;
    const FeatureStatistics statistics = table->statistics();
    for (size_t i = 0; i < 6; ++i) {
      EXPECT_EQ(scaled[i], (raw[i] - static_cast<float>(statistics.mean[i])) *
                               static_cast<float>(1.0 / statistics.deviation[i]));
    }
  }
}

// Labels 0 to 4, of which those of `ignored` are in the place of each third one.
Dataset with_ignored(int32_t ignored) {
  Dataset data = images(30, 4, DType::kU8);
  for (size_t i = 0; i < 30; i += 3) data.labels[i] = ignored;
  data.ignore_label = ignored;
  return data;
}

TEST_F(Source, LabelsThatCountNothingHaveWeightZeroAndTheirSamplesClassZero) {
  for (const int32_t ignored : {-1, 255, 3}) {
    SCOPED_TRACE(ignored);
    const Dataset data = with_ignored(ignored);
    const TableSource table(data);
    const std::shared_ptr<const WholeSource> mapped = prepared(data);
    ASSERT_NE(dynamic_cast<const MappedSource*>(mapped.get()), nullptr);
    EXPECT_EQ(mapped->digest(), table.digest());
    EXPECT_EQ(mapped->description().class_counts, table.description().class_counts);
    for (const DataSource* source :
         {static_cast<const DataSource*>(&table), static_cast<const DataSource*>(mapped.get())}) {
      EXPECT_EQ(source->description().ignore_label, ignored);
      EXPECT_EQ(source->description().classes, 5);
      MicroBatch batch(30, source->description().fields());
      source->gather(all_rows(*source), batch.buffers());
      std::vector<int64_t> counts(5, 0);
      for (size_t i = 0; i < 30; ++i) {
        const bool counted = data.labels[i] != ignored;
        EXPECT_EQ(batch.weights()[i], counted ? 1.0f : 0.0f) << i;
        EXPECT_EQ(batch.values<int32_t>(kTargetsName)[i], counted ? data.labels[i] : 0) << i;
        if (counted) ++counts[static_cast<size_t>(data.labels[i])];
      }
      EXPECT_EQ(source->description().class_counts, counts);
    }
    expect_rejection(ErrorKind::kUsage, {path_, std::to_string(ignored), "7"},
                     [&] { open_data_source({.path = path_, .ignore_label = 7}); });
    EXPECT_EQ(open_data_source({.path = path_, .ignore_label = ignored})->digest(), table.digest());
    EXPECT_EQ(open_data_source({.path = path_, .classes = -1})->description().weighted, false);
  }
  // Of a file that was prepared without: one of its classes.
  const Dataset all = images(30, 4, DType::kU8);
  const std::shared_ptr<const WholeSource> plain = prepared(all);
  const auto without = open_data_source({.path = path_, .ignore_label = 4});
  EXPECT_EQ(plain->description().class_counts, (std::vector<int64_t>{6, 12, 0, 0, 12}));
  EXPECT_EQ(without->description().class_counts, (std::vector<int64_t>{6, 12, 0, 0, 0}));
  EXPECT_NE(without->digest(), plain->digest()) << "the same samples, another objective";
  expect_rejection(ErrorKind::kUsage, {path_, "real targets"},
                   [&] { open_data_source({.path = path_, .classes = -1, .ignore_label = 4}); });
}

// Blocks that were verified, and others.
TEST_F(Source, AFileThatBecomesShorterWhileItIsMappedIsNamed) {
  outlive_bus_errors();
  const std::shared_ptr<const WholeSource> source = prepared(images(3001, 700, DType::kF32));
  gather(*source, {2900, 2999});
  gather(*source, {5});
  std::filesystem::resize_file(path_, std::filesystem::file_size(path_) / 2);
  for (const int64_t row : {2999, 1800, 5})
    expect_rejection(ErrorKind::kData, {path_, "has become shorter"}, [&] { gather(*source, {row}); });
}

// Into the file itself, as cp and rsync --inplace write. Blocks that were verified, and others.
TEST_F(Source, AFileThatIsWrittenToWhileItIsMappedIsVerifiedAnew) {
  const Dataset data = images(3001, 700, DType::kF32);
  write_dataset(data, path_);
  const std::string bytes = bytes_of(path_);
  const size_t row = 700 * sizeof(float),
               at = bytes.find(std::string(reinterpret_cast<const char*>(&data.inputs_f32[5 * 700]), row));
  ASSERT_NE(at, std::string::npos);
  const auto write = [&](size_t from, const std::string& text) {
    std::fstream(path_, std::ios::binary | std::ios::in | std::ios::out)
        .seekp(static_cast<std::streamoff>(from))
        .write(text.data(), std::ssize(text));
  };
  std::filesystem::last_write_time(path_,
                                   std::filesystem::file_time_type::clock::now() - std::chrono::hours(1));
  const std::shared_ptr<const WholeSource> source = open_data_source({.path = path_});
  const Samples before = gather(*source, {2900, 5});
  write(0, bytes);
  EXPECT_EQ(gather(*source, {2900, 5}), before);
  // Right behind it: the clock of files may not have gone on.
  write(at, std::string(row, '\1'));
  expect_rejection(ErrorKind::kData, {path_, "block 0 of /x"}, [&] { gather(*source, {5}); });
  gather(*source, {2900, 2999});
  write(at, bytes.substr(at, row));
  EXPECT_EQ(gather(*source, {2900, 5}), before);
}

// Of another program: no seal, and no room for one. Returns where its inputs are.
int64_t write_plain(const Dataset& data, const std::string& path) {
  Hdf5File file = Hdf5File::create(path, ErrorKind::kData);
  const StoredSamples stored = stored_samples(data);
  Shape x{data.size()};
  for (const int64_t extent : data.sample_shape.extents()) x.push_back(extent);
  file.write("/x", data.input_dtype, x, stored.inputs.data());
  file.write("/y", DType::kI32, {data.size()}, data.labels.data());
  if (data.input_dtype == DType::kI32) file.write_attribute("/x", "tokens", int64_t{1});
  if (data.divisor != 1.0f) file.write_attribute("/x", "divisor", static_cast<double>(data.divisor));
  const int64_t at = *file.offset("/x", data.input_dtype) - kSealBytes;
  file.close();
  const std::string bytes = bytes_of(path);
  overwrite(path, bytes.substr(static_cast<size_t>(kSealBytes)));
  return at;
}

TEST_F(Source, ALargePlainFileIsMappedAndIsWhatReadingItGives) {
  for (const DType dtype : {DType::kU8, DType::kF32, DType::kI32}) {
    SCOPED_TRACE(name_of(dtype));
    const int64_t width = 1009;  // rows cross the borders of blocks
    const int64_t rows =
        MappedSource::kLeastUnsealedBytes / (width * static_cast<int64_t>(size_of(dtype))) + 3;
    Dataset data = images(rows, width, dtype);
    if (dtype == DType::kU8) data.divisor = 255.0f;
    const int64_t offset = write_plain(data, path_);
    const std::shared_ptr<const WholeSource> source = open_data_source({.path = path_});
    ASSERT_NE(dynamic_cast<const MappedSource*>(source.get()), nullptr);
    data.source = path_;
    const TableSource table(data);
    EXPECT_EQ(source->digest(), table.digest());
    EXPECT_EQ(source->description().class_counts, table.description().class_counts);
    EXPECT_EQ(source->description().largest_index, table.description().largest_index);
    EXPECT_EQ(source->description().largest_index_row, table.description().largest_index_row);
    const std::vector<int64_t> some = {rows - 1, 0, rows / 2, rows / 2 + 1, 7};
    EXPECT_EQ(gather(*source, some), gather(table, some));
    if (dtype == DType::kU8) {
      EXPECT_EQ(open_data_source({.path = path_})->statistics().mean, table.statistics().mean);
    }
    // A block that changes before it is used.
    std::fstream(path_, std::ios::in | std::ios::out | std::ios::binary)
        .seekp(offset + 20 * kBlockBytes)
        .put('!');
    const int64_t changed = 20 * kBlockBytes / (width * static_cast<int64_t>(size_of(dtype)));
    expect_rejection(ErrorKind::kData, {path_, "block 20 of /x", "the one at the start"},
                     [&] { gather(*source, {changed}); });
    EXPECT_NE(open_data_source({.path = path_})->digest(), table.digest());
    gather(*source, {0});
  }
  Dataset wrong = images(MappedSource::kLeastUnsealedBytes / 4 + 1, 1, DType::kF32);
  wrong.inputs_f32[12345678] = std::numeric_limits<float>::infinity();
  write_plain(wrong, path_);
  expect_rejection(ErrorKind::kData, {path_, "row 12345679", "inf"},
                   [&] { open_data_source({.path = path_}); });
}

// A program's own source, which says what it holds and gathers: sample i is (i, -i), of class i mod 3.
class Counting final : public WholeSource {
 public:
  explicit Counting(int64_t samples) {
    description_.source = "counting";
    description_.samples = samples;
    description_.sample_shape = {2};
    description_.classes = 3;
  }
  DataDescription& own() { return description_; }
  void gather(std::span<const int64_t> rows, const SampleBuffers& out) const override {
    for (size_t i = 0; i < rows.size(); ++i) {
      const SampleBuffers place = out.from(static_cast<int64_t>(i));
      auto* const x = place.at<float>(DataDescription::kInputs);
      x[0] = static_cast<float>(rows[i]);
      x[1] = -x[0];
      *place.at<int32_t>(DataDescription::kTargets) = static_cast<int32_t>(rows[i] % 3);
    }
  }
};

TEST(OwnSource, HasTheDigestOfItsSamplesAndTheirStatistics) {
  const std::string digest = Counting(1000).digest();
  EXPECT_EQ(digest.size(), 32u);
  EXPECT_EQ(Counting(1000).digest(), digest);
  EXPECT_NE(Counting(999).digest(), digest);
  const FeatureStatistics found = Counting(1000).statistics();
  Dataset table;
  table.sample_shape = {2};
  table.classes = 3;
  for (int i = 0; i < 1000; ++i) {
    table.inputs_f32.insert(table.inputs_f32.end(), {static_cast<float>(i), static_cast<float>(-i)});
    table.labels.push_back(i % 3);
  }
  const TableSource same(table);
  EXPECT_EQ(found.mean, same.statistics().mean);
  EXPECT_EQ(found.deviation, same.statistics().deviation);
  EXPECT_EQ(found.mean, (std::vector<double>{499.5, -499.5}));
}

// Data sets that a program has put together: nothing else has looked at them.
TEST(OwnTable, PartsThatDoNotBelongTogetherAndValuesThatCannotBeAreRefused) {
  const testing::ScratchDirectory directory;
  const auto refused = [&](ErrorKind kind, const std::string& rule,
                           const std::function<void(Dataset&)>& change) {
    Dataset data;
    data.source = "mine";
    data.sample_shape = {2};
    data.classes = 2;
    data.inputs_f32 = {0, 1, 2, 3, 4, 5};
    data.labels = {0, 1, 0};
    change(data);
    expect_rejection(kind, {"mine: " + rule}, [&] { const TableSource source(data); });
    expect_rejection(kind, {"mine: " + rule}, [&] { write_dataset(data, directory.file("written.h5")); });
    EXPECT_FALSE(std::filesystem::exists(directory.file("written.h5")));
  };
  constexpr ErrorKind kUsage = ErrorKind::kUsage, kData = ErrorKind::kData;
  for (const int32_t label : {2, 1000000000, -1}) {
    refused(kData, fmt::format("sample 1: label {} is outside [0, 2)", label),
            [&](Dataset& data) { data.labels[1] = label; });
  }
  refused(kData, "sample 2: input 1 is nan", [](Dataset& data) { data.inputs_f32[5] = std::nanf(""); });
  refused(kData, "sample 1: target 0 is inf", [](Dataset& data) {
    data.classes = 0, data.target_width = 1, data.targets = {0, std::numeric_limits<float>::infinity(), 0};
  });
  refused(kData, "sample 0: input 1 is -5",
          [](Dataset& data) { data.input_dtype = DType::kI32, data.inputs_i32 = {0, -5, 0, 0, 0, 0}; });
  refused(kUsage, "3 samples of (2) need 6 inputs of fp32, got 5",
          [](Dataset& data) { data.inputs_f32.pop_back(); });
  refused(kUsage, "3 samples of (2) need 6 inputs of uint8, got 0",
          [](Dataset& data) { data.input_dtype = DType::kU8; });
  refused(kUsage, "must have either classes or a target width, got 0 and 0",
          [](Dataset& data) { data.classes = 0; });
  refused(kUsage, "4 targets are no rows of 3", [](Dataset& data) {
    data.classes = 0, data.target_width = 3, data.targets.assign(4, 0.0f), data.inputs_f32.assign(2, 0.0f);
  });
  refused(kUsage, "scale and divisor must be finite, the divisor not 0, got 1 and 0",
          [](Dataset& data) { data.divisor = 0.0f; });
  refused(kUsage, "class_names must hold one name a class: 1 names, 2 classes",
          [](Dataset& data) { data.class_names = {"a"}; });
  refused(kUsage, "columns must hold one name a feature: 1 names, 2 features",
          [](Dataset& data) { data.columns.features = {"a"}; });
}

TEST(OwnSource, WhateverItThrowsIsAFailureOfData) {
  class Broken final : public WholeSource {
   public:
    Broken() {
      description_.source = "broken";
      description_.samples = 300;
      description_.sample_shape = {1};
      description_.classes = 2;
    }
    void gather(std::span<const int64_t> rows, const SampleBuffers& out) const override {
      for (size_t i = 0; i < rows.size(); ++i) {
        if (rows[i] == bad_row) throw std::out_of_range("no such page");
        const SampleBuffers place = out.from(static_cast<int64_t>(i));
        *place.at<float>(DataDescription::kInputs) = 1.0f;
        *place.at<int32_t>(DataDescription::kTargets) = rows[i] == bad_label ? 7 : 0;
      }
    }
    int64_t bad_row = -1, bad_label = -1;
  };
  Broken source;
  source.bad_row = 270;
  expect_rejection(ErrorKind::kData, {"broken: no such page"}, [&] { source.digest(); });
  expect_rejection(ErrorKind::kData, {"broken: no such page"}, [&] { source.statistics(); });
  source.bad_row = -1;
  source.bad_label = 299;
  expect_rejection(ErrorKind::kData, {"broken: sample 299: label 7 is outside [0, 2)"},
                   [&] { source.digest(); });
  const DatasetOptions options{.open = [](const DatasetOptions&) -> std::shared_ptr<const WholeSource> {
    throw std::out_of_range("no such shelf");
  }};
  expect_rejection(ErrorKind::kData, {"data source: no such shelf"}, [&] { open_data_source(options); });
}

TEST(OwnSource, IsOpenedByTheOptionsAndByTheNameOfItsFormat) {
  DatasetOptions options{.path = "12", .open = [](const DatasetOptions& asked) {
                           return std::make_shared<Counting>(std::stoll(asked.path));
                         }};
  EXPECT_EQ(open_data_source(options)->size(), 12);
  expect_rejection(ErrorKind::kUsage, {"12", "the program's own"}, [&] { read_dataset(options); });
  try_dataset(options);  // is no file

  register_data_format("counting", [](Section& data) -> SourceOpener {
    const int64_t times = data.integer("times", 1, kPositive, "counting: samples for one");
    return [times](const DatasetOptions& asked) {
      return std::make_shared<Counting>(times * std::stoll(asked.path));
    };
  });
  EXPECT_EQ(data_formats().back(), "counting");
  Configuration configuration = Configuration::parse("[data]\ntimes = 3", "test.toml", {});
  Section data = configuration.section("data");
  options.open = read_data_format(data, "counting");
  EXPECT_EQ(open_data_source(options)->size(), 36);
  EXPECT_FALSE(read_data_format(data, "csv"));
  for (const char* taken : {"counting", "csv", "auto"}) {
    expect_rejection(ErrorKind::kUsage, {taken},
                     [&] { register_data_format(taken, [](Section&) { return SourceOpener(); }); });
  }
}

TEST(OwnSource, IsRefusedWhereItsDescriptionCannotBe) {
  const auto refused = [](const std::string& rule, const std::function<void(DataDescription&)>& spoil) {
    const auto open = [&](const DatasetOptions&) {
      const auto source = std::make_shared<Counting>(5);
      spoil(source->own());
      return source;
    };
    expect_rejection(ErrorKind::kUsage, {"data source counting: " + rule},
                     [&] { open_data_source({.open = open}); });
  };
  refused("must have samples, got 0", [](DataDescription& description) { description.samples = 0; });
  refused("a sample must have elements",
          [](DataDescription& description) { description.sample_shape = {0}; });
  refused("inputs must be fp32 or int32, got fp64",
          [](DataDescription& description) { description.input_dtype = DType::kF64; });
  refused("inputs must be stored as fp32, uint8 or fp16, got bf16",
          [](DataDescription& description) { description.stored_dtype = DType::kBF16; });
  refused("a sample must have targets", [](DataDescription& description) { description.positions = {0}; });
  refused("scale and divisor must be finite",
          [](DataDescription& description) { description.divisor = 0.0f; });
  for (const char* name : {"", "inputs", "targets"}) {
    refused("each other field must have a name of its own", [name](DataDescription& description) {
      description.others = {{name, DType::kF32, {}}};
    });
  }
  refused("each other field must have a name of its own, got \"a\"", [](DataDescription& description) {
    description.others = {{"a", DType::kF32, {}}, {"a", DType::kI32, {}}};
  });
  refused("field \"a\" must be fp32 or int32, got fp64", [](DataDescription& description) {
    description.others = {{"a", DType::kF64, {}}};
  });
  refused("must have either classes or a target width, got 3 and 1",
          [](DataDescription& description) { description.target_width = 1; });
  refused("must have either classes or a target width, got 0 and 0",
          [](DataDescription& description) { description.classes = 0; });
  refused("class_names must hold one name a class: 2 names, 3 classes", [](DataDescription& description) {
    description.class_names = {"a", "b"};
  });
  refused("class_names: a name holds a line break", [](DataDescription& description) {
    description.class_names = {"a", "b\nc", "d"};
  });
  for (const std::vector<std::string>& names :
       {std::vector<std::string>{"a"}, {"a", "b", "c"}}) {  // their order would be one of other elements
    refused(fmt::format("columns must hold one name a feature: {} names, 2 features", names.size()),
            [&](DataDescription& description) { description.columns.features = names; });
  }
  refused("columns has 'a' twice", [](DataDescription& description) {
    description.columns.features = {"a", "a"};
  });
  refused("columns: a name holds a line break", [](DataDescription& description) {
    description.columns.features = {"a", "b\n"};
  });
  refused("columns: a name holds a line break",
          [](DataDescription& description) { description.columns.target = "\n"; });
  refused("2 counts of classes do not fit 3 classes", [](DataDescription& description) {
    description.class_counts = {1, 4};
  });
  expect_rejection(ErrorKind::kUsage, {"has made none"}, [] {
    open_data_source({.open = [](const DatasetOptions&) { return std::shared_ptr<const WholeSource>(); }});
  });
}

}  // namespace
}  // namespace lockstep
