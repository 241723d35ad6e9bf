// HDF5 data sets: /x (n, sample...) and /y, (n) labels or (n, width) targets.
//
// Attributes, each on the root group or on the data set it describes: of x, `scale` (real: every value is
// multiplied by it) and `tokens` (1: integers that index a table); of y, `classes` (number) and `class_names`
// (one a line). On the root group, texts that are passed on: `source`, `licence`, `citation`.
#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <cmath>
#include <cstdio>
#include <limits>
#include <string>
#include <vector>

#include "core/error.h"
#include "data/formats.h"
#include "data/input_file.h"
#include "hdf5/file.h"
#include "hdf5/sealed_file.h"

namespace lockstep {

namespace {

constexpr std::array<const char*, 3> kAttribution{"source", "licence", "citation"};

// Of an unsealed file: the end of file that its superblock states ("Version 0/1/2/3 Superblock" in the HDF5
// file format specification) must not lie behind its real end. The HDF5 library is not shown a file that was
// cut off.
void check_superblock(const std::string& path, int64_t file_size) {
  std::array<uint8_t, 64> head{};
  InputFile file(path);
  const size_t got = file.read_up_to(head.data(), head.size());
  const uint8_t version = head[8];
  // Versions 0 and 1: sizes at byte 13, then base, free-space and end-of-file addresses from byte 24 or 28.
  // Versions 2 and 3: sizes at byte 9, then base, extension and end-of-file addresses from byte 12.
  const size_t address_bytes = version < 2 ? head[13] : head[9];
  const size_t end_at = (version == 0 ? 24u : version == 1 ? 28u : 12u) + 2 * address_bytes;
  if (version > 3 || (address_bytes != 4 && address_bytes != 8) || end_at + address_bytes > got) {
    fail(ErrorKind::kData, fmt::format("{}: damaged HDF5 superblock at byte 8", path));
  }
  uint64_t stated_end = 0;
  for (size_t i = address_bytes; i-- > 0;) stated_end = (stated_end << 8) | head[end_at + i];
  if (stated_end > static_cast<uint64_t>(file_size)) {
    fail(ErrorKind::kData,
         fmt::format("{}: truncated: {} bytes long, its superblock says {}", path, file_size, stated_end));
  }
}

// The object that carries an attribute of x or y: itself or the root group. "" when neither does.
std::string carrier(const Hdf5File& file, const std::string& object, const std::string& name) {
  if (file.has_attribute(object, name)) return object;
  return file.has_attribute("/", name) ? "/" : "";
}

class Hdf5DatasetReader {
 public:
  explicit Hdf5DatasetReader(const DatasetOptions& options)
      : options_(options), path_(options.path), file_size_(checked_file_size(path_)) {
    if (verify_seal(path_, ErrorKind::kData, false) == SealState::kUnsealed)
      check_superblock(path_, file_size_);
  }

  Dataset read() {
    Hdf5File file = Hdf5File::open(path_, ErrorKind::kData);
    dataset_.source = path_;
    const Hdf5Entry x = describe(file, "/x");
    const Hdf5Entry y = describe(file, "/y");
    if (x.shape.rank() < 2) {
      fail(ErrorKind::kData,
           fmt::format("{}: /x: must have the shape (n, sample...): got {}", path_, x.shape.to_string()));
    }
    if (y.shape.rank() < 1 || y.shape.rank() > 2 || y.shape[0] != x.shape[0]) {
      fail(ErrorKind::kData,
           fmt::format("{}: /y: must hold one label or target for each row of x: shapes {} and {}", path_,
                       y.shape.to_string(), x.shape.to_string()));
    }
    dataset_.sample_shape = Shape(x.shape.extents().subspan(1));
    read_inputs(file, x);
    const bool stated = options_.classes > 0 || !carrier(file, "/y", "classes").empty();
    const bool regression = options_.classes == -1 || (options_.classes == 0 && !stated &&
                                                       (y.shape.rank() == 2 || is_floating(y.dtype)));
    if (regression) {
      read_targets(file, y);
    } else {
      read_labels(file, y);
    }
    for (const char* name : kAttribution) {
      if (file.has_attribute("/", name)) dataset_.attribution[name] = file.read_attribute_text("/", name);
    }
    file.close();
    return std::move(dataset_);
  }

 private:
  // Type and shape of a data set whose size the file can hold: chunks are compressed by 1032 at most.
  Hdf5Entry describe(const Hdf5File& file, const std::string& object) {
    if (!file.exists(object)) fail(ErrorKind::kData, fmt::format("{}: has no data set {}", path_, object));
    Hdf5Entry entry = file.describe(object);
    if (entry.kind != Hdf5Entry::Kind::kArray)
      fail(ErrorKind::kData, fmt::format("{}: {} must be an array of numbers", path_, object));
    const int64_t most = file_size_ * 1032 / static_cast<int64_t>(size_of(entry.dtype));
    int64_t elements = 1;
    for (int64_t extent : entry.shape.extents()) {
      if (extent == 0) {
        fail(ErrorKind::kData,
             fmt::format("{}: {} is empty: shape {}", path_, object, entry.shape.to_string()));
      }
      if (extent > most / elements) {
        fail(ErrorKind::kData, fmt::format("{}: {}: shape {} cannot be held by a file of {} bytes", path_,
                                           object, entry.shape.to_string(), file_size_));
      }
      elements *= extent;
    }
    return entry;
  }

  void read_inputs(const Hdf5File& file, const Hdf5Entry& x) {
    const std::string tokens = carrier(file, "/x", "tokens");
    if (!tokens.empty() && file.read_attribute_integer(tokens, "tokens") != 0) {
      read_tokens(file, x);
      return;
    }
    dataset_.inputs_f32.resize(static_cast<size_t>(x.shape.elements()));
    file.read("/x", DType::kF32, dataset_.inputs_f32.data());
    const std::string scale = carrier(file, "/x", "scale");
    if (!scale.empty()) {
      const auto factor = static_cast<float>(file.read_attribute_real(scale, "scale"));
      for (float& value : dataset_.inputs_f32) value *= factor;
    }
    check_finite("/x", dataset_.inputs_f32, dataset_.sample_shape.elements());
  }

  void read_tokens(const Hdf5File& file, const Hdf5Entry& x) {
    dataset_.input_dtype = DType::kI32;
    const std::vector<int64_t> values = read_integers(file, x);
    dataset_.inputs_i32.resize(values.size());
    for (size_t i = 0; i < values.size(); ++i) {
      if (values[i] < 0 || values[i] > std::numeric_limits<int32_t>::max()) {
        fail(ErrorKind::kData,
             fmt::format("{}: /x: row {}: token must be in [0, 2^31): got {}", path_,
                         static_cast<int64_t>(i) / dataset_.sample_shape.elements() + 1, values[i]));
      }
      dataset_.inputs_i32[i] = static_cast<int32_t>(values[i]);
    }
  }

  void read_targets(const Hdf5File& file, const Hdf5Entry& y) {
    dataset_.target_width = y.shape.elements(1, y.shape.rank());
    dataset_.targets.resize(static_cast<size_t>(y.shape.elements()));
    file.read("/y", DType::kF32, dataset_.targets.data());
    check_finite("/y", dataset_.targets, dataset_.target_width);
  }

  void read_labels(const Hdf5File& file, const Hdf5Entry& y) {
    if (y.shape.rank() != 1) {
      fail(ErrorKind::kData,
           fmt::format("{}: /y: labels must have the shape (n): got {} (classes = -1 makes it a "
                       "regression)",
                       path_, y.shape.to_string()));
    }
    const std::vector<int64_t> values = read_integers(file, y);
    int64_t classes = options_.classes;
    if (const std::string object = carrier(file, "/y", "classes"); classes == 0 && !object.empty()) {
      classes = file.read_attribute_integer(object, "classes");
      if (classes < 1 || classes > std::numeric_limits<int32_t>::max()) {
        fail(ErrorKind::kData,
             fmt::format("{}: attribute classes must be a positive 32-bit number: got {}", path_, classes));
      }
    }
    assign_labels(dataset_, values, classes,
                  [this](int64_t i) { return fmt::format("{}: /y: row {}", path_, i + 1); });
    if (const std::string object = carrier(file, "/y", "class_names"); !object.empty()) {
      read_class_names(file.read_attribute_text(object, "class_names"));
    }
  }

  void read_class_names(const std::string& lines) {
    for (size_t begin = 0; begin < lines.size();) {
      const size_t end = std::min(lines.find('\n', begin), lines.size());
      dataset_.class_names.push_back(lines.substr(begin, end - begin));
      begin = end + 1;
    }
    if (static_cast<int64_t>(dataset_.class_names.size()) != dataset_.classes) {
      fail(ErrorKind::kData,
           fmt::format("{}: attribute class_names must hold one name a class: {} names, {} classes", path_,
                       dataset_.class_names.size(), dataset_.classes));
    }
  }

  std::vector<int64_t> read_integers(const Hdf5File& file, const Hdf5Entry& entry) {
    if (is_floating(entry.dtype)) {
      fail(ErrorKind::kData,
           fmt::format("{}: {}: must hold integers: got {}", path_, entry.path, name_of(entry.dtype)));
    }
    std::vector<int64_t> values(static_cast<size_t>(entry.shape.elements()));
    file.read(entry.path, DType::kI64, values.data());
    return values;
  }

  void check_finite(const char* object, const std::vector<float>& values, int64_t width) {
    for (size_t i = 0; i < values.size(); ++i) {
      if (!std::isfinite(values[i])) {
        const auto at = static_cast<int64_t>(i);
        fail(ErrorKind::kData, fmt::format("{}: {}: row {}, element {}: value must be finite in fp32: got {}",
                                           path_, object, at / width + 1, at % width + 1, values[i]));
      }
    }
  }

  const DatasetOptions& options_;
  const std::string& path_;
  int64_t file_size_;
  Dataset dataset_;
};

}  // namespace

Dataset read_hdf5(const DatasetOptions& options) {
  return Hdf5DatasetReader(options).read();
}

void write_dataset(const Dataset& dataset, const std::string& path) {
  const int64_t n = dataset.size();
  Shape x_shape{n};
  for (int64_t extent : dataset.sample_shape.extents()) x_shape.push_back(extent);
  const std::string temporary = fmt::format("{}.{}.partial", path, getpid());
  try {
    Hdf5File file = Hdf5File::create(temporary, ErrorKind::kData);
    if (dataset.input_dtype == DType::kI32) {
      file.write("/x", DType::kI32, x_shape, dataset.inputs_i32.data());
      file.write_attribute("/x", "tokens", int64_t{1});
    } else {
      file.write("/x", DType::kF32, x_shape, dataset.inputs_f32.data());
    }
    if (dataset.classes > 0) {
      file.write("/y", DType::kI32, {n}, dataset.labels.data());
      file.write_attribute("/", "classes", dataset.classes);
      if (!dataset.class_names.empty()) {
        file.write_attribute("/", "class_names", fmt::format("{}", fmt::join(dataset.class_names, "\n")));
      }
    } else {
      file.write("/y", DType::kF32, {n, dataset.target_width}, dataset.targets.data());
    }
    for (const auto& [name, text] : dataset.attribution) file.write_attribute("/", name, text);
    file.close();
    seal_file(temporary, ErrorKind::kData);
    commit_file(temporary, path, ErrorKind::kData);
  } catch (...) {
    std::remove(temporary.c_str());
    throw;
  }
}

}  // namespace lockstep
