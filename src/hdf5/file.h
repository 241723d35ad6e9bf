// HDF5 files through checked calls: every return code is looked at, every handle is closed, messages name the
// file. The only place (with write_driver and the .cpp files) that sees hdf5.h.
//
// HDF5 is not built thread-safe on the systems that Lockstep runs on: one mutex of the process serializes all
// calls here, so any thread may use its own Hdf5File. Damaged files can end the process: what verify_seal
// passed goes to open_sealed(), anything else is read in a child first (child.h).
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "lockstep/core/dtype.h"
#include "lockstep/core/error.h"
#include "lockstep/core/shape.h"

namespace lockstep {

struct Hdf5Entry {
  enum class Kind { kGroup, kArray, kText };
  std::string path;  // "/parameters/layers.0.weight"
  Kind kind = Kind::kArray;
  // Arrays only. Types that Lockstep does not have are given as the narrowest one that holds their values
  // (uint16 as int32, uint32 as int64); uint64 as int64.
  DType dtype = DType::kF32;
  Shape shape;
};

// What reading a data set takes besides room for its values.
struct Hdf5Storage {
  bool elsewhere = false;         // values lie in other files
  bool partly_unwritten = false;  // what nobody wrote is read as the fill value, 0 as a rule
  int64_t chunk_bytes = 0;        // a chunk is unpacked as a whole
};

using Hdf5Attribute = std::variant<int64_t, double, std::string>;

// Numbers are stored little-endian in their own type, fp16 as HDF5's 16-bit float, bf16 as uint16 with the
// attribute dtype = "bf16". Text is a scalar of variable length in UTF-8, without NUL bytes. Paths are
// absolute: "/", "/group/name". Errors are of the kind given at create or open, and name file and object.
class Hdf5File {
 public:
  // Creates (or truncates) with a user block, 512 bytes or another power of two above, libver latest.
  // Everything begins at a multiple of `alignment` behind the user block, arrays in the order in which they
  // are made.
  static Hdf5File create(const std::string& path, ErrorKind kind, int64_t user_block = 512,
                         int64_t alignment = 1);
  // Opens for reading. Objects and values in other files (external links, external storage, virtual data
  // sets) are refused unless `follow`: a file of a stranger could name any file that the user may read.
  static Hdf5File open(const std::string& path, ErrorKind kind, bool follow = false);
  // A file whose seal holds. A seal is no signature: what was changed on purpose and sealed again is met in
  // a child process, where one can be had, which looks at every object, attribute and text first.
  // DamagedFile: it ends the child; reading arrays in chunks, which no sealed file has. Error: objects that
  // cannot be listed.
  static Hdf5File open_sealed(const std::string& path, ErrorKind kind);
  Hdf5File(Hdf5File&&) noexcept;
  Hdf5File& operator=(Hdf5File&&) noexcept;
  ~Hdf5File();
  // Closes and reports failure (a destructor cannot): a created file is complete only when close has
  // returned.
  void close();

  // Groups on the way to an object are created as needed; creating one that exists does nothing.
  void create_group(const std::string& path);
  // shape.elements() values of dtype, contiguous and row-major. No element is allowed, as is rank 0 (one
  // element).
  void write(const std::string& path, DType dtype, const Shape& shape, const void* values);
  // An array whose elements are written to the file by other means after close(): contiguous, its place
  // taken. At least one element, not bf16. Returns the number of bytes in the file before it.
  int64_t allocate(const std::string& path, DType dtype, const Shape& shape);
  // The same of unsigned integers of `bytes` bytes: 1, 2, 4 or 8.
  int64_t allocate_unsigned(const std::string& path, int bytes, const Shape& shape);
  void write_text(const std::string& path, const std::string& text);
  void write_attribute(const std::string& object, const std::string& name, int64_t value);
  void write_attribute(const std::string& object, const std::string& name, double value);
  void write_attribute(const std::string& object, const std::string& name, const std::string& value);

  bool exists(const std::string& path) const;
  // Every object below `group`, sorted by path. Links out of the file are left out.
  std::vector<Hdf5Entry> list(const std::string& group) const;
  Hdf5Entry describe(const std::string& path) const;
  // Looks for what HDF5 would silently read as zeros, before a data set is read. Errors: a filter that this
  // library does not have; values in other files without `follow`; sources that are missing or too small, by
  // name; nothing ever written.
  Hdf5Storage inspect(const std::string& path) const;
  // Reads the whole data set, converted to dtype as HDF5 does (out of range clips, fractions are cut); bf16
  // never converts. `values` has room for describe(path).shape.elements() elements.
  void read(const std::string& path, DType dtype, void* values) const;
  // The same of `count` rows from `first` on, of a data set of rank 1 or more.
  void read_rows(const std::string& path, DType dtype, int64_t first, int64_t count, void* values) const;
  // Where the elements of a contiguous little-endian array of exactly this type lie in the file; nullopt:
  // they do not lie there in one piece as they are in memory.
  std::optional<int64_t> offset(const std::string& path, DType dtype) const;
  std::string read_text(const std::string& path) const;
  bool has_attribute(const std::string& object, const std::string& name) const;
  // All attributes by name: integers and booleans as int64_t, floats as double, text. One element each.
  std::map<std::string, Hdf5Attribute> attributes(const std::string& object) const;
  int64_t read_attribute_integer(const std::string& object, const std::string& name) const;
  // An integer attribute reads as a real one too.
  double read_attribute_real(const std::string& object, const std::string& name) const;
  std::string read_attribute_text(const std::string& object, const std::string& name) const;
  // One text or an array of them.
  std::vector<std::string> read_attribute_texts(const std::string& object, const std::string& name) const;

 private:
  struct Impl;
  explicit Hdf5File(std::unique_ptr<Impl> impl);
  // Reads every object, attribute and text, for a child process that may end of it.
  void touch_everything() const;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lockstep
