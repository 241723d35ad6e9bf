// The calls into the HDF5 library, under one lock.
#include "hdf5/file.h"

#include <fmt/format.h>
#include <hdf5.h>

#include <algorithm>
#include <array>
#include <optional>
#include <system_error>
#include <utility>

#include "hdf5/element_types.h"
#include "hdf5/library.h"
#include "hdf5/sealed_file.h"
#include "hdf5/storage.h"
#include "hdf5/write_driver.h"

namespace lockstep {

namespace {

constexpr const char* kDTypeAttribute = "dtype";

Handle space_of(const Shape& shape) {
  std::array<hsize_t, Shape::kMaxRank> extents{};
  std::ranges::copy(shape.extents(), extents.begin());
  return {H5Screate_simple(shape.rank(), extents.data(), nullptr), H5Sclose};
}

std::string parent_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == 0 ? "/" : path.substr(0, slash);
}

}  // namespace

struct Hdf5File::Impl {
  std::string path;
  ErrorKind kind;
  std::optional<WriteDriver> driver;  // of a created file; outlives `file`
  Handle file{-1, H5Fclose};
  Handle access{-1, H5Pclose};  // of objects of a file that is read
  bool follow = false;
  mutable std::string outside;  // the file that the newest link out of this one names

  Impl(std::string file_path, ErrorKind error_kind) : path(std::move(file_path)), kind(error_kind) {}

  [[noreturn]] void fail_reading(const std::string& object, const std::string& rule) const {
    fail(kind, fmt::format("{}: {}: {}", path, object, rule));
  }

  // Reports what the system said, when it said something, before what HDF5 makes of it.
  [[noreturn]] void fail_writing(const std::string& object) const {
    const std::string reason =
        driver && driver->error() != 0 ? std::generic_category().message(driver->error()) : deepest_reason();
    fail(kind, fmt::format("{}: {}: cannot write: {}", path, object, reason));
  }

  void require_written(bool ok, const std::string& object) const {
    if (!ok || driver->error() != 0) fail_writing(object);
  }

  int64_t allocate(const std::string& object, const Handle& type, const Shape& shape);

  void require_path(const std::string& object) const {
    const bool plain = object.starts_with('/') && object.find("//") == std::string::npos &&
                       (object.size() == 1 || !object.ends_with('/')) &&
                       (object + "/").find("/./") == std::string::npos &&
                       object.find('\0') == std::string::npos;
    if (!plain) fail(kind, fmt::format("{}: object path \"{}\": must be /name/name...", path, object));
  }

  bool exists(const std::string& object) const {
    require_path(object);
    for (size_t slash = object.find('/', 1); object.size() > 1; slash = object.find('/', slash + 1)) {
      if (H5Lexists(file, object.substr(0, slash).c_str(), link_access()) <= 0) return false;
      if (slash == std::string::npos) break;
    }
    return true;
  }

  hid_t link_access() const { return access.valid() ? static_cast<hid_t>(access) : H5P_DEFAULT; }

  static herr_t traverse(const char*, const char*, const char* child_file, const char*, unsigned*, hid_t,
                         void* impl) noexcept {
    const auto* self = static_cast<const Impl*>(impl);
    self->outside = child_file;
    return self->follow ? 0 : -1;
  }

  [[noreturn]] void fail_opening(const std::string& object) const {
    if (outside.empty()) fail_reading(object, "cannot open: " + deepest_reason());
    if (follow) fail_reading(object, fmt::format("a link to {}: cannot open: {}", outside, deepest_reason()));
    fail_reading(
        object,
        fmt::format("a link to another file, {}: data.follow = true (prepare: --follow) allows it", outside));
  }

  Handle open_object(const std::string& object) const {
    outside.clear();
    if (!exists(object)) {
      if (!outside.empty()) fail_opening(object);
      fail_reading(object, "no such object");
    }
    Handle handle(H5Oopen(file, object.c_str(), link_access()), H5Oclose);
    if (!handle.valid()) fail_opening(object);
    return handle;
  }

  Handle open_dataset(const std::string& object) const {
    if (H5Iget_type(open_object(object)) != H5I_DATASET) fail_reading(object, "not a data set");
    // As a data set: names of other files are looked up by the access properties.
    Handle handle(H5Dopen2(file, object.c_str(), link_access()), H5Dclose);
    if (!handle.valid()) fail_opening(object);
    return handle;
  }

  // Refused where its values lie in other files, unless `follow`: those who follow have inspected it.
  Handle open_readable(const std::string& object) const {
    Handle dataset = open_dataset(object);
    if (!follow) inspect_storage(dataset, access, path + ": " + object, kind, false);
    return dataset;
  }

  // Properties of a new object. Without times: the same content gives the same bytes, whenever it is written.
  Handle creation_list(hid_t property_class) const {
    Handle list(H5Pcreate(property_class), H5Pclose);
    if (!list.valid() || H5Pset_obj_track_times(list, false) < 0) fail_writing("/");
    return list;
  }

  void create_group(const std::string& object) const {
    if (exists(object)) return;
    create_group(parent_of(object));
    const Handle creation = creation_list(H5P_GROUP_CREATE);
    Handle group(H5Gcreate2(file, object.c_str(), H5P_DEFAULT, creation, H5P_DEFAULT), H5Gclose);
    require_written(group.valid() && group.close(), object);
  }

  void create_dataset(const std::string& object, hid_t type, hid_t space, const void* values,
                      bool empty) const {
    require_path(object);
    create_group(parent_of(object));
    const Handle creation = creation_list(H5P_DATASET_CREATE);
    Handle dataset(H5Dcreate2(file, object.c_str(), type, space, H5P_DEFAULT, creation, H5P_DEFAULT),
                   H5Dclose);
    require_written(dataset.valid(), object);
    require_written(empty || H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0, object);
    require_written(dataset.close(), object);
  }

  void require_text(const std::string& object, const std::string& text) const {
    if (text.find('\0') != std::string::npos)
      fail(kind, fmt::format("{}: {}: text holds a NUL byte", path, object));
  }

  void write_attribute(const std::string& object, const std::string& name, hid_t type,
                       const void* value) const {
    const std::string where = object + " @" + name;
    const Handle owner = open_object(object);
    const Handle space(H5Screate(H5S_SCALAR), H5Sclose);
    Handle attribute(H5Acreate2(owner, name.c_str(), type, space, H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
    require_written(attribute.valid() && H5Awrite(attribute, type, value) >= 0 && attribute.close(), where);
  }

  // The texts of a data set or attribute, in variable or fixed length, read by `read(type, buffer)`.
  template <class Read>
  std::vector<std::string> texts(const std::string& where, hid_t type, hid_t space, Read&& read) const {
    const hssize_t count = H5Sget_simple_extent_npoints(space);
    if (count < 1) fail_reading(where, "holds no text");
    std::vector<std::string> result(static_cast<size_t>(count));
    if (H5Tis_variable_str(type) > 0) {
      std::vector<char*> pointers(result.size(), nullptr);
      const bool got = read(type, static_cast<void*>(pointers.data())) >= 0;
      const std::string reason = got ? "" : deepest_reason();
      for (size_t i = 0; i < result.size(); ++i) {
        if (got && pointers[i] != nullptr) result[i] = pointers[i];
        H5free_memory(pointers[i]);
      }
      if (!got) fail_reading(where, "cannot read: " + reason);
      return result;
    }
    const size_t size = H5Tget_size(type);
    std::string all(size * result.size(), '\0');
    if (read(type, static_cast<void*>(all.data())) < 0)
      fail_reading(where, "cannot read: " + deepest_reason());
    const char padding = H5Tget_strpad(type) == H5T_STR_SPACEPAD ? ' ' : '\0';
    for (size_t i = 0; i < result.size(); ++i) {
      std::string& text = result[i];
      text = all.substr(i * size, size);
      if (H5Tget_strpad(type) == H5T_STR_NULLTERM) text.resize(std::min(text.find('\0'), text.size()));
      text.resize(text.find_last_not_of(padding) + 1);
    }
    return result;
  }

  template <class Read>
  std::string one_text(const std::string& where, hid_t type, hid_t space, Read&& read) const {
    if (H5Sget_simple_extent_npoints(space) != 1) fail_reading(where, "not a single text");
    return texts(where, type, space, read).front();
  }

  Hdf5Attribute read_attribute(hid_t owner, const std::string& object, const std::string& name) const {
    const std::string where = object + " @" + name;
    const Handle attribute(H5Aopen(owner, name.c_str(), H5P_DEFAULT), H5Aclose);
    if (!attribute.valid()) fail_reading(where, "no such attribute");
    const Handle type(H5Aget_type(attribute), H5Tclose);
    const Handle space(H5Aget_space(attribute), H5Sclose);
    if (!type.valid() || !space.valid()) fail_reading(where, "cannot read: " + deepest_reason());
    const auto read_into = [&](hid_t memory_type, void* value) {
      return H5Aread(attribute, memory_type, value);
    };
    const H5T_class_t type_class = H5Tget_class(type);
    if (type_class == H5T_STRING) return one_text(where, type, space, read_into);
    if (H5Sget_simple_extent_npoints(space) != 1) fail_reading(where, "not a single value");
    if (type_class == H5T_FLOAT) {
      double value = 0.0;
      if (read_into(H5T_NATIVE_DOUBLE, &value) < 0) fail_reading(where, "cannot read: " + deepest_reason());
      return value;
    }
    if (type_class == H5T_INTEGER || type_class == H5T_ENUM) {  // h5py stores booleans as an enumeration
      int64_t value = 0;
      if (read_into(H5T_NATIVE_INT64, &value) < 0) fail_reading(where, "cannot read: " + deepest_reason());
      return value;
    }
    fail_reading(where, "neither a number nor text");
  }

  Hdf5Attribute read_attribute(const std::string& object, const std::string& name) const {
    return read_attribute(open_object(object), object, name);
  }

  void require_readable(const Hdf5Entry& entry, DType dtype) const {
    if (entry.kind != Hdf5Entry::Kind::kArray) fail_reading(entry.path, "not an array of numbers");
    if ((entry.dtype == DType::kBF16) != (dtype == DType::kBF16)) {
      fail_reading(entry.path,
                   fmt::format("holds {}: cannot be read as {}", name_of(entry.dtype), name_of(dtype)));
    }
  }

  bool stores_bf16(hid_t dataset, const std::string& object) const {
    if (H5Aexists(dataset, kDTypeAttribute) <= 0) return false;
    const Hdf5Attribute value = read_attribute(dataset, object, kDTypeAttribute);
    const std::string* text = std::get_if<std::string>(&value);
    return text != nullptr && *text == name_of(DType::kBF16);
  }

  Hdf5Entry describe(const std::string& object) const {
    Hdf5Entry entry;
    entry.path = object;
    const H5I_type_t object_type = H5Iget_type(open_object(object));
    if (object_type == H5I_GROUP) {
      entry.kind = Hdf5Entry::Kind::kGroup;
      return entry;
    }
    if (object_type != H5I_DATASET) fail_reading(object, "neither a group nor a data set");
    const Handle handle = open_dataset(object);
    const Handle type(H5Dget_type(handle), H5Tclose);
    const Handle space(H5Dget_space(handle), H5Sclose);
    if (!type.valid() || !space.valid()) fail_reading(object, "cannot read: " + deepest_reason());
    if (H5Tget_class(type) == H5T_STRING) {
      entry.kind = Hdf5Entry::Kind::kText;
      return entry;
    }
    const std::optional<DType> dtype = dtype_of_type(type);
    if (!dtype)
      fail_reading(object, "elements of a type that is not supported (integers and floats to 64 bits are)");
    entry.dtype = stores_bf16(handle, object) ? DType::kBF16 : *dtype;
    const int rank = H5Sget_simple_extent_ndims(space);
    if (H5Sget_simple_extent_type(space) == H5S_NULL)
      fail_reading(object, "a null data space, without elements");
    if (rank < 0 || rank > Shape::kMaxRank) {
      fail_reading(object, fmt::format("rank {}: at most {} is supported", rank, Shape::kMaxRank));
    }
    std::array<hsize_t, Shape::kMaxRank> extents{};
    H5Sget_simple_extent_dims(space, extents.data(), nullptr);
    for (int axis = 0; axis < rank; ++axis) {
      entry.shape.push_back(static_cast<int64_t>(extents[static_cast<size_t>(axis)]));
    }
    return entry;
  }
};

Hdf5File::Hdf5File(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Hdf5File::Hdf5File(Hdf5File&&) noexcept = default;
Hdf5File& Hdf5File::operator=(Hdf5File&& other) noexcept {
  const LibraryLock lock;
  std::swap(impl_, other.impl_);
  return *this;
}

Hdf5File::~Hdf5File() {
  if (!impl_) return;
  const LibraryLock lock;
  impl_.reset();
}

Hdf5File Hdf5File::create(const std::string& path, ErrorKind kind, int64_t user_block, int64_t alignment) {
  const LibraryLock lock;
  auto impl = std::make_unique<Impl>(path, kind);
  impl->driver.emplace(path);
  if (const int error = impl->driver->error(); error != 0) {
    fail(kind, fmt::format("{}: cannot create: {}", path, std::generic_category().message(error)));
  }
  const Handle creation = impl->creation_list(H5P_FILE_CREATE);
  const Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  const bool prepared = access.valid() && H5Pset_userblock(creation, static_cast<hsize_t>(user_block)) >= 0 &&
                        H5Pset_alignment(access, 1, static_cast<hsize_t>(alignment)) >= 0 &&
                        H5Pset_libver_bounds(access, H5F_LIBVER_LATEST, H5F_LIBVER_LATEST) >= 0 &&
                        H5Pset_fclose_degree(access, H5F_CLOSE_STRONG) >= 0 &&
                        impl->driver->install(access) >= 0;
  impl->require_written(prepared, "/");
  impl->file = Handle(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, creation, access), H5Fclose);
  impl->require_written(impl->file.valid(), "/");
  return Hdf5File(std::move(impl));
}

Hdf5File Hdf5File::open(const std::string& path, ErrorKind kind, bool follow) {
  const LibraryLock lock;
  auto impl = std::make_unique<Impl>(path, kind);
  impl->follow = follow;
  const Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  // No lock on the file: several workers read it, and some network file systems have no locks.
  const bool prepared = access.valid() && H5Pset_fclose_degree(access, H5F_CLOSE_STRONG) >= 0 &&
                        H5Pset_file_locking(access, false, true) >= 0;
  if (prepared) impl->file = Handle(H5Fopen(path.c_str(), H5F_ACC_RDONLY, access), H5Fclose);
  if (!impl->file.valid()) fail(kind, fmt::format("{}: cannot open as HDF5: {}", path, deepest_reason()));
  impl->access = data_access(Impl::traverse, impl.get());
  if (!impl->access.valid()) fail(kind, fmt::format("{}: cannot open as HDF5: {}", path, deepest_reason()));
  return Hdf5File(std::move(impl));
}

void Hdf5File::close() {
  const LibraryLock lock;
  const bool closed = impl_->file.close();
  if (impl_->driver) {
    impl_->driver->close();
    impl_->require_written(closed, "/");
  } else if (!closed) {
    fail(impl_->kind, fmt::format("{}: cannot close: {}", impl_->path, deepest_reason()));
  }
}

void Hdf5File::create_group(const std::string& path) {
  const LibraryLock lock;
  impl_->create_group(path);
}

void Hdf5File::write(const std::string& path, DType dtype, const Shape& shape, const void* values) {
  const LibraryLock lock;
  const Handle type = storage_type(dtype);
  const Handle space = space_of(shape);
  impl_->require_written(type.valid() && space.valid(), path);
  impl_->create_dataset(path, type, space, values, shape.elements() == 0);
  if (dtype == DType::kBF16) {
    const std::string text(name_of(dtype));
    const char* pointer = text.c_str();
    impl_->write_attribute(path, kDTypeAttribute, text_type(), &pointer);
  }
}

int64_t Hdf5File::allocate(const std::string& path, DType dtype, const Shape& shape) {
  const LibraryLock lock;
  return impl_->allocate(path, storage_type(dtype), shape);
}

int64_t Hdf5File::allocate_unsigned(const std::string& path, int bytes, const Shape& shape) {
  const LibraryLock lock;
  return impl_->allocate(path, unsigned_type(bytes), shape);
}

int64_t Hdf5File::Impl::allocate(const std::string& object, const Handle& type, const Shape& shape) {
  require_path(object);
  const Handle space = space_of(shape);
  const Handle creation = creation_list(H5P_DATASET_CREATE);
  const bool prepared = type.valid() && space.valid() && H5Pset_layout(creation, H5D_CONTIGUOUS) >= 0 &&
                        H5Pset_alloc_time(creation, H5D_ALLOC_TIME_EARLY) >= 0 &&
                        H5Pset_fill_time(creation, H5D_FILL_TIME_NEVER) >= 0;
  require_written(prepared, object);
  Handle dataset(H5Dcreate2(file, object.c_str(), type, space, H5P_DEFAULT, creation, H5P_DEFAULT), H5Dclose);
  require_written(dataset.valid(), object);
  const haddr_t offset = H5Dget_offset(dataset);
  require_written(offset != HADDR_UNDEF && dataset.close(), object);
  return static_cast<int64_t>(offset);
}

void Hdf5File::write_text(const std::string& path, const std::string& text) {
  const LibraryLock lock;
  impl_->require_text(path, text);
  const Handle space(H5Screate(H5S_SCALAR), H5Sclose);
  const char* pointer = text.c_str();
  impl_->create_dataset(path, text_type(), space, &pointer, false);
}

void Hdf5File::write_attribute(const std::string& object, const std::string& name, int64_t value) {
  const LibraryLock lock;
  impl_->write_attribute(object, name, H5T_STD_I64LE, &value);
}

void Hdf5File::write_attribute(const std::string& object, const std::string& name, double value) {
  const LibraryLock lock;
  impl_->write_attribute(object, name, H5T_IEEE_F64LE, &value);
}

void Hdf5File::write_attribute(const std::string& object, const std::string& name, const std::string& value) {
  const LibraryLock lock;
  impl_->require_text(object + " @" + name, value);
  const char* pointer = value.c_str();
  impl_->write_attribute(object, name, text_type(), &pointer);
}

bool Hdf5File::exists(const std::string& path) const {
  const LibraryLock lock;
  return impl_->exists(path);
}

std::vector<Hdf5Entry> Hdf5File::list(const std::string& group) const {
  const LibraryLock lock;
  const Handle handle = impl_->open_object(group);
  std::vector<std::string> names;
  const herr_t visited = H5Lvisit(
      handle, H5_INDEX_NAME, H5_ITER_INC,
      [](hid_t, const char* name, const H5L_info_t* info, void* result) noexcept -> herr_t {
        if (info->type == H5L_TYPE_HARD) static_cast<std::vector<std::string>*>(result)->emplace_back(name);
        return 0;
      },
      &names);
  if (visited < 0) impl_->fail_reading(group, "cannot list: " + deepest_reason());
  std::ranges::sort(names);
  std::vector<Hdf5Entry> entries;
  for (const std::string& name : names) {
    entries.push_back(impl_->describe(group == "/" ? group + name : group + "/" + name));
  }
  return entries;
}

Hdf5Entry Hdf5File::describe(const std::string& path) const {
  const LibraryLock lock;
  return impl_->describe(path);
}

Hdf5Storage Hdf5File::inspect(const std::string& path) const {
  const LibraryLock lock;
  const Handle dataset = impl_->open_dataset(path);
  Hdf5Storage storage =
      inspect_storage(dataset, impl_->access, impl_->path + ": " + path, impl_->kind, impl_->follow);
  storage.elsewhere = storage.elsewhere || !impl_->outside.empty();
  return storage;
}

void Hdf5File::read(const std::string& path, DType dtype, void* values) const {
  const LibraryLock lock;
  const Hdf5Entry entry = impl_->describe(path);
  impl_->require_readable(entry, dtype);
  if (entry.shape.elements() == 0) return;
  const Handle dataset = impl_->open_readable(path);
  const Handle type = storage_type(dtype);
  if (!type.valid() || H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) < 0) {
    impl_->fail_reading(path, "cannot read: " + deepest_reason());
  }
}

void Hdf5File::read_rows(const std::string& path, DType dtype, int64_t first, int64_t count,
                         void* values) const {
  const LibraryLock lock;
  const Hdf5Entry entry = impl_->describe(path);
  impl_->require_readable(entry, dtype);
  if (entry.shape.rank() < 1 || first < 0 || count < 0 || first > entry.shape[0] - count)
    impl_->fail_reading(path,
                        fmt::format("rows [{}, {}) of {}", first, first + count, entry.shape.to_string()));
  if (count == 0 || entry.shape.elements() == 0) return;
  const Handle dataset = impl_->open_readable(path);
  const Handle type = storage_type(dtype);
  std::array<hsize_t, Shape::kMaxRank> start{}, extents{};
  std::ranges::copy(entry.shape.extents(), extents.begin());
  start[0] = static_cast<hsize_t>(first);
  extents[0] = static_cast<hsize_t>(count);
  const Handle in_file(H5Dget_space(dataset), H5Sclose);
  const Handle in_memory(H5Screate_simple(entry.shape.rank(), extents.data(), nullptr), H5Sclose);
  if (!type.valid() || !in_file.valid() || !in_memory.valid() ||
      H5Sselect_hyperslab(in_file, H5S_SELECT_SET, start.data(), nullptr, extents.data(), nullptr) < 0 ||
      H5Dread(dataset, type, in_memory, in_file, H5P_DEFAULT, values) < 0) {
    impl_->fail_reading(path, "cannot read: " + deepest_reason());
  }
}

std::optional<int64_t> Hdf5File::offset(const std::string& path, DType dtype) const {
  const LibraryLock lock;
  const Handle dataset = impl_->open_dataset(path);
  const Handle type(H5Dget_type(dataset), H5Tclose), expected = storage_type(dtype);
  const Handle creation(H5Dget_create_plist(dataset), H5Pclose);
  if (!type.valid() || !expected.valid() || !creation.valid() || H5Pget_layout(creation) != H5D_CONTIGUOUS ||
      H5Pget_external_count(creation) != 0 || H5Tequal(type, expected) <= 0)
    return std::nullopt;
  const haddr_t offset = H5Dget_offset(dataset);
  return offset == HADDR_UNDEF ? std::nullopt : std::optional(static_cast<int64_t>(offset));
}

std::string Hdf5File::read_text(const std::string& path) const {
  const LibraryLock lock;
  const Handle dataset = impl_->open_readable(path);
  const Handle type(H5Dget_type(dataset), H5Tclose);
  const Handle space(H5Dget_space(dataset), H5Sclose);
  if (!type.valid() || !space.valid()) impl_->fail_reading(path, "cannot read: " + deepest_reason());
  if (H5Tget_class(type) != H5T_STRING) impl_->fail_reading(path, "not text");
  return impl_->one_text(path, type, space, [&](hid_t memory_type, void* value) {
    return H5Dread(dataset, memory_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, value);
  });
}

bool Hdf5File::has_attribute(const std::string& object, const std::string& name) const {
  const LibraryLock lock;
  return H5Aexists(impl_->open_object(object), name.c_str()) > 0;
}

std::map<std::string, Hdf5Attribute> Hdf5File::attributes(const std::string& object) const {
  const LibraryLock lock;
  const Handle owner = impl_->open_object(object);
  std::vector<std::string> names;
  const herr_t iterated = H5Aiterate2(
      owner, H5_INDEX_NAME, H5_ITER_INC, nullptr,
      [](hid_t, const char* name, const H5A_info_t*, void* result) noexcept -> herr_t {
        static_cast<std::vector<std::string>*>(result)->emplace_back(name);
        return 0;
      },
      &names);
  if (iterated < 0) impl_->fail_reading(object, "cannot list attributes: " + deepest_reason());
  std::map<std::string, Hdf5Attribute> result;
  for (const std::string& name : names) result.emplace(name, impl_->read_attribute(owner, object, name));
  return result;
}

int64_t Hdf5File::read_attribute_integer(const std::string& object, const std::string& name) const {
  const LibraryLock lock;
  const Hdf5Attribute value = impl_->read_attribute(object, name);
  if (const auto* integer = std::get_if<int64_t>(&value)) return *integer;
  impl_->fail_reading(object + " @" + name, "not an integer");
}

double Hdf5File::read_attribute_real(const std::string& object, const std::string& name) const {
  const LibraryLock lock;
  const Hdf5Attribute value = impl_->read_attribute(object, name);
  if (const auto* real = std::get_if<double>(&value)) return *real;
  if (const auto* integer = std::get_if<int64_t>(&value)) return static_cast<double>(*integer);
  impl_->fail_reading(object + " @" + name, "not a number");
}

std::vector<std::string> Hdf5File::read_attribute_texts(const std::string& object,
                                                        const std::string& name) const {
  const LibraryLock lock;
  const std::string where = object + " @" + name;
  const Handle owner = impl_->open_object(object);
  const Handle attribute(H5Aopen(owner, name.c_str(), H5P_DEFAULT), H5Aclose);
  if (!attribute.valid()) impl_->fail_reading(where, "no such attribute");
  const Handle type(H5Aget_type(attribute), H5Tclose);
  const Handle space(H5Aget_space(attribute), H5Sclose);
  if (!type.valid() || !space.valid() || H5Tget_class(type) != H5T_STRING)
    impl_->fail_reading(where, "not text");
  return impl_->texts(where, type, space,
                      [&](hid_t memory_type, void* value) { return H5Aread(attribute, memory_type, value); });
}

std::string Hdf5File::read_attribute_text(const std::string& object, const std::string& name) const {
  const LibraryLock lock;
  const Hdf5Attribute value = impl_->read_attribute(object, name);
  if (const auto* text = std::get_if<std::string>(&value)) return *text;
  impl_->fail_reading(object + " @" + name, "not text");
}

}  // namespace lockstep
