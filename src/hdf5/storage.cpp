// Reading the creation properties of data sets.
#include "lockstep/hdf5/storage.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <array>
#include <filesystem>
#include <limits>
#include <set>
#include <utility>
#include <vector>

#include "lockstep/core/shape.h"

namespace lockstep {

namespace {

// Virtual data sets over virtual data sets: deeper than anybody builds, and an end for those that name each
// other.
constexpr int kMostLevels = 8;
constexpr const char* kRemedy = "data.follow = true (prepare: --follow) allows it";

// Filters that are registered with the HDF Group, and that data sets meet; by their numbers, since files need
// not hold the names.
constexpr std::array<std::pair<H5Z_filter_t, const char*>, 11> kFilters{{{4, "szip"},
                                                                         {307, "bzip2"},
                                                                         {32000, "lzf"},
                                                                         {32001, "blosc"},
                                                                         {32004, "lz4"},
                                                                         {32008, "bitshuffle"},
                                                                         {32013, "zfp"},
                                                                         {32015, "zstd"},
                                                                         {32017, "sz"},
                                                                         {32018, "fpzip"},
                                                                         {32026, "blosc2"}}};

std::vector<hsize_t> extents_of(hid_t space) {
  const int rank = H5Sget_simple_extent_ndims(space);
  std::vector<hsize_t> extents(static_cast<size_t>(rank < 0 ? 0 : rank));
  if (rank > 0) H5Sget_simple_extent_dims(space, extents.data(), nullptr);
  return extents;
}

std::string text_of(const std::vector<hsize_t>& extents) {
  return fmt::format("({})", fmt::join(extents, ","));
}

// A name of any length: get(buffer, size) returns its length.
template <class Get>
std::string name_from(const Get& get) {
  const ssize_t length = get(nullptr, 0);
  if (length <= 0) return {};
  std::string name(static_cast<size_t>(length) + 1, '\0');
  get(name.data(), name.size());
  name.resize(static_cast<size_t>(length));
  return name;
}

// Size of a regular file, -1 when there is none: a pipe would keep the reader waiting.
int64_t regular_size(const std::string& path) {
  struct stat status {};
  return stat(path.c_str(), &status) == 0 && S_ISREG(status.st_mode) ? status.st_size : -1;
}

class Inspection {
 public:
  // `where`: the data set that is read; `source`: the one that is looked at for it, "" when it is the same.
  Inspection(std::string where, std::string source, ErrorKind kind, bool follow)
      : where_(std::move(where)), source_(std::move(source)), kind_(kind), follow_(follow) {}

  Hdf5Storage of(hid_t dataset, hid_t access, int level) {
    const Handle properties(H5Dget_create_plist(dataset), H5Pclose);
    if (!properties.valid()) refuse("cannot read: " + deepest_reason());
    require_filters(properties);
    Hdf5Storage storage;
    const H5D_layout_t layout = H5Pget_layout(properties);
    if (layout == H5D_VIRTUAL) {
      require_sources(dataset, properties, access, level, storage);
      return storage;
    }
    const Handle space(H5Dget_space(dataset), H5Sclose);
    const hssize_t elements = space.valid() ? H5Sget_simple_extent_npoints(space) : 0;
    if (elements <= 0) return storage;
    if (layout == H5D_CHUNKED) {
      inspect_chunks(dataset, properties, space, storage);
    } else if (H5Pget_external_count(properties) > 0) {
      require_external_files(dataset, properties, elements);
      storage.elsewhere = true;
    } else if (layout == H5D_CONTIGUOUS && H5Dget_storage_size(dataset) == 0) {
      refuse_unwritten(space);
    }
    return storage;
  }

 private:
  [[noreturn]] void refuse(const std::string& rule) const {
    fail(kind_, fmt::format("{}: {}{}{}", where_, source_, source_.empty() ? "" : ": ", rule));
  }

  [[noreturn]] void refuse_unwritten(hid_t space) const {
    refuse(fmt::format("nothing was ever written into its shape {}", text_of(extents_of(space))));
  }

  void require_filters(hid_t properties) const {
    const int count = H5Pget_nfilters(properties);
    for (int i = 0; i < count; ++i) {
      unsigned flags = 0, config = 0;
      size_t values = 0;
      std::array<char, 64> stored{};
      const H5Z_filter_t filter = H5Pget_filter2(properties, static_cast<unsigned>(i), &flags, &values,
                                                 nullptr, stored.size() - 1, stored.data(), &config);
      if (filter < 0) refuse("cannot read its filters: " + deepest_reason());
      if (H5Zfilter_avail(filter) > 0) continue;
      std::string name = stored.data();
      for (const auto& [number, known] : kFilters) {
        if (number == filter) name = known;
      }
      refuse(fmt::format(
          "is compressed with filter {}{}, which the HDF5 library here does not have: write it again with "
          "gzip (h5py: compression=\"gzip\"), or name the folder of the filter's plugin in HDF5_PLUGIN_PATH",
          filter, name.empty() ? "" : fmt::format(" ({})", name)));
    }
  }

  void inspect_chunks(hid_t dataset, hid_t properties, hid_t space, Hdf5Storage& storage) const {
    const std::vector<hsize_t> extents = extents_of(space);
    std::vector<hsize_t> chunk(extents.size());
    const Handle type(H5Dget_type(dataset), H5Tclose);
    if (!type.valid() || H5Pget_chunk(properties, static_cast<int>(chunk.size()), chunk.data()) < 0)
      refuse("cannot read: " + deepest_reason());
    double chunks = 1.0, bytes = static_cast<double>(H5Tget_size(type));
    for (size_t axis = 0; axis < extents.size(); ++axis) {
      chunks *= static_cast<double>(extents[axis] / chunk[axis] + (extents[axis] % chunk[axis] != 0 ? 1 : 0));
      bytes *= static_cast<double>(chunk[axis]);
    }
    storage.chunk_bytes = bytes < 9e18 ? static_cast<int64_t>(bytes) : std::numeric_limits<int64_t>::max();
    hsize_t written = 0;
    if (H5Dget_num_chunks(dataset, space, &written) < 0) refuse("cannot read: " + deepest_reason());
    if (written == 0) refuse_unwritten(space);
    storage.partly_unwritten = static_cast<double>(written) < chunks;
  }

  // Raw data in files of their own. HDF5 takes what one that is too short lacks for zeros.
  void require_external_files(hid_t dataset, hid_t properties, hssize_t elements) const {
    const Handle type(H5Dget_type(dataset), H5Tclose);
    auto missing = static_cast<double>(elements) * static_cast<double>(H5Tget_size(type));
    const int count = H5Pget_external_count(properties);
    for (int i = 0; i < count && missing > 0.0; ++i) {
      std::array<char, 4096> name{};
      off_t offset = 0;
      hsize_t size = 0;
      if (H5Pget_external(properties, static_cast<unsigned>(i), name.size() - 1, name.data(), &offset,
                          &size) < 0)
        refuse("cannot read: " + deepest_reason());
      require_following(name.data());
      const std::string path = beside(dataset, name.data());
      const double wanted = size == H5F_UNLIMITED ? missing : std::min(missing, static_cast<double>(size));
      const int64_t bytes = regular_size(path);
      if (bytes < 0) refuse(fmt::format("its values lie in {}, which is not there", path));
      if (static_cast<double>(bytes - offset) < wanted) {
        refuse(fmt::format(
            "its values lie in {}, which is too short: {} bytes, {:.0f} are taken from byte {} on", path,
            bytes, wanted, offset));
      }
      missing -= wanted;
    }
  }

  void require_following(const std::string& file) const {
    if (!follow_) refuse(fmt::format("its values lie in another file, {}: {}", file, kRemedy));
  }

  static std::string own_path(hid_t object) {
    return name_from([&](char* buffer, size_t size) { return H5Fget_name(object, buffer, size); });
  }

  static std::string beside(hid_t object, const std::string& name) {
    const std::filesystem::path path(name);
    return path.is_absolute() ? name
                              : (std::filesystem::path(own_path(object)).parent_path() / path).string();
  }

  // Every source of a virtual data set is there and holds what is taken from it, and every element has a
  // source.
  void require_sources(hid_t dataset, hid_t properties, hid_t access, int level, Hdf5Storage& storage) {
    if (level == kMostLevels)
      refuse(fmt::format("virtual data sets over each other, more than {} deep", kMostLevels));
    size_t count = 0;
    if (H5Pget_virtual_count(properties, &count) < 0) refuse("cannot read: " + deepest_reason());
    double covered = 0.0;
    bool unlimited = false;
    for (size_t i = 0; i < count; ++i) {
      const std::string file = name_from(
          [&](char* buffer, size_t size) { return H5Pget_virtual_filename(properties, i, buffer, size); });
      const std::string object = name_from(
          [&](char* buffer, size_t size) { return H5Pget_virtual_dsetname(properties, i, buffer, size); });
      const Handle taken(H5Pget_virtual_srcspace(properties, i), H5Sclose);
      const Handle given(H5Pget_virtual_vspace(properties, i), H5Sclose);
      if (!taken.valid() || !given.valid()) refuse("cannot read: " + deepest_reason());
      if (file.find('%') != std::string::npos || object.find('%') != std::string::npos)
        refuse(fmt::format("takes values from {} of {}: sources with numbers for names are not supported",
                           object, file));
      if (file != ".") {
        require_following(file);
        storage.elsewhere = true;
      }
      const hssize_t points = H5Sget_select_npoints(given);
      unlimited = unlimited || points < 0 || without_end(given);
      covered += static_cast<double>(points);
      require_source(dataset, access, file, object, taken, points, level, storage);
    }
    const Handle space(H5Dget_space(dataset), H5Sclose);
    const auto elements = static_cast<double>(H5Sget_simple_extent_npoints(space));
    if (!unlimited && covered < elements) {
      refuse(fmt::format("{:.0f} of its {:.0f} values have no source: they would be read as fill values",
                         elements - covered, elements));
    }
  }

  // Of a selection without an end HDF5 says a block or a count without one.
  static bool without_end(hid_t space) {
    if (H5Sget_select_type(space) != H5S_SEL_HYPERSLABS || H5Sis_regular_hyperslab(space) <= 0) return false;
    std::vector<hsize_t> start(extents_of(space).size()), stride(start), counts(start), block(start);
    if (H5Sget_regular_hyperslab(space, start.data(), stride.data(), counts.data(), block.data()) < 0)
      return false;
    for (size_t axis = 0; axis < start.size(); ++axis) {
      if (counts[axis] == H5S_UNLIMITED || block[axis] == H5S_UNLIMITED) return true;
    }
    return false;
  }

  // points: values taken, those of a selection without an end apart.
  void require_source(hid_t dataset, hid_t access, const std::string& file_name, const std::string& object,
                      hid_t taken, hssize_t points, int level, Hdf5Storage& storage) {
    const bool inside = file_name == ".";
    const std::string path = inside ? own_path(dataset) : beside(dataset, file_name);
    if (regular_size(path) < 0) refuse(fmt::format("takes values from {}, which is not there", path));
    const Handle own(H5Iget_file_id(dataset), H5Fclose);
    // As HDF5 will open it when it reads: a source that does not open then is silently left out.
    const Handle file_access(own.valid() ? H5Fget_access_plist(own) : -1, H5Pclose);
    const Handle other(
        inside || !file_access.valid() ? -1 : H5Fopen(path.c_str(), H5F_ACC_RDONLY, file_access), H5Fclose);
    const hid_t file = inside ? own : other;
    if (file < 0)
      refuse(fmt::format("takes values from {}, which cannot be opened: {}", path, deepest_reason()));
    const Handle source(H5Dopen2(file, object.c_str(), access), H5Dclose);
    if (!source.valid())
      refuse(fmt::format("takes values from {} of {}, which has no such data set", object, path));
    const Handle space(H5Dget_space(source), H5Sclose);
    const std::vector<hsize_t> extents = extents_of(space);
    std::vector<hsize_t> least(extents.size()), most(extents.size());
    bool fits = true;
    if (H5Sget_select_type(taken) == H5S_SEL_ALL) {  // of which the file keeps no extents
      fits = H5Sget_simple_extent_npoints(space) >= points;
    } else if (!without_end(taken)) {
      fits = extents_of(taken).size() == extents.size() &&
             H5Sget_select_bounds(taken, least.data(), most.data()) >= 0;
      for (size_t axis = 0; fits && axis < extents.size(); ++axis) fits = most[axis] < extents[axis];
    }
    if (!fits) {
      refuse(fmt::format("takes {} values from {} of {}, whose shape {} does not have them", points, object,
                         path, text_of(extents)));
    }
    if (!checked_.emplace(path, object).second) return;
    const Hdf5Storage inner = Inspection(where_, fmt::format("{} of {}", object, path), kind_, follow_)
                                  .of(source, access, level + 1);
    storage.partly_unwritten = storage.partly_unwritten || inner.partly_unwritten;
    storage.chunk_bytes = std::max(storage.chunk_bytes, inner.chunk_bytes);
  }

  std::string where_, source_;
  ErrorKind kind_;
  bool follow_;
  std::set<std::pair<std::string, std::string>> checked_;  // sources
};

}  // namespace

Handle data_access(H5L_elink_traverse_t traverse, void* traverse_data) {
  Handle access(H5Pcreate(H5P_DATASET_ACCESS), H5Pclose);
  const bool prepared = access.valid() && H5Pset_efile_prefix(access, "${ORIGIN}") >= 0 &&
                        H5Pset_virtual_prefix(access, "${ORIGIN}") >= 0 &&
                        H5Pset_elink_cb(access, traverse, traverse_data) >= 0;
  return prepared ? std::move(access) : Handle(-1, H5Pclose);
}

Hdf5Storage inspect_storage(hid_t dataset, hid_t access, const std::string& where, ErrorKind kind,
                            bool follow) {
  return Inspection(where, "", kind, follow).of(dataset, access, 0);
}

}  // namespace lockstep
