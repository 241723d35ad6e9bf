// safetensors, the format that models are published in: named arrays, in one file or in shards.
//
// u64 N, JSON of N bytes {name: {dtype, shape, data_offsets}}, data; little-endian, rows one behind the other
// (https://github.com/huggingface/safetensors).
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "lockstep/core/dtype.h"
#include "lockstep/core/mapped_file.h"
#include "lockstep/core/shape.h"

namespace lockstep {

struct SafetensorsEntry {
  std::string name;
  std::string dtype;  // as in the file: "BF16"
  Shape shape;
  size_t begin = 0, end = 0;  // bytes of the file
};

class SafetensorsFile {
 public:
  // Maps the file and reads its header strictly. Errors (kCheckpoint) naming file and tensor: a header that
  // is too long or damaged, names for the second time, unknown keys or element types, sizes that do not
  // agree, bytes that belong to two tensors or to none.
  explicit SafetensorsFile(const std::string& path);

  const std::string& path() const { return path_; }
  // In the order of their bytes.
  const std::vector<SafetensorsEntry>& entries() const { return entries_; }
  // Null: there is none.
  const SafetensorsEntry* find(const std::string& name) const;
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  std::span<const std::byte> bytes(const SafetensorsEntry& entry) const {
    return file_->bytes().subspan(entry.begin, entry.end - entry.begin);
  }
  // All elements in fp32; rounded where they are F64. Error (kCheckpoint): no F32, F64, F16 or BF16; the file
  // has become shorter.
  std::vector<float> read(const SafetensorsEntry& entry) const;

 private:
  void read_header(std::string_view text, size_t data);

  std::string path_;
  std::unique_ptr<MappedFile> file_;
  std::vector<SafetensorsEntry> entries_;
  std::map<std::string, size_t> places_;
  std::map<std::string, std::string> metadata_;
};

// What is to be written: elements are asked for when it is their turn.
struct SafetensorsTensor {
  std::string name;
  Shape shape;
  std::function<std::vector<float>()> values;
};

// As the reference writer does: entries by name, the header filled up to a multiple of 8 bytes,
// {"format": "pt"}. dtype: kF32, kBF16 or kF16, of all. The file is there when it is whole, and on disk.
// Error (kCheckpoint).
void write_safetensors(const std::string& path, std::span<const SafetensorsTensor> tensors, DType dtype);

// The same in a directory: model.safetensors, or shards of at most `most_bytes` of data (a tensor that is
// larger is alone) with model.safetensors.index.json.
void write_safetensors_shards(const std::string& directory, std::span<const SafetensorsTensor> tensors,
                              DType dtype, int64_t most_bytes = 5'000'000'000);

// The tensors of a directory, whether in one file or in shards.
class SafetensorsDirectory {
 public:
  // Errors (kCheckpoint): no safetensors there, a shard that is missing, an index that names what its shards
  // do not have, or the other way round.
  explicit SafetensorsDirectory(const std::string& directory);

  std::vector<std::string> names() const;
  struct Found {
    const SafetensorsFile* file = nullptr;
    const SafetensorsEntry* entry = nullptr;
  };
  // Both null: there is none.
  Found find(const std::string& name) const;

 private:
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
};

}  // namespace lockstep
