// HDF5 files of other programs: values that lie elsewhere or nowhere, user blocks, filters, booleans, names.
// h5py writes them.
#include <gtest/gtest.h>

#include <functional>

#include "data/rejection.h"
#include "hdf5/scratch_directory.h"
#include "lockstep/core/error.h"
#include "lockstep/core/log.h"
#include "lockstep/data/data_source.h"
#include "lockstep/data/prepared_file.h"
#include "lockstep/hdf5/file.h"

namespace lockstep {
namespace {

using testing::expect_rejection;

// new(name): a file with y, labels 0 to 2 of 12 rows. x: what the rows should hold, 0 to 35.
constexpr const char* kPreamble = R"(
import h5py, numpy as np, os, sys
os.chdir(sys.argv[1])
x = np.arange(36, dtype='f4').reshape(12, 3)
y = np.arange(12) % 3
def new(name, labels=y, **options):
    file = h5py.File(name, 'w', **options)
    if labels is not None:
        file['y'] = labels
    return file
def virtual(name, source, object='data', rows=12):
    with new(name) as file:
        layout = h5py.VirtualLayout(shape=(12, 3), dtype='f4')
        layout[:rows] = h5py.VirtualSource(source, object, shape=(rows, 3))
        file.create_virtual_dataset('x', layout)
)";

class Hdf5Sources : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!testing::shell("/usr/bin/python3 -c 'import h5py'")) GTEST_SKIP() << "h5py is not installed";
  }
  void make(const std::string& script) {
    testing::overwrite(directory_.file("make.py"), kPreamble + script);
    ASSERT_TRUE(testing::shell("/usr/bin/python3 " + directory_.file("make.py") + " " + directory_.path()));
  }
  DatasetOptions options(const std::string& name, bool follow = false, int64_t classes = 0) const {
    return {.path = directory_.file(name), .follow = follow, .texts = true, .classes = classes};
  }
  Dataset read(const std::string& name, bool follow = false, int64_t classes = 0) const {
    return read_dataset(options(name, follow, classes));
  }
  void expect_rows(const std::string& name, bool follow = false) const {
    SCOPED_TRACE(name);
    const Dataset data = read(name, follow);
    EXPECT_EQ(data.size(), 12);
    EXPECT_EQ(data.inputs_f32, rows());
    EXPECT_EQ(data.classes, 3);
  }
  void reject(const std::string& name, bool follow, std::initializer_list<std::string> parts) const {
    SCOPED_TRACE(name);
    expect_rejection(ErrorKind::kData, parts, [&] { read(name, follow); });
    // The child that tries an unsealed file finds no more than that.
    try_dataset(options(name, follow));
  }
  static std::vector<float> rows() {
    std::vector<float> values(36);
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
    return values;
  }

  testing::ScratchDirectory directory_;
};

TEST_F(Hdf5Sources, AVirtualDataSetIsReadWhereOtherFilesMayBe) {
  make(R"(
with new('source.h5', None) as file: file['data'] = x
virtual('virtual.h5', 'source.h5')
virtual('over.h5', 'virtual.h5', 'x')
with new('resizable.h5', None) as file: file.create_dataset('data', data=x, maxshape=(None, 3))
with new('unlimited.h5') as file:
    layout = h5py.VirtualLayout(shape=(12, 3), dtype='f4', maxshape=(None, 3))
    source = h5py.VirtualSource('resizable.h5', 'data', shape=(12, 3), maxshape=(None, 3))
    layout[0:h5py.h5s.UNLIMITED] = source[0:h5py.h5s.UNLIMITED]
    file.create_virtual_dataset('x', layout)
for part in range(3):
    with new(f'part{part}.h5', None) as file: file['data'] = x[4 * part:4 * part + 4]
with new('parts.h5') as file:
    layout = h5py.VirtualLayout(shape=(12, 3), dtype='f4')
    for part in range(3):
        layout[4 * part:4 * part + 4] = h5py.VirtualSource(f'part{part}.h5', 'data', shape=(4, 3))
    file.create_virtual_dataset('x', layout)
)");
  for (const char* name : {"virtual.h5", "over.h5", "unlimited.h5", "parts.h5"}) {
    expect_rows(name, true);
    reject(name, false, {name, "/x", "another file", "data.follow = true", "--follow"});
  }
}

TEST_F(Hdf5Sources, AVirtualDataSetOverItsOwnFileIsNobodyElses) {
  make(R"(
with new('own.h5') as file:
    file['data'] = x
    layout = h5py.VirtualLayout(shape=(12, 3), dtype='f4')
    layout[:] = h5py.VirtualSource(file['data'])
    file.create_virtual_dataset('x', layout)
)");
  expect_rows("own.h5");
}

TEST_F(Hdf5Sources, WhatAVirtualDataSetLacksIsNamed) {
  make(R"(
virtual('gone.h5', 'nowhere.h5')
virtual('bare.h5', 'other.h5')
with new('other.h5', None) as file: file['something'] = x
virtual('short.h5', 'few.h5')
with new('few.h5', None) as file: file['data'] = x[:8]
virtual('gap.h5', 'whole.h5', rows=8)
with new('whole.h5', None) as file: file['data'] = x[:8]
virtual('text.h5', 'text.txt')
open('text.txt', 'w').write('a text')
virtual('hollow.h5', 'unwritten.h5')
with new('unwritten.h5', None) as file: file.create_dataset('data', (12, 3), 'f4')
virtual('circle.h5', 'circle.h5', 'x')
os.mkfifo('pipe.h5')
virtual('piped.h5', 'pipe.h5')
)");
  reject("gone.h5", true, {"gone.h5: /x: ", directory_.file("nowhere.h5"), "not there"});
  reject("bare.h5", true, {"bare.h5: /x: ", "data of ", directory_.file("other.h5"), "no such data set"});
  reject("short.h5", true, {"short.h5: /x: ", "36 values", directory_.file("few.h5"), "(8,3)"});
  reject("gap.h5", true, {"gap.h5: /x: ", "12 of its 36 values have no source"});
  reject("text.h5", true, {"text.h5: /x: ", directory_.file("text.txt"), "cannot be opened"});
  reject("hollow.h5", true, {"hollow.h5: /x: ", directory_.file("unwritten.h5"), "nothing was ever written"});
  reject("circle.h5", true, {"circle.h5: /x: "});
  reject("piped.h5", true, {"piped.h5: /x: ", directory_.file("pipe.h5"), "not there"});
}

TEST_F(Hdf5Sources, ExternalStorageIsReadWhereOtherFilesMayBe) {
  make(R"(
x.tofile('raw')
open('longer', 'wb').write(b'0123' + x.tobytes())
with new('external.h5') as file: file.create_dataset('x', (12, 3), 'f4', external=[('raw', 0, x.nbytes)])
with new('behind.h5') as file: file.create_dataset('x', (12, 3), 'f4', external=[('longer', 4, x.nbytes)])
with new('short.h5') as file: file.create_dataset('x', (12, 3), 'f4', external=[('raw', 4, x.nbytes)])
with new('gone.h5') as file: file.create_dataset('x', (12, 3), 'f4', external=[('nowhere', 0, x.nbytes)])
with new('stranger.h5') as file: file.create_dataset('x', (12, 3), 'u1', external=[('/etc/passwd', 0, 36)])
)");
  expect_rows("external.h5", true);
  expect_rows("behind.h5", true);
  reject("external.h5", false, {"external.h5: /x: ", "another file, raw", "--follow"});
  reject("stranger.h5", false, {"stranger.h5: /x: ", "another file, /etc/passwd", "--follow"});
  reject("short.h5", true, {"short.h5: /x: ", directory_.file("raw"), "too short: 144 bytes", "from byte 4"});
  reject("gone.h5", true, {"gone.h5: /x: ", directory_.file("nowhere"), "not there"});
}

TEST_F(Hdf5Sources, LinksIntoOtherFilesAreFollowedWhereOtherFilesMayBe) {
  make(R"(
with new('source.h5', None) as file: file['data'] = x
with new('link.h5') as file: file['x'] = h5py.ExternalLink('source.h5', '/data')
with new('group.h5') as file:
    file['g'] = h5py.ExternalLink('source.h5', '/')
    file['x'] = h5py.SoftLink('/g/data')
with new('gone.h5') as file: file['x'] = h5py.ExternalLink('nowhere.h5', '/data')
with new('labels.h5', None) as file:
    file['x'] = x
    file['y'] = h5py.ExternalLink('link.h5', '/y')
)");
  for (const char* name : {"link.h5", "group.h5", "labels.h5"}) {
    expect_rows(name, true);
    reject(name, false, {name, "a link to another file", "data.follow = true", "--follow"});
  }
  reject("gone.h5", true, {"gone.h5: /x: ", "nowhere.h5"});
}

// The checkpoint's reader and any other: no way around.
TEST_F(Hdf5Sources, ReadingNeverLeavesTheFileUnlessAllowed) {
  make(R"(
with new('source.h5', None) as file: file['data'] = x
virtual('virtual.h5', 'source.h5')
)");
  std::vector<float> values(36, -1.0f);
  const Hdf5File closed = Hdf5File::open(directory_.file("virtual.h5"), ErrorKind::kCheckpoint);
  expect_rejection(ErrorKind::kCheckpoint, {"another file"},
                   [&] { closed.read("/x", DType::kF32, values.data()); });
  EXPECT_EQ(values, std::vector<float>(36, -1.0f));
}

TEST_F(Hdf5Sources, FilesBehindAUserBlockAreRead) {
  make(R"(
for size in 512, 1024, 8192:
    with new(f'block{size}.h5', userblock_size=size) as file: file['x'] = x
with open('block512.h5', 'r+b') as file: file.write(b'MATLAB 7.3 MAT-file, Platform: GLNXA64'.ljust(116))
with new('empty.h5', userblock_size=512) as file: file['x'] = x
)");
  expect_rejection(
      ErrorKind::kData,
      {"empty.h5: neither a sealed file", "the 512 bytes before", "a user block that has to hold something"},
      [&] { read("empty.h5"); });
  for (const char* name : {"block512.h5", "block1024.h5", "block8192.h5"}) {
    try_dataset(options(name));
    expect_rows(name);
    const std::string whole = testing::bytes_of(directory_.file(name));
    testing::overwrite(directory_.file(name), whole.substr(0, whole.size() - 1));
    reject(name, false, {name, "truncated"});
  }
}

// Samples to predict for. 'far': whose y would be in a file that is not there.
TEST_F(Hdf5Sources, SamplesWithoutTargetsAreReadWhereNoneAreWanted) {
  make(R"(
with new('bare.h5', None) as file: file['x'] = x
with new('named.h5', None) as file:
    file['x'] = x
    file['x'].attrs['feature_names'] = ['a', 'b', 'c']
with new('far.h5', None) as file:
    file['x'] = x
    file['y'] = h5py.ExternalLink('nowhere.h5', '/y')
)");
  for (const char* name : {"bare.h5", "named.h5", "far.h5"}) {
    SCOPED_TRACE(name);
    DatasetOptions samples = options(name);
    samples.unlabelled = true;
    try_dataset(samples);
    const Dataset data = read_dataset(samples);
    EXPECT_EQ(data.inputs_f32, rows());
    EXPECT_EQ(data.size(), 12);
    reject(name, false, {name});
  }
  EXPECT_EQ(read_dataset({.path = directory_.file("named.h5"), .unlabelled = true}).columns.features,
            (std::vector<std::string>{"a", "b", "c"}));
}

TEST_F(Hdf5Sources, AxesInMatlabsOrderAreExplained) {
  make(R"(
with new('matlab.h5', y.reshape(1, 12)) as file: file['x'] = x.T
)");
  reject("matlab.h5", false, {"(1,12)", "(3,12)", "MATLAB", "reverse"});
}

TEST_F(Hdf5Sources, AFilterThatIsNotThereIsNamedWithARemedy) {
  make(R"(
with new('lzf.h5') as file: file.create_dataset('x', data=x, compression='lzf')
with new('gzip.h5') as file: file.create_dataset('x', data=x, compression='gzip', shuffle=True, fletcher32=True)
)");
  expect_rows("gzip.h5");
  reject("lzf.h5", false, {"lzf.h5: /x: ", "32000 (lzf)", "compression=\"gzip\"", "HDF5_PLUGIN_PATH"});
}

TEST_F(Hdf5Sources, ValuesThatWereNeverWrittenAreNoZeros) {
  make(R"(
with new('contiguous.h5') as file: file.create_dataset('x', (12, 3), 'f4')
with new('chunked.h5') as file: file.create_dataset('x', (12, 3), 'f4', chunks=(4, 3))
with new('part.h5') as file: file.create_dataset('x', (12, 3), 'f4', chunks=(4, 3))[:4] = x[:4]
)");
  reject("contiguous.h5", false, {"contiguous.h5: /x: ", "nothing was ever written", "(12,3)"});
  reject("chunked.h5", false, {"chunked.h5: /x: ", "nothing was ever written", "(12,3)"});
  log_to_stderr(0, 1, false);
  ::testing::internal::CaptureStderr();
  EXPECT_EQ(read("part.h5").size(), 12);
  EXPECT_NE(::testing::internal::GetCapturedStderr().find("part.h5: /x: parts were never written"),
            std::string::npos);
}

TEST_F(Hdf5Sources, NumbersBeyondThoseThatAreReadAreNotTakenForOthers) {
  make(R"(
far = y.astype('u8')
far[5] = 2**63 + 5
with new('far.h5', far) as file: file['x'] = x
with new('tokens.h5') as file:
    file['x'] = np.where(x == 8, np.uint64(2**64 - 1), x.astype('u8'))
    file['x'].attrs['tokens'] = 1
)");
  reject("far.h5", false, {"/y: row 6: label must be in", "got 9223372036854775807 or more"});
  reject("tokens.h5", false, {"/x: row 3: token must be in", "got 9223372036854775807 or more"});
}

TEST_F(Hdf5Sources, BooleansAreLabelsOfTwoClassesAndInputs) {
  make(R"(
with new('labels.h5', y == 1) as file: file['x'] = x
with new('inputs.h5') as file: file['x'] = x % 2 == 1
)");
  const Dataset labels = read("labels.h5");
  EXPECT_EQ(labels.classes, 2);
  EXPECT_EQ(labels.labels, (std::vector<int32_t>{0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0}));
  EXPECT_EQ(read("inputs.h5").inputs_f32[7], 1.0f);
  EXPECT_EQ(read("inputs.h5").inputs_f32[8], 0.0f);
}

TEST_F(Hdf5Sources, NamesMayBeAnArrayOfTexts) {
  make(R"(
def named(name, place, names):
    with new(name) as file:
        file['x'] = x
        (file if place == '/' else file[place]).attrs['class_names'] = names
named('variable.h5', 'y', ['ash', 'birch', 'gr\u00fcn'])
named('fixed.h5', '/', np.array([b'ash', b'birch', 'gr\u00fcn'.encode()]))
named('lines.h5', '/', 'ash\nbirch\ngr\u00fcn')
named('two.h5', '/', ['ash', 'birch'])
named('broken.h5', '/', ['ash', 'bi\nrch', 'cherry'])
named('numbers.h5', '/', [1, 2, 3])
)");
  for (const char* name : {"variable.h5", "fixed.h5", "lines.h5"}) {
    const std::vector<std::string> names = {"ash", "birch", "gr\u00fcn"};
    EXPECT_EQ(read(name).class_names, names) << name;
    EXPECT_EQ(open_data_source({.path = directory_.file(name)})->description().class_names, names) << name;
  }
  reject("two.h5", false, {"class_names", "2 names", "3 classes"});
  reject("broken.h5", false, {"class_names", "line break"});
  reject("numbers.h5", false, {"class_names", "not text"});
}

TEST_F(Hdf5Sources, NamesOfFeaturesTellThemApart) {
  make(R"(
with new('twice.h5') as file:
    file['x'] = x
    file['x'].attrs['feature_names'] = ['a', 'b', 'a']
)");
  reject("twice.h5", false, {"feature_names", "'a' twice: 1 and 3"});
}

TEST_F(Hdf5Sources, AColumnOfWholeNumbersAndOneHotRowsAreLabels) {
  make(R"(
with new('column.h5', y.reshape(12, 1)) as file: file['x'] = x
with new('real_column.h5', y.reshape(12, 1) / 2) as file: file['x'] = x
for kind in 'f4', 'i8', 'u1', 'bool':
    with new(f'one_hot_{kind}.h5', np.eye(3, dtype=kind)[y]) as file: file['x'] = x
for name, row in ('zeros', [0, 0, 0]), ('ones', [0, 1, 1]), ('half', [0, .5, .5]):
    for suffix, n in ('', 100), ('_of_few', 99):
        labels = np.eye(3)[np.arange(n) % 3]
        labels[6] = row
        with new(f'{name}{suffix}.h5', labels) as file: file['x'] = np.zeros((n, 2))
many = np.eye(3)[np.arange(400) % 3]
many[[20, 30, 40, 50]] = 0
with new('many.h5', many) as file: file['x'] = np.zeros((400, 2))
many[60] = 0
with new('too_many.h5', many) as file: file['x'] = np.zeros((400, 2))
with new('two_ones.h5', np.eye(3)[y] + np.eye(3)[0]) as file: file['x'] = x
with new('no_one.h5', np.eye(3)[y] * (y != 1).reshape(12, 1)) as file: file['x'] = x
with new('counts.h5', np.arange(24).reshape(12, 2)) as file: file['x'] = x
with new('stated.h5', np.eye(3)[y]) as file:
    file['x'] = x
    file.attrs['classes'] = 4
)");
  const std::vector<int32_t> labels{0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2};
  EXPECT_EQ(read("column.h5").labels, labels);
  EXPECT_EQ(read("column.h5").classes, 3);
  EXPECT_EQ(read("column.h5", false, -1).target_width, 1);
  EXPECT_EQ(read("real_column.h5").target_width, 1);
  for (const char* name : {"one_hot_f4.h5", "one_hot_i8.h5", "one_hot_u1.h5", "one_hot_bool.h5"}) {
    const Dataset data = read(name);
    EXPECT_EQ(data.labels, labels) << name;
    EXPECT_EQ(data.classes, 3) << name;
    EXPECT_EQ(data.target_width, 0) << name;
    EXPECT_TRUE(data.targets.empty()) << name;
    const Dataset targets = read(name, false, -1);
    EXPECT_EQ(targets.target_width, 3) << name;
    EXPECT_EQ(targets.classes, 0) << name;
  }
  for (const char* name : {"two_ones.h5", "no_one.h5"}) EXPECT_EQ(read(name).target_width, 3) << name;
  EXPECT_EQ(read("counts.h5").target_width, 2);
  // A mistake in a row of labels makes no regression.
  for (const auto& [name, fault] :
       {std::pair("zeros", "0 of its elements are 1"), {"ones", "2 of its"}, {"half", "element 2 is 0.5"}}) {
    const std::string of_many = std::string(name) + ".h5", of_few = std::string(name) + "_of_few.h5";
    reject(of_many.c_str(), false, {"/y: row 7 is not one-hot as 99 of 100 rows are", fault, "classes = -1"});
    EXPECT_EQ(read(of_many.c_str(), false, -1).target_width, 3) << name;
    EXPECT_EQ(read(of_few.c_str()).target_width, 3) << name;
  }
  reject("many.h5", false, {"/y: row 21 is not one-hot as 396 of 400 rows are"});
  EXPECT_EQ(read("too_many.h5").target_width, 3);
  reject("stated.h5", false, {"/y", "3 classes", "4 are stated"});
  expect_rejection(ErrorKind::kData, {"/y", "one-hot", "(12,2)", "classes = -1"},
                   [&] { read("counts.h5", false, 3); });
}

TEST_F(Hdf5Sources, NamesOfColumnsCountInTrainingToo) {
  make(R"(
for name, names in ('names', 'a\nb\nc'), ('empty', ['a', 'b', '']), ('few', 'a\nb'):
    with new(f'{name}.h5') as file:
        file['x'] = x
        file['x'].attrs['feature_names'] = names
)");
  EXPECT_EQ(read_dataset({.path = directory_.file("names.h5")}).columns.features,
            (std::vector<std::string>{"a", "b", "c"}));
  expect_rejection(ErrorKind::kData, {"empty.h5", "feature_names", "empty"},
                   [&] { read_dataset({.path = directory_.file("empty.h5")}); });
  expect_rejection(ErrorKind::kData, {"few.h5", "feature_names"},
                   [&] { read_dataset({.path = directory_.file("few.h5")}); });
}

TEST_F(Hdf5Sources, TheLargestIndexIsKnownWithItsRow) {
  make(R"(
with new('tokens.h5') as file:
    tokens = np.arange(36).reshape(12, 3) % 5
    tokens[7, 1] = tokens[9, 0] = 90
    file['x'] = tokens
    file['x'].attrs['tokens'] = 1
)");
  prepare_dataset({.path = directory_.file("tokens.h5")}, directory_.file("prepared.h5"));
  for (const char* name : {"tokens.h5", "prepared.h5"}) {
    const auto source = open_data_source({.path = directory_.file(name)});
    const DataDescription& found = source->description();
    EXPECT_EQ(found.largest_index, 90) << name;
    EXPECT_EQ(found.largest_index_row, 8) << name;
  }
}

}  // namespace
}  // namespace lockstep
