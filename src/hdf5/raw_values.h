// Values that are written into a file around the HDF5 library, to places that Hdf5File::allocate has told.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "lockstep/core/error.h"

namespace lockstep {

class RawValues {
 public:
  // Error of `kind` when the file cannot be opened.
  RawValues(const std::string& path, ErrorKind kind);
  ~RawValues();
  RawValues(const RawValues&) = delete;
  RawValues& operator=(const RawValues&) = delete;

  // Error of the kind given above when not all bytes can be written.
  void write(int64_t offset, std::span<const std::byte> bytes);

 private:
  std::string path_;
  ErrorKind kind_;
  int descriptor_;
};

}  // namespace lockstep
