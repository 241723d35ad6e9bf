// Hdf5File: opening and closing files, and finding the objects in them.
#include "lockstep/hdf5/file.h"

#include <fmt/format.h>

#include <system_error>
#include <utility>

#include "lockstep/hdf5/child.h"
#include "lockstep/hdf5/file_impl.h"
#include "lockstep/hdf5/sealed_file.h"
#include "lockstep/hdf5/storage.h"

namespace lockstep {

void Hdf5File::Impl::fail_reading(const std::string& object, const std::string& rule) const {
  fail(kind, fmt::format("{}: {}: {}", path, object, rule));
}

void Hdf5File::Impl::require_path(const std::string& object) const {
  const bool plain = object.starts_with('/') && object.find("//") == std::string::npos &&
                     (object.size() == 1 || !object.ends_with('/')) &&
                     (object + "/").find("/./") == std::string::npos &&
                     object.find('\0') == std::string::npos;
  if (!plain) fail(kind, fmt::format("{}: object path \"{}\": must be /name/name...", path, object));
}

bool Hdf5File::Impl::exists(const std::string& object) const {
  require_path(object);
  for (size_t slash = object.find('/', 1); object.size() > 1; slash = object.find('/', slash + 1)) {
    if (H5Lexists(file, object.substr(0, slash).c_str(), link_access()) <= 0) return false;
    if (slash == std::string::npos) break;
  }
  return true;
}

herr_t Hdf5File::Impl::traverse(const char*, const char*, const char* child_file, const char*, unsigned*,
                                hid_t, void* impl) noexcept {
  const auto* self = static_cast<const Impl*>(impl);
  self->outside = child_file;
  return self->follow ? 0 : -1;
}

void Hdf5File::Impl::fail_opening(const std::string& object) const {
  if (outside.empty()) fail_reading(object, "cannot open: " + deepest_reason());
  if (follow) fail_reading(object, fmt::format("a link to {}: cannot open: {}", outside, deepest_reason()));
  fail_reading(
      object,
      fmt::format("a link to another file, {}: data.follow = true (prepare: --follow) allows it", outside));
}

Handle Hdf5File::Impl::open_object(const std::string& object) const {
  outside.clear();
  if (!exists(object)) {
    if (!outside.empty()) fail_opening(object);
    fail_reading(object, "no such object");
  }
  Handle handle(H5Oopen(file, object.c_str(), link_access()), H5Oclose);
  if (!handle.valid()) fail_opening(object);
  return handle;
}

Handle Hdf5File::Impl::open_dataset(const std::string& object) const {
  if (H5Iget_type(open_object(object)) != H5I_DATASET) fail_reading(object, "not a data set");
  // As a data set: names of other files are looked up by the access properties.
  Handle handle(H5Dopen2(file, object.c_str(), link_access()), H5Dclose);
  if (!handle.valid()) fail_opening(object);
  return handle;
}

Handle Hdf5File::Impl::open_readable(const std::string& object) const {
  Handle dataset = open_dataset(object);
  if (sealed) {
    const Handle creation(H5Dget_create_plist(dataset), H5Pclose);
    if (!creation.valid() || H5Pget_layout(creation) == H5D_CHUNKED)
      throw DamagedFile(kind, fmt::format("{}: {}: damaged: in chunks, in a sealed file", path, object));
  }
  if (!follow) inspect_storage(dataset, access, path + ": " + object, kind, false);
  return dataset;
}

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

Hdf5File Hdf5File::open_sealed(const std::string& path, ErrorKind kind) {
  constexpr int64_t kSeconds = 5;
  read_in_child(path, kind, kSeconds, [&] {
    open(path, kind).touch_everything();
    return std::string();
  });
  Hdf5File file = open(path, kind);
  file.impl_->sealed = true;
  const LibraryLock lock;
  file.impl_->names("/");  // or the child has not seen what is looked up by name
  return file;
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

bool Hdf5File::exists(const std::string& path) const {
  const LibraryLock lock;
  return impl_->exists(path);
}

Hdf5Storage Hdf5File::inspect(const std::string& path) const {
  const LibraryLock lock;
  const Handle dataset = impl_->open_dataset(path);
  Hdf5Storage storage =
      inspect_storage(dataset, impl_->access, impl_->path + ": " + path, impl_->kind, impl_->follow);
  storage.elsewhere = storage.elsewhere || !impl_->outside.empty();
  return storage;
}

}  // namespace lockstep
