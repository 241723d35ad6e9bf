// Sealed files: a 512-byte HDF5 user block with magic, format version, payload length and XXH3-128 of the
// payload, verified before HDF5 opens the file. Used for checkpoints and for data sets that Lockstep writes.
//
// The block, integers little-endian, hashes in XXH3's canonical (big-endian) order:
//   0   16 bytes  magic "\x89LOCKSTEP-SEAL\r\n"
//   16  uint64    version of the seal, 1
//   24  uint64    payload length: file size - 512
//   32  16 bytes  XXH3-128 of the payload, everything after the block
//   48            zeros
//   496 16 bytes  XXH3-128 of the first 496 bytes of the block
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "core/error.h"

namespace lockstep {

inline constexpr int64_t kSealBytes = 512;

// What a file holds is not what was sealed, or was never sealed. A file that cannot be read is any other Error.
class DamagedFile : public Error {
 public:
  using Error::Error;
};

enum class SealState {
  kSealed,
  kUnsealed
};  // kUnsealed: a plain HDF5 file, whose signature stands at its very beginning

// Writes the seal into the first 512 bytes of a closed HDF5 file that was created with a user block of that
// size, then fsyncs.
void seal_file(const std::string& path, ErrorKind kind);

// Error of `kind` naming the file and the rule: DamagedFile when it is empty, truncated, longer than sealed, or its
// checksum differs (every changed bit is found), and when it is neither sealed nor plain HDF5; with `required`
// plain HDF5 is DamagedFile too.
SealState verify_seal(const std::string& path, ErrorKind kind, bool required);

// What the file is by its first bytes, which is quickly said of a large one and verifies nothing. nullopt:
// neither sealed nor plain HDF5.
std::optional<SealState> apparent_state(const std::string& path, ErrorKind kind);

// temp -> fsync -> rename -> fsync directory. Error of `kind` on any failure; the temporary file is removed.
void commit_file(const std::string& temporary, const std::string& path, ErrorKind kind);

}  // namespace lockstep
