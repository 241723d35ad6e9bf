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

// kUnsealed: a plain HDF5 file, whose signature stands at its beginning or behind a user block (of MATLAB,
// say).
enum class SealState { kSealed, kUnsealed };

// Writes the seal into the first 512 bytes of a closed HDF5 file that was created with a user block of that
// size, then fsyncs.
void seal_file(const std::string& path, ErrorKind kind);

// Error of `kind` naming the file and the rule when it is missing, truncated, longer than sealed, or its
// checksum differs: every changed bit is found. A file that is neither sealed nor plain HDF5 is an error;
// with `required` plain HDF5 is too.
SealState verify_seal(const std::string& path, ErrorKind kind, bool required);

// What the file is by its first bytes, which is quickly said of a large one and verifies nothing. nullopt:
// neither sealed nor plain HDF5.
std::optional<SealState> apparent_state(const std::string& path, ErrorKind kind);

// Where the signature of HDF5 stands in an unsealed file: at byte 0, or behind a user block at 512, 1024,
// 2048 and so on, as the format has it. nullopt: nowhere, or the file is sealed, or its seal was damaged.
std::optional<int64_t> plain_signature(const std::string& path, ErrorKind kind);

// temp -> fsync -> rename -> fsync directory. Error of `kind` on any failure; the temporary file is removed.
void commit_file(const std::string& temporary, const std::string& path, ErrorKind kind);

}  // namespace lockstep
