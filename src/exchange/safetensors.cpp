// Reading safetensors.
#include "lockstep/exchange/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string_view>
#include <utility>

#include "lockstep/core/error.h"
#include "lockstep/core/strict_json.h"

namespace lockstep {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr uint64_t kMostHeaderBytes = 100'000'000;
constexpr size_t kMostIndexBytes = size_t{1} << 28;

[[noreturn]] void refuse(const std::string& where, const std::string& rule) {
  fail(ErrorKind::kCheckpoint, where + ": " + rule);
}

size_t element_bytes(const std::string& dtype) {
  constexpr std::pair<const char*, size_t> kTypes[] = {
      {"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E5M2", 1}, {"F8_E4M3", 1}, {"I16", 2}, {"U16", 2}, {"F16", 2},
      {"BF16", 2}, {"I32", 4}, {"U32", 4}, {"F32", 4},     {"F64", 8},     {"I64", 8}, {"U64", 8}};
  for (const auto& [name, bytes] : kTypes) {
    if (dtype == name) return bytes;
  }
  return 0;
}

std::optional<uint64_t> whole_number(const json& value) {
  if (!value.is_number_unsigned()) return std::nullopt;
  return value.get<uint64_t>();
}

template <class Stored>
void convert(std::span<const std::byte> bytes, std::vector<float>& values) {
  for (size_t i = 0; i < values.size(); ++i) {
    Stored stored;  // nothing says that the bytes are aligned
    std::memcpy(&stored, bytes.data() + i * sizeof stored, sizeof stored);
    values[i] = static_cast<float>(stored);
  }
}

SafetensorsEntry read_entry(const std::string& where, const std::string& name, const json& value) {
  SafetensorsEntry entry;
  entry.name = name;
  if (!value.is_object() || value.size() != 3 || !value.contains("dtype") || !value.contains("shape") ||
      !value.contains("data_offsets")) {
    refuse(where, "must have dtype, shape and data_offsets, and nothing else");
  }
  const json &dtype = value["dtype"], &shape = value["shape"], &offsets = value["data_offsets"];
  if (!dtype.is_string() || element_bytes(dtype.get<std::string>()) == 0)
    refuse(where, fmt::format("dtype {} is not known", dtype.dump()));
  entry.dtype = dtype.get<std::string>();
  if (!shape.is_array() || shape.size() > static_cast<size_t>(Shape::kMaxRank))
    refuse(where, fmt::format("the shape must be an array of at most {} numbers", Shape::kMaxRank));
  uint64_t bytes = element_bytes(entry.dtype);
  bool empty = false;
  for (const json& extent : shape) {
    const auto number = whole_number(extent);
    if (!number || *number > uint64_t{1} << 62)
      refuse(where, fmt::format("shape {}: must be whole numbers", shape.dump()));
    empty = empty || *number == 0;
    if (!empty && __builtin_mul_overflow(bytes, *number, &bytes))
      refuse(where, fmt::format("shape {}: overflows", shape.dump()));
    entry.shape.push_back(static_cast<int64_t>(*number));
  }
  if (empty) bytes = 0;
  const auto begin = offsets.is_array() && offsets.size() == 2 ? whole_number(offsets[0]) : std::nullopt;
  const auto end = begin ? whole_number(offsets[1]) : std::nullopt;
  if (!end || *begin > *end)
    refuse(where, fmt::format("data_offsets {}: must be [begin, end]", offsets.dump()));
  if (*end - *begin != bytes) {
    refuse(where, fmt::format("{} of {} has {} bytes, data_offsets {} give {}", entry.shape.to_string(),
                              entry.dtype, bytes, offsets.dump(), *end - *begin));
  }
  entry.begin = *begin;
  entry.end = *end;
  return entry;
}

}  // namespace

SafetensorsFile::SafetensorsFile(const std::string& path) : path_(path) {
  std::error_code error;
  if (!fs::is_regular_file(path, error)) refuse(path, "there is no such file");
  const uintmax_t size = fs::file_size(path, error);
  if (error) refuse(path, "cannot be read: " + error.message());
  if (size < 8) refuse(path, fmt::format("truncated: {} bytes", size));
  file_ = std::make_unique<MappedFile>(path, size, ErrorKind::kCheckpoint);
  const std::byte* bytes = file_->bytes().data();
  uint64_t length = 0;
  std::memcpy(&length, bytes, sizeof length);
  if (std::string_view(reinterpret_cast<const char*>(bytes), 8) == "version ")
    refuse(path, "is what Git LFS leaves in place of a file that it has not fetched");
  if (length > kMostHeaderBytes)
    refuse(path, fmt::format("a header of {} bytes: at most {}", length, kMostHeaderBytes));
  if (length > size - 8) refuse(path, fmt::format("truncated: a header of {} bytes in {}", length, size));
  read_header({reinterpret_cast<const char*>(bytes) + 8, length}, 8 + length);
}

void SafetensorsFile::read_header(std::string_view text, size_t data) {
  if (!text.starts_with('{')) refuse(path_, "is no safetensors: the header must begin with {");
  const json header = parse_json_object(path_, text, ErrorKind::kCheckpoint);
  file_->require_readable();
  for (const auto& [name, value] : header.items()) {
    if (name != "__metadata__") {
      entries_.push_back(read_entry(fmt::format("{}: {}", path_, name), name, value));
      continue;
    }
    if (!value.is_object()) refuse(path_, "__metadata__: must be an object");
    for (const auto& [key, text_value] : value.items()) {
      if (!text_value.is_string()) refuse(path_, fmt::format("__metadata__: {}: must be a text", key));
      metadata_[key] = text_value.get<std::string>();
    }
  }
  std::ranges::sort(entries_, {}, [](const SafetensorsEntry& e) { return std::pair(e.begin, e.end); });
  size_t at = 0;
  for (SafetensorsEntry& entry : entries_) {
    if (entry.begin != at) {
      refuse(path_, fmt::format("{}: begins at byte {} of the data, where {}", entry.name, entry.begin,
                                entry.begin < at ? fmt::format("others reach to {}", at)
                                                 : fmt::format("bytes from {} on belong to none", at)));
    }
    at = entry.end;
    places_[entry.name] = static_cast<size_t>(&entry - entries_.data());
  }
  const size_t there = file_->bytes().size() - data;
  if (at != there) {
    refuse(path_, fmt::format("{}: tensors of {} bytes, {} follow the header",
                              at > there ? "truncated" : "bytes that belong to no tensor", at, there));
  }
  for (SafetensorsEntry& entry : entries_) {
    entry.begin += data;
    entry.end += data;
  }
}

const SafetensorsEntry* SafetensorsFile::find(const std::string& name) const {
  const auto found = places_.find(name);
  return found == places_.end() ? nullptr : &entries_[found->second];
}

std::vector<float> SafetensorsFile::read(const SafetensorsEntry& entry) const {
  std::vector<float> values(static_cast<size_t>(entry.shape.elements()));
  if (entry.dtype == "F32") {
    convert<float>(bytes(entry), values);
  } else if (entry.dtype == "BF16") {
    convert<BFloat16>(bytes(entry), values);
  } else if (entry.dtype == "F16") {
    convert<Float16>(bytes(entry), values);
  } else if (entry.dtype == "F64") {
    convert<double>(bytes(entry), values);
  } else {
    refuse(fmt::format("{}: {}", path_, entry.name),
           fmt::format("weights of {}: F32, BF16, F16 and F64 are read", entry.dtype));
  }
  file_->require_readable();
  return values;
}

SafetensorsDirectory::SafetensorsDirectory(const std::string& directory) {
  const std::string single = (fs::path(directory) / "model.safetensors").string();
  const std::string index_path = single + ".index.json";
  std::error_code error;
  if (fs::exists(single, error)) {  // with an index too: the one file, as transformers does
    files_.push_back(std::make_unique<SafetensorsFile>(single));
    return;
  }
  if (!fs::exists(index_path, error)) {
    refuse(directory,
           fs::exists(fs::path(directory) / "pytorch_model.bin", error)
               ? "has weights in pytorch_model.bin, which can run code: convert them to safetensors"
               : "has neither model.safetensors nor model.safetensors.index.json");
  }
  const json index =
      parse_json_object(index_path, read_small_file(index_path, kMostIndexBytes, ErrorKind::kCheckpoint),
                        ErrorKind::kCheckpoint);
  if (!index.contains("weight_map") || !index["weight_map"].is_object())
    refuse(index_path, "has no weight_map");
  std::map<std::string, std::set<std::string>> names;  // by file
  for (const auto& [name, file] : index["weight_map"].items()) {
    const std::string text = file.is_string() ? file.get<std::string>() : "";
    if (text.empty() || text == "." || text == ".." || text.find('/') != std::string::npos)
      refuse(index_path, fmt::format("{}: {} is no name of a file beside it", name, file.dump()));
    names[text].insert(name);
  }
  for (const auto& [file, expected] : names) {
    files_.push_back(std::make_unique<SafetensorsFile>((fs::path(directory) / file).string()));
    const SafetensorsFile& shard = *files_.back();
    for (const SafetensorsEntry& entry : shard.entries()) {
      if (!expected.contains(entry.name))
        refuse(shard.path(), fmt::format("{}: the index does not say that it is here", entry.name));
    }
    for (const std::string& name : expected) {
      if (shard.find(name) == nullptr)
        refuse(shard.path(), fmt::format("{}: is not here, as the index says", name));
    }
  }
}

std::vector<std::string> SafetensorsDirectory::names() const {
  std::vector<std::string> names;
  for (const auto& file : files_) {
    for (const SafetensorsEntry& entry : file->entries()) names.push_back(entry.name);
  }
  return names;
}

SafetensorsDirectory::Found SafetensorsDirectory::find(const std::string& name) const {
  for (const auto& file : files_) {
    if (const SafetensorsEntry* entry = file->find(name)) return {file.get(), entry};
  }
  return {};
}

}  // namespace lockstep
