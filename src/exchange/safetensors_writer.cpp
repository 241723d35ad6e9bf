// Writing safetensors.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "lockstep/core/error.h"
#include "lockstep/core/output_file.h"
#include "lockstep/exchange/safetensors.h"

namespace lockstep {

namespace {

using nlohmann::ordered_json;

const char* type_name(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "F32";
    case DType::kBF16:
      return "BF16";
    case DType::kF16:
      return "F16";
    default:
      fail(ErrorKind::kInternal, fmt::format("safetensors: weights in {}", name_of(dtype)));
  }
}

size_t bytes_of(const SafetensorsTensor& tensor, DType dtype) {
  return static_cast<size_t>(tensor.shape.elements()) * size_of(dtype);
}

template <class Stored>
std::string converted(const std::vector<float>& values) {
  std::string bytes(values.size() * sizeof(Stored), '\0');
  for (size_t i = 0; i < values.size(); ++i) {
    const Stored stored(values[i]);
    std::memcpy(bytes.data() + i * sizeof stored, &stored, sizeof stored);
  }
  return bytes;
}

std::string stored_bytes(const std::vector<float>& values, DType dtype) {
  if (dtype == DType::kBF16) return converted<BFloat16>(values);
  return dtype == DType::kF16 ? converted<Float16>(values) : converted<float>(values);
}

}  // namespace

void write_safetensors(const std::string& path, std::span<const SafetensorsTensor> tensors, DType dtype) {
  std::vector<const SafetensorsTensor*> order;
  for (const SafetensorsTensor& tensor : tensors) order.push_back(&tensor);
  std::ranges::sort(order, {}, [](const SafetensorsTensor* tensor) { return tensor->name; });
  ordered_json header;
  header["__metadata__"] = {{"format", "pt"}};
  size_t at = 0;
  for (const SafetensorsTensor* tensor : order) {
    const size_t end = at + bytes_of(*tensor, dtype);
    const auto extents = tensor->shape.extents();
    header[tensor->name] = {{"dtype", type_name(dtype)},
                            {"shape", std::vector<int64_t>(extents.begin(), extents.end())},
                            {"data_offsets", {at, end}}};
    at = end;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const uint64_t length = text.size();
  std::string start(sizeof length, '\0');
  std::memcpy(start.data(), &length, sizeof length);
  replace_file(path, ErrorKind::kCheckpoint, [&](const OutputFile& file) {
    const auto put = [&file](const std::string& bytes) {
      return file.append(bytes.data(), bytes.size()) == bytes.size();
    };
    if (!put(start + text)) return false;
    for (const SafetensorsTensor* tensor : order) {
      const std::vector<float> values = tensor->values();
      if (std::ssize(values) != tensor->shape.elements()) {
        fail(ErrorKind::kInternal,
             fmt::format("{}: {} values for {}", tensor->name, values.size(), tensor->shape.to_string()));
      }
      if (!put(stored_bytes(values, dtype))) return false;
    }
    return ::fsync(file.descriptor()) == 0;
  });
}

void write_safetensors_shards(const std::string& directory, std::span<const SafetensorsTensor> tensors,
                              DType dtype, int64_t most_bytes) {
  const std::string base = (std::filesystem::path(directory) / "model").string();
  std::vector<std::pair<size_t, size_t>> shards;  // begin and end among the tensors
  size_t total = 0, filled = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const size_t bytes = bytes_of(tensors[i], dtype);
    if (shards.empty() || filled + bytes > static_cast<size_t>(most_bytes)) {
      shards.emplace_back(i, i);
      filled = 0;
    }
    shards.back().second = i + 1;
    filled += bytes;
    total += bytes;
  }
  if (shards.size() < 2) return write_safetensors(base + ".safetensors", tensors, dtype);
  ordered_json index;
  index["metadata"] = {{"total_size", total}};
  nlohmann::json places = nlohmann::json::object();
  for (size_t shard = 0; shard < shards.size(); ++shard) {
    const std::string suffix = fmt::format("-{:05}-of-{:05}.safetensors", shard + 1, shards.size());
    const auto [begin, end] = shards[shard];
    for (size_t i = begin; i < end; ++i) places[tensors[i].name] = "model" + suffix;
    write_safetensors(base + suffix, tensors.subspan(begin, end - begin), dtype);
  }
  index["weight_map"] = places;
  replace_file(base + ".safetensors.index.json", index.dump(2) + "\n", ErrorKind::kCheckpoint);
}

}  // namespace lockstep
