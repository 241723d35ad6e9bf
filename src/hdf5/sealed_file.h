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
//
// Version 2 seals files whose large arrays are checked block by block when they are used. Its payload digest
// leaves those arrays out, and covers everything else: the metadata of HDF5 and the table of the blocks'
// digests, 16 bytes a block of 1 MiB (the last of an array may be shorter), array by array.
//   48  uint64    bytes in a block, 1048576
//   56  uint64    where the table of digests begins in the file
//   64  uint64    number of arrays, at most 16
//   72  2 uint64  of each array: where it begins in the file, its bytes; in the order of the file, without
//   overlap
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lockstep/core/error.h"

namespace lockstep {

inline constexpr int64_t kSealBytes = 512;

// What a file holds is not what was sealed, or was never sealed. A file that cannot be read is any other
// Error.
class DamagedFile : public Error {
 public:
  using Error::Error;
};

// kUnsealed: a plain HDF5 file, whose signature stands at its beginning or behind a user block (of MATLAB,
// say).
enum class SealState { kSealed, kUnsealed };

inline constexpr int64_t kBlockBytes = int64_t{1} << 20;
inline constexpr int64_t blocks_of(int64_t bytes) {
  return (bytes + kBlockBytes - 1) / kBlockBytes;
}

// XXH3-128, canonical order.
using Digest = std::array<std::byte, 16>;
Digest digest_of(std::span<const std::byte> bytes);
// Of each block of an array.
std::vector<Digest> block_digests(std::span<const std::byte> array);
// 32 hex digits: the digest of `layout`, a text, and of the digests.
std::string digest_of_digests(const std::string& layout, std::span<const Digest> digests);

// An array with a digest a block, by its place in the file.
struct BlockedArray {
  int64_t offset = 0, bytes = 0;
};
// What version 2 says of a file.
struct BlockedFile {
  std::vector<BlockedArray> arrays;
  std::vector<Digest> digests;  // of the blocks of all arrays
};

// Writes the seal into the first 512 bytes of a closed HDF5 file that was created with a user block of that
// size, then fsyncs.
void seal_file(const std::string& path, ErrorKind kind);

// The same with version 2, whose table of digests stands in the file at `table`.
void seal_blocked_file(const std::string& path, ErrorKind kind, const std::vector<BlockedArray>& arrays,
                       int64_t table);

// Whether the file has a seal of version 2, damaged or not.
bool seals_blocks(const std::string& path, ErrorKind kind);

// Verifies everything but the arrays of a file with a seal of version 2; nullopt: no such seal. Errors as
// verify_seal.
std::optional<BlockedFile> verify_outline(const std::string& path, ErrorKind kind);

// Error of `kind` naming the file and the rule: DamagedFile when it is empty, truncated, longer than sealed,
// or its checksum differs (every changed bit is found), and when it is neither sealed nor plain HDF5; with
// `required` plain HDF5 is DamagedFile too.
SealState verify_seal(const std::string& path, ErrorKind kind, bool required);

// What the file is by its first bytes, which is quickly said of a large one and verifies nothing. nullopt:
// neither sealed nor plain HDF5.
std::optional<SealState> apparent_state(const std::string& path, ErrorKind kind);

// The same of what a file without a user block of its own begins with: one that is compressed, or that is
// read once.
std::optional<SealState> apparent_state(std::string_view beginning);

// Where the signature of HDF5 stands in an unsealed file: at byte 0, or behind a user block at 512, 1024,
// 2048 and so on, as the format has it. nullopt: nowhere, or the file is sealed, or its seal was damaged.
std::optional<int64_t> plain_signature(const std::string& path, ErrorKind kind);

// temp -> fsync -> rename -> fsync directory. Error of `kind` on any failure; the temporary file is removed.
void commit_file(const std::string& temporary, const std::string& path, ErrorKind kind);

}  // namespace lockstep
