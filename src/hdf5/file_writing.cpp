// Hdf5File: making groups, arrays, texts and attributes.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <system_error>

#include "lockstep/hdf5/element_types.h"
#include "lockstep/hdf5/file_impl.h"

namespace lockstep {

namespace {

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

void Hdf5File::Impl::fail_writing(const std::string& object) const {
  const std::string reason =
      driver && driver->error() != 0 ? std::generic_category().message(driver->error()) : deepest_reason();
  fail(kind, fmt::format("{}: {}: cannot write: {}", path, object, reason));
}

void Hdf5File::Impl::require_written(bool ok, const std::string& object) const {
  if (!ok || driver->error() != 0) fail_writing(object);
}

Handle Hdf5File::Impl::creation_list(hid_t property_class) const {
  Handle list(H5Pcreate(property_class), H5Pclose);
  if (!list.valid() || H5Pset_obj_track_times(list, false) < 0) fail_writing("/");
  return list;
}

void Hdf5File::Impl::create_group(const std::string& object) const {
  if (exists(object)) return;
  create_group(parent_of(object));
  const Handle creation = creation_list(H5P_GROUP_CREATE);
  Handle group(H5Gcreate2(file, object.c_str(), H5P_DEFAULT, creation, H5P_DEFAULT), H5Gclose);
  require_written(group.valid() && group.close(), object);
}

void Hdf5File::Impl::create_dataset(const std::string& object, hid_t type, hid_t space, const void* values,
                                    bool empty) const {
  require_path(object);
  create_group(parent_of(object));
  const Handle creation = creation_list(H5P_DATASET_CREATE);
  Handle dataset(H5Dcreate2(file, object.c_str(), type, space, H5P_DEFAULT, creation, H5P_DEFAULT), H5Dclose);
  require_written(dataset.valid(), object);
  require_written(empty || H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0, object);
  require_written(dataset.close(), object);
}

void Hdf5File::Impl::require_text(const std::string& object, const std::string& text) const {
  if (text.find('\0') != std::string::npos)
    fail(kind, fmt::format("{}: {}: text holds a NUL byte", path, object));
}

void Hdf5File::Impl::write_attribute(const std::string& object, const std::string& name, hid_t type,
                                     const void* value) const {
  const std::string where = object + " @" + name;
  const Handle owner = open_object(object);
  const Handle space(H5Screate(H5S_SCALAR), H5Sclose);
  Handle attribute(H5Acreate2(owner, name.c_str(), type, space, H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
  require_written(attribute.valid() && H5Awrite(attribute, type, value) >= 0 && attribute.close(), where);
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

int64_t Hdf5File::Impl::allocate(const std::string& object, const Handle& type, const Shape& shape) const {
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

int64_t Hdf5File::allocate(const std::string& path, DType dtype, const Shape& shape) {
  const LibraryLock lock;
  return impl_->allocate(path, storage_type(dtype), shape);
}

int64_t Hdf5File::allocate_unsigned(const std::string& path, int bytes, const Shape& shape) {
  const LibraryLock lock;
  return impl_->allocate(path, unsigned_type(bytes), shape);
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

}  // namespace lockstep
