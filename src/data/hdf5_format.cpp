// HDF5 data sets: /x (n, sample...) and /y: labels, (n) or (n, 1) integers or (n, classes) with a single 1 a
// row; or targets, (n, width).
//
// Attributes, each on the root group or on the data set it describes: of x, `scale` (real: every value is
// multiplied by it), `divisor` (real: and divided by this one), `tokens` (1: integers that index a table) and
// `feature_names` (of its columns); of y, `classes` (number), `ignore_label` (which counts nothing),
// `class_names` and `target_name`. Several names are one a line, or an array of texts. On the root group,
// texts that are passed on: `source`, `licence`, `citation`.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <fstream>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "lockstep/core/error.h"
#include "lockstep/core/input_file.h"
#include "lockstep/core/log.h"
#include "lockstep/data/formats.h"
#include "lockstep/data/prepared_file.h"
#include "lockstep/hdf5/file.h"
#include "lockstep/hdf5/sealed_file.h"

namespace lockstep {

namespace {

constexpr std::array<const char*, 3> kAttribution{"source", "licence", "citation"};

// Of an unsealed file: the end of file that its superblock states ("Version 0/1/2/3 Superblock" in the HDF5
// file format specification) must not lie behind its real end. The HDF5 library is not shown a file that was
// cut off. `at`: where the superblock stands, behind a user block perhaps. Its addresses count from the base
// address, where it was once (h5unjam takes away what stood before it, and leaves the address).
void check_superblock(const std::string& path, int64_t at, int64_t file_size) {
  std::array<char, 64> bytes{};
  std::ifstream file(path, std::ios::binary);
  file.seekg(at).read(bytes.data(), bytes.size());
  const auto got = static_cast<size_t>(file.gcount());
  std::array<uint8_t, 64> head{};
  std::copy(bytes.begin(), bytes.end(), head.begin());
  file_size -= at;
  const uint8_t version = head[8];
  // Versions 0 and 1: sizes at byte 13, then base, free-space and end-of-file addresses from byte 24 or 28.
  // Versions 2 and 3: sizes at byte 9, then base, extension and end-of-file addresses from byte 12.
  const size_t address_bytes = version < 2 ? head[13] : head[9];
  const size_t base_at = version == 0 ? 24u : version == 1 ? 28u : 12u, end_at = base_at + 2 * address_bytes;
  if (version > 3 || (address_bytes != 4 && address_bytes != 8) || end_at + address_bytes > got) {
    fail(ErrorKind::kData, fmt::format("{}: damaged HDF5 superblock at byte {}", path, at + 8));
  }
  const auto address = [&](size_t offset) {
    uint64_t value = 0;
    for (size_t i = address_bytes; i-- > 0;) value = (value << 8) | head[offset + i];
    return value;
  };
  const uint64_t base = address(base_at), stated_end = address(end_at) - base;
  if (base > address(end_at))
    fail(ErrorKind::kData,
         fmt::format("{}: damaged HDF5 superblock at byte {}", path, at + static_cast<int64_t>(base_at)));
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
    sealed_ = verify_seal(path_, ErrorKind::kData, false) == SealState::kSealed;
    with_texts_ = sealed_ || options.texts;
    if (!sealed_) check_superblock(path_, plain_signature(path_, ErrorKind::kData).value_or(0), file_size_);
  }

  // Everything but the inputs, and what read_inputs() needs.
  void open() {
    file_.emplace(sealed_ ? Hdf5File::open_sealed(path_, ErrorKind::kData)
                          : Hdf5File::open(path_, ErrorKind::kData, options_.follow));
    const Hdf5File& file = *file_;
    const bool behind_block = plain_signature(path_, ErrorKind::kData).value_or(0) > 0;
    if (!sealed_ && behind_block && file.has_attribute("/", kLayoutAttribute) && file.exists("/digests")) {
      fail(ErrorKind::kData,
           path_ + ": a prepared file whose seal is damaged or gone: prepare it again from its source");
    }
    dataset_.source = path_;
    x_ = describe(file, "/x", false);
    if (x_.shape.rank() < 2) {
      fail(ErrorKind::kData,
           fmt::format("{}: /x: must have the shape (n, sample...): got {}", path_, x_.shape.to_string()));
    }
    dataset_.sample_shape = Shape(x_.shape.extents().subspan(1));
    const std::string tokens = carrier(file, "/x", "tokens");
    if (!tokens.empty() && file.read_attribute_integer(tokens, "tokens") != 0) {
      dataset_.input_dtype = DType::kI32;
    } else {
      scale_ = factor("scale");
      divisor_ = factor("divisor");
      if (options_.narrow && (x_.dtype == DType::kU8 || x_.dtype == DType::kF16)) {
        dataset_.input_dtype = x_.dtype;
        dataset_.scale = scale_;
        dataset_.divisor = divisor_;
      }
    }
    if (options_.unlabelled) {
      dataset_.target_width = 1;
      dataset_.targets.assign(static_cast<size_t>(x_.shape[0]), 0.0f);
    } else {
      read_labels_or_targets(file);
    }
    if (with_texts_) dataset_.attribution = read_attribution(file);
    if (dataset_.classes > 0) read_class_names(file);
    read_column_names(file);
  }

  const Dataset& outline() const { return dataset_; }

  std::optional<int64_t> inputs_offset() const {
    // Of fp32 the reader gives what is scaled.
    const bool scaled = dataset_.input_dtype == DType::kF32 && (scale_ != 1.0f || divisor_ != 1.0f);
    return scaled ? std::nullopt : file_->offset("/x", dataset_.input_dtype);
  }

  void read_inputs(int64_t first, int64_t count, Dataset& into) const {
    const auto elements = static_cast<size_t>(count * dataset_.sample_shape.elements());
    switch (dataset_.input_dtype) {
      case DType::kI32:
        read_tokens(first, count, into);
        return;
      case DType::kU8:
        into.inputs_u8.resize(elements);
        file_->read_rows("/x", DType::kU8, first, count, into.inputs_u8.data());
        check_finite("/x", {255.0f * scale_ / divisor_}, 1, first);
        return;
      case DType::kF16: {
        into.inputs_f16.resize(elements);
        file_->read_rows("/x", DType::kF16, first, count, into.inputs_f16.data());
        std::vector<float> values(into.inputs_f16.begin(), into.inputs_f16.end());
        scale(values);
        check_finite("/x", values, dataset_.sample_shape.elements(), first);
        return;
      }
      default:
        into.inputs_f32.resize(elements);
        file_->read_rows("/x", DType::kF32, first, count, into.inputs_f32.data());
        scale(into.inputs_f32);
        check_finite("/x", into.inputs_f32, dataset_.sample_shape.elements(), first);
    }
  }

  Dataset read() {
    open();
    require_memory(path_, x_.shape.elements() * static_cast<int64_t>(size_of(dataset_.input_dtype)));
    read_inputs(0, x_.shape[0], dataset_);
    file_->close();
    return std::move(dataset_);
  }

 private:
  void read_labels_or_targets(const Hdf5File& file) {
    const Hdf5Entry y = describe(file, "/y", true);
    if (y.shape.rank() < 1 || y.shape.rank() > 2 || y.shape[0] != x_.shape[0]) {
      fail(ErrorKind::kData,
           fmt::format("{}: /y: must hold one label or target for each row of x: shapes {} and {}{}", path_,
                       y.shape.to_string(), x_.shape.to_string(), reversed_axes(x_, y)));
    }
    const bool stated = options_.classes > 0 || !carrier(file, "/y", "classes").empty();
    const bool wide = y.shape.rank() == 2 && y.shape[1] > 1;
    if (options_.classes == -1 || (!wide && !stated && is_floating(y.dtype))) {
      read_targets(file, y);
    } else if (!wide) {
      read_labels(file, y);
    } else {
      read_targets(file, y);
      if (!take_one_hot(file) && stated) {
        fail(ErrorKind::kData,
             fmt::format("{}: /y: labels must have the shape (n) or (n,1), or be one-hot rows: got {} "
                         "(classes = -1 makes it a regression)",
                         path_, y.shape.to_string()));
      }
    }
  }

  static std::map<std::string, std::string> read_attribution(const Hdf5File& file) {
    std::map<std::string, std::string> attribution;
    for (const char* name : kAttribution) {
      if (file.has_attribute("/", name)) attribution[name] = file.read_attribute_text("/", name);
    }
    return attribution;
  }

  // MATLAB writes arrays column by column: in the file their axes are the other way round.
  static std::string reversed_axes(const Hdf5Entry& x, const Hdf5Entry& y) {
    const bool reversed = y.shape.rank() >= 1 && y.shape[y.shape.rank() - 1] == x.shape[x.shape.rank() - 1];
    return reversed ? " (the axes stand in reverse order, as MATLAB writes them: save x.' and y.')" : "";
  }

  // One a line, or an array of texts. None when there is no such attribute.
  std::vector<std::string> read_names(const Hdf5File& file, const std::string& array,
                                      const std::string& name) const {
    const std::string object = carrier(file, array, name);
    if (object.empty()) return {};
    std::vector<std::string> names = file.read_attribute_texts(object, name);
    if (names.size() == 1) {
      const std::string lines = names[0];
      names.clear();
      for (size_t begin = 0; begin < lines.size();) {
        const size_t end = std::min(lines.find('\n', begin), lines.size());
        names.push_back(lines.substr(begin, end - begin));
        begin = end + 1;
      }
    }
    for (const std::string& text : names) {
      // Prepared files and checkpoints keep one a line.
      if (text.empty() || text.find('\n') != std::string::npos) {
        fail(ErrorKind::kData, fmt::format("{}: attribute {}: a name {}", path_, name,
                                           text.empty() ? "is empty" : "holds a line break"));
      }
    }
    return names;
  }

  // Type and shape of a data set that can be read and, unless its values lie elsewhere, whose size the file
  // can hold: chunks are compressed by 1032 at most.
  // whole: it is about to be read at once.
  Hdf5Entry describe(const Hdf5File& file, const std::string& object, bool whole) {
    if (!file.exists(object)) fail(ErrorKind::kData, fmt::format("{}: has no data set {}", path_, object));
    Hdf5Entry entry = file.describe(object);
    if (entry.kind != Hdf5Entry::Kind::kArray)
      fail(ErrorKind::kData, fmt::format("{}: {} must be an array of numbers", path_, object));
    const Hdf5Storage storage = file.inspect(object);
    if (storage.partly_unwritten) {
      log_warning(fmt::format(
          "{}: {}: parts were never written: they are read as the fill value, 0 as a rule", path_, object));
    }
    constexpr int64_t kAnyNumber = int64_t{1} << 50;
    const int64_t most =
        storage.elsewhere ? kAnyNumber : file_size_ * 1032 / static_cast<int64_t>(size_of(entry.dtype));
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
    require_memory(
        path_, std::min(storage.chunk_bytes, kAnyNumber) + (whole ? elements * int64_t{sizeof(float)} : 0));
    return entry;
  }

  float factor(const char* name) const {
    const std::string object = carrier(*file_, "/x", name);
    return object.empty() ? 1.0f : static_cast<float>(file_->read_attribute_real(object, name));
  }

  void scale(std::vector<float>& values) const {
    if (scale_ != 1.0f) {
      for (float& value : values) value *= scale_;
    }
    if (divisor_ != 1.0f) {
      for (float& value : values) value /= divisor_;
    }
  }

  void read_tokens(int64_t first, int64_t count, Dataset& into) const {
    if (is_floating(x_.dtype))
      fail(ErrorKind::kData, fmt::format("{}: /x: must hold integers: got {}", path_, name_of(x_.dtype)));
    std::vector<int64_t> values(static_cast<size_t>(count * dataset_.sample_shape.elements()));
    file_->read_rows("/x", DType::kI64, first, count, values.data());
    into.inputs_i32.resize(values.size());
    for (size_t i = 0; i < values.size(); ++i) {
      if (values[i] < 0 || values[i] > std::numeric_limits<int32_t>::max()) {
        fail(ErrorKind::kData,
             fmt::format("{}: /x: row {}: token must be in [0, 2^31): got {}", path_,
                         first + static_cast<int64_t>(i) / dataset_.sample_shape.elements() + 1,
                         read_number(values[i])));
      }
      into.inputs_i32[i] = static_cast<int32_t>(values[i]);
    }
  }

  void read_targets(const Hdf5File& file, const Hdf5Entry& y) {
    dataset_.target_width = y.shape.elements(1, y.shape.rank());
    dataset_.targets.resize(static_cast<size_t>(y.shape.elements()));
    file.read("/y", DType::kF32, dataset_.targets.data());
    check_finite("/y", dataset_.targets, dataset_.target_width);
  }

  // The stated number of classes; 0: none is.
  int64_t stated_classes(const Hdf5File& file) const {
    const std::string object = carrier(file, "/y", "classes");
    if (options_.classes != 0 || object.empty()) return options_.classes;
    const int64_t classes = file.read_attribute_integer(object, "classes");
    if (classes < 1 || classes > std::numeric_limits<int32_t>::max()) {
      fail(ErrorKind::kData,
           fmt::format("{}: attribute classes must be a positive 32-bit number: got {}", path_, classes));
    }
    return classes;
  }

  // Before labels are assigned.
  void read_ignore_label(const Hdf5File& file) {
    const std::string object = carrier(file, "/y", "ignore_label");
    std::optional<int64_t> stated;
    if (!object.empty()) stated = file.read_attribute_integer(object, "ignore_label");
    dataset_.ignore_label = checked_ignore_label(options_, stated, 1);
  }

  void read_labels(const Hdf5File& file, const Hdf5Entry& y) {
    read_ignore_label(file);
    assign_labels(dataset_, read_integers(file, y), stated_classes(file),
                  [this](int64_t i) { return fmt::format("{}: /y: row {}", path_, i + 1); });
  }

  // One-hot targets are labels. False when they are others.
  bool take_one_hot(const Hdf5File& file) {
    const int64_t width = dataset_.target_width;
    const OneHotRows rows = one_hot_rows(dataset_.targets, width);
    if (rows.nearly())
      fail(ErrorKind::kData,
           fmt::format("{}: /y: {} (classes = -1 keeps all as real targets)", path_, rows.fault));
    if (rows.others > 0) return false;
    const int64_t stated = stated_classes(file);
    if (stated > 0 && stated != width) {
      fail(ErrorKind::kData,
           fmt::format("{}: /y: one-hot rows of {} classes, {} are stated", path_, width, stated));
    }
    log_info(fmt::format(
        "{}: /y: its one-hot rows are labels of {} classes (data.classes = -1 keeps them as targets)", path_,
        width));
    dataset_.targets = {};
    dataset_.target_width = 0;
    read_ignore_label(file);
    assign_labels(dataset_, rows.labels, width,
                  [this](int64_t i) { return fmt::format("{}: /y: row {}", path_, i + 1); });
    return true;
  }

  void read_class_names(const Hdf5File& file) {
    dataset_.class_names = read_names(file, "/y", "class_names");
    if (dataset_.class_names.empty()) return;
    if (static_cast<int64_t>(dataset_.class_names.size()) != dataset_.classes) {
      fail(ErrorKind::kData,
           fmt::format("{}: attribute class_names must hold one name a class: {} names, {} classes", path_,
                       dataset_.class_names.size(), dataset_.classes));
    }
  }

  void read_column_names(const Hdf5File& file) {
    dataset_.columns.features = read_names(file, "/x", "feature_names");
    const int64_t names = std::ssize(dataset_.columns.features), width = dataset_.sample_shape.elements();
    if (names > 0 && names != width) {
      fail(ErrorKind::kData,
           fmt::format("{}: attribute feature_names must hold one name a feature: {} names, {} features",
                       path_, names, width));
    }
    std::map<std::string, size_t> numbers;
    for (size_t i = 0; i < dataset_.columns.features.size(); ++i) {
      const std::string& name = dataset_.columns.features[i];
      const auto [first, fresh] = numbers.emplace(name, i + 1);
      if (fresh) continue;
      fail(ErrorKind::kData, fmt::format("{}: attribute feature_names has '{}' twice: {} and {}", path_, name,
                                         first->second, i + 1));
    }
    if (options_.unlabelled) return;  // there may be no y
    const std::vector<std::string> target = read_names(file, "/y", "target_name");
    if (target.size() == 1) dataset_.columns.target = target[0];
  }

  std::vector<int64_t> read_integers(const Hdf5File& file, const Hdf5Entry& entry) {
    if (is_floating(entry.dtype)) {
      fail(ErrorKind::kData,
           fmt::format("{}: {}: must hold integers: got {}", path_, entry.path, name_of(entry.dtype)));
    }
    // Read in 64 bits, kept in 32.
    constexpr int64_t kBytes = sizeof(int64_t) + sizeof(int32_t);
    require_memory(path_, entry.shape.elements() * kBytes);
    std::vector<int64_t> values(static_cast<size_t>(entry.shape.elements()));
    file.read(entry.path, DType::kI64, values.data());
    return values;
  }

  void check_finite(const char* object, const std::vector<float>& values, int64_t width,
                    int64_t first_row = 0) const {
    for (size_t i = 0; i < values.size(); ++i) {
      if (!std::isfinite(values[i])) {
        const auto at = static_cast<int64_t>(i);
        fail(ErrorKind::kData,
             fmt::format("{}: {}: row {}, element {}: value must be finite in fp32: got {}", path_, object,
                         first_row + at / width + 1, at % width + 1, values[i]));
      }
    }
  }

  const DatasetOptions options_;
  const std::string path_;
  int64_t file_size_;
  bool sealed_ = false;
  bool with_texts_ = false;
  std::optional<Hdf5File> file_;
  Hdf5Entry x_;
  float scale_ = 1.0f, divisor_ = 1.0f;  // of x
  Dataset dataset_;
};

}  // namespace

Dataset read_hdf5(const DatasetOptions& options) {
  return Hdf5DatasetReader(options).read();
}

struct Hdf5Rows::Impl {
  Hdf5DatasetReader reader;
};

Hdf5Rows::Hdf5Rows(const DatasetOptions& options) : impl_(new Impl{Hdf5DatasetReader(options)}) {
  impl_->reader.open();
}

Hdf5Rows::~Hdf5Rows() = default;

std::optional<int64_t> Hdf5Rows::inputs_offset() const {
  return impl_->reader.inputs_offset();
}

const Dataset& Hdf5Rows::outline() const {
  return impl_->reader.outline();
}

void Hdf5Rows::read_inputs(int64_t first, int64_t count, Dataset& dataset) const {
  impl_->reader.read_inputs(first, count, dataset);
}

}  // namespace lockstep
