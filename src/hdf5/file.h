// HDF5 files through checked calls: every return code is looked at, every handle is closed, messages name the file.
// The only place (with its .cpp) that sees hdf5.h.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "core/error.h"
#include "core/shape.h"

namespace lockstep {

struct Hdf5Entry {
  std::string path;  // "/parameters/layers.0.weight"
  bool is_group = false;
  DType dtype = DType::kF32;
  Shape shape;
};

// bf16 and fp16 are stored as 16-bit integers/floats with an attribute "dtype"; everything else in its native type.
class Hdf5File {
 public:
  // Creates with a 512-byte user block, libver latest. Errors are of `kind`.
  static Hdf5File create(const std::string& path, ErrorKind kind);
  static Hdf5File open(const std::string& path, ErrorKind kind);
  Hdf5File(Hdf5File&&) noexcept;
  Hdf5File& operator=(Hdf5File&&) noexcept;
  ~Hdf5File();
  // Closes and reports failure (a destructor cannot).
  void close();

  void create_group(const std::string& path);
  void write(const std::string& path, DType dtype, const Shape& shape, const void* values);
  void write_text(const std::string& path, const std::string& text);
  void write_attribute(const std::string& object, const std::string& name, int64_t value);
  void write_attribute(const std::string& object, const std::string& name, double value);
  void write_attribute(const std::string& object, const std::string& name, const std::string& value);

  bool exists(const std::string& path) const;
  // Every object below `group`, sorted by path.
  std::vector<Hdf5Entry> list(const std::string& group) const;
  Hdf5Entry describe(const std::string& path) const;
  // Reads the whole data set, converted to dtype (numeric types convert as HDF5 does); rows limit the first axis.
  void read(const std::string& path, DType dtype, void* values) const;
  std::string read_text(const std::string& path) const;
  bool has_attribute(const std::string& object, const std::string& name) const;
  int64_t read_attribute_integer(const std::string& object, const std::string& name) const;
  double read_attribute_real(const std::string& object, const std::string& name) const;
  std::string read_attribute_text(const std::string& object, const std::string& name) const;

 private:
  Hdf5File();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lockstep
