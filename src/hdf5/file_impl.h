// What stands behind an Hdf5File: the open file, how objects in it are found, and what each side of its
// methods shares. For the files of this class alone.
#pragma once

#include <hdf5.h>

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "lockstep/hdf5/file.h"
#include "lockstep/hdf5/library.h"
#include "lockstep/hdf5/write_driver.h"

namespace lockstep {

// Of arrays of bf16, which HDF5 has no type for.
inline constexpr const char* kDTypeAttribute = "dtype";

struct Hdf5File::Impl {
  std::string path;
  ErrorKind kind;
  std::optional<WriteDriver> driver;  // of a created file; outlives `file`
  Handle file{-1, H5Fclose};
  Handle access{-1, H5Pclose};  // of objects of a file that is read
  bool follow = false;
  bool sealed = false;
  mutable std::string outside;  // the file that the newest link out of this one names

  Impl(std::string file_path, ErrorKind error_kind) : path(std::move(file_path)), kind(error_kind) {}

  // ---- finding objects (file.cpp)

  [[noreturn]] void fail_reading(const std::string& object, const std::string& rule) const;
  void require_path(const std::string& object) const;
  bool exists(const std::string& object) const;
  hid_t link_access() const { return access.valid() ? static_cast<hid_t>(access) : H5P_DEFAULT; }
  static herr_t traverse(const char*, const char*, const char* child_file, const char*, unsigned*, hid_t,
                         void* impl) noexcept;
  [[noreturn]] void fail_opening(const std::string& object) const;
  Handle open_object(const std::string& object) const;
  Handle open_dataset(const std::string& object) const;
  // Refused where its values lie in other files, unless `follow`: those who follow have inspected it.
  Handle open_readable(const std::string& object) const;

  // ---- writing (file_writing.cpp)

  // Reports what the system said, when it said something, before what HDF5 makes of it.
  [[noreturn]] void fail_writing(const std::string& object) const;
  void require_written(bool ok, const std::string& object) const;
  // Properties of a new object. Without times: the same content gives the same bytes, whenever it is written.
  Handle creation_list(hid_t property_class) const;
  void create_group(const std::string& object) const;
  void create_dataset(const std::string& object, hid_t type, hid_t space, const void* values,
                      bool empty) const;
  int64_t allocate(const std::string& object, const Handle& type, const Shape& shape) const;
  void require_text(const std::string& object, const std::string& text) const;
  void write_attribute(const std::string& object, const std::string& name, hid_t type,
                       const void* value) const;

  // ---- reading (file_reading.cpp)

  // Reads as HDF5 does: into `buffer`, as `type`.
  using ReadTexts = std::function<herr_t(hid_t type, void* buffer)>;
  // The texts of a data set or attribute, in variable or fixed length, read by `read(type, buffer)`.
  std::vector<std::string> texts(const std::string& where, hid_t type, hid_t space,
                                 const ReadTexts& read) const;
  std::string one_text(const std::string& where, hid_t type, hid_t space, const ReadTexts& read) const;
  Hdf5Attribute read_attribute(hid_t owner, const std::string& object, const std::string& name) const;
  Hdf5Attribute read_attribute(const std::string& object, const std::string& name) const;
  std::vector<std::string> read_attribute_texts(hid_t owner, const std::string& object,
                                                const std::string& name) const;
  std::vector<std::string> attribute_names(hid_t owner, const std::string& object) const;
  // Paths of every object below `group`, sorted.
  std::vector<std::string> names(const std::string& group) const;
  std::string read_text(const std::string& object) const;
  void require_readable(const Hdf5Entry& entry, DType dtype) const;
  bool stores_bf16(hid_t dataset, const std::string& object) const;
  Hdf5Entry describe(const std::string& object) const;
};

}  // namespace lockstep
