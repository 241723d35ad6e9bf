// HDF5 files: what is written reads back bit for bit, here and in h5py; failures name file, object and
// reason.
#include "lockstep/hdf5/file.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <thread>

#include "core/error_message.h"
#include "hdf5/scratch_directory.h"
#include "lockstep/hdf5/sealed_file.h"

namespace lockstep {
namespace {

using testing::expect_contains;
using testing::message_of;
using testing::ScratchDirectory;
using testing::SmallDisk;
using Kind = Hdf5Entry::Kind;

class Hdf5FileTest : public ::testing::Test {
 protected:
  ScratchDirectory directory_;
  std::string path_ = directory_.file("a.h5");
};

TEST_F(Hdf5FileTest, EveryDtypeReadsBackBitForBit) {
  const std::vector<DType> dtypes = {DType::kF32, DType::kF64, DType::kBF16, DType::kF16,
                                     DType::kI32, DType::kI64, DType::kU8};
  const Shape shape{
      16, 4096};  // every 16-bit pattern: all NaN payloads, infinities and denormals of both half formats
  std::vector<std::vector<uint8_t>> written;
  Hdf5File file = Hdf5File::create(path_, ErrorKind::kData);
  for (DType dtype : dtypes) {
    std::vector<uint8_t> bytes(static_cast<size_t>(shape.elements()) * size_of(dtype));
    for (size_t i = 0; i < bytes.size(); ++i) {
      const size_t element = i / size_of(dtype), byte = i % size_of(dtype);
      bytes[i] =
          static_cast<uint8_t>(byte < 2 ? element >> (8 * byte) : element * 2654435761u >> (8 * (byte % 4)));
    }
    file.write("/all/" + std::string(name_of(dtype)), dtype, shape, bytes.data());
    written.push_back(bytes);
  }
  file.close();

  const Hdf5File found = Hdf5File::open(path_, ErrorKind::kData);
  for (size_t i = 0; i < dtypes.size(); ++i) {
    const std::string object = "/all/" + std::string(name_of(dtypes[i]));
    const Hdf5Entry entry = found.describe(object);
    EXPECT_EQ(entry.dtype, dtypes[i]) << object;
    EXPECT_EQ(entry.shape, shape);
    std::vector<uint8_t> bytes(written[i].size());
    found.read(object, dtypes[i], bytes.data());
    EXPECT_EQ(bytes, written[i]) << object;
  }
}

TEST_F(Hdf5FileTest, SignallingNanPayloadSurvives) {
  const uint32_t pattern32 = 0x7F800001u;
  const uint64_t pattern64 = 0xFFF0000000000123ull;
  Hdf5File file = Hdf5File::create(path_, ErrorKind::kData);
  file.write("/f", DType::kF32, {1}, &pattern32);
  file.write("/d", DType::kF64, {}, &pattern64);
  file.write_attribute("/", "real", std::bit_cast<double>(pattern64));
  file.close();
  const Hdf5File found = Hdf5File::open(path_, ErrorKind::kData);
  uint32_t found32 = 0;
  uint64_t found64 = 0;
  found.read("/f", DType::kF32, &found32);
  found.read("/d", DType::kF64, &found64);
  EXPECT_EQ(found32, pattern32);
  EXPECT_EQ(found64, pattern64);
  EXPECT_EQ(std::bit_cast<uint64_t>(found.read_attribute_real("/", "real")), pattern64);
}

TEST_F(Hdf5FileTest, EmptyAndRankZeroShapesReadBack) {
  const int64_t value = -7;
  Hdf5File file = Hdf5File::create(path_, ErrorKind::kData);
  file.write("/scalar", DType::kI64, {}, &value);
  file.write("/none", DType::kF32, {0}, nullptr);
  file.write("/none3", DType::kF32, {2, 0, 5}, nullptr);
  file.write("/deep", DType::kI64, {1, 1, 1, 1, 1, 1}, &value);
  file.close();
  const Hdf5File found = Hdf5File::open(path_, ErrorKind::kData);
  int64_t read = 0;
  found.read("/scalar", DType::kI64, &read);
  EXPECT_EQ(read, value);
  EXPECT_EQ(found.describe("/scalar").shape, Shape());
  EXPECT_EQ(found.describe("/none").shape, Shape({0}));
  EXPECT_EQ(found.describe("/none3").shape, Shape({2, 0, 5}));
  EXPECT_EQ(found.describe("/deep").shape, Shape({1, 1, 1, 1, 1, 1}));
  found.read("/none3", DType::kF32, nullptr);
}

TEST_F(Hdf5FileTest, AttributesKeepTheirKindAndValue) {
  Hdf5File file = Hdf5File::create(path_, ErrorKind::kData);
  file.create_group("/rng/inner");
  file.create_group("/rng");
  file.write_attribute("/rng", "smallest", std::numeric_limits<int64_t>::min());
  file.write_attribute("/rng", "largest", std::numeric_limits<int64_t>::max());
  file.write_attribute("/rng", "real", -0.0);
  file.write_attribute("/rng", "empty", std::string());
  file.write_attribute("/rng", "text", std::string("Grüße\n\"x\""));
  file.write_attribute("/rng", "long", std::string(200000, 'x'));
  file.close();
  const Hdf5File found = Hdf5File::open(path_, ErrorKind::kData);
  const auto attributes = found.attributes("/rng");
  ASSERT_EQ(attributes.size(), 6u);
  EXPECT_EQ(std::get<int64_t>(attributes.at("smallest")), std::numeric_limits<int64_t>::min());
  EXPECT_EQ(std::get<int64_t>(attributes.at("largest")), std::numeric_limits<int64_t>::max());
  EXPECT_TRUE(std::signbit(std::get<double>(attributes.at("real"))));
  EXPECT_EQ(std::get<std::string>(attributes.at("empty")), "");
  EXPECT_EQ(std::get<std::string>(attributes.at("text")), "Grüße\n\"x\"");
  EXPECT_EQ(std::get<std::string>(attributes.at("long")), std::string(200000, 'x'));
  EXPECT_TRUE(found.has_attribute("/rng", "text"));
  EXPECT_FALSE(found.has_attribute("/rng", "absent"));
  EXPECT_EQ(found.read_attribute_integer("/rng", "largest"), std::numeric_limits<int64_t>::max());
  EXPECT_EQ(found.read_attribute_text("/rng", "text"), "Grüße\n\"x\"");
  expect_contains(message_of([&] { found.read_attribute_integer("/rng", "text"); }, ErrorKind::kData),
                  {"a.h5", "/rng @text", "not an"});
  expect_contains(message_of([&] { found.read_attribute_integer("/rng", "real"); }, ErrorKind::kData),
                  {"/rng @real", "not an integer"});
  expect_contains(message_of([&] { found.read_attribute_real("/rng", "text"); }, ErrorKind::kData),
                  {"not a number"});
  expect_contains(message_of([&] { found.read_attribute_text("/rng", "real"); }, ErrorKind::kData),
                  {"not text"});
  expect_contains(message_of([&] { found.read_attribute_text("/rng", "absent"); }, ErrorKind::kData),
                  {"no such attribute"});
}

TEST_F(Hdf5FileTest, TextReadsBack) {
  const std::string large(3000000, 'm');
  Hdf5File file = Hdf5File::create(path_, ErrorKind::kData);
  file.write_text("/configuration", "a = 1\n[b]\nc = \"ü\"\n");
  file.write_text("/empty", "");
  file.write_text("/large", large);
  expect_contains(message_of([&] { file.write_text("/nul", std::string("a\0b", 3)); }, ErrorKind::kData),
                  {"/nul", "NUL"});
  file.close();
  const Hdf5File found = Hdf5File::open(path_, ErrorKind::kData);
  EXPECT_EQ(found.read_text("/configuration"), "a = 1\n[b]\nc = \"ü\"\n");
  EXPECT_EQ(found.read_text("/empty"), "");
  EXPECT_EQ(found.read_text("/large"), large);
  EXPECT_EQ(found.describe("/large").kind, Kind::kText);
}

TEST_F(Hdf5FileTest, ListIsCompleteAndSorted) {
  const float value = 1;
  Hdf5File file = Hdf5File::create(path_, ErrorKind::kData);
  file.write("/p/layers.10.weight", DType::kF32, {1}, &value);
  file.write("/p/layers.2.weight", DType::kF32, {1}, &value);
  file.write_text("/p/note", "x");
  file.create_group("/a/b");
  file.close();
  const Hdf5File found = Hdf5File::open(path_, ErrorKind::kData);
  std::vector<std::string> paths;
  for (const Hdf5Entry& entry : found.list("/")) paths.push_back(entry.path);
  const std::vector<std::string> expected = {
      "/a", "/a/b", "/p", "/p/layers.10.weight", "/p/layers.2.weight", "/p/note"};
  EXPECT_EQ(paths, expected);
  EXPECT_EQ(found.list("/p").size(), 3u);
  EXPECT_EQ(found.list("/p")[0].path, "/p/layers.10.weight");
  EXPECT_EQ(found.list("/a")[0].kind, Kind::kGroup);
  EXPECT_TRUE(found.exists("/"));
  EXPECT_TRUE(found.exists("/p/note"));
  EXPECT_FALSE(found.exists("/p/note/below"));
  EXPECT_FALSE(found.exists("/q/x"));
}

TEST_F(Hdf5FileTest, NumbersConvertToTheTypeAskedFor) {
  const std::vector<double> reals = {0.5, -1.25, 3e10};
  const std::vector<uint8_t> small = {0, 7, 255};
  const std::vector<uint16_t> half = {0x3C00, 0xC000, 0x7BFF};  // 1, -2, 65504
  const std::vector<uint16_t> brain = {0x3F80, 0, 0};
  Hdf5File file = Hdf5File::create(path_, ErrorKind::kData);
  file.write("/reals", DType::kF64, {3}, reals.data());
  file.write("/small", DType::kU8, {3}, small.data());
  file.write("/half", DType::kF16, {3}, half.data());
  file.write("/brain", DType::kBF16, {3}, brain.data());
  file.close();
  const Hdf5File found = Hdf5File::open(path_, ErrorKind::kData);
  std::vector<float> floats(3);
  found.read("/reals", DType::kF32, floats.data());
  EXPECT_EQ(floats, (std::vector<float>{0.5f, -1.25f, 3e10f}));
  found.read("/small", DType::kF32, floats.data());
  EXPECT_EQ(floats, (std::vector<float>{0, 7, 255}));
  found.read("/half", DType::kF32, floats.data());
  EXPECT_EQ(floats, (std::vector<float>{1, -2, 65504}));
  expect_contains(message_of([&] { found.read("/brain", DType::kF32, floats.data()); }, ErrorKind::kData),
                  {"/brain", "bf16", "fp32"});
  expect_contains(message_of([&] { found.read("/half", DType::kBF16, floats.data()); }, ErrorKind::kData),
                  {"/half", "fp16", "bf16"});
}

TEST_F(Hdf5FileTest, MisuseIsAnErrorThatNamesTheObject) {
  const float value = 1;
  Hdf5File file = Hdf5File::create(path_, ErrorKind::kData);
  file.write("/x", DType::kF32, {1}, &value);
  expect_contains(message_of([&] { file.write("/x", DType::kF32, {1}, &value); }, ErrorKind::kData),
                  {"a.h5", "/x", "cannot write"});
  expect_contains(message_of([&] { file.write("/x/y", DType::kF32, {1}, &value); }, ErrorKind::kData),
                  {"/x/y"});
  for (const char* bad : {"", "x", "//x", "/x/", "/a/./b", "/."}) {
    expect_contains(message_of([&] { file.write(bad, DType::kF32, {1}, &value); }, ErrorKind::kData),
                    {"object path"});
  }
  file.write_attribute("/x", "n", int64_t{1});
  message_of([&] { file.write_attribute("/x", "n", int64_t{2}); }, ErrorKind::kData);
  expect_contains(message_of([&] { file.write_attribute("/absent", "n", int64_t{1}); }, ErrorKind::kData),
                  {"/absent", "no such object"});
  file.close();
  const Hdf5File found = Hdf5File::open(path_, ErrorKind::kData);
  float read = 0;
  expect_contains(message_of([&] { found.read("/absent", DType::kF32, &read); }, ErrorKind::kData),
                  {"a.h5", "/absent", "no such"});
  expect_contains(message_of([&] { found.read("/", DType::kF32, &read); }, ErrorKind::kData),
                  {"not an array"});
  expect_contains(message_of([&] { found.read_text("/x"); }, ErrorKind::kData), {"/x", "not text"});
}

TEST_F(Hdf5FileTest, UnusableFilesAreErrorsOfTheGivenKind) {
  expect_contains(message_of([&] { Hdf5File::open(directory_.file("absent.h5"), ErrorKind::kCheckpoint); },
                             ErrorKind::kCheckpoint),
                  {"absent.h5", "No such file or directory"});
  testing::overwrite(path_, "not HDF5 at all");
  expect_contains(message_of([&] { Hdf5File::open(path_, ErrorKind::kData); }, ErrorKind::kData),
                  {"a.h5", "cannot open as HDF5"});
  expect_contains(message_of([&] { Hdf5File::create("/proc/nope/a.h5", ErrorKind::kCheckpoint); },
                             ErrorKind::kCheckpoint),
                  {"/proc/nope/a.h5", "cannot create", "No such file"});
  expect_contains(
      message_of([&] { Hdf5File::create(directory_.path(), ErrorKind::kData); }, ErrorKind::kData),
      {"Is a directory"});
}

TEST_F(Hdf5FileTest, ThreadsMayUseTheirOwnFiles) {
  std::vector<std::thread> threads;
  for (int id = 0; id < 4; ++id) {
    threads.emplace_back([&, id] {
      const std::string path = directory_.file("t" + std::to_string(id) + ".h5");
      std::vector<int32_t> values(1000, id);
      for (int round = 0; round < 10; ++round) {
        Hdf5File file = Hdf5File::create(path, ErrorKind::kData);
        file.write("/v", DType::kI32, {1000}, values.data());
        file.close();
        std::vector<int32_t> found(1000);
        Hdf5File::open(path, ErrorKind::kData).read("/v", DType::kI32, found.data());
        EXPECT_EQ(found, values);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_F(Hdf5FileTest, H5dumpReadsIt) {
  if (!testing::shell("h5dump --version")) GTEST_SKIP() << "h5dump is not installed";
  const double value = 2.5;
  Hdf5File file = Hdf5File::create(path_, ErrorKind::kData);
  file.write("/p/w", DType::kF64, {1}, &value);
  file.write_text("/configuration", "a = 1");
  file.close();
  EXPECT_TRUE(testing::shell("h5dump " + path_ + " | grep -q '(0): 2.5'"));
  EXPECT_TRUE(testing::shell("h5dump -d /configuration " + path_ + " | grep -q 'a = 1'"));
  seal_file(path_, ErrorKind::kData);
  EXPECT_TRUE(testing::shell("h5dump " + path_ + " | grep -q '(0): 2.5'"));
}

TEST_F(Hdf5FileTest, FilesOfH5pyAreRead) {
  if (!testing::shell("/usr/bin/python3 -c 'import h5py'")) GTEST_SKIP() << "h5py is not installed";
  const std::string script = R"(
import h5py, numpy as np, sys
f = h5py.File(sys.argv[1], 'w')
f['u16'] = np.array([1, 65535], 'u2')
f['i8'] = np.array([-3], 'i1')
f['big'] = np.array([1.5, -2.0], '>f4')
f['f16'] = np.array([1.0, -2.0], 'f2')
f.create_dataset('zip', data=np.arange(1000, dtype='i8').reshape(10, 100), compression='gzip')
f.create_dataset('fixed', data=np.bytes_('abc'))
f['complex'] = np.array([1j])
f['rank7'] = np.zeros((1,) * 7)
f.attrs['classes'] = 10
f.attrs['flag'] = True
f.attrs['scale'] = np.float32(0.5)
f.attrs['names'] = 'zero\none'
f.attrs['list'] = [1, 2]
)";
  testing::overwrite(directory_.file("make.py"), script);
  ASSERT_TRUE(testing::shell("/usr/bin/python3 " + directory_.file("make.py") + " " + path_));
  const Hdf5File found = Hdf5File::open(path_, ErrorKind::kData);
  EXPECT_EQ(found.describe("/u16").dtype, DType::kI32);
  EXPECT_EQ(found.describe("/i8").dtype, DType::kI32);
  EXPECT_EQ(found.describe("/big").dtype, DType::kF32);
  EXPECT_EQ(found.describe("/f16").dtype, DType::kF16);
  EXPECT_EQ(found.describe("/zip").shape, Shape({10, 100}));
  std::vector<int32_t> integers(2);
  found.read("/u16", DType::kI32, integers.data());
  EXPECT_EQ(integers, (std::vector<int32_t>{1, 65535}));
  std::vector<float> floats(2);
  found.read("/big", DType::kF32, floats.data());
  EXPECT_EQ(floats, (std::vector<float>{1.5f, -2.0f}));
  std::vector<int64_t> unzipped(1000);
  found.read("/zip", DType::kI64, unzipped.data());
  EXPECT_EQ(unzipped[999], 999);
  EXPECT_EQ(found.read_text("/fixed"), "abc");
  EXPECT_EQ(found.read_attribute_integer("/", "classes"), 10);
  EXPECT_EQ(found.read_attribute_integer("/", "flag"), 1);
  EXPECT_EQ(found.read_attribute_real("/", "scale"), 0.5);
  EXPECT_EQ(found.read_attribute_text("/", "names"), "zero\none");
  expect_contains(message_of([&] { found.read_attribute_integer("/", "list"); }, ErrorKind::kData),
                  {"@list", "not a single value"});
  expect_contains(message_of([&] { found.describe("/complex"); }, ErrorKind::kData),
                  {"/complex", "not supported"});
  expect_contains(message_of([&] { found.describe("/rank7"); }, ErrorKind::kData), {"/rank7", "rank 7"});
}

TEST_F(Hdf5FileTest, H5pyReadsWhatWasWritten) {
  if (!testing::shell("/usr/bin/python3 -c 'import h5py'")) GTEST_SKIP() << "h5py is not installed";
  const std::vector<float> values = {1, 2, 3, 4, 5, 6};
  const std::vector<uint16_t> half = {0x3C00, 0xC000};
  Hdf5File file = Hdf5File::create(path_, ErrorKind::kData);
  file.write("/parameters/w", DType::kF32, {2, 3}, values.data());
  file.write("/half", DType::kF16, {2}, half.data());
  file.write("/brain", DType::kBF16, {2}, half.data());
  file.write_text("/text", "grün");
  file.write_attribute("/parameters", "count", int64_t{-5});
  file.write_attribute("/parameters", "real", 0.25);
  file.write_attribute("/parameters", "name", std::string("adam"));
  file.close();
  seal_file(path_, ErrorKind::kData);
  const std::string script = R"(
import h5py, numpy as np, sys
f = h5py.File(sys.argv[1], 'r')
assert (f['parameters/w'][...] == np.arange(1, 7, dtype='f4').reshape(2, 3)).all()
assert f['half'].dtype == np.float16 and list(f['half'][...]) == [1, -2]
assert f['brain'].attrs['dtype'] == 'bf16' and f['brain'].dtype == np.uint16
assert f['text'].asstr()[()] == 'gr\u00fcn'
a = f['parameters'].attrs
assert a['count'] == -5 and a['real'] == 0.25 and a['name'] == 'adam'
)";
  testing::overwrite(directory_.file("check.py"), script);
  EXPECT_TRUE(testing::shell("/usr/bin/python3 " + directory_.file("check.py") + " " + path_));
}

// Whatever fails first on a full disk (superblock, object headers, raw data), the error says why, and neither
// the process nor later files suffer. In a child process, because HDF5's damage would show in its exit
// handler.
TEST_F(Hdf5FileTest, FullDiskIsReportedAndSurvived) {
  const SmallDisk disk("1m");
  if (!disk.mounted()) GTEST_SKIP() << "mounting a tmpfs is not permitted here";
  struct Load {
    int64_t count, elements;
  };
  for (const Load load : {Load{1, 1000000}, Load{200, 2000}, Load{5000, 10}, Load{20000, 1}}) {
    const pid_t child = ::fork();
    if (child == 0) {
      const std::vector<float> values(static_cast<size_t>(load.elements), 1.0f);
      bool reported = false;
      try {
        Hdf5File file = Hdf5File::create(disk.file("full.h5"), ErrorKind::kCheckpoint);
        for (int64_t i = 0; i < load.count; ++i) {
          file.write("/g/x" + std::to_string(i), DType::kF32, {load.elements}, values.data());
        }
        file.close();
      } catch (const Error& error) {
        reported = std::string(error.what()).find("No space left on device") != std::string::npos;
      }
      Hdf5File other = Hdf5File::create(directory_.file("other.h5"), ErrorKind::kData);
      other.write("/x", DType::kF32, {load.elements}, values.data());
      other.close();
      std::exit(reported ? 0 : 1);
    }
    int status = -1;
    ::waitpid(child, &status, 0);
    EXPECT_EQ(status, 0) << load.count << " arrays of " << load.elements << ": reported "
                         << WEXITSTATUS(status) << ", signal " << WTERMSIG(status);
    float value = 0;
    std::vector<float> found(static_cast<size_t>(load.elements));
    Hdf5File::open(directory_.file("other.h5"), ErrorKind::kData).read("/x", DType::kF32, found.data());
    value = found.back();
    EXPECT_EQ(value, 1.0f);
    std::filesystem::remove(disk.file("full.h5"));
  }
}

}  // namespace
}  // namespace lockstep
