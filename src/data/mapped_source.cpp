// Prepared files, mapped.
#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <utility>

#include "lockstep/core/error.h"
#include "lockstep/core/mapped_file.h"
#include "lockstep/data/data_source.h"
#include "lockstep/data/formats.h"
#include "lockstep/data/prepared_file.h"
#include "lockstep/data/stored_features.h"
#include "lockstep/hdf5/file.h"

namespace lockstep {

namespace {

constexpr int64_t kInputs = 0, kTargets = 1;  // the sealed arrays
// Gathers after one that waited for the disk that are taken to wait too.
constexpr int64_t kWaitingGathers = 256;

// Names, one a line.
std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  for (size_t begin = 0, end = 0; begin < text.size(); begin = end + 1) {
    end = std::min(text.find('\n', begin), text.size());
    lines.push_back(text.substr(begin, end - begin));
  }
  return lines;
}

int64_t waits_of_this_thread() {
  rusage usage{};
  return ::getrusage(RUSAGE_THREAD, &usage) == 0 ? usage.ru_majflt : 0;
}

}  // namespace

MappedSource::MappedSource(const DatasetOptions& options, BlockedFile content) {
  const std::string& path = options.path;
  const int64_t classes = options.classes;
  const auto refuse = [&](const std::string& rule) {
    fail(ErrorKind::kData, fmt::format("{}: {}", path, rule));
  };
  Hdf5File file = Hdf5File::open_sealed(path, ErrorKind::kData);
  if (!file.has_attribute("/", kLayoutAttribute)) refuse("not a prepared data set");
  if (const int64_t layout = file.read_attribute_integer("/", kLayoutAttribute);
      layout != kPreparedLayout && layout != kPreparedLayoutIgnoring)
    refuse(fmt::format("layout {} of prepared data: this program knows {}", layout, kPreparedLayoutIgnoring));
  const Hdf5Entry x = file.describe("/x"), y = file.describe("/y");
  if (x.shape.rank() < 2 || y.shape.rank() < 1 || y.shape[0] != x.shape[0])
    refuse("/x and /y do not fit each other");
  const auto is_array = [&](const Hdf5Entry& entry, int64_t number) {
    return number < std::ssize(content.arrays) &&
           file.offset(entry.path, entry.dtype) == content.arrays[static_cast<size_t>(number)].offset &&
           entry.shape.elements() * static_cast<int64_t>(size_of(entry.dtype)) ==
               content.arrays[static_cast<size_t>(number)].bytes;
  };
  if (!is_array(x, kInputs) || !is_array(y, kTargets))
    refuse("its seal is about other arrays than /x and /y");

  description_.source = path;
  description_.samples = x.shape[0];
  description_.sample_shape = Shape(x.shape.extents().subspan(1));
  if ((x.dtype == DType::kI32) != file.has_attribute("/x", "tokens"))
    refuse("/x: int32 are tokens, and tokens int32");
  stored_.input_dtype = x.dtype;
  stored_.target_dtype = y.dtype;
  stored_.input_elements = x.shape.elements(1, x.shape.rank());
  stored_.target_elements = y.shape.elements(1, y.shape.rank());
  const auto factor = [&](const char* name) {
    return file.has_attribute("/x", name) ? static_cast<float>(file.read_attribute_real("/x", name)) : 1.0f;
  };
  stored_.scale = factor("scale");
  stored_.divisor = factor("divisor");
  if (file.has_attribute("/", "classes")) {
    const int64_t found = file.read_attribute_integer("/", "classes");
    if (classes >= 0) description_.classes = std::max(classes, found);
  } else if (classes > 0) {
    refuse(fmt::format("holds real targets, {} classes were asked for", classes));
  }
  if (description_.classes == 0) description_.target_width = stored_.target_elements;
  std::optional<int64_t> ignored;
  if (description_.classes > 0 && file.has_attribute("/y", "ignore_label"))
    ignored = file.read_attribute_integer("/y", "ignore_label");
  stored_.ignore_label = checked_ignore_label(options, ignored, description_.classes);
  const auto names = [&](const char* object, const char* name) {
    return file.has_attribute(object, name) ? file.read_attribute_text(object, name) : std::string();
  };
  description_.columns = {lines_of(names("/x", "feature_names")), names("/y", "target_name")};
  if (description_.classes > 0) description_.class_names = lines_of(names("/", "class_names"));
  const std::vector<std::string>& features = description_.columns.features;
  if (!features.empty() && std::ssize(features) != stored_.input_elements) {
    refuse(fmt::format("feature_names must hold one name a feature: {} names, {} features", features.size(),
                       stored_.input_elements));
  }
  if (description_.classes > 0 && file.exists("/class_counts")) {
    std::vector<int64_t>& counts = description_.class_counts;
    counts.resize(static_cast<size_t>(file.describe("/class_counts").shape.elements()));
    if (std::ssize(counts) > description_.classes) refuse("/class_counts: more classes than there are");
    file.read("/class_counts", DType::kI64, counts.data());
    counts.resize(static_cast<size_t>(description_.classes), 0);
    if (const int64_t ignored_class = stored_.ignore_label.value_or(-1);
        ignored_class >= 0 && ignored_class < description_.classes)
      counts[static_cast<size_t>(ignored_class)] = 0;
  }
  if (file.exists("/largest_index")) {
    std::array<int64_t, 2> largest{};
    if (file.describe("/largest_index").shape.elements() != 2) refuse("/largest_index: an index and its row");
    file.read("/largest_index", DType::kI64, largest.data());
    description_.largest_index = largest[0];
    description_.largest_index_row = largest[1];
  }
  if (file.exists("/mean")) {
    statistics_.mean.resize(static_cast<size_t>(stored_.input_elements));
    statistics_.deviation.resize(statistics_.mean.size());
    for (const char* name : {"/mean", "/deviation"}) {
      if (file.describe(name).shape.elements() != stored_.input_elements)
        refuse(fmt::format("{}: one number a feature", name));
    }
    file.read("/mean", DType::kF64, statistics_.mean.data());
    file.read("/deviation", DType::kF64, statistics_.deviation.data());
  }
  file.close();
  mapping_ = std::make_unique<MappedBlocks>(path, std::move(content), ErrorKind::kData);
  stored_.inputs = mapping_->array(kInputs);
  stored_.targets = mapping_->array(kTargets);
  set_stored(stored_);
  if (classes > 0 && classes < description_.classes) refuse_classes(classes);
  // Until the first gathers have shown otherwise.
  if (std::ssize(stored_.inputs) >= kReadAheadBytes)
    waiting_.store(kWaitingGathers, std::memory_order_relaxed);
}

MappedSource::MappedSource(const Hdf5Rows& rows, int64_t offset) : outline_(rows.outline()) {
  describe(outline_);
  const int64_t n = size();
  stored_.input_elements = outline_.sample_shape.elements();
  const int64_t row_bytes = stored_.input_bytes();
  const auto end = static_cast<size_t>(offset + n * row_bytes);
  const MappedFile file(outline_.source, end, ErrorKind::kData);
  const std::span<const std::byte> inputs = file.bytes().subspan(static_cast<size_t>(offset));
  Dataset piece = outline_;
  std::vector<Digest> digests;
  const int64_t count = std::max<int64_t>(1, kPieceBytes / std::max<int64_t>(1, row_bytes));
  for (int64_t first = 0; first < n; first += count) {
    const int64_t last = std::min(first + count, n);
    rows.read_inputs(first, last - first, piece);
    const std::span<const std::byte> read = stored_samples(piece).inputs;
    const auto same = inputs.subspan(static_cast<size_t>(first * row_bytes), read.size());
    if (!std::ranges::equal(read, same)) {
      file.require_readable();
      fail(ErrorKind::kData, fmt::format("{}: rows {} to {} of /x change while they are read",
                                         description_.source, first + 1, last));
    }
    for (const int32_t token : piece.inputs_i32) {
      if (token <= description_.largest_index) continue;
      description_.largest_index = token;
      const auto at = std::ranges::find(piece.inputs_i32, token) - piece.inputs_i32.begin();
      description_.largest_index_row = first + at / stored_.input_elements + 1;
    }
    // Blocks that are whole by now.
    while (std::ssize(digests) < (last == n ? blocks_of(n * row_bytes) : last * row_bytes / kBlockBytes)) {
      const auto at = static_cast<size_t>(std::ssize(digests) * kBlockBytes);
      digests.push_back(
          digest_of(inputs.subspan(at, std::min(static_cast<size_t>(kBlockBytes), inputs.size() - at))));
    }
  }
  file.require_readable();
  mapping_ = std::make_unique<MappedBlocks>(
      outline_.source, BlockedFile{{{offset, n * row_bytes}}, std::move(digests)}, ErrorKind::kData);
  outline_.inputs_f32 = {};
  set_stored(stored_samples(outline_));
  stored_.inputs = mapping_->array(kInputs);
  waiting_.store(kWaitingGathers, std::memory_order_relaxed);
}

void MappedSource::refuse_classes(int64_t classes) const {
  const int64_t bytes = stored_.target_bytes();
  for (int64_t row = 0; row < size(); ++row) {
    int32_t label = 0;
    mapping_->read([&] {
      if (const auto block = mapping_->first_damaged(kTargets, row * bytes, (row + 1) * bytes))
        fail(ErrorKind::kData, damage_text(kTargets, *block));
      std::memcpy(&label, stored_.targets.data() + row * bytes, sizeof label);
    });
    if (label == stored_.ignore_label || (label >= 0 && label < classes)) continue;
    fail(ErrorKind::kData, fmt::format("{}: /y: row {}: label must be in [0, {}): got {}",
                                       description_.source, row + 1, classes, label));
  }
  fail(ErrorKind::kData, fmt::format("{}: has {} classes, {} were asked for", description_.source,
                                     description_.classes, classes));
}

void MappedSource::require_rows(std::span<const int64_t> rows) const {
  for (const int64_t row : rows) {
    for (const auto& [array, bytes] :
         {std::pair(kInputs, stored_.input_bytes()), {kTargets, stored_.target_bytes()}}) {
      if (array == arrays()) break;  // is not mapped
      if (const std::optional<int64_t> block = mapping_->first_damaged(array, row * bytes, (row + 1) * bytes))
        fail(ErrorKind::kData, damage_text(array, *block));
    }
  }
}

void MappedSource::gather(std::span<const int64_t> rows, const SampleBuffers& out) const {
  const auto copy = [&] {
    require_rows(rows);
    gather_stored(rows, out);
  };
  if (std::ssize(stored_.inputs) < kReadAheadBytes) return mapping_->read(copy);
  const int64_t before = waits_of_this_thread();
  // All at once: a disk is faster at many requests than at one after the other.
  if (waits()) read_ahead(rows);
  mapping_->read(copy);
  if (waits_of_this_thread() != before) {
    waiting_.store(kWaitingGathers, std::memory_order_relaxed);
  } else if (waits()) {
    waiting_.fetch_sub(1, std::memory_order_relaxed);
  }
}

bool MappedSource::waits() const {
  return waiting_.load(std::memory_order_relaxed) > 0;
}

void MappedSource::read_ahead(std::span<const int64_t> rows) const {
  // Rows that follow each other are one request.
  for (size_t i = 0; i < rows.size();) {
    size_t next = i + 1;
    while (next < rows.size() && rows[next] == rows[next - 1] + 1) ++next;
    const int64_t first = rows[i], last = rows[next - 1] + 1;
    mapping_->read_ahead(kInputs, first * stored_.input_bytes(), last * stored_.input_bytes());
    if (arrays() > kTargets)
      mapping_->read_ahead(kTargets, first * stored_.target_bytes(), last * stored_.target_bytes());
    i = next;
  }
}

std::string MappedSource::digest() const {
  std::vector<Digest> digests(mapping_->digests().begin(), mapping_->digests().end());
  if (arrays() == kTargets) {
    const std::vector<Digest> targets = block_digests(stored_.targets);
    digests.insert(digests.end(), targets.begin(), targets.end());
  }
  return digest_of_digests(stored_.layout_text(), digests);
}

FeatureStatistics MappedSource::statistics() const {
  if (arrays() == kTargets) return WholeSource::statistics();
  if (statistics_.mean.empty())
    fail(ErrorKind::kUsage, description_.source + ": tokens have no mean: data.normalize must be \"none\"");
  return statistics_;
}

std::string MappedSource::damage_text(int64_t array, int64_t block) const {
  const int64_t bytes = array == kInputs ? stored_.input_bytes() : stored_.target_bytes();
  const int64_t end = std::min((block + 1) * kBlockBytes, bytes * size());
  return fmt::format("{}: damaged: the checksum of block {} of {} differs from the {}: sample rows {} to {}",
                     description_.source, block, array == kInputs ? "/x" : "/y",
                     arrays() == kTargets ? "one at the start" : "sealed one",
                     block * kBlockBytes / bytes + 1, (end + bytes - 1) / bytes);
}

bool MappedSource::verify_next(int64_t& block, std::string& damage) const {
  // Far enough that the disk is never idle.
  constexpr int64_t kAhead = 16;
  damage.clear();
  if (block >= blocks()) return false;
  const int64_t of_inputs = blocks_of(std::ssize(stored_.inputs));
  const int64_t array = block < of_inputs ? kInputs : kTargets,
                number = block - (array == kTargets ? of_inputs : 0);
  const int64_t bytes = std::ssize(mapping_->array(array)), begin = number * kBlockBytes;
  if (number % kAhead == 0)
    mapping_->read_ahead(array, begin, std::min(begin + 2 * kAhead * kBlockBytes, bytes));
  if (mapping_->first_damaged(array, begin, std::min(begin + kBlockBytes, bytes)))
    damage = damage_text(array, number);
  ++block;
  return true;
}

}  // namespace lockstep
