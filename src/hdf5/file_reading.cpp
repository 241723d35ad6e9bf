// Hdf5File: what objects hold.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <span>
#include <utility>
#include <variant>

#include "lockstep/hdf5/element_types.h"
#include "lockstep/hdf5/file_impl.h"

namespace lockstep {

std::vector<std::string> Hdf5File::Impl::texts(const std::string& where, hid_t type, hid_t space,
                                               const ReadTexts& read) const {
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
  if (read(type, static_cast<void*>(all.data())) < 0) fail_reading(where, "cannot read: " + deepest_reason());
  const char padding = H5Tget_strpad(type) == H5T_STR_SPACEPAD ? ' ' : '\0';
  for (size_t i = 0; i < result.size(); ++i) {
    std::string& text = result[i];
    text = all.substr(i * size, size);
    if (H5Tget_strpad(type) == H5T_STR_NULLTERM) text.resize(std::min(text.find('\0'), text.size()));
    text.resize(text.find_last_not_of(padding) + 1);
  }
  return result;
}

std::string Hdf5File::Impl::one_text(const std::string& where, hid_t type, hid_t space,
                                     const ReadTexts& read) const {
  if (H5Sget_simple_extent_npoints(space) != 1) fail_reading(where, "not a single text");
  return texts(where, type, space, read).front();
}

Hdf5Attribute Hdf5File::Impl::read_attribute(hid_t owner, const std::string& object,
                                             const std::string& name) const {
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

Hdf5Attribute Hdf5File::Impl::read_attribute(const std::string& object, const std::string& name) const {
  return read_attribute(open_object(object), object, name);
}

void Hdf5File::Impl::require_readable(const Hdf5Entry& entry, DType dtype) const {
  if (entry.kind != Hdf5Entry::Kind::kArray) fail_reading(entry.path, "not an array of numbers");
  if ((entry.dtype == DType::kBF16) != (dtype == DType::kBF16)) {
    fail_reading(entry.path,
                 fmt::format("holds {}: cannot be read as {}", name_of(entry.dtype), name_of(dtype)));
  }
}

bool Hdf5File::Impl::stores_bf16(hid_t dataset, const std::string& object) const {
  if (H5Aexists(dataset, kDTypeAttribute) <= 0) return false;
  const Hdf5Attribute value = read_attribute(dataset, object, kDTypeAttribute);
  const std::string* text = std::get_if<std::string>(&value);
  return text != nullptr && *text == name_of(DType::kBF16);
}

Hdf5Entry Hdf5File::Impl::describe(const std::string& object) const {
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
  auto bytes = static_cast<int64_t>(size_of(entry.dtype));
  const auto known = std::span(extents).first(static_cast<size_t>(rank));
  for (const hsize_t extent : known) {
    if (__builtin_mul_overflow(bytes, extent, &bytes) || !std::in_range<int64_t>(extent))
      fail_reading(object,
                   fmt::format("shape ({}): more elements than can be counted", fmt::join(known, ",")));
    entry.shape.push_back(static_cast<int64_t>(extent));
  }
  return entry;
}

std::vector<std::string> Hdf5File::Impl::names(const std::string& group) const {
  const Handle handle = open_object(group);
  std::vector<std::string> found;
  const herr_t visited = H5Lvisit(
      handle, H5_INDEX_NAME, H5_ITER_INC,
      [](hid_t, const char* name, const H5L_info_t* info, void* result) noexcept -> herr_t {
        if (info->type == H5L_TYPE_HARD) static_cast<std::vector<std::string>*>(result)->emplace_back(name);
        return 0;
      },
      &found);
  if (visited < 0) fail_reading(group, "cannot list: " + deepest_reason());
  std::ranges::sort(found);
  const std::string prefix = group == "/" ? group : group + "/";
  for (std::string& name : found) name.insert(0, prefix);
  return found;
}

std::vector<Hdf5Entry> Hdf5File::list(const std::string& group) const {
  const LibraryLock lock;
  std::vector<Hdf5Entry> entries;
  for (const std::string& name : impl_->names(group)) entries.push_back(impl_->describe(name));
  return entries;
}

Hdf5Entry Hdf5File::describe(const std::string& path) const {
  const LibraryLock lock;
  return impl_->describe(path);
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

std::string Hdf5File::Impl::read_text(const std::string& object) const {
  const Handle dataset = open_readable(object);
  const Handle type(H5Dget_type(dataset), H5Tclose);
  const Handle space(H5Dget_space(dataset), H5Sclose);
  if (!type.valid() || !space.valid()) fail_reading(object, "cannot read: " + deepest_reason());
  if (H5Tget_class(type) != H5T_STRING) fail_reading(object, "not text");
  return one_text(object, type, space, [&](hid_t memory_type, void* value) {
    return H5Dread(dataset, memory_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, value);
  });
}

std::string Hdf5File::read_text(const std::string& path) const {
  const LibraryLock lock;
  return impl_->read_text(path);
}

bool Hdf5File::has_attribute(const std::string& object, const std::string& name) const {
  const LibraryLock lock;
  return H5Aexists(impl_->open_object(object), name.c_str()) > 0;
}

std::vector<std::string> Hdf5File::Impl::attribute_names(hid_t owner, const std::string& object) const {
  std::vector<std::string> found;
  const herr_t iterated = H5Aiterate2(
      owner, H5_INDEX_NAME, H5_ITER_INC, nullptr,
      [](hid_t, const char* name, const H5A_info_t*, void* result) noexcept -> herr_t {
        static_cast<std::vector<std::string>*>(result)->emplace_back(name);
        return 0;
      },
      &found);
  if (iterated < 0) fail_reading(object, "cannot list attributes: " + deepest_reason());
  return found;
}

std::map<std::string, Hdf5Attribute> Hdf5File::attributes(const std::string& object) const {
  const LibraryLock lock;
  const Handle owner = impl_->open_object(object);
  std::map<std::string, Hdf5Attribute> result;
  for (const std::string& name : impl_->attribute_names(owner, object))
    result.emplace(name, impl_->read_attribute(owner, object, name));
  return result;
}

void Hdf5File::touch_everything() const {
  // Each by itself: what is refused here may be passed over by who reads the file.
  const auto attempt = [](const auto& reading) {
    try {
      reading();
    } catch (const Error&) {
    }
  };
  const LibraryLock lock;
  std::vector<std::string> objects = impl_->names("/");
  objects.emplace_back("/");
  for (const std::string& object : objects) {
    attempt([&] {
      const Handle owner = impl_->open_object(object);
      for (const std::string& name : impl_->attribute_names(owner, object)) {
        attempt([&] { impl_->read_attribute(owner, object, name); });
        attempt([&] { impl_->read_attribute_texts(owner, object, name); });
      }
    });
    attempt([&] {
      const Hdf5Entry entry = impl_->describe(object);
      if (entry.kind == Hdf5Entry::Kind::kText) impl_->read_text(object);
      if (entry.kind == Hdf5Entry::Kind::kArray) impl_->open_readable(object);
    });
  }
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

std::vector<std::string> Hdf5File::Impl::read_attribute_texts(hid_t owner, const std::string& object,
                                                              const std::string& name) const {
  const std::string where = object + " @" + name;
  const Handle attribute(H5Aopen(owner, name.c_str(), H5P_DEFAULT), H5Aclose);
  if (!attribute.valid()) fail_reading(where, "no such attribute");
  const Handle type(H5Aget_type(attribute), H5Tclose);
  const Handle space(H5Aget_space(attribute), H5Sclose);
  if (!type.valid() || !space.valid() || H5Tget_class(type) != H5T_STRING) fail_reading(where, "not text");
  return texts(where, type, space,
               [&](hid_t memory_type, void* value) { return H5Aread(attribute, memory_type, value); });
}

std::vector<std::string> Hdf5File::read_attribute_texts(const std::string& object,
                                                        const std::string& name) const {
  const LibraryLock lock;
  return impl_->read_attribute_texts(impl_->open_object(object), object, name);
}

std::string Hdf5File::read_attribute_text(const std::string& object, const std::string& name) const {
  const LibraryLock lock;
  const Hdf5Attribute value = impl_->read_attribute(object, name);
  if (const auto* text = std::get_if<std::string>(&value)) return *text;
  impl_->fail_reading(object + " @" + name, "not text");
}

}  // namespace lockstep
