// Sealed files: a 512-byte HDF5 user block with magic, format version, payload length and XXH3-128 of the payload, verified
// before HDF5 opens the file. Used for checkpoints and for data sets that Lockstep writes.
#pragma once

#include <cstdint>
#include <string>

#include "core/error.h"

namespace lockstep {

inline constexpr int64_t kSealBytes = 512;

enum class SealState { kSealed, kUnsealed };  // kUnsealed: no magic, an ordinary file

// Writes the seal into the first 512 bytes of a closed file that was created with a user block of that size, then fsyncs.
void seal_file(const std::string& path, ErrorKind kind);

// Error of `kind` naming the file and the rule when it is missing, truncated, longer than sealed, or its checksum differs.
// With `required` an unsealed file is an error too.
SealState verify_seal(const std::string& path, ErrorKind kind, bool required);

// temp -> fsync -> rename -> fsync directory. Error of `kind` on any failure; the temporary file is removed.
void commit_file(const std::string& temporary, const std::string& path, ErrorKind kind);

}  // namespace lockstep
