// Writing, reading and comparing checkpoint files.
#include "lockstep/checkpoint/checkpoint.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <set>
#include <span>
#include <type_traits>
#include <unordered_map>

#include "lockstep/core/available_memory.h"
#include "lockstep/core/error.h"
#include "lockstep/hdf5/file.h"
#include "lockstep/hdf5/sealed_file.h"

namespace lockstep {

namespace {

constexpr ErrorKind kKind = ErrorKind::kCheckpoint;
constexpr const char* kFormat = "/format";
constexpr const char* kVersion = "version";
constexpr const char* kConfiguration = "/configuration";
constexpr const char* kMetrics = "/metrics";
constexpr const char* kMetricsFile = "/metrics_file";
constexpr const char* kBest = "/best";
constexpr const char* kBegun = "/begun";
constexpr const char* kPending = "/pending";
constexpr const char* kPlans = "/plans";
constexpr const char* kData = "/data_outline";
constexpr const char* kOrder = "order";

std::string group_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == 0 ? "/" : path.substr(0, slash);
}

std::string name_in_group(const std::string& path) {
  return path.substr(path.rfind('/') + 1);
}

std::string type_text(const StateArray& array) {
  return fmt::format("{} {}", array.shape.to_string(), name_of(array.dtype));
}

bool same_bytes(std::span<const std::byte> a, std::span<const std::byte> b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size()) == 0);
}

size_t size_in_file(const StateArray& array) {
  return static_cast<size_t>(array.shape.elements()) * size_of(array.dtype);
}

void require_size(const StateArray& array, std::span<const std::byte> bytes) {
  const size_t expected = size_in_file(array);
  if (bytes.size() == expected) return;
  fail(ErrorKind::kInternal, fmt::format("checkpoint: {}: {} bytes for {}, must be {}", array.path,
                                         bytes.size(), type_text(array), expected));
}

// What the file layout cannot express is a mistake of the caller.
void require_storable(const State& state) {
  const auto require_path = [](const std::string& path) {
    if (!path.starts_with('/') || path.ends_with('/')) {
      fail(ErrorKind::kInternal, fmt::format("checkpoint: path \"{}\": must be /group/name", path));
    }
    const std::string first = path.substr(0, path.find('/', 1));
    const auto reserved = {kFormat, kConfiguration, kMetrics, kMetricsFile, kPlans, kData, kBest, kBegun};
    if (std::ranges::any_of(reserved, [&](const char* name) { return first == name; })) {
      fail(ErrorKind::kInternal, fmt::format("checkpoint: path \"{}\": {} is reserved", path, first));
    }
  };
  std::set<std::string> paths;
  for (const StateArray& array : state.arrays) {
    require_path(array.path);
    if (!paths.insert(array.path).second) {
      fail(ErrorKind::kInternal, fmt::format("checkpoint: {}: two arrays of this path", array.path));
    }
    if (!array.elsewhere) require_size(array, array.bytes);
  }
  for (const auto& [path, scalar] : state.scalars) {
    require_path(path);
    if (paths.contains(group_of(path))) {
      fail(ErrorKind::kInternal, fmt::format("checkpoint: scalar {}: its group is an array", path));
    }
  }
}

void write_content(const State& state, const std::string& path) {
  Hdf5File file = Hdf5File::create(path, kKind);
  file.create_group(kFormat);
  file.write_attribute(kFormat, kVersion, kCheckpointVersion);
  for (const auto& [scalar_path, scalar] : state.scalars) {
    const std::string group = group_of(scalar_path), name = name_in_group(scalar_path);
    file.create_group(group);
    std::visit([&](const auto& value) { file.write_attribute(group, name, value); }, scalar);
  }
  file.write_text(kConfiguration, state.configuration);
  file.write_text(kMetrics, state.metrics);
  if (!state.metrics_file.empty()) file.write_text(kMetricsFile, state.metrics_file);
  if (!state.best.empty()) file.write_text(kBest, state.best);
  if (!state.data.empty()) file.write_text(kData, state.data);
  if (!state.begun.empty()) file.write_text(kBegun, state.begun);
  if (!state.pending.empty()) file.write_text(kPending, state.pending);
  if (!state.plans.empty()) file.write_text(kPlans, state.plans);
  std::vector<std::byte> room;
  for (size_t i = 0; i < state.arrays.size(); ++i) {
    const StateArray& array = state.arrays[i];
    const std::span<const std::byte> bytes = bytes_of(array, room);
    require_size(array, bytes);
    file.write(array.path, array.dtype, array.shape, bytes.data());
    file.write_attribute(array.path, kOrder, static_cast<int64_t>(i));
  }
  file.close();
}

// Everything but the arrays' bytes.
State read_outline(const Hdf5File& file, const std::string& path) {
  if (!file.exists(kFormat)) fail(kKind, path + ": not a checkpoint: it has no /format");
  const int64_t version = file.read_attribute_integer(kFormat, kVersion);
  if (version > kCheckpointVersion) {
    fail(kKind, fmt::format("{}: checkpoint format {} is newer than what this program knows ({})", path,
                            version, kCheckpointVersion));
  }
  if (version < 1) fail(kKind, fmt::format("{}: checkpoint format {}: no such format", path, version));
  State state;
  state.version = version;
  state.configuration = file.read_text(kConfiguration);
  state.metrics = file.read_text(kMetrics);
  if (file.exists(kMetricsFile)) state.metrics_file = file.read_text(kMetricsFile);
  if (file.exists(kBest)) state.best = file.read_text(kBest);
  if (file.exists(kData)) state.data = file.read_text(kData);
  if (file.exists(kBegun)) state.begun = file.read_text(kBegun);
  if (file.exists(kPending)) state.pending = file.read_text(kPending);
  if (file.exists(kPlans)) state.plans = file.read_text(kPlans);
  const auto read_scalars = [&](const std::string& group, const std::string& prefix) {
    for (const auto& [name, value] : file.attributes(group)) state.scalars.emplace(prefix + name, value);
  };
  read_scalars("/", "/");
  const std::vector<Hdf5Entry> entries = file.list("/");
  const auto is_array = [](const Hdf5Entry& entry) { return entry.kind == Hdf5Entry::Kind::kArray; };
  state.arrays.resize(static_cast<size_t>(std::ranges::count_if(entries, is_array)));
  for (const Hdf5Entry& entry : entries) {
    if (entry.kind == Hdf5Entry::Kind::kGroup && entry.path != kFormat)
      read_scalars(entry.path, entry.path + "/");
    if (!is_array(entry)) continue;
    const int64_t order = file.read_attribute_integer(entry.path, kOrder);
    if (order < 0 || order >= std::ssize(state.arrays) ||
        !state.arrays[static_cast<size_t>(order)].path.empty()) {
      fail(kKind, fmt::format("{}: {}: its order {} is taken or out of range", path, entry.path, order));
    }
    state.arrays[static_cast<size_t>(order)] = {entry.path, entry.dtype, entry.shape, {}};
  }
  return state;
}

// The file against what was to be written into it: every byte.
void require_same_content(const State& state, const std::string& path) {
  verify_seal(path, kKind, true);
  const Hdf5File file = Hdf5File::open(path, kKind);
  const State found = read_outline(file, path);
  const auto differs = [&](const std::string& what) {
    fail(kKind, fmt::format("{}: {} reads back differently from what was written", path, what));
  };
  if (found.configuration != state.configuration) differs(kConfiguration);
  if (found.metrics != state.metrics) differs(kMetrics);
  if (found.metrics_file != state.metrics_file) differs(kMetricsFile);
  if (found.best != state.best) differs(kBest);
  if (found.data != state.data) differs(kData);
  if (found.begun != state.begun) differs(kBegun);
  if (found.pending != state.pending) differs(kPending);
  if (found.plans != state.plans) differs(kPlans);
  const bool same_scalars = std::ranges::equal(
      found.scalars, state.scalars,
      [](const auto& a, const auto& b) { return a.first == b.first && same_scalar(a.second, b.second); });
  if (!same_scalars) differs("a scalar");
  if (found.arrays.size() != state.arrays.size()) differs("the list of arrays");
  std::vector<std::byte> room, bytes;
  for (size_t i = 0; i < state.arrays.size(); ++i) {
    const StateArray &written = state.arrays[i], &read = found.arrays[i];
    if (read.path != written.path || read.dtype != written.dtype || read.shape != written.shape)
      differs(written.path);
    const std::span<const std::byte> expected = bytes_of(written, room);
    if (bytes.size() < expected.size()) bytes = std::vector<std::byte>(expected.size());
    file.read(written.path, written.dtype, bytes.data());
    if (!same_bytes(expected, std::span(bytes).first(expected.size()))) differs(written.path);
  }
}

// IEEE binary16 to double, exactly: 1 sign, 5 exponent, 10 fraction bits.
double half_to_double(uint16_t bits) {
  const int exponent = (bits >> 10) & 0x1F, fraction = bits & 0x3FF;
  const double magnitude = exponent == 31  ? (fraction == 0 ? std::numeric_limits<double>::infinity()
                                                            : std::numeric_limits<double>::quiet_NaN())
                           : exponent == 0 ? std::ldexp(fraction, -24)
                                           : std::ldexp(1024 + fraction, exponent - 25);
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

// Element i as a number.
double value_at(const StateArray& array, size_t i) {
  const auto stored = [&]<class T>(std::type_identity<T>) {
    T value;
    std::memcpy(&value, array.bytes.data() + i * sizeof(T), sizeof(T));
    return value;
  };
  switch (array.dtype) {
    case DType::kF32:
      return static_cast<double>(stored(std::type_identity<float>{}));
    case DType::kF64:
      return stored(std::type_identity<double>{});
    case DType::kBF16:
      return static_cast<double>(
          std::bit_cast<float>(uint32_t{stored(std::type_identity<uint16_t>{})} << 16));
    case DType::kF16:
      return half_to_double(stored(std::type_identity<uint16_t>{}));
    case DType::kI32:
      return stored(std::type_identity<int32_t>{});
    case DType::kI64:
      return static_cast<double>(stored(std::type_identity<int64_t>{}));
    case DType::kU8:
      return stored(std::type_identity<uint8_t>{});
  }
  return 0.0;
}

// |a-b| at element i.
double distance_at(const StateArray& a, const StateArray& b, size_t i) {
  if (a.dtype != DType::kI64) return std::abs(value_at(a, i) - value_at(b, i));
  int64_t x, y;  // doubles would lose small differences of large integers
  std::memcpy(&x, a.bytes.data() + i * sizeof x, sizeof x);
  std::memcpy(&y, b.bytes.data() + i * sizeof y, sizeof y);
  return static_cast<double>(static_cast<uint64_t>(std::max(x, y)) - static_cast<uint64_t>(std::min(x, y)));
}

// "(3,5)": where element i of a row-major array stands.
std::string position_text(const Shape& shape, size_t i) {
  Shape position = shape;
  int64_t rest = static_cast<int64_t>(i);
  for (int axis = shape.rank() - 1; axis >= 0; --axis) {
    position[axis] = rest % shape[axis];
    rest /= shape[axis];
  }
  return position.to_string();
}

// How two arrays of the same dtype and shape differ; empty when they do not.
std::string difference_text(const StateArray& a, const StateArray& b) {
  if (same_bytes(a.bytes, b.bytes)) return "";
  const size_t width = size_of(a.dtype), elements = a.bytes.size() / width;
  size_t count = 0, where = 0;
  double largest = -1.0;  // |a-b| at `where`; NaN counts as larger than any number
  for (size_t i = 0; i < elements; ++i) {
    if (std::memcmp(a.bytes.data() + i * width, b.bytes.data() + i * width, width) == 0) continue;
    ++count;
    const double distance = distance_at(a, b, i);
    if (distance > largest || (std::isnan(distance) && !std::isnan(largest))) {
      largest = distance;
      where = i;
    }
  }
  return fmt::format("max |a-b| {:.3g} at {}, {} of {} elements differ", largest,
                     position_text(a.shape, where), count, elements);
}

using ArrayIndex = std::unordered_map<std::string, size_t>;

ArrayIndex index_of(const std::vector<StateArray>& arrays) {
  ArrayIndex index;
  for (size_t i = 0; i < arrays.size(); ++i) index.emplace(arrays[i].path, i);
  return index;
}

}  // namespace

std::string temporary_path(const std::string& path, int64_t writer) {
  const std::filesystem::path target(path);
  const int64_t number = writer << 32 | ::getpid();
  return (target.parent_path() / fmt::format(".{}.tmp-{}", target.filename().string(), number)).string();
}

void write_checkpoint(const State& state, const std::string& path, int64_t writer) {
  require_storable(state);
  const std::string temporary = temporary_path(path, writer);
  try {
    write_content(state, temporary);
    seal_file(temporary, kKind);
    require_same_content(state, temporary);
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
  commit_file(temporary, path, kKind);
}

State read_checkpoint(const std::string& path) {
  verify_seal(path, kKind, true);
  const Hdf5File file = Hdf5File::open_sealed(path, kKind);
  State state = read_outline(file, path);
  // All arrays are in the file as they are in memory: of no file that holds less is memory asked for.
  uintmax_t left = std::filesystem::file_size(path);
  int64_t all = 0;
  for (const StateArray& array : state.arrays) {
    const size_t bytes = size_in_file(array);
    if (bytes > left)
      fail(kKind, fmt::format("{}: {}: {} has {} bytes, more than the file", path, array.path,
                              type_text(array), bytes));
    left -= bytes;
    all += static_cast<int64_t>(bytes);
  }
  require_memory(path, all, kKind);
  for (StateArray& array : state.arrays) {
    array.bytes.resize(size_in_file(array));
    file.read(array.path, array.dtype, array.bytes.data());
  }
  return state;
}

State read_checkpoint_outline(const std::string& path) {
  verify_seal(path, kKind, true);
  return read_outline(Hdf5File::open_sealed(path, kKind), path);
}

std::string read_begun(const std::string& path) {
  verify_seal(path, kKind, true);
  const Hdf5File file = Hdf5File::open_sealed(path, kKind);
  return file.exists(kBegun) ? file.read_text(kBegun) : "";
}

std::vector<TensorDifference> compare_states(const State& a, const State& b) {
  std::vector<TensorDifference> differences;
  const ArrayIndex index_a = index_of(a.arrays), index_b = index_of(b.arrays);
  for (size_t i = 0; i < a.arrays.size(); ++i) {
    const StateArray& array = a.arrays[i];
    const auto found = index_b.find(array.path);
    if (found == index_b.end()) {
      differences.push_back({array.path, "only in A"});
      continue;
    }
    const StateArray& other = b.arrays[found->second];
    if (array.dtype != other.dtype || array.shape != other.shape) {
      differences.push_back({array.path, type_text(array) + " vs " + type_text(other)});
    } else if (std::string text = difference_text(array, other); !text.empty()) {
      differences.push_back({array.path, std::move(text)});
    } else if (a.arrays.size() == b.arrays.size() && found->second != i) {
      differences.push_back({array.path, fmt::format("place {} vs {} in store order", i, found->second)});
    }
  }
  for (const StateArray& array : b.arrays) {
    if (!index_a.contains(array.path)) differences.push_back({array.path, "only in B"});
  }
  for (const auto& [path, scalar] : a.scalars) {
    const auto found = b.scalars.find(path);
    if (found == b.scalars.end()) {
      differences.push_back({path, "only in A"});
    } else if (!same_scalar(scalar, found->second)) {
      differences.push_back({path, to_text(scalar) + " vs " + to_text(found->second)});
    }
  }
  for (const auto& [path, scalar] : b.scalars) {
    if (!a.scalars.contains(path)) differences.push_back({path, "only in B"});
  }
  return differences;
}

void check_matches(const State& expected, const State& found, const std::string& path) {
  std::vector<std::string> mismatches;
  const ArrayIndex found_index = index_of(found.arrays), expected_index = index_of(expected.arrays);
  for (const StateArray& array : expected.arrays) {
    const auto position = found_index.find(array.path);
    if (position == found_index.end()) {
      mismatches.push_back(fmt::format("{}: missing, expected {}", array.path, type_text(array)));
      continue;
    }
    const StateArray& other = found.arrays[position->second];
    if (array.dtype != other.dtype || array.shape != other.shape) {
      mismatches.push_back(
          fmt::format("{}: expected {}, found {}", array.path, type_text(array), type_text(other)));
    }
  }
  for (const StateArray& array : found.arrays) {
    if (!expected_index.contains(array.path)) {
      mismatches.push_back(fmt::format("{}: not expected, found {}", array.path, type_text(array)));
    }
  }
  if (mismatches.empty()) return;
  constexpr size_t kMostNamed = 6;  // large models have hundreds
  const size_t count = mismatches.size();
  if (count > kMostNamed) {
    mismatches.resize(kMostNamed);
    mismatches.push_back(fmt::format("and {} more", count - kMostNamed));
  }
  fail(kKind, fmt::format("{}: {} of its tensors do not fit this configuration: {}", path, count,
                          fmt::join(mismatches, "; ")));
}

}  // namespace lockstep
