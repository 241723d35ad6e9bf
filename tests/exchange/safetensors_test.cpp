// safetensors: what is written is read again, as the reference writes it; what is damaged is refused.
#include "lockstep/exchange/safetensors.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "data/rejection.h"
#include "hdf5/scratch_directory.h"
#include "lockstep/core/error.h"

namespace lockstep {
namespace {

using testing::bytes_of;
using testing::expect_rejection;

std::string file_of(const std::string& header, size_t data_bytes, int64_t length = -1) {
  const uint64_t stated = length < 0 ? header.size() : static_cast<uint64_t>(length);
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &stated, 8);
  bytes += header;
  for (size_t i = 0; i < data_bytes; ++i) bytes.push_back(static_cast<char>(i));
  return bytes;
}

std::vector<SafetensorsTensor> two_tensors() {
  return {{"b",
           {2, 1},
           [] {
             return std::vector<float>{1.5f, -2.0f};
           }},
          {"a", {}, [] { return std::vector<float>{3.25f}; }}};
}

class Safetensors : public ::testing::Test {
 protected:
  std::string written(const std::string& bytes) {
    const std::string path = directory_.file("model.safetensors");
    std::ofstream(path, std::ios::binary) << bytes;
    return path;
  }
  testing::ScratchDirectory directory_;
};

TEST_F(Safetensors, HasTheBytesOfTheReferenceWriter) {
  const std::string path = directory_.file("model.safetensors");
  write_safetensors(path, two_tensors(), DType::kF32);
  // safetensors.torch.save_file({"b": tensor([[1.5], [-2]]), "a": tensor(3.25)}, path, {"format": "pt"})
  const std::string header =
      R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},)"
      R"("b":{"dtype":"F32","shape":[2,1],"data_offsets":[4,12]}})";
  std::string expected = file_of(header + std::string((8 - header.size() % 8) % 8, ' '), 0);
  for (const float value : {3.25f, 1.5f, -2.0f})
    expected.append(reinterpret_cast<const char*>(&value), sizeof value);
  EXPECT_EQ(bytes_of(path), expected);
}

TEST_F(Safetensors, ComeBackInEveryPrecision) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    const std::string path = directory_.file("model.safetensors");
    write_safetensors(path, two_tensors(), dtype);
    const SafetensorsFile file(path);
    ASSERT_NE(file.find("b"), nullptr);
    EXPECT_EQ(file.find("b")->shape, (Shape{2, 1}));
    EXPECT_EQ(file.read(*file.find("b")), (std::vector<float>{1.5f, -2.0f}));
    EXPECT_EQ(file.read(*file.find("a")), (std::vector<float>{3.25f}));
    EXPECT_EQ(file.metadata().at("format"), "pt");
    EXPECT_EQ(file.find("c"), nullptr);
  }
}

// Offsets are relative to the data, and nothing says that the header is filled up.
TEST_F(Safetensors, NeedNoAlignment) {
  const std::string header =
      R"({"x":{"dtype":"F64","shape":[1],"data_offsets":[1,9]},"y":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}} )";
  std::string bytes = file_of(header, 9);
  const double value = 0.125;
  std::memcpy(bytes.data() + bytes.size() - 8, &value, 8);
  const SafetensorsFile file(written(bytes));
  EXPECT_EQ(file.read(*file.find("x")), (std::vector<float>{0.125f}));
  EXPECT_EQ(file.find("y")->begin, 8 + header.size());
  expect_rejection(ErrorKind::kCheckpoint, {"y", "U8"}, [&] { file.read(*file.find("y")); });
  EXPECT_NO_THROW(SafetensorsFile(written(file_of("{}", 0))));
}

TEST_F(Safetensors, ThatAreDamagedAreRefused) {
  const auto one = [](const std::string& entry) { return "{\"x\":" + entry + "}"; };
  const auto offsets = [&one](const std::string& shape, const std::string& range) {
    return one(R"({"dtype":"F32","shape":)" + shape + R"(,"data_offsets":)" + range + "}");
  };
  const std::string x4 = R"("x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]})";
  const struct {
    std::string bytes;
    std::vector<std::string> says;
  } cases[] = {
      {"", {"truncated", "0 bytes"}},
      {"1234567", {"truncated", "7 bytes"}},
      {file_of("{}", 0, 100'000'001), {"100000001", "at most 100000000"}},
      {file_of("{}", 0, 3), {"truncated"}},
      {file_of("{}", 0, int64_t{1} << 62), {"at most"}},
      {file_of(" {}", 0), {"must begin with {"}},
      {file_of("[]", 0), {"must begin with {"}},
      {file_of("", 0), {"must begin with {"}},
      {file_of("{", 0), {"is not JSON"}},
      {file_of("{\"x\xff\":1}", 0), {"is not JSON"}},
      {file_of("{" + x4 + "}", 3), {"truncated", "4 bytes", "3 follow"}},
      {file_of("{" + x4 + "}", 5), {"belong to no tensor", "5 follow"}},
      {file_of("{" + x4 + "," + x4 + "}", 4), {"\"x\" for the second time"}},
      {file_of(one(R"({"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]})"), 4),
       {"\"dtype\" for the second time"}},
      {file_of("{" + x4 + R"(,"y":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}})", 6),
       {"y", "begins at byte 2", "reach to 4"}},
      {file_of("{" + x4 + R"(,"y":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4), {"reach to 4"}},
      {file_of("{" + x4 + R"(,"y":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}})", 12),
       {"y", "begins at byte 8", "from 4 on"}},
      {file_of(offsets("[1]", "[4,8]"), 8), {"x", "from 0 on"}},
      {file_of(offsets("[2]", "[0,4]"), 4), {"x", "8", "4"}},
      {file_of(offsets("[1]", "[4,0]"), 4), {"[4,0]", "must be [begin, end]"}},
      {file_of(offsets("[1]", "[0]"), 4), {"[0]"}},
      {file_of(offsets("[1]", "[0,4.0]"), 4), {"[0,4.0]"}},
      {file_of(offsets("[1]", "[-4,0]"), 4), {"[-4,0]"}},
      {file_of(offsets("[-1]", "[0,4]"), 4), {"whole numbers"}},
      {file_of(offsets("[4294967296,4294967296]", "[0,0]"), 0), {"overflows"}},
      {file_of(offsets("[18446744073709551615]", "[0,0]"), 0), {"whole numbers"}},
      {file_of(offsets("[1,1,1,1,1,1,1]", "[0,4]"), 4), {"at most 6"}},
      {file_of(offsets("1", "[0,4]"), 4), {"at most 6"}},
      {file_of(one(R"({"dtype":"F31","shape":[1],"data_offsets":[0,4]})"), 4), {"\"F31\" is not known"}},
      {file_of(one(R"({"dtype":4,"shape":[1],"data_offsets":[0,4]})"), 4), {"dtype 4"}},
      {file_of(one(R"({"dtype":"F32","shape":[1]})"), 4), {"x", "must have dtype"}},
      {file_of(one(R"({"dtype":"F32","shape":[1],"data_offsets":[0,4],"z":1})"), 4), {"nothing else"}},
      {file_of(one("1"), 4), {"must have dtype"}},
      {file_of(R"({"__metadata__":{"a":1}})", 0), {"__metadata__", "a", "text"}},
      {file_of(one(std::string(100, '[') + std::string(100, ']')), 4), {"nested deeper"}},
  };
  for (const auto& damaged : cases) {
    const std::string path = written(damaged.bytes);
    SCOPED_TRACE(damaged.bytes.substr(std::min<size_t>(8, damaged.bytes.size())));
    expect_rejection(ErrorKind::kCheckpoint, {path, damaged.says.front(), damaged.says.back()},
                     [&] { SafetensorsFile{path}; });
  }
  expect_rejection(ErrorKind::kCheckpoint, {"nowhere", "no such file"},
                   [&] { SafetensorsFile{directory_.file("nowhere")}; });
}

TEST_F(Safetensors, ThatCannotBeWrittenLeaveWhatWasThere) {
  const std::string path = written("before");
  const std::vector<SafetensorsTensor> failing = {
      {"a", {1}, []() -> std::vector<float> { fail(ErrorKind::kCheckpoint, "gone"); }}};
  expect_rejection(ErrorKind::kCheckpoint, {"gone"}, [&] { write_safetensors(path, failing, DType::kF32); });
  EXPECT_EQ(bytes_of(path), "before");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(directory_.path()), {}), 1);
  expect_rejection(ErrorKind::kCheckpoint, {"cannot be written"}, [&] {
    write_safetensors(directory_.file("none/model.safetensors"), two_tensors(), DType::kF32);
  });
}

TEST_F(Safetensors, AreSplitWhereTheyAreLarge) {
  std::vector<SafetensorsTensor> tensors;
  for (const char* name : {"c", "a", "b", "large"}) {
    const int64_t size = std::string(name) == "large" ? 9 : 2;
    tensors.push_back({name, {size}, [size] { return std::vector<float>(static_cast<size_t>(size), 1.0f); }});
  }
  write_safetensors_shards(directory_.path(), tensors, DType::kF32, 16);
  EXPECT_FALSE(std::filesystem::exists(directory_.file("model.safetensors")));
  const SafetensorsFile first(directory_.file("model-00001-of-00003.safetensors"));
  EXPECT_NE(first.find("c"), nullptr);
  EXPECT_NE(first.find("a"), nullptr);
  EXPECT_EQ(first.entries().size(), 2u);
  const SafetensorsDirectory all(directory_.path());
  EXPECT_EQ(all.names().size(), 4u);
  ASSERT_NE(all.find("large").entry, nullptr);
  EXPECT_EQ(all.find("large").file->read(*all.find("large").entry), std::vector<float>(9, 1.0f));
  EXPECT_EQ(all.find("none").file, nullptr);
  const std::string index_path = directory_.file("model.safetensors.index.json");
  const std::string index = bytes_of(index_path);
  EXPECT_NE(index.find(R"("total_size": 60)"), std::string::npos) << index;

  const auto refused = [&](const std::string& text, std::initializer_list<std::string> says) {
    std::ofstream(index_path) << text;
    expect_rejection(ErrorKind::kCheckpoint, says, [&] { SafetensorsDirectory{directory_.path()}; });
  };
  const std::string here = "model-00001-of-00003.safetensors";
  refused("{}", {"weight_map"});
  refused(R"({"weight_map":{"a":"../x"}})", {"a", "no name of a file"});
  refused(R"({"weight_map":{"a":7}})", {"a", "no name of a file"});
  refused(R"({"weight_map":{"a":"missing.safetensors"}})", {"missing.safetensors", "no such file"});
  refused(R"({"weight_map":{"a":")" + here + R"("}})", {here, "c", "does not say"});
  refused(R"({"weight_map":{"a":")" + here + R"(","c":")" + here + R"(","d":")" + here + R"("}})",
          {here, "d", "is not here"});
  std::filesystem::copy_file(directory_.file(here), directory_.file("model.safetensors"));
  EXPECT_EQ(SafetensorsDirectory(directory_.path()).names().size(), 2u);  // the index is not looked at
  std::filesystem::remove(directory_.file("model.safetensors"));
  std::filesystem::remove(index_path);
  expect_rejection(ErrorKind::kCheckpoint, {"neither model.safetensors"},
                   [&] { SafetensorsDirectory{directory_.path()}; });
}

}  // namespace
}  // namespace lockstep
