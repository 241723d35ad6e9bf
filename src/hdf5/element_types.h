// HDF5's types of elements and ours.
#pragma once

#include <optional>

#include "core/dtype.h"
#include "hdf5/library.h"

namespace lockstep {

// The type of dtype's elements in files and, byte for byte, in memory.
Handle storage_type(DType dtype);

// Unsigned integers of 1, 2, 4 or 8 bytes, little-endian.
Handle unsigned_type(int bytes);

// Text of variable length in UTF-8.
Handle text_type();

// The DType that holds the values of an HDF5 number type, or of an enumeration (h5py stores booleans as one);
// nothing when none does.
std::optional<DType> dtype_of_type(hid_t type);

}  // namespace lockstep
